"""Correctly rounded float32 arithmetic with and without flush-to-zero, whatever the mode of the CPU.

float32 is only ever a storage format here: `widen` and `narrow` move bits between it and float64 by integer
operations, and all arithmetic happens on float64 values that stay far away from float64's own subnormals.
Setting FTZ or DAZ in MXCSR therefore changes nothing, and neither does the way in which NumPy happens to
treat subnormal float32 numbers.

The argument `ftz` chooses the rules:

- False: IEEE 754, round to nearest even, subnormals kept.
- True: subnormal operands become a zero of the same sign (DAZ). A result is rounded to 24 bits with an
  unbounded exponent and flushed, sign kept, if it is then below 2^-126.

Float64 arrays inside this module are named after what they hold: `wide` ones hold float32 values exactly.
"""

from __future__ import annotations

import numpy as np

MIN_NORMAL = 2.0**-126
MIN_SUBNORMAL = 2.0**-149
OVERFLOW = 2.0**128

# "Round to 24 bits with unbounded exponent, then flush" as one comparison. The last 24-bit number below
# 2^-126 is 2^-126 - 2^-150, the midpoint of the two is 2^-126 - 2^-151 = 2^-126 (1 - 2^-25), and on the tie
# the even one wins, which is 2^-126 itself. So exactly the values below the midpoint flush.
FLUSH_THRESHOLD = 2.0**-126 - 2.0**-151

_DROPPED_BITS = 52 - 23  # fraction bits that float64 has and float32 has not
_EXPONENT_SHIFT = 1023 - 127  # difference of the exponent biases


def float_bits(x) -> np.ndarray:
    """Bits of float32 `x` as int64 in [0, 2^32). Other types are refused: a cast could depend on MXCSR."""
    x = np.asarray(x)
    if x.dtype != np.float32:
        raise TypeError(f"the oracle takes float32, not {x.dtype}; use to_float32 for an explicit rounding")
    return x.view(np.uint32).astype(np.int64)


def from_bits(bits) -> np.ndarray:
    """float32 array of the bit patterns `bits` (integers in [0, 2^32))."""
    return np.asarray(bits).astype(np.uint32).view(np.float32)


def widen(x, daz: bool = False) -> np.ndarray:
    """The values of float32 `x` as float64, exactly; with `daz`, subnormals become zeros of the same sign."""
    bits = float_bits(x)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    wide_exponent = np.where(exponent == 0xFF, 0x7FF, exponent + _EXPONENT_SHIFT)
    normal = np.asarray((wide_exponent << 52) | (fraction << _DROPPED_BITS)).view(np.float64)
    subnormal = fraction * (0.0 if daz else MIN_SUBNORMAL)
    return np.copysign(np.where(exponent == 0, subnormal, normal), np.where(bits >> 31, -1.0, 1.0))


def narrow(wide) -> np.ndarray:
    """float32 array of float64 `wide`, which must hold float32 values (what `round_wide` returns)."""
    wide = np.asarray(wide, dtype=np.float64)
    magnitude = np.abs(wide)
    with np.errstate(all="ignore"):
        is_small = magnitude < MIN_NORMAL
        fraction = np.where(is_small, magnitude, 0.0) / MIN_SUBNORMAL
    normal = (np.asarray(magnitude).view(np.int64) >> _DROPPED_BITS) - (_EXPONENT_SHIFT << 23)
    bits = np.where(is_small, fraction.astype(np.int64), normal)
    bits = np.where(np.isinf(wide), 0x7F800000, bits)
    bits = np.where(np.isnan(wide), 0x7FC00000, bits)
    return from_bits(bits | (np.signbit(wide).astype(np.int64) << 31))


def round_wide(value, ftz: bool) -> np.ndarray:
    """Round float64 `value` to float32 by IEEE or the flush rule; the result is kept as float64.

    `value` must be exact or rounded to odd (see `_add_to_odd`) for the whole operation to be rounded only
    once.
    """
    value = np.asarray(value, dtype=np.float64)
    magnitude = np.abs(value)
    with np.errstate(all="ignore"):
        # Nearest even on the bit pattern: add just under half a unit, plus one more if the kept part is odd.
        # A carry out of the fraction goes into the exponent, as it should.
        bits = magnitude.view(np.int64)
        half = (1 << (_DROPPED_BITS - 1)) - 1 + ((bits >> _DROPPED_BITS) & 1)
        rounded = np.asarray((bits + half) & ~((1 << _DROPPED_BITS) - 1)).view(np.float64)
        rounded = np.where(rounded >= OVERFLOW, np.inf, rounded)
        if ftz:
            rounded = np.where(magnitude < FLUSH_THRESHOLD, 0.0, rounded)
        else:
            # On the subnormal grid the quantum is fixed: scaling by a power of two is exact, rint is nearest
            # even.
            on_grid = np.rint(magnitude / MIN_SUBNORMAL) * MIN_SUBNORMAL
            rounded = np.where(magnitude < MIN_NORMAL, on_grid, rounded)
    return np.copysign(np.where(np.isnan(value), np.nan, rounded), value)


def to_float32(value) -> np.ndarray:
    """Round float64 `value` once to float32 by IEEE rules; a subnormal result is kept."""
    return narrow(round_wide(value, ftz=False))


def negate(x) -> np.ndarray:
    """float32 `x` with its sign bit flipped, subnormals included."""
    return from_bits(float_bits(x) ^ 0x80000000)


def _add_to_odd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 x + y rounded to odd: the exact sum if that is a float64, else its odd neighbour.

    Rounding to odd keeps every fact that a later rounding or comparison needs. A float64 with an even last
    bit is returned only for a sum that equals it, and round-to-odd is monotone, so the exact sum and the
    result lie on the same side of every float64 whose last bit is even. The midpoints between float32 numbers
    (normal or subnormal) and the flush threshold have at most 25 significant bits of 53, so they are such
    numbers: rounding the result to float32 rounds the exact sum, and comparing the result with the threshold
    compares the exact sum.

    The error term is exact (two-sum), for operands are products of two float32 or float32: everything is a
    multiple of 2^-298 and below 2^257, so float64 neither underflows nor overflows.
    """
    total = x + y
    y_part = total - x
    error = (x - (total - y_part)) + (y - y_part)
    bits = np.asarray(total).view(np.int64)
    # Rounding left an even last bit: step to the odd neighbour on the side of the exact sum. (If the last bit
    # is odd and the error isn't zero, the sum lies between it and an even neighbour, and it is already the
    # answer.) An inexact total is never zero, so the sign-magnitude step can't wrap.
    must_step = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
    outward = np.signbit(error) == np.signbit(total)
    stepped = np.asarray(bits + np.where(outward, 1, -1)).view(np.float64)
    return np.where(must_step, stepped, total)


def fma_wide(a: np.ndarray, b: np.ndarray, c: np.ndarray, ftz: bool) -> np.ndarray:
    """a*b + c on wide operands that have been through DAZ if need be; wide result.

    The product of two 24-bit significands has 48 bits, so float64 holds it exactly, zero signs included.
    """
    with np.errstate(all="ignore"):
        return round_wide(_add_to_odd(a * b, c), ftz)


def fma(a, b, c, ftz: bool) -> np.ndarray:
    """a*b + c rounded once. float32 arrays that broadcast; float32 result."""
    return narrow(fma_wide(widen(a, ftz), widen(b, ftz), widen(c, ftz), ftz))


def mul(a, b, ftz: bool) -> np.ndarray:
    """a*b rounded once. float32 arrays that broadcast; float32 result."""
    with np.errstate(all="ignore"):
        product = widen(a, ftz) * widen(b, ftz)  # exact
    return narrow(round_wide(product, ftz))


def add(a, b, ftz: bool) -> np.ndarray:
    """a + b rounded once. float32 arrays that broadcast; float32 result."""
    with np.errstate(all="ignore"):
        total = _add_to_odd(widen(a, ftz), widen(b, ftz))
    return narrow(round_wide(total, ftz))


def div(a, b, ftz: bool) -> np.ndarray:
    """a / b rounded once. float32 arrays that broadcast; float32 result.

    Where both are finite and not zero, the significands are divided as integers to at least 38 bits, and a
    last bit that is 1 unless the division is exact makes this a rounding to odd (see `_add_to_odd`).
    """
    a, b = np.broadcast_arrays(widen(a, ftz), widen(b, ftz))
    ordinary = np.isfinite(a) & np.isfinite(b) & (a != 0) & (b != 0)
    fraction_a, exponent_a = np.frexp(np.where(ordinary, np.abs(a), 1.0))
    fraction_b, exponent_b = np.frexp(np.where(ordinary, np.abs(b), 1.0))
    dividend = (fraction_a * 2.0**24).astype(np.int64) << 38  # below 2^62
    divisor = (fraction_b * 2.0**24).astype(np.int64)
    quotient = 2 * (dividend // divisor) + (dividend % divisor != 0)  # at most 2^40: exact as a float64
    magnitude = np.ldexp(quotient.astype(np.float64), exponent_a - exponent_b - 39)
    with np.errstate(all="ignore"):
        special = a / b  # zeros, infinities and NaNs, with IEEE's signs
    negative = np.signbit(a) != np.signbit(b)
    value = np.where(ordinary, np.where(negative, -magnitude, magnitude), special)
    return narrow(round_wide(value, ftz))
