"""Importance sampling: samples that are still wrong are drawn more often, with smaller weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpes import _checks, _config, _cpu, _settings
from fpes._modes import ieee_mode

from .streams import Stream, raw

_LEAST_LOSS = np.float32(1e-4)  # a sample that is right beyond this is no more right than others
_START = np.float32(0.9)  # about one minus the probability of one class in ten


@_config.register
@dataclass(frozen=True)
class ImportanceSampling:
    """Draws samples with a probability that follows their last error, and weights them by its inverse.

    The residual of a sample is r = 1 - exp(-loss), one minus the probability of its label at its last evaluation. This
    is about the length of its gradient at the logits (Katharopoulos & Fleuret 2018, "Not All Samples Are Created
    Equal", section 3.2). The sample is drawn with probability p = (1 - uniform) r^exponent / sum(r^exponent) + uniform
    / n, and its fitness is weighted by 1 / (n p). So the expectation of the gradient stays the same, with less noise:
    late in training most samples are right, and evaluations of these samples are wasted.

    Args:
        exponent: 0 draws uniformly, and 1 follows the residuals. Values in between trust the residuals less, because
            they are old.
        uniform: fraction of uniform draws, above 0 and up to 1. No weight is larger than its inverse.
    """

    exponent: float = 0.7
    uniform: float = 0.2

    def __post_init__(self) -> None:
        _checks.not_negative("exponent", self.exponent)
        if not 0.0 < _checks.real("uniform", self.uniform) <= 1.0:
            raise ValueError(f"uniform is {self.uniform}, expected a number above 0 and up to 1")

    def start(self, samples: int) -> npt.NDArray[np.float32]:
        """Residuals before any sample was seen: float32 [samples]."""
        return np.full(samples, _START)

    @ieee_mode()
    def draw(
        self, residuals: npt.NDArray[np.float32], count: int, seed: int, step: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The samples of a step, int64 [count], and their weights, float32 [count], from residuals float32 [n].

        This is systematic resampling. Every sample has an interval on a line, as long as its probability. `count`
        points at equal distances, shifted by one random number, select samples. Their order is then random.

        Raises:
            TypeError: residuals aren't float32.
            ValueError: residuals that aren't finite and above 0, a number out of its range.
        """
        residuals = _checked_residuals(residuals)
        _checks.integer("count", count, 1, _checks.LARGEST_INDEX)
        samples = len(residuals)
        powers = _elementary("exp", np.float32(self.exponent) * _elementary("log", residuals)).astype(np.float64)
        # numpy.cumsum adds one after the other; numpy.sum by an order that depends on the machine.
        share = powers * ((1.0 - self.uniform) / np.cumsum(powers)[-1]) + self.uniform / samples
        line = np.cumsum(share)
        words = raw(Stream.IMPORTANCE, seed, step, count + 1)
        shift = float(words[0] >> np.uint64(11)) * 2.0**-53
        points = (np.arange(count) + shift) * (line[-1] / count)
        rows = np.minimum(np.searchsorted(line, points), samples - 1)[np.argsort(words[1:], kind="stable")]
        return rows.astype(np.int64, copy=False), (1.0 / (samples * share[rows])).astype(np.float32)

    @ieee_mode()
    def updated(
        self, residuals: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """The new residuals when the samples `rows`, integers [count], have these losses, float32 [count]; a new array.

        Raises:
            TypeError: an argument of another type.
            ValueError: another number of losses than rows, rows out of range.
        """
        result: npt.NDArray[np.float32] = _checked_residuals(residuals).copy()
        chosen = _checks.indices("rows", rows, None, len(result))
        values = _checks.float_array("losses", losses, (len(chosen),))
        result[chosen] = np.float32(1) - _elementary("exp", -np.maximum(values, _LEAST_LOSS))
        return result


def _checked_residuals(residuals: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    checked = _checks.finite_array("residuals", residuals, ("n",))
    if not (checked > 0.0).all():
        raise ValueError(f"residuals go down to {checked.min()}, expected numbers above 0")
    return checked


def _elementary(name: str, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """exp or log with the same bits on every machine, which NumPy's don't have."""
    result: npt.NDArray[np.float32] = np.empty_like(x)
    _cpu.elementary(name, _settings.get_isa(), False, x.ctypes.data, result.ctypes.data, x.size)
    return result
