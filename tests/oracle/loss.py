"""Loss, fitness and fitness shaping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .flush import MIN_SUBNORMAL, add, fma, mul, negate, to_float32, widen

SUM_BLOCK = 64


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Reference loss of each sample, float64 [..., batch]: a value to be close to, not to be equal to.

    logits: float32 [..., batch, classes]; labels: integers [batch]. The form log1p(sum over the other
    classes) has a small relative error for small losses too, where log(sum) would cancel.
    """
    logits = widen(logits)
    top = np.argmax(logits, axis=-1)[..., None]
    highest = np.take_along_axis(logits, top, axis=-1)
    with np.errstate(all="ignore"):
        weights = np.exp(logits - highest)
        np.put_along_axis(weights, top, 0.0, axis=-1)
        chosen = np.take_along_axis(logits, np.broadcast_to(labels[..., None], top.shape), axis=-1)
        return (highest - chosen)[..., 0] + np.log1p(weights.sum(axis=-1))


def squared_error(outputs: np.ndarray, targets: np.ndarray, ftz: bool) -> np.ndarray:
    """float32 [...]: squares of the errors added up in order of output, times float32(1 / outputs).

    outputs, targets: float32 [..., outputs], which broadcast.
    """
    outputs, targets = np.broadcast_arrays(outputs, targets)
    total = np.zeros(outputs.shape[:-1], np.float32)
    for j in range(outputs.shape[-1]):
        error = add(outputs[..., j], negate(targets[..., j]), ftz)
        total = fma(error, error, total, ftz)
    return mul(total, to_float32(1.0 / outputs.shape[-1]), ftz)


def binary_cross_entropy(
    outputs: np.ndarray,
    targets: np.ndarray,
    ftz: bool,
    exp: Callable[[np.ndarray], np.ndarray],
    log: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """float32 [...]: max(v, 0) - v t + log(1 + exp(-|v|)) added up in order of output, times float32(1 / outputs).

    outputs, targets: float32 [..., outputs], which broadcast. exp, log: functions of float32 arrays, which are compared
    with the mathematics elsewhere.
    """
    outputs, targets = np.broadcast_arrays(outputs, targets)
    total, one = np.zeros(outputs.shape[:-1], np.float32), np.float32(1)
    for j in range(outputs.shape[-1]):
        v, t = outputs[..., j].copy(), targets[..., j].copy()
        above = np.where(widen(v, ftz) < 0.0, np.float32(0), v)
        magnitude = np.where(widen(v, ftz) < 0.0, negate(v), v)
        rest = log(add(one, exp(negate(magnitude)), ftz))
        total = add(total, add(add(above, negate(mul(v, t, ftz)), ftz), rest, ftz), ftz)
    return mul(total, to_float32(1.0 / outputs.shape[-1]), ftz)


def fitness(losses: np.ndarray) -> np.ndarray:
    """Minus the mean loss, float32 [...]. losses: float32 [..., batch].

    The sum is float64 in a fixed order: blocks of 64 samples, each summed in sequence, block sums then added
    in order.
    """
    losses = widen(losses)
    batch = losses.shape[-1]
    total = np.zeros(losses.shape[:-1])
    with np.errstate(all="ignore"):
        for start in range(0, batch, SUM_BLOCK):
            block_sum = np.zeros(losses.shape[:-1])
            for sample in range(start, min(start + SUM_BLOCK, batch)):
                block_sum = block_sum + losses[..., sample]
            total = total + block_sum
        return to_float32(-(total / batch))


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Doubled, centred ranks, int64 [n]: u = 2 * rank - (n - 1), ties by mean rank. values: float32 [n]."""
    values = widen(values)
    if np.isnan(values).any():
        raise ValueError("a NaN has no rank")
    ordered = np.sort(values)
    # Equal values fill ranks first .. last, so their doubled mean rank is first + last.
    first = np.searchsorted(ordered, values, side="left")
    last = np.searchsorted(ordered, values, side="right") - 1
    return (first + last - (values.size - 1)).astype(np.int64)


def ulp_error(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|actual - expected| in float32 units in the last place of `expected`: float64.

    actual: float32; expected: float64 reference.
    """
    expected = np.asarray(expected, dtype=np.float64)
    _, exponent = np.frexp(np.abs(expected))
    quantum = np.maximum(np.ldexp(1.0, exponent - 24), MIN_SUBNORMAL)
    return np.abs(widen(actual) - expected) / quantum
