"""The oracle's oracle: scalar float32 operations on bit patterns, in Python integers and fractions only.

No floating point at all, and the flush rule written the way it is stated (round to 24 bits with unbounded
exponent, then flush), so it shares neither code nor method with `flush`.
"""

from __future__ import annotations

from fractions import Fraction

INFINITY_BITS = 0x7F800000
NAN_BITS = 0x7FC00000
_SIGN_BIT = 1 << 31
_MIN_NORMAL = Fraction(1, 2**126)


def is_nan(bits: int) -> bool:
    return bits & 0x7FFFFFFF > INFINITY_BITS


def is_inf(bits: int) -> bool:
    return bits & 0x7FFFFFFF == INFINITY_BITS


def value_of(bits: int) -> Fraction:
    """The value of a finite float32 bit pattern (both zeros give 0)."""
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    significand = fraction if exponent == 0 else fraction | 1 << 23
    magnitude = Fraction(significand * 2 ** max(exponent, 1), 2**150)
    return -magnitude if bits >> 31 else magnitude


def flush_operand(bits: int, ftz: bool) -> int:
    """DAZ: a subnormal operand becomes a zero of the same sign if `ftz`."""
    is_tiny = bits & INFINITY_BITS == 0
    return bits & _SIGN_BIT if ftz and is_tiny else bits


def _exponent_of(magnitude: Fraction) -> int:
    """The e with 2^e <= magnitude < 2^(e+1)."""
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if magnitude >= Fraction(2) ** guess else guess - 1


def round_value(value: Fraction, ftz: bool) -> int:
    """Bits of a nonzero exact `value` rounded to nearest even, flushed after rounding if `ftz`."""
    sign = _SIGN_BIT if value < 0 else 0
    magnitude = abs(value)
    quantum_exponent = _exponent_of(magnitude) - 23
    if not ftz:
        quantum_exponent = max(quantum_exponent, -149)
    quantum = Fraction(2) ** quantum_exponent
    rounded = round(magnitude / quantum) * quantum  # Python rounds a Fraction to nearest even
    if ftz and rounded < _MIN_NORMAL:
        return sign
    return sign | _encode(rounded)


def _encode(magnitude: Fraction) -> int:
    """Bits of a magnitude that is a multiple of a float32 quantum."""
    if magnitude >= 2**128:
        return INFINITY_BITS
    if magnitude < _MIN_NORMAL:
        return int(magnitude * 2**149)
    exponent = _exponent_of(magnitude)
    significand = int(magnitude / Fraction(2) ** (exponent - 23))
    return (exponent + 127 << 23) + (significand - (1 << 23))


def fma(a: int, b: int, c: int, ftz: bool) -> int:
    a, b, c = (flush_operand(bits, ftz) for bits in (a, b, c))
    product_sign = (a ^ b) & _SIGN_BIT
    if is_nan(a) or is_nan(b) or is_nan(c):
        return NAN_BITS
    if is_inf(a) or is_inf(b):
        is_zero_times_inf = a & ~_SIGN_BIT == 0 or b & ~_SIGN_BIT == 0
        is_inf_minus_inf = is_inf(c) and c & _SIGN_BIT != product_sign
        return NAN_BITS if is_zero_times_inf or is_inf_minus_inf else product_sign | INFINITY_BITS
    if is_inf(c):
        return c
    product, addend = value_of(a) * value_of(b), value_of(c)
    if product + addend != 0:
        return round_value(product + addend, ftz)
    # An exact zero is negative only if both terms are negative zeros; x + (-x) is +0 when rounding to
    # nearest.
    both_zero = product == 0 and addend == 0
    return product_sign & c if both_zero else 0


def mul(a: int, b: int, ftz: bool) -> int:
    # Adding a zero with the product's sign changes no product, not even a zero.
    return fma(a, b, (a ^ b) & _SIGN_BIT, ftz)


def add(a: int, b: int, ftz: bool) -> int:
    return fma(a, 0x3F800000, b, ftz)


def div(a: int, b: int, ftz: bool) -> int:
    a, b = flush_operand(a, ftz), flush_operand(b, ftz)
    sign = (a ^ b) & _SIGN_BIT
    a_is_zero, b_is_zero = a & ~_SIGN_BIT == 0, b & ~_SIGN_BIT == 0
    if is_nan(a) or is_nan(b) or (is_inf(a) and is_inf(b)) or (a_is_zero and b_is_zero):
        return NAN_BITS
    if is_inf(a) or b_is_zero:
        return sign | INFINITY_BITS
    if is_inf(b) or a_is_zero:
        return sign
    return round_value(value_of(a) / value_of(b), ftz)
