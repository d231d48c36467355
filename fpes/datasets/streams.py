"""Counter-based random numbers for the split, order and augmentation of data, the same with every version of NumPy.

NumPy promises that the raw output of its bit generators stays the same; the results of its Generator may change from
version to version. So this module uses only the raw output.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from fpes import _checks

_NUMBER_BITS = 48  # the rest of the key's second word tells streams apart
_MANTISSA_BITS = 24


class Stream(enum.IntEnum):
    """The use of the numbers: no two uses share numbers."""

    ORDER = 1
    AUGMENTATION = 2
    IMPORTANCE = 3
    SPLIT = 4


def raw(stream: Stream, seed: int, number: int, count: int) -> npt.NDArray[np.uint64]:
    """`count` words of 64 random bits, from (stream, seed, number).

    Raises:
        TypeError, ValueError: a seed that isn't 0 ... 2**64 - 1, a number that isn't 0 ... 2**48 - 1.
    """
    _checks.integer("seed", seed, 0, 2**64 - 1)
    _checks.integer("step", number, 0, 2**_NUMBER_BITS - 1)
    key = np.array([seed, stream << _NUMBER_BITS | number], np.uint64)
    words: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return words


def permutation(stream: Stream, seed: int, number: int, count: int) -> npt.NDArray[np.int64]:
    """0 ... count - 1 in random order."""
    return np.argsort(raw(stream, seed, number, count), kind="stable").astype(np.int64, copy=False)


def uniform(stream: Stream, seed: int, number: int, count: int) -> npt.NDArray[np.float32]:
    """Uniform between -1 and 1, on a grid of 2^24 points: float32 [count]."""
    words = raw(stream, seed, number, (count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
    steps = (words >> np.uint32(32 - _MANTISSA_BITS)).astype(np.float32)
    numbers: npt.NDArray[np.float32] = (steps + np.float32(0.5)) * np.float32(2.0 ** (1 - _MANTISSA_BITS))
    numbers -= np.float32(1.0)
    return numbers
