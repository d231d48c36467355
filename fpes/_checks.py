"""Checks of users' arguments. Every error names the value and the expectation."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

FLUSH_MODES = ("never", "boundary", "always")
LARGEST_INDEX = 2**31 - 1  # extents travel through the kernels as 32-bit integers


def flush_mode(flush: str) -> str:
    """`flush`, if it is one of the three modes."""
    if flush not in FLUSH_MODES:
        raise ValueError(f"flush is {flush!r}, expected one of {', '.join(map(repr, FLUSH_MODES))}")
    return flush


def float_array(name: str, value: Any, shape: tuple[int | str, ...] | None = None) -> FloatArray:
    """`value` as a C-contiguous, aligned float32 NumPy array: copied if it isn't, refused if it has another dtype.

    `shape` holds a number for an extent with this exact value, and a word for any extent of at least 1.
    """
    array = numpy_array(name, value)
    check_floats(name, array, shape)
    return contiguous(array)


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array in C order, each element at a multiple of its size: copied only if it isn't."""
    if array.flags.carray:  # what most arrays are, known at a third of the cost
        return array
    return np.require(array, requirements=("C_CONTIGUOUS", "ALIGNED"))


def result_array(name: str, value: Any, shape: tuple[int, ...], *inputs: np.ndarray) -> FloatArray:
    """`value`, if a result of this shape can be written to it and no input overlaps it."""
    if type(value) is not np.ndarray or value.dtype != np.float32 or value.shape != shape:
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} is {found}, expected a NumPy array of float32 {list(shape)} to write to")
    if not (value.flags.carray and value.flags.writeable):
        raise ValueError(f"{name} has gaps or is read-only, expected an array in C order to write to")
    if any(np.may_share_memory(value, array) for array in inputs):
        raise ValueError(f"{name} lies in the memory of an argument, expected an array of its own")
    return value


def indices(name: str, value: Any, count: int | None, limit: int) -> npt.NDArray[np.int64]:
    """`value` as a copy in int64: integers [count], or of any number from 1 on, each in 0 ... limit - 1."""
    array = np.asarray(value) if isinstance(value, Sequence) else numpy_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    check_shape(name, array.shape, ("count" if count is None else count,))
    own = np.array(array, order="C")  # a copy: another thread may write to the caller's array between check and use
    lowest, highest = int(own.min()), int(own.max())
    if lowest < 0 or highest >= limit:
        raise ValueError(f"{name} has integers from {lowest} to {highest}, expected 0 to {limit - 1}")
    return own.astype(np.int64, copy=False)


def numpy_array(name: str, value: Any) -> np.ndarray:
    """`value` as a NumPy array, if possible without a copy. It may be any object with __array__ or DLPack."""
    if type(value) is np.ndarray:
        return value
    _refuse_gpu(name, value)
    try:
        if hasattr(value, "__array__") and not isinstance(value, np.generic):  # a single number isn't an array
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise TypeError(f"{name} is a {kind} that NumPy can't read: {error}") from error
    raise TypeError(f"{name} is a {type(value).__name__}, expected a NumPy array, or another that NumPy can read")


def check_floats(name: str, array: Any, shape: tuple[int | str, ...] | None = None) -> None:
    """Refuse a NumPy or CuPy array that isn't float32, or has another shape, or an extent beyond the kernels'."""
    if array.dtype != np.float32:
        library = type(array).__module__.partition(".")[0]
        raise TypeError(
            f"{name} has dtype {array.dtype}, expected float32: convert it with {name}.astype({library}.float32)"
        )
    if shape is not None:
        check_shape(name, array.shape, shape)
    for extent in array.shape:
        if extent > LARGEST_INDEX:
            raise ValueError(f"{name} has shape {array.shape}, expected extents of at most {LARGEST_INDEX}")


def check_fitness(name: str, array: Any, size: int, samples: int | None) -> None:
    """Refuse an array that isn't float32 or float64 [size], or [size, samples] if samples isn't None."""
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} has dtype {array.dtype}, expected float32 or float64")
    if array.shape != (size,) and (samples is None or array.shape != (size, samples)):
        expected = f"[{size}]" if samples is None else f"[{size}] or [{size}, {samples}]"
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")


def check_shape(name: str, actual: tuple[int, ...], expected: tuple[int | str, ...]) -> None:
    """Refuse a different rank, a different extent where a number is expected, and an extent of 0."""
    fits = len(actual) == len(expected) and all(
        extent == wanted if isinstance(wanted, int) else extent > 0
        for extent, wanted in zip(actual, expected, strict=True)
    )
    if not fits:
        words = ", ".join(str(extent) for extent in expected)
        raise ValueError(f"{name} has shape {actual}, expected [{words}] without an empty axis")


def finite_array(name: str, value: Any, shape: tuple[int | str, ...]) -> FloatArray:
    """As `float_array`, and refused if a value is NaN or infinite."""
    array = float_array(name, value, shape)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        first = int(bad[0])
        raise ValueError(
            f"{name} has {bad.size} values that are NaN or infinite, the first {array.flat[first]} at index "
            f"{first}; expected finite numbers"
        )
    return array


def labels(name: str, value: Any, shape: tuple[int | str, ...], classes: int) -> IntArray:
    """`value`, an array or a list, as a copy in int32: class labels of this shape, each in 0 ... classes - 1."""
    array = np.asarray(value) if isinstance(value, Sequence) else numpy_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integer labels")
    check_shape(name, array.shape, shape)
    own = np.array(array, order="C")  # as in indices()
    lowest, highest = int(own.min()), int(own.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(f"{name} has labels from {lowest} to {highest}, expected 0 to {classes - 1}")
    return own.astype(np.int32, copy=False)


def integer(name: str, value: Any, lowest: int, highest: int) -> int:
    """`value` as an int from `lowest` to `highest`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if not lowest <= number <= highest:
        raise ValueError(f"{name} is {number}, expected {lowest} to {highest}")
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above 0."""
    number = real(name, value)
    if not number > 0.0:
        raise ValueError(f"{name} is {value!r}, expected a number above 0")
    return number


def not_negative(name: str, value: Any) -> float:
    """`value` as a finite float, 0 or above."""
    number = real(name, value)
    if number < 0.0:
        raise ValueError(f"{name} is {value!r}, expected 0 or above")
    return number


def real(name: str, value: Any) -> float:
    """`value` as a finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, expected a number") from None
    except OverflowError:
        raise ValueError(f"{name} is beyond what a float can hold, expected a finite number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, expected a finite number")
    return number


def at_most(name: str, value: Any, largest: float) -> float:
    """`value` as a float from 0 to `largest`."""
    number = not_negative(name, value)
    if number > largest:
        raise ValueError(f"{name} is {number}, expected at most {largest}")
    return number


def power_of_two(name: str, value: Any) -> float:
    """`value` as a power of two whose inverse is a normal float32 too: 2^-126 ... 2^126."""
    number = positive(name, value)
    mantissa, exponent = math.frexp(number)
    if mantissa != 0.5 or not -126 <= exponent - 1 <= 126:
        raise ValueError(
            f"{name} is {number!r}, expected a power of two from 2**-126 to 2**126, so that scaling is exact"
        )
    return number


def _refuse_gpu(name: str, value: Any) -> None:
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(
            f"{name} is on a GPU ({type(value).__module__}.{type(value).__name__}), and a NumPy array is needed here: "
            "move it to the host, with cupy.asnumpy() for instance"
        )
