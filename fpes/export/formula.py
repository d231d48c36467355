"""The formula that a network computes, at ordinary scale: what every export writes down in its own language."""

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
        weights: float32 [fan_in, fan_out] of each layer; of tied layers the same array.
        biases: float32 [fan_out] of each layer, likewise; those after the first are shrunk already: S(b).
        threshold: S keeps v if abs(v) >= threshold; 0 where nothing flushes, and S does nothing.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    threshold: float

    @property
    def features(self) -> int:
        """Inputs of the first layer."""
        return int(self.weights[0].shape[0])

    @property
    def classes(self) -> int:
        """Outputs of the last layer."""
        return int(self.weights[-1].shape[1])

    @property
    def below_threshold(self) -> float:
        """The float32 just below the threshold, for a shrink that keeps only what is *larger* than its argument.

        ONNX's Shrink and PyTorch's hardshrink make a zero of what equals it; this network keeps that.
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
    """For each layer the first one, counted from 1, that has the very same array: itself, or one that it is tied to."""
    first: dict[int, int] = {}
    return [first.setdefault(id(array), layer) for layer, array in enumerate(arrays, start=1)]


def shrink(v: FloatArray, threshold: float) -> FloatArray:
    """The hard shrink S: v where abs(v) >= threshold, else 0."""
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
