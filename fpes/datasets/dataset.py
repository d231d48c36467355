"""The container of every data set of this package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import inputs_of, scaled, split, targets_of
from .scaling import Scaling


@dataclass(frozen=True, eq=False)
class Dataset:
    """A task of classification or regression: a training part, a test part, and optionally a validation part.

    Attributes:
        name: name of the task.
        x_train: float32 [n, features], C-contiguous, finite.
        y_train: C-contiguous. With classes: int32 [n], labels in [0, classes); other integers are converted. Without
            classes: float32 [n, outputs], finite.
        x_test: float32 [m, features], like ``x_train``.
        y_test: [m] or [m, outputs], like ``y_train``.
        classes: number of classes; None if targets are numbers.
        x_scaling: the scaling of x in both parts; None if x isn't scaled.
        y_scaling: the scaling of y in both parts; None if y isn't scaled.
        x_valid: validation part, for decisions such as EarlyStopping, float32 [k, features]; None if there is none.
            Training doesn't use it.
        y_valid: targets of the validation part, like ``y_train``.

    Raises:
        TypeError: an array is not a NumPy array of the dtype above, or ``classes`` is not an integer.
        ValueError: a shape, a memory layout or a value differs from the description above, or a part is empty.
    """

    name: str
    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[Any]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[Any]
    classes: int | None = None
    x_scaling: Scaling | None = None
    y_scaling: Scaling | None = None
    x_valid: npt.NDArray[np.float32] | None = None
    y_valid: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", _checked_classes(self.classes))
        if (self.x_valid is None) != (self.y_valid is None):
            raise ValueError("x_valid and y_valid belong together: expected both, or neither")
        for part in ("train", "test") if self.x_valid is None else ("train", "test", "valid"):
            self._check_part(part)

    def _check_part(self, part: str) -> None:
        x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
        _check_numbers(f"x_{part}", x)
        if self.classes is None:
            _check_numbers(f"y_{part}", y)
        else:
            _check_labels(f"y_{part}", y, self.classes)
            y = y.astype(np.int32, copy=False)
            object.__setattr__(self, f"y_{part}", y)
        if len(x) != len(y):
            kind = "targets" if self.classes is None else "labels"
            raise ValueError(f"x_{part} has {len(x)} samples, but y_{part} has {len(y)} {kind}")
        if x.shape[1] != self.features:
            raise ValueError(f"x_train has {self.features} features, but x_{part} has {x.shape[1]}")
        if y.shape[1:] != self.y_train.shape[1:]:
            raise ValueError(f"y_train has {self.outputs} columns, but y_{part} has {y.shape[1]}")

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        test: float = 0.2,
        seed: int = 0,
        scale: str | None = None,
        scale_targets: str | None = None,
        name: str = "arrays",
    ) -> Dataset:
        """Make a data set from your arrays, with a random split.

            data = fpes.datasets.Dataset.from_arrays(x, y, scale="standard", scale_targets="standard")
            net = fpes.LinearNetwork([data.features, 64, 64, data.outputs])
            ...
            prediction = data.y_scaling.undo(net(es.solution, data.x_scaling.apply(x)))

        Args:
            x: numbers [samples, features].
            y: integers [samples] are labels, 0, 1, 2 ...; floats [samples], or numbers of any kind [samples, outputs],
                are the target values of the outputs.
            test: fraction of the samples in the test part, above 0 and below 1.
            seed: seed of the split, which is the same on every machine; 0 ... 2**64 - 1.
            scale: "standard": each column of x minus its mean, divided by its standard deviation; "range": each column
                scaled to 0 ... 1; None: unchanged. The statistics come only from the training part. A column of equal
                numbers becomes 0.
            scale_targets: the same for the columns of y, if they are numbers.
            name: name of the task.

        Raises:
            TypeError: an argument is no array of numbers.
            ValueError: wrong shapes, NaN or infinity, an empty part, an unknown scale, scaled labels.
        """
        inputs = inputs_of(x)
        targets, classes = targets_of(y, len(inputs))
        if scale_targets is not None and classes is not None:
            raise ValueError(f"scale_targets is {scale_targets!r}, and y holds labels: expected None, or y of floats")
        train, held_out = split(len(inputs), test, seed)
        x_train, x_test, x_scaling = scaled("scale", scale, inputs[train], inputs[held_out])
        y_train, y_test, y_scaling = scaled("scale_targets", scale_targets, targets[train], targets[held_out])
        return cls(name, x_train, y_train, x_test, y_test, classes, x_scaling, y_scaling)

    def with_validation(self, fraction: float = 0.1, *, seed: int = 0) -> Dataset:
        """The same task with a validation part. Its samples are taken out of the training part.

        Args:
            fraction: of the training part, above 0 and below 1.
            seed: seed of the choice, which is the same on every machine; 0 ... 2**64 - 1.

        Raises:
            TypeError, ValueError: there is already a validation part, or a part would be empty.
        """
        if self.x_valid is not None:
            raise ValueError(f"{self.name} has a validation part of {len(self.x_valid)} samples already")
        train, valid = split(len(self.x_train), fraction, seed, part="fraction")
        return replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_valid=self.x_train[valid],
            y_valid=self.y_train[valid],
        )

    @property
    def features(self) -> int:
        """Number of features of a sample."""
        return int(self.x_train.shape[1])

    @property
    def outputs(self) -> int:
        """Number of outputs of a network for the task: one for each class, or for each column of targets."""
        return int(self.y_train.shape[1]) if self.classes is None else self.classes


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


def _check_numbers(name: str, array: Any) -> None:
    _check_array(name, array, 2)
    if array.dtype != np.float32:
        raise TypeError(f"{name} must have dtype float32, got {array.dtype}: convert it with {name}.astype(np.float32)")
    finite = np.isfinite(array)
    if not finite.all():
        row, column = np.unravel_index(np.argmin(finite), array.shape)
        raise ValueError(f"{name} must be finite, got {array[row, column]} at [{row}, {column}]")


def _check_labels(name: str, y: Any, classes: int) -> None:
    _check_array(name, y, 1)
    if y.dtype.kind not in "iu":
        raise TypeError(f"{name} must have an integer dtype, got {y.dtype}")
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"{name} must be in [0, {classes}), got {y[first]} at [{first}]")
