"""The formula of a network at ordinary scale, which every export translates into its own format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fpes import _checks
from fpes._checks import FloatArray
from fpes.network import LinearNetwork

_SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True)
class Formula:
    """Weights, biases and threshold of h = S(x W1 + b1), then h = S(S(h W) + S(b)).

    Args:
        weights: float32 [fan_in, fan_out] for each layer. Tied layers have the same array.
        biases: float32 [fan_out] for each layer. Tied layers have the same array. Biases after the first layer are
            already shrunk: S(b).
        threshold: S keeps v if abs(v) >= threshold. 0 means that nothing flushes, and S does nothing.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    threshold: float

    @property
    def features(self) -> int:
        """Number of inputs of the first layer."""
        return int(self.weights[0].shape[0])

    @property
    def classes(self) -> int:
        """Number of outputs of the last layer."""
        return int(self.weights[-1].shape[1])

    @property
    def below_threshold(self) -> float:
        """The float32 just below the threshold, for shrinks that keep only values *above* their argument.

        ONNX's Shrink and PyTorch's hardshrink replace a value equal to the argument by 0. This network keeps it.
        """
        return float(np.nextafter(np.float32(self.threshold), np.float32(0)))

    def __call__(self, x: FloatArray) -> FloatArray:
        """Logits [batch, classes] of x [batch, features], in NumPy."""
        h = self._shrink(x @ self.weights[0] + self.biases[0])
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            h = self._shrink(self._shrink(h @ weight) + bias)
        return h

    def _shrink(self, v: FloatArray) -> FloatArray:
        return shrink(v, self.threshold)


def first_layers(arrays: Sequence[FloatArray]) -> list[int]:
    """For each layer the first layer, counted from 1, with the same array: itself, or a layer that it is tied to."""
    first: dict[int, int] = {}
    return [first.setdefault(id(array), layer) for layer, array in enumerate(arrays, start=1)]


def shrink(v: FloatArray, threshold: float) -> FloatArray:
    """The hard shrink S: v if abs(v) >= threshold, else 0."""
    kept: FloatArray = np.where(abs(v) >= np.float32(threshold), v, np.float32(0))
    return kept


def formula_of(net: LinearNetwork, theta: FloatArray) -> Formula:
    """The formula of a network with parameters theta, float32 [net.parameters].

    Raises:
        TypeError: theta isn't a float32 array.
        ValueError: theta has another shape, or NaN or infinity; the network's flush mode is "always".
    """
    if net.flush == "always":
        raise ValueError(
            'the network has flush "always", expected "boundary" or "never": a product whose every multiply-add '
            "flushes exists in no other library"
        )
    parameters = _checks.finite_array("theta", theta, (net.parameters,))
    threshold = _SMALLEST_NORMAL * net.scaling if net.flush == "boundary" else 0.0
    weights, biases = zip(*net.unpack(parameters.copy()), strict=True)
    shrunk = {id(bias): shrink(bias, threshold) for bias in biases}
    return Formula(weights, (biases[0], *(shrunk[id(bias)] for bias in biases[1:])), threshold)
