"""The container that every data set of this package comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task, split into a training and a test part.

    Attributes:
        name: what the task is called.
        x_train: float32 [n, features], C-contiguous, finite.
        y_train: int32 [n], C-contiguous, labels in [0, classes); other integers are converted.
        x_test: float32 [m, features], like ``x_train``.
        y_test: int32 [m], like ``y_train``.
        classes: number of classes.

    Raises:
        TypeError: an array is not a NumPy array of the dtype above, or ``classes`` is not an integer.
        ValueError: a shape, a memory layout or a value breaks what is said above, or a part is empty.
    """

    name: str
    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int32]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int32]
    classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _checked_classes(self.classes))
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_inputs(f"x_{part}", x)
            _check_labels(f"y_{part}", y, self.classes)
            object.__setattr__(self, f"y_{part}", y.astype(np.int32, copy=False))
            if len(x) != len(y):
                raise ValueError(f"x_{part} has {len(x)} samples, but y_{part} has {len(y)} labels")
        if self.x_test.shape[1] != self.features:
            raise ValueError(f"x_train has {self.features} features, but x_test has {self.x_test.shape[1]}")

    @property
    def features(self) -> int:
        """Number of features of a sample."""
        return int(self.x_train.shape[1])


def _checked_classes(classes: Any) -> int:
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer):
        raise TypeError(f"classes must be an integer, got {classes!r} ({type(classes).__name__})")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    return int(classes)


def _check_array(name: str, array: Any, dimensions: int) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension(s), got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous, got strides {array.strides} for shape {array.shape}")


def _check_inputs(name: str, x: Any) -> None:
    _check_array(name, x, 2)
    if x.dtype != np.float32:
        raise TypeError(f"{name} must have dtype float32, got {x.dtype}: convert it with {name}.astype(np.float32)")
    finite = np.isfinite(x)
    if not finite.all():
        row, column = np.unravel_index(np.argmin(finite), x.shape)
        raise ValueError(f"{name} must be finite, got {x[row, column]} at [{row}, {column}]")


def _check_labels(name: str, y: Any, classes: int) -> None:
    _check_array(name, y, 1)
    if y.dtype.kind not in "iu":
        raise TypeError(f"{name} must have an integer dtype, got {y.dtype}")
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"{name} must be in [0, {classes}), got {y[first]} at [{first}]")
