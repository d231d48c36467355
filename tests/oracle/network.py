"""The scaled linear network: flush modes, primitives, matrix product, forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .flush import MIN_NORMAL, add, fma_wide, mul, narrow, to_float32, widen

FLUSH_MODES = ("never", "boundary", "always")

# perturb(layer, inputs [batch, fan_in], acc [batch, fan_out]) -> acc, all float32; layers count from 0.
Perturb = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


def product_ftz(flush: str) -> bool:
    """Does a matrix product flush in this mode?"""
    _check_flush(flush)
    return flush == "always"


def elementwise_ftz(flush: str) -> bool:
    """Does every operation outside a matrix product flush in this mode?"""
    _check_flush(flush)
    return flush != "never"


def _check_flush(flush: str) -> None:
    if flush not in FLUSH_MODES:
        raise ValueError(f"flush must be one of {FLUSH_MODES}, got {flush!r}")


def bias_add(v, b, flush: str) -> np.ndarray:
    """v + b, elementwise. float32 [..., n] and [n] or scalar; float32 [..., n]."""
    return add(v, b, elementwise_ftz(flush))


def multiply(v, s, flush: str) -> np.ndarray:
    """v * s, elementwise. float32 arrays that broadcast; float32 result."""
    return mul(v, s, elementwise_ftz(flush))


def gemm(a, b, flush: str, start=None) -> np.ndarray:
    """Matrix product, one accumulator an output, fused multiply-add over k ascending.

    a: float32 [m, k]; b: float32 [k, n]; result: float32 [m, n]. The accumulator starts at +0, or at `start`
    (float32 [m, n]), which continues an earlier chain.
    """
    ftz = product_ftz(flush)
    # Operands are widened once; the accumulator stays wide, for every step leaves a float32 value in it.
    a, b = widen(a, ftz), widen(b, ftz)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not multiply")
    acc = np.zeros((a.shape[0], b.shape[1])) if start is None else widen(start, ftz)
    for k in range(a.shape[1]):
        acc = fma_wide(a[:, k, None], b[k], acc, ftz)
    return narrow(acc)


@dataclass(frozen=True)
class Network:
    """sizes: (inputs, ..., classes); scaling: a power of two, float32-normal, and so is its reciprocal.

    tied: groups of layers, counted from 0, whose parameters are those of the group's first.
    """

    sizes: tuple[int, ...]
    scaling: float = 2.0**125
    flush: str = "boundary"
    tied: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_flush(self.flush)
        # A subnormal factor would be flushed as an operand, so that multiplying by 1/S isn't dividing by S
        # any more.
        if np.frexp(self.scaling)[0] != 0.5 or not MIN_NORMAL <= self.scaling <= 1 / MIN_NORMAL:
            raise ValueError(f"scaling must be a power of two in [2^-126, 2^126], got {self.scaling}")

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    @property
    def parameters(self) -> int:
        shapes = [self.shape(layer) for layer in self.owners]
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in shapes)

    def shape(self, layer: int) -> tuple[int, int]:
        """(fan_in, fan_out) of a layer; layers count from 0."""
        return self.sizes[layer], self.sizes[layer + 1]

    def owner(self, layer: int) -> int:
        """The layer whose parameters this one uses: itself, unless it is tied to an earlier one."""
        return min([layer, *(min(group) for group in self.tied if layer in group)])

    @property
    def owners(self) -> list[int]:
        """Layers with parameters of their own, ascending: the order of theta."""
        return [layer for layer in range(self.layers) if self.owner(layer) == layer]

    def unpack(self, theta: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """[(weight [fan_in, fan_out], bias [fan_out])] of a flat theta [parameters], as views; any dtype."""
        own = self.unpack_own(theta)
        return [own[self.owner(layer)] for layer in range(self.layers)]

    def unpack_own(self, theta: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The same of the layers with parameters of their own, by layer."""
        if theta.shape != (self.parameters,):
            raise ValueError(f"theta must have shape ({self.parameters},), got {theta.shape}")
        parts, at = {}, 0
        for layer in self.owners:
            fan_in, fan_out = self.shape(layer)
            weight_end = at + fan_in * fan_out
            bias_end = weight_end + fan_out
            parts[layer] = (theta[at:weight_end].reshape(fan_in, fan_out), theta[weight_end:bias_end])
            at = bias_end
        return parts


def forward(network: Network, theta: np.ndarray, x: np.ndarray, perturb: Perturb | None = None) -> np.ndarray:
    """Logits, float32 [batch, classes]. theta: float32 [parameters]; x: float32 [batch, inputs].

    `perturb` changes a layer's accumulator after the chain of its product and before the boundary.
    """
    flush = network.flush
    scaling, inverse = to_float32(network.scaling), to_float32(1.0 / network.scaling)
    h = x
    for layer, (weight, bias) in enumerate(network.unpack(theta)):
        acc = gemm(h, weight, flush)
        if perturb is not None:
            acc = perturb(layer, h, acc)
        if layer == 0:
            h = multiply(bias_add(acc, bias, flush), inverse, flush)
        else:
            h = bias_add(acc, multiply(bias, inverse, flush), flush)
    return multiply(h, scaling, flush)
