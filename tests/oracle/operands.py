"""Operands crowded at the flush boundary 2^-126, by the million."""

from __future__ import annotations

import numpy as np

from .flush import MIN_NORMAL, MIN_SUBNORMAL, float_bits, from_bits, to_float32, widen

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def _signs(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], count)


def _powers(rng: np.random.Generator, count: int, low: int, high: int) -> np.ndarray:
    """float64 powers of two with uniform exponents in [low, high]."""
    return np.ldexp(1.0, rng.integers(low, high + 1, count))


def _floats(rng: np.random.Generator, count: int, low: int, high: int) -> np.ndarray:
    """float64 holding float32 values of both signs, exponents in [low, high], random significands.

    Exponents below -126 give subnormals.
    """
    significands = rng.integers(2**23, 2**24, count) * 2.0**-23
    return widen(to_float32(_signs(rng, count) * significands * _powers(rng, count, low, high)))


def _nudge(rng: np.random.Generator, x: np.ndarray, most: int) -> np.ndarray:
    """float32 `x` moved by up to `most` units in the last place, never through zero."""
    bits = float_bits(x)
    magnitude = np.maximum((bits & 0x7FFFFFFF) + rng.integers(-most, most + 1, x.shape), 0)
    return from_bits(magnitude | (bits & 0x80000000))


def _tiny_or_zero(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 zeros of both signs, with some of the smallest subnormals."""
    steps = rng.integers(-8, 4, count).clip(min=0)  # zero in three cases of four
    return to_float32(np.copysign(steps * MIN_SUBNORMAL, _signs(rng, count)))


def _products_near(rng: np.random.Generator, count: int) -> Triple:
    """|a b| within a few units in the last place of 2^-126; c is zero or tiny."""
    a = _floats(rng, count, -146, 20)
    b = _nudge(rng, to_float32(_signs(rng, count) * MIN_NORMAL / a), 3)
    return to_float32(a), b, _tiny_or_zero(rng, count)


def _sums_near(rng: np.random.Generator, count: int) -> Triple:
    """a b has bits far below the last place of c, and a b + c is within a few of c's units of +-2^-126."""
    a = _floats(rng, count, -90, 30)
    product_size = _floats(rng, count, -170, -123)
    b = widen(to_float32(product_size / a))
    c = to_float32(_signs(rng, count) * MIN_NORMAL - a * b)
    return to_float32(a), to_float32(b), _nudge(rng, c, 2)


def _exact_threshold(rng: np.random.Generator, count: int) -> Triple:
    """c = +-2^-126 and a b = -+2^-151, which hits the threshold exactly, or just misses it."""
    sign = _signs(rng, count)
    power = _powers(rng, count, -140, -5)
    a = _nudge(rng, to_float32(-sign * power), 1)
    c = _nudge(rng, to_float32(sign * MIN_NORMAL), 1)
    return a, to_float32(2.0**-151 / power), c


def _factor_pairs() -> np.ndarray:
    """24-bit factors (f, g) of the integers near 2^25 - 1, which is the threshold in units of 2^-151."""
    pairs = []
    for target in range(2**25 - 4, 2**25 + 5):
        f = np.arange(2, 5793)  # up to the root
        f = f[target % f == 0]
        pairs.append(np.stack([f, target // f], axis=1))
    found = np.concatenate(pairs)
    return found[found[:, 1] < 2**24].astype(np.float64)


def _factored_threshold(rng: np.random.Generator, count: int) -> Triple:
    """a b is exactly the threshold, or one of the next integers in its units, with no help from c."""
    f, g = rng.choice(_factor_pairs(), count).T
    # In this range neither operand is subnormal, whichever the factors.
    power = _powers(rng, count, -120, -31)
    swap = rng.random(count) < 0.5
    a, b = _signs(rng, count) * f * power, _signs(rng, count) * g * 2.0**-151 / power
    c = to_float32(np.copysign(0.0, _signs(rng, count)))
    return to_float32(np.where(swap, b, a)), to_float32(np.where(swap, a, b)), c


def _sums_of_two(rng: np.random.Generator, count: int) -> Triple:
    """b = +-1, and a b + c near +-2^-126: the boundary for plain additions of a and c too."""
    b = _signs(rng, count)
    a = _floats(rng, count, -149, -122)
    c = to_float32(_signs(rng, count) * MIN_NORMAL - a)
    return to_float32(a * b), to_float32(b), _nudge(rng, c, 2)


def _subnormal_operands(rng: np.random.Generator, count: int) -> Triple:
    """At least one operand is subnormal; the others make its contribution visible."""
    which = rng.integers(0, 3, count)
    subnormal = _floats(rng, count, -149, -127)
    other = _floats(rng, count, -3, 30)
    a = np.where(which == 0, subnormal, other)
    b = np.where(which == 1, subnormal, np.where(which == 0, other, _floats(rng, count, -150, -124)))
    c = np.where(which == 2, subnormal, _floats(rng, count, -149, -120))
    return to_float32(a), to_float32(b), to_float32(c)


def _with_zeros(rng: np.random.Generator, count: int) -> Triple:
    """Each operand is a zero of either sign in half of the cases, else small."""

    def operand() -> np.ndarray:
        values = np.where(rng.random(count) < 0.5, 0.0, np.abs(_floats(rng, count, -135, 0)))
        return to_float32(np.copysign(values, _signs(rng, count)))

    return operand(), operand(), operand()


def _any_finite(rng: np.random.Generator, count: int) -> Triple:
    """Any finite bit patterns."""

    def operand() -> np.ndarray:
        return from_bits(rng.integers(0, 0x7F800000, count) | rng.integers(0, 2, count) << 31)

    return operand(), operand(), operand()


_FAMILIES = (
    _products_near,
    _sums_near,
    _exact_threshold,
    _factored_threshold,
    _sums_of_two,
    _subnormal_operands,
    _with_zeros,
    _any_finite,
)
_CHUNK = 1 << 17  # keeps the temporaries of millions of operands in cache


def boundary_operands(rng: np.random.Generator, count: int) -> Triple:
    """(a, b, c), finite float32 [count] each, for a*b + c, a*b, a + c; families are mixed at random."""
    chunks = [_chunk(rng, min(_CHUNK, count - start)) for start in range(0, count, _CHUNK)]
    if not chunks:
        return (np.empty(0, np.float32),) * 3
    a, b, c = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return a, b, c


def _chunk(rng: np.random.Generator, count: int) -> Triple:
    each = -(-count // len(_FAMILIES))
    families = [family(rng, each) for family in _FAMILIES]
    order = rng.permutation(each * len(_FAMILIES))[:count]
    a, b, c = (np.concatenate(parts)[order] for parts in zip(*families, strict=True))
    return a, b, c


def special_operands() -> Triple:
    """All triples of special float32 values: zeros, infinities, a NaN, the boundary and its neighbours."""
    magnitudes = [0, 1, 0x007FFFFF, 0x00800000, 0x00800001, 0x3F800000, 0x7F7FFFFF, 0x7F800000]
    bits = np.array(magnitudes + [0x80000000 | m for m in magnitudes] + [0x7FC00000])
    a, b, c = (from_bits(grid.ravel()) for grid in np.meshgrid(bits, bits, bits, indexing="ij"))
    return a, b, c
