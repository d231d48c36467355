"""Comparison of results, bit for bit."""

from __future__ import annotations

import numpy as np

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(_UNSIGNED[x.dtype.itemsize])


def _comparable_bits(x: np.ndarray) -> np.ndarray:
    """Bit patterns in which all NaNs are one. By integers only: a float comparison may depend on MXCSR."""
    bits = _bits(x)
    if x.dtype.kind != "f":
        return bits
    info = np.finfo(x.dtype)
    infinity = ((1 << info.iexp) - 1) << info.nmant
    is_nan = (bits & bits.dtype.type(infinity | (1 << info.nmant) - 1)) > bits.dtype.type(infinity)
    return np.where(is_nan, bits.dtype.type(infinity | 1), bits)


def _describe(x: np.ndarray, at: tuple[int, ...]) -> str:
    value = x[at]
    digits = 2 * x.dtype.itemsize
    return f"{value.item()!r} (0x{int(_bits(x)[at]):0{digits}x})"


def assert_bitwise_equal(actual, expected, what: str = "arrays") -> None:
    """Fail unless both arrays have one shape, one dtype and the same bits.

    NaNs equal each other whatever their payload and sign; +0 and -0 differ. The message has the number of
    mismatches, the first coordinate, and both values with their bits.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        raise AssertionError(
            f"{what}: actual is {actual.dtype} {actual.shape}, expected is {expected.dtype} {expected.shape}"
        )
    mismatch = _comparable_bits(actual) != _comparable_bits(expected)
    count = np.count_nonzero(mismatch)
    if count:
        first = tuple(int(i) for i in np.unravel_index(np.argmax(mismatch), mismatch.shape))
        raise AssertionError(
            f"{what}: {count} of {actual.size} differ, first at {first}: "
            f"actual {_describe(actual, first)}, expected {_describe(expected, first)}"
        )
