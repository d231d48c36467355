"""Scaling: brings columns of numbers to about 1, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpes import _checks
from fpes._modes import ieee_mode

SCALINGS = ("standard", "range")


@dataclass(frozen=True, eq=False)
class Scaling:
    """(x - shift) / factor for each column.

    Args:
        shift: float64 [columns].
        factor: float64 [columns], above 0.

    Raises:
        ValueError: other shapes, or a factor that isn't above 0.
    """

    shift: npt.NDArray[np.float64]
    factor: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        _checks.check_shape("shift", self.shift.shape, ("columns",))
        _checks.check_shape("factor", self.factor.shape, self.shift.shape)
        if not (self.factor > 0.0).all():
            raise ValueError(f"factor goes down to {self.factor.min()}, expected numbers above 0")

    @ieee_mode()
    def apply(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scale float32 [n, columns] to float32 [n, columns]."""
        return self._result((self._checked(x).astype(np.float64) - self.shift) / self.factor)

    @ieee_mode()
    def undo(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The inverse of apply(), up to rounding: float32 [n, columns].

        It brings outputs to the units of the targets.
        """
        return self._result(self._checked(x).astype(np.float64) * self.factor + self.shift)

    def _checked(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return _checks.float_array("x", x, ("n", len(self.shift)))

    @staticmethod
    def _result(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        # NumPy would warn of numbers that float32 doesn't hold; they become infinite, and a data set refuses them.
        with np.errstate(over="ignore"):
            return x.astype(np.float32)


@ieee_mode()
def scaling_of(kind: str, x: npt.NDArray[np.float32]) -> Scaling:
    """The scaling of x [n, columns] to mean 0 and standard deviation 1 ("standard"), or to 0 ... 1 ("range").

    A column of equal numbers becomes 0.
    """
    # Along the first axis of a contiguous array NumPy adds one row after the other, on every machine.
    wide = np.ascontiguousarray(x, np.float64)
    if kind == "range":
        shift = wide.min(axis=0)
        factor = wide.max(axis=0) - shift
    else:
        shift = wide.mean(axis=0)
        factor = np.sqrt(np.square(wide - shift).mean(axis=0))
    equal = wide.min(axis=0) == wide.max(axis=0)
    return Scaling(np.where(equal, wide[0], shift), np.where(equal, 1.0, factor))
