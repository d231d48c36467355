"""Data sets from arrays: the kinds of targets, the random split, and scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fpes import _checks

from .scaling import SCALINGS, Scaling, scaling_of
from .streams import Stream, permutation


def inputs_of(x: Any) -> npt.NDArray[np.float32]:
    """`x` as float32 [samples, features].

    Raises:
        TypeError: x is no array of numbers.
        ValueError: x has another shape.
    """
    array = _checks.numpy_array("x", x)
    _check_numbers("x", array)
    _checks.check_shape("x", array.shape, ("samples", "features"))
    return _as_floats(array)


def targets_of(y: Any, samples: int) -> tuple[npt.NDArray[Any], int | None]:
    """`y` as targets, and the number of classes.

    Integers [samples] are labels: int32 [samples], with classes up to the largest label. Everything else is numbers:
    float32 [samples, outputs], without classes; [samples] becomes one column.

    Raises:
        TypeError: y is no array of numbers.
        ValueError: y has another shape, or labels below 0 or beyond int32.
    """
    array = _checks.numpy_array("y", y)
    _check_numbers("y", array)
    if array.ndim == 1 and array.dtype.kind in "iu":
        _checks.check_shape("y", array.shape, (samples,))
        labels = _checks.labels("y", array, (samples,), _checks.LARGEST_INDEX)
        return labels, int(labels.max()) + 1
    columns = array[:, None] if array.ndim == 1 else array
    _checks.check_shape("y", columns.shape, (samples, "outputs"))
    return _as_floats(columns), None


def split(
    samples: int, held_out: float, seed: int, part: str = "test"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The training samples and the held-out samples: int64 indices, chosen at random.

    Args:
        samples: number of samples.
        held_out: the held-out fraction.
        seed: seed of the choice.
        part: name of the fraction in errors.

    Raises:
        TypeError, ValueError: the fraction is no number, or a part would be empty.
    """
    fraction = _checks.real(part, held_out)
    count = round(fraction * samples)
    if not 0 < count < samples:
        raise ValueError(
            f"{part} is {fraction}, which leaves {samples - count} of {samples} samples for training and {count} for "
            "the other part: expected a fraction above 0 and below 1 that leaves both some"
        )
    order = permutation(Stream.SPLIT, seed, 0, samples)
    return order[count:], order[:count]


def scaled(name: str, kind: str | None, train: Any, test: Any) -> tuple[Any, Any, Scaling | None]:
    """Both parts [n, columns], scaled by the statistics of the training part, and the scaling.

    Raises:
        ValueError: an unknown kind.
    """
    if kind is None:
        return train, test, None
    if kind not in SCALINGS:
        raise ValueError(f"{name} is {kind!r}, expected {', '.join(map(repr, SCALINGS))} or None")
    scaling = scaling_of(kind, train)
    return scaling.apply(train), scaling.apply(test), scaling


def _check_numbers(name: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers")


def _as_floats(array: np.ndarray) -> npt.NDArray[np.float32]:
    """In float32. Numbers beyond float32 become infinite, which a data set refuses."""
    with np.errstate(over="ignore"):
        floats: npt.NDArray[np.float32] = np.ascontiguousarray(array, dtype=np.float32)
    return floats
