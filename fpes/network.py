"""The deep linear network whose only nonlinearity is float32 underflow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from fpes import _checks, _cpu, _settings
from fpes._checks import FloatArray
from fpes.noise import noise

_LARGEST_PARAMETERS = 2**35  # elements of noise that 32-bit block numbers can count, eight to a block
_LARGEST_DEPTH = 2**16


class LinearNetwork:
    """A deep linear network, run at a scale near 1e-38, where underflow acts as its activation.

    ::

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
        scaling: a power of two from 2**-126 to 2**126, so that scaling is exact.
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

    def init(self, seed: int = 0) -> FloatArray:
        """Initial parameters: weights normal with standard deviation sqrt(2 / fan_in), biases zero.

        Returns:
            theta, float32 [parameters]; the same bits on every machine.

        Raises:
            ValueError: seed not in 0 ... 2**64 - 1.
        """
        theta = np.zeros(self.parameters, np.float32)
        for layer, (weight, _) in enumerate(self.unpack(theta)):
            draws = noise("gaussian", seed, layer=layer, role="init", count=weight.size)
            weight[...] = draws.reshape(weight.shape) * np.float32(np.sqrt(2.0 / weight.shape[0]))
        return theta

    def unpack(self, theta: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
        """Views of theta, layer by layer: (weight [fan_in, fan_out], bias [fan_out]).

        Raises:
            TypeError: theta isn't a float32 array.
            ValueError: theta isn't a contiguous [parameters].
        """
        _checks.float_array("theta", theta, (self.parameters,))
        if not theta.flags.c_contiguous:
            raise ValueError("theta is not contiguous, expected numpy.ascontiguousarray(theta): views are returned")
        layers = []
        offset = 0
        for fan_in, fan_out in itertools.pairwise(self.sizes):
            bias_offset = offset + fan_in * fan_out
            weight = theta[offset:bias_offset].reshape(fan_in, fan_out)
            offset = bias_offset + fan_out
            layers.append((weight, theta[bias_offset:offset]))
        return layers

    def __call__(self, theta: FloatArray, x: FloatArray) -> FloatArray:
        """Logits of a batch.

        Args:
            theta: float32 [parameters], finite.
            x: float32 [batch, features].

        Returns:
            float32 [batch, classes].

        Raises:
            TypeError: an argument isn't a float32 array.
            ValueError: wrong shapes, an empty batch, NaN or infinity in theta.
        """
        parameters = _checks.finite_array("theta", theta, (self.parameters,))
        inputs = _checks.float_array("x", x, ("batch", self.features))
        logits = np.empty((inputs.shape[0], self.classes), np.float32)
        _cpu.forward(
            _settings.execution(),
            *self._description,
            parameters.ctypes.data,
            inputs.ctypes.data,
            inputs.shape[0],
            logits.ctypes.data,
        )
        return logits

    @property
    def _description(self) -> tuple[_cpu.Flush, Sequence[int], float]:
        """The network as the C++ module takes it."""
        return _cpu.Flush.__members__[self.flush], self.sizes, self.scaling


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
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
