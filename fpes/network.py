"""The deep linear network whose only nonlinearity is float32 underflow."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fpes import _checks
from fpes._backends import Array, NetworkCall, backend_named, backend_of
from fpes._modes import ieee_mode
from fpes.noise import noise

_LARGEST_PARAMETERS = 2**35  # elements of noise that 32-bit block numbers can count, eight to a block
_LARGEST_DEPTH = 2**16


class LinearNetwork:
    """A deep linear network at a scale near 1e-38, where underflow acts as the activation function.

        h1 = bias_add(matmul(x, w1), b1) / scaling
        hl = bias_add(matmul(hl-1, wl), bl / scaling)      for layers 2 ... L
        logits = hL * scaling

    (OpenAI 2017, "Nonlinear computation in deep linear networks".) In units of 1 / scaling every flushing operation is
    a hard shrink: with the default scaling 2**125, v stays v if abs(v) >= 0.5, else it becomes 0. The first layer
    divides by scaling and the last layer multiplies by it; a network of one layer does both.

    All parameters form one flat float32 vector theta: for each layer in order the weight [fan_in, fan_out], row-major,
    then the bias [fan_out]. Tied layers share their weights. theta holds a shared weight and bias once, at the place of
    the first of the tied layers. A perturbation changes all of them together, and the gradient has one entry for them.

    Args:
        sizes: inputs, widths of the hidden layers, outputs; two numbers or more.
        scaling: a power of two from `2**-126` to `2**126`, so that scaling is exact.
        flush: "never", "boundary" (matrix products keep subnormals and all other operations flush, as published) or
            "always".
        tied: groups of layers, counted from 1, that share their weight and bias: [(2, 3)] makes w3 = w2 and b3 = b2.
            The layers of a group have the same shape. Any layer may be tied, also the first and the last. Every layer
            adds the bias at the place that the formula above shows. Evolution strategies train such networks with
            FullRank() or LowRank() on all layers.

    Raises:
        TypeError: sizes aren't integers, tied isn't made of groups of integers.
        ValueError: fewer than two sizes, a size below 1, too many parameters, scaling isn't such a power of two,
            unknown flush mode; a tied layer that the network doesn't have, that is in two groups, or alone in its
            group, or whose shape differs from the first layer of its group.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        scaling: float = 2.0**125,
        flush: str = "boundary",
        tied: Iterable[Iterable[int]] = (),
    ) -> None:
        self.sizes = _checked_sizes(sizes)
        self.tied = _checked_tied(tied, self.sizes)
        self._tensors = _tensors(self.tied, self.layers)
        shapes = dict(zip(self._tensors, itertools.pairwise(self.sizes), strict=True))
        self._shapes = tuple(shapes.values())  # (fan_in, fan_out) of each tensor
        if self.parameters >= _LARGEST_PARAMETERS:
            raise ValueError(
                f"sizes {self.sizes} make {self.parameters} parameters, expected fewer than {_LARGEST_PARAMETERS}"
            )
        self.scaling = _checks.power_of_two("scaling", scaling)
        self.flush = _checks.flush_mode(flush)

    def __repr__(self) -> str:
        tied = f", tied={list(self.tied)}" if self.tied else ""
        return f"LinearNetwork({list(self.sizes)}, scaling={self.scaling!r}, flush={self.flush!r}{tied})"

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.sizes) - 1

    @property
    def parameters(self) -> int:
        """Number of parameters, the length of theta."""
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in self._shapes)

    @property
    def features(self) -> int:
        """Number of inputs of the first layer."""
        return self.sizes[0]

    @property
    def classes(self) -> int:
        """Number of outputs of the last layer."""
        return self.sizes[-1]

    def with_flush(self, flush: str) -> LinearNetwork:
        """The same network in another flush mode. Both use the same theta."""
        return LinearNetwork(self.sizes, self.scaling, flush, self.tied)

    def up_to(self, layer: int) -> LinearNetwork:
        """The network of layers 1 to `layer`. Its theta is the first part of this network's theta.

        Raises:
            TypeError, ValueError: the network has no such layer.
        """
        last = _checks.integer("layer", layer, 1, self.layers)
        groups = (tuple(tied for tied in group if tied <= last) for group in self.tied)
        return LinearNetwork(
            self.sizes[: last + 1], self.scaling, self.flush, [group for group in groups if len(group) > 1]
        )

    def as_json(self) -> dict[str, Any]:
        """The arguments that create this network, as plain values for a checkpoint."""
        description = {"sizes": list(self.sizes), "scaling": self.scaling, "flush": self.flush}
        return description | ({"tied": [list(group) for group in self.tied]} if self.tied else {})

    @ieee_mode()
    def init(self, seed: int = 0, device: str = "cpu") -> Array:
        """Initial parameters: weights normal with standard deviation sqrt(2 / fan_in), biases zero.

        Args:
            seed: 0 ... 2**64 - 1.
            device: "cpu", "cuda" (the current CUDA device) or "cuda:1".

        Returns:
            theta, float32 [parameters], a NumPy array, or a CuPy array on a CUDA device. The bits are the same on
            every device.

        Raises:
            ValueError: seed out of range, a device that doesn't exist.
            ImportError, RuntimeError: no CUDA build, no CuPy, no GPU.
        """
        backend = backend_named(device)
        theta = np.zeros(self.parameters, np.float32)
        for tensor, (weight, _) in enumerate(self._unpack_tensors(theta)):
            draws = noise("gaussian", seed, layer=tensor, role="init", count=weight.size)
            weight[...] = draws.reshape(weight.shape) * np.float32(np.sqrt(2.0 / weight.shape[0]))
        return backend.copied_to_device(theta)

    def unpack(self, theta: Array) -> list[tuple[Array, Array]]:
        """Views of theta, layer by layer: (weight [fan_in, fan_out], bias [fan_out]).

        Tied layers have the same views, so a change in place changes all layers of the group.

        Args:
            theta: float32 [parameters], contiguous, a NumPy or CuPy array.

        Raises:
            TypeError: theta isn't a float32 array.
            ValueError: theta isn't contiguous, or its shape isn't [parameters].
        """
        parameters = backend_of(theta=theta).adopt("theta", theta)
        _checks.check_floats("theta", parameters, (self.parameters,))
        if not parameters.flags.c_contiguous:
            raise ValueError("theta is not contiguous, expected numpy.ascontiguousarray(theta): views are returned")
        tensors = self._unpack_tensors(parameters)
        return [tensors[tensor] for tensor in self._tensors]

    def __call__(self, theta: Array, x: Array) -> Array:
        """Logits of a batch.

        Args:
            theta: float32 [parameters], finite. (On a GPU the values aren't checked: NaN gives NaN.)
            x: float32 [batch, features], on theta's device.

        Returns:
            float32 [batch, classes], a NumPy array, or a CuPy array if the arguments are on a GPU.

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
        """The network as an argument of a backend."""
        return NetworkCall(self.flush, self.sizes, self._tensors, self.scaling, theta)

    def _unpack_tensors(self, theta: Array) -> list[tuple[Array, Array]]:
        """As unpack(), but tied layers appear once."""
        tensors, offset = [], 0
        for fan_in, fan_out in self._shapes:
            bias_offset = offset + fan_in * fan_out
            weight = theta[offset:bias_offset].reshape(fan_in, fan_out)
            offset = bias_offset + fan_out
            tensors.append((weight, theta[bias_offset:offset]))
        return tensors


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(sizes, Iterable):
        raise TypeError(f"sizes is {sizes!r}, expected inputs, widths and outputs, such as [784, 512, 10]")
    checked = tuple(_checks.integer(f"sizes[{i}]", size, 1, _checks.LARGEST_INDEX) for i, size in enumerate(sizes))
    if not 2 <= len(checked) <= _LARGEST_DEPTH:
        raise ValueError(
            f"sizes has {len(checked)} numbers, expected inputs, widths and outputs: 2 to {_LARGEST_DEPTH}"
        )
    return checked


def _checked_tied(tied: Iterable[Iterable[int]], sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    if not isinstance(tied, Iterable):
        raise TypeError(f"tied is {tied!r}, expected groups of layers that share weights, such as [(2, 3)]")
    groups = tuple(_checked_group(f"tied[{i}]", group, sizes) for i, group in enumerate(tied))
    for layer, count in Counter(itertools.chain(*groups)).items():
        if count > 1:
            raise ValueError(f"tied is {list(groups)}, which has layer {layer} twice, expected each layer in one group")
    return tuple(sorted(groups))


def _checked_group(name: str, group: Iterable[int], sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(group, Iterable):
        raise TypeError(f"{name} is {group!r}, expected layers that share weights, such as (2, 3)")
    layers = tuple(sorted(_checks.integer(f"{name}[{i}]", layer, 1, len(sizes) - 1) for i, layer in enumerate(group)))
    if len(layers) < 2:
        raise ValueError(f"{name} is {layers}, expected two layers or more that share weights")
    shapes = [(sizes[layer - 1], sizes[layer]) for layer in layers]
    for layer, shape in zip(layers, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"{name} ties layer {layer}, whose weights are {shape[0]} x {shape[1]}, to layer {layers[0]}, whose "
                f"weights are {shapes[0][0]} x {shapes[0][1]}: expected layers of one shape"
            )
    return layers


def _tensors(tied: tuple[tuple[int, ...], ...], layers: int) -> tuple[int, ...]:
    """The tensor of each layer, numbered from 0 in the order of first use."""
    first = {layer: group[0] for group in tied for layer in group}
    tensors: dict[int, int] = {}
    return tuple(tensors.setdefault(first.get(layer, layer), len(tensors)) for layer in range(1, layers + 1))
