"""The deep linear network whose only nonlinearity is float32 underflow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from fpes import _checks
from fpes._backends import Array, NetworkCall, backend_named, backend_of
from fpes._modes import ieee_mode
from fpes.noise import noise

_LARGEST_PARAMETERS = 2**35  # elements of noise that 32-bit block numbers can count, eight to a block
_LARGEST_DEPTH = 2**16


class LinearNetwork:
    """A deep linear network, run at a scale near 1e-38, where underflow acts as its activation.

        h1 = bias_add(matmul(x, w1), b1) / scaling
        hl = bias_add(matmul(hl-1, wl), bl / scaling)      for layers 2 ... L
        logits = hL * scaling

    (OpenAI 2017, "Nonlinear computation in deep linear networks".) In units of 1 / scaling every flushing operation is
    a hard shrink: with the default scaling 2**125, v stays v if abs(v) >= 0.5 and becomes 0 if not. The first layer
    enters the scaled domain and the last one leaves it; a network of one layer does both.

    Parameters are one flat float32 vector theta: for each layer in order the weight [fan_in, fan_out], row-major, then
    the bias [fan_out].

    Args:
        sizes: inputs, widths of the hidden layers, outputs; two numbers or more.
        scaling: a power of two from `2**-126` to `2**126`, so that scaling is exact.
        flush: "never", "boundary" (matrix products keep subnormals, all else flushes: the published semantics) or
            "always".

    Raises:
        TypeError: sizes aren't integers.
        ValueError: fewer than two sizes, a size below 1, too many parameters, scaling that isn't such a power of two,
            unknown flush mode.
    """

    def __init__(self, sizes: Sequence[int], scaling: float = 2.0**125, flush: str = "boundary") -> None:
        self.sizes = _checked_sizes(sizes)
        self.scaling = _checks.power_of_two("scaling", scaling)
        self.flush = _checks.flush_mode(flush)

    def __repr__(self) -> str:
        return f"LinearNetwork({list(self.sizes)}, scaling={self.scaling!r}, flush={self.flush!r})"

    @property
    def layers(self) -> int:
        """How many layers."""
        return len(self.sizes) - 1

    @property
    def parameters(self) -> int:
        """The length of theta."""
        return _parameters(self.sizes)

    @property
    def features(self) -> int:
        """Inputs of the first layer."""
        return self.sizes[0]

    @property
    def classes(self) -> int:
        """Outputs of the last layer."""
        return self.sizes[-1]

    def with_flush(self, flush: str) -> LinearNetwork:
        """The same network in another flush mode; theta means the same to both."""
        return LinearNetwork(self.sizes, self.scaling, flush)

    @ieee_mode()
    def init(self, seed: int = 0, device: str = "cpu") -> Array:
        """Initial parameters: weights normal with standard deviation sqrt(2 / fan_in), biases zero.

        Args:
            seed: 0 ... 2**64 - 1.
            device: "cpu", "cuda" (the current CUDA device) or "cuda:1".

        Returns:
            theta, float32 [parameters], a NumPy array, or a CuPy array on a CUDA device; the same bits everywhere.

        Raises:
            ValueError: seed out of range, a device that isn't there.
            ImportError, RuntimeError: no CUDA build, no CuPy, no GPU.
        """
        backend = backend_named(device)
        theta = np.zeros(self.parameters, np.float32)
        for layer, (weight, _) in enumerate(self.unpack(theta)):
            draws = noise("gaussian", seed, layer=layer, role="init", count=weight.size)
            weight[...] = draws.reshape(weight.shape) * np.float32(np.sqrt(2.0 / weight.shape[0]))
        return backend.copied_to_device(theta)

    def unpack(self, theta: Array) -> list[tuple[Array, Array]]:
        """Views of theta, layer by layer: (weight [fan_in, fan_out], bias [fan_out]).

        Args:
            theta: float32 [parameters], contiguous, a NumPy or CuPy array.

        Raises:
            TypeError: theta isn't a float32 array.
            ValueError: theta isn't a contiguous [parameters].
        """
        parameters = backend_of(theta=theta).adopt("theta", theta)
        _checks.check_floats("theta", parameters, (self.parameters,))
        if not parameters.flags.c_contiguous:
            raise ValueError("theta is not contiguous, expected numpy.ascontiguousarray(theta): views are returned")
        layers = []
        offset = 0
        for fan_in, fan_out in itertools.pairwise(self.sizes):
            bias_offset = offset + fan_in * fan_out
            weight = parameters[offset:bias_offset].reshape(fan_in, fan_out)
            offset = bias_offset + fan_out
            layers.append((weight, parameters[bias_offset:offset]))
        return layers

    def __call__(self, theta: Array, x: Array) -> Array:
        """Logits of a batch.

        Args:
            theta: float32 [parameters], finite (not looked at on a GPU: NaN gives NaN).
            x: float32 [batch, features], on theta's device.

        Returns:
            float32 [batch, classes], a NumPy array, or a CuPy array where the arguments are on a GPU.

        Raises:
            TypeError: an argument isn't a float32 array.
            ValueError: wrong shapes, an empty batch, NaN or infinity in theta, arrays on several devices.
        """
        backend = backend_of(theta=theta, x=x)
        parameters = backend.finite("theta", theta, (self.parameters,))
        inputs = backend.floats("x", x, ("batch", self.features))
        logits = backend.empty((inputs.shape[0], self.classes))
        backend.forward(self._call(parameters), inputs, logits)
        return logits

    def _call(self, theta: Array) -> NetworkCall:
        """The network as a backend takes it."""
        return NetworkCall(self.flush, self.sizes, self.scaling, theta)


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(sizes, Iterable):
        raise TypeError(f"sizes is {sizes!r}, expected inputs, widths and outputs, such as [784, 512, 10]")
    checked = tuple(_checks.integer(f"sizes[{i}]", size, 1, _checks.LARGEST_INDEX) for i, size in enumerate(sizes))
    if not 2 <= len(checked) <= _LARGEST_DEPTH:
        raise ValueError(
            f"sizes has {len(checked)} numbers, expected inputs, widths and outputs: 2 to {_LARGEST_DEPTH}"
        )
    if _parameters(checked) >= _LARGEST_PARAMETERS:
        raise ValueError(
            f"sizes {checked} make {_parameters(checked)} parameters, expected fewer than {_LARGEST_PARAMETERS}"
        )
    return checked


def _parameters(sizes: Sequence[int]) -> int:
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
