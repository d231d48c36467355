"""The primitives against the oracle, bit for bit: the flush rule by the million, every size around a tile's edge."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fpes

MODES = oracle.FLUSH_MODES
every_mode = pytest.mark.parametrize("flush", MODES)
each_rule = pytest.mark.parametrize("flush", ["never", "always"])

SCALARS, NEIGHBOURS, OTHERS = 300, 1024, 1024
SUMS = 800_000
GROUPS, ROWS, COLUMNS = 400, 32, 80  # of fused multiply-adds around one triple


def nudged(rng: np.random.Generator, x: np.ndarray, shape: tuple[int, ...], most: int) -> np.ndarray:
    """float32 `shape` array of `x`, up to `most` units in the last place away, never through zero or infinity."""
    bits = np.broadcast_to(x, shape).view(np.uint32).astype(np.int64)
    magnitude = (bits & 0x7FFFFFFF) + rng.integers(-most, most + 1, shape)
    return oracle.from_bits(np.clip(magnitude, 0, 0x7F7FFFFF) | (bits & 0x80000000))


@functools.lru_cache
def products(flush: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vectors [s, n], scalars [s], expected [s, n]): half of a vector crowds at 2^-126 over its scalar."""
    rng = np.random.default_rng(1)
    a, b, _ = oracle.boundary_operands(rng, SCALARS * (NEIGHBOURS + OTHERS))
    a, b = a.reshape(SCALARS, -1), b[:SCALARS].copy()
    wide = np.abs(oracle.widen(b))
    usable = (wide > 2.0**-126) & (wide < 2.0**126)
    b[~usable], wide[~usable] = 0.75, 0.75
    centre = oracle.to_float32(np.copysign(2.0**-126 / wide, rng.random(SCALARS) - 0.5))[:, None]
    a[:, :NEIGHBOURS] = nudged(rng, centre, (SCALARS, NEIGHBOURS), 600)
    return a, b, oracle.mul(a, b[:, None], ftz=flush != "never")


@functools.lru_cache
def sums(flush: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(v, b, expected), [SUMS] each. Where the triple is no sum near the boundary, c is replaced by one that is."""
    rng = np.random.default_rng(2)
    v, _, c = oracle.boundary_operands(rng, SUMS)
    sign = np.where(rng.random(SUMS) < 0.5, -1.0, 1.0)
    v[::2] = nudged(rng, oracle.to_float32(sign * 2.0**-125), (SUMS,), 1 << 25)[::2]
    c[::2] = nudged(rng, oracle.to_float32(sign * 2.0**-126 - oracle.widen(v)), (SUMS,), 2)[::2]
    return v, c, oracle.add(v, c, ftz=flush != "never")


@functools.lru_cache
def fused() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a [g, rows], b [g, columns], c [g, rows]): the triples of a group lie within a few units of each other."""
    rng = np.random.default_rng(3)
    a, b, c = (x[:, None] for x in oracle.boundary_operands(rng, GROUPS))
    shape_rows, shape_columns = (GROUPS, ROWS), (GROUPS, COLUMNS)
    return nudged(rng, a, shape_rows, 3), nudged(rng, b, shape_columns, 3), nudged(rng, c, shape_rows, 2)


@functools.lru_cache
def fused_expected(flush: str) -> np.ndarray:
    a, b, c = fused()
    ftz = flush == "always"
    # The first step of the chain, c * 1 + 0, is inexact only by DAZ, which the second step applies too.
    start = oracle.fma(c, np.float32(1), np.float32(0), ftz)
    parts = [
        oracle.fma(a[i : i + 40, :, None], b[i : i + 40, None, :], start[i : i + 40, :, None], ftz)
        for i in range(0, GROUPS, 40)
    ]
    return np.concatenate(parts)


@each_rule
def test_multiply_at_the_boundary(isa, flush):
    vectors, scalars, expected = products(flush)
    got = np.stack([fpes.multiply(v, s, flush=flush) for v, s in zip(vectors, scalars, strict=True)])
    oracle.assert_bitwise_equal(got, expected, f"multiply, {isa}, {flush}")


@each_rule
def test_bias_add_at_the_boundary(isa, flush):
    v, b, expected = sums(flush)
    oracle.assert_bitwise_equal(fpes.bias_add(v[None], b, flush=flush)[0], expected, f"bias_add, {isa}, {flush}")


@every_mode
def test_fused_multiply_add_at_the_boundary(isa, flush):
    a, b, c = fused()
    got = np.empty((GROUPS, ROWS, COLUMNS), np.float32)
    left, right = np.empty((ROWS, 2), np.float32), np.ones((2, COLUMNS), np.float32)
    for group in range(GROUPS):
        left[:, 0], left[:, 1], right[1] = c[group], a[group], b[group]
        got[group] = fpes.gemm(left, right, flush=flush)
    oracle.assert_bitwise_equal(got, fused_expected("always" if flush == "always" else "never"), f"{isa}, {flush}")


def test_the_boundary_operands_tell_the_rules_apart():
    """Else the tests above would prove little."""
    never, always = fused_expected("never"), fused_expected("always")
    differ = never.view(np.uint32) != always.view(np.uint32)
    assert 0.1 < differ.mean() < 0.9
    smallest_normal = 2.0**-126
    assert np.count_nonzero(np.abs(oracle.widen(always)) == smallest_normal) > 1000


@every_mode
def test_elementwise_modes(isa, flush):
    """Boundary mode flushes outside of a product."""
    rule = "never" if flush == "never" else "always"
    vectors, scalars, expected = products(rule)
    oracle.assert_bitwise_equal(fpes.multiply(vectors[0], scalars[0], flush=flush), expected[0])
    v, b, expected = sums(rule)
    rows, columns = 97, 65
    v, b = v[: rows * columns].reshape(rows, columns), b[:columns]
    oracle.assert_bitwise_equal(fpes.bias_add(v, b, flush=flush), oracle.bias_add(v, b, flush), f"{isa}, {flush}")


@pytest.mark.filterwarnings("ignore")
@every_mode
def test_special_values(isa, flush):
    """Zeros of both signs, infinities, NaN, the boundary and its neighbours: all triples."""
    values = np.unique(oracle.special_operands()[0].view(np.uint32)).view(np.float32)
    left = np.array(list(itertools.product(values, values)), np.float32)
    right = np.stack([np.ones_like(values), values])
    oracle.assert_bitwise_equal(fpes.gemm(left, right, flush=flush), oracle.gemm(left, right, flush), f"gemm {isa}")
    column = np.repeat(values[:, None], values.size, axis=1)
    oracle.assert_bitwise_equal(
        fpes.bias_add(column, values, flush=flush), oracle.bias_add(column, values, flush), f"bias_add {isa}"
    )
    for s in values:
        oracle.assert_bitwise_equal(
            fpes.multiply(values, s, flush=flush), oracle.multiply(values, s, flush), f"multiply by {s!r}, {isa}"
        )


def crowded(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """float32: products of two lie on both sides of the boundary; some zeros, some ordinary numbers."""
    x = rng.standard_normal(shape) * np.ldexp(1.0, rng.integers(-66, -60, shape))
    x[rng.random(shape) < 0.1] = 0.0
    ordinary = rng.random(shape) < 0.02
    x[ordinary] = rng.standard_normal(np.count_nonzero(ordinary)) * 2.0**-40
    return oracle.to_float32(x)


def product_shapes() -> list[tuple[int, int, int]]:
    """(m, n, k): rows around 4, 6, 12 and 64, columns around every panel width."""
    rng = np.random.default_rng(4)
    rows = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 23, 25]
    columns = [1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 49]
    depths = [1, 2, 3, 5, 8, 17, 33]
    shapes = [(m, n, int(rng.choice(depths))) for m in rows for n in columns]
    return [
        *shapes,
        (63, 65, 3),
        (64, 64, 2),
        (65, 63, 3),
        (127, 5, 4),
        (129, 33, 2),
        (1, 130, 64),
        (130, 1, 257),
        (5, 9, 1031),
        # Parts of k, and what is left of it; of columns that are no whole vectors; more rows than a thread takes.
        (3, 17, 511),
        (3, 33, 512),
        (2, 8, 513),
        (13, 41, 1023),
        (7, 32, 1024),
        (3, 16, 1025),
        (2, 35, 2065),
        (97, 19, 530),
        (193, 5, 14),
    ]


@functools.lru_cache
def product_cases(flush: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    operands = [(crowded(rng, m, k), crowded(rng, k, n)) for m, n, k in product_shapes()]
    return [(a, b, oracle.gemm(a, b, flush)) for a, b in operands]


@every_mode
def test_products_of_all_shapes(isa, flush):
    for a, b, expected in product_cases(flush):
        oracle.assert_bitwise_equal(fpes.gemm(a, b, flush=flush), expected, f"{a.shape} @ {b.shape}, {isa}, {flush}")


def test_product_does_not_depend_on_threads(isa, threads):
    for flush in MODES:
        for a, b, expected in product_cases(flush)[-8:]:
            oracle.assert_bitwise_equal(fpes.gemm(a, b, flush=flush), expected, f"{threads} threads, {isa}, {flush}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 30),
    n=st.integers(1, 70),
    k=st.integers(1, 9),
    flush=st.sampled_from(MODES),
    seed=st.integers(0, 999),
)
def test_small_products(isa, m, n, k, flush, seed):
    rng = np.random.default_rng(seed)
    a, b = crowded(rng, m, k), crowded(rng, k, n)
    oracle.assert_bitwise_equal(fpes.gemm(a, b, flush=flush), oracle.gemm(a, b, flush), f"{a.shape} @ {b.shape}")


@pytest.mark.filterwarnings("ignore")
@every_mode
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_zero_operand_hides_no_infinity_or_nan(isa, flush, value):
    """0 * inf is NaN: a kernel that skips zeros of the left operand has to skip only where no bits change."""
    rng = np.random.default_rng(6)
    a, b = crowded(rng, 13, 7), crowded(rng, 7, 33)
    a[2:5, 3] = 0.0
    b[3, 4] = value
    got = fpes.gemm(a, b, flush=flush)
    oracle.assert_bitwise_equal(got, oracle.gemm(a, b, flush), isa)
    assert np.isnan(got[2, 4])


def test_negative_zeros(isa):
    """The accumulator starts at +0, and +0 + -0 is +0; elementwise the sign stays."""
    zero = np.zeros((3, 5), np.float32)
    oracle.assert_bitwise_equal(fpes.gemm(-np.ones((3, 2), np.float32), zero[:2]), zero)
    oracle.assert_bitwise_equal(fpes.multiply(zero, -1.0), -zero)
    oracle.assert_bitwise_equal(fpes.bias_add(-zero, -zero[0]), -zero)


def test_any_layout_is_accepted(isa):
    rng = np.random.default_rng(7)
    a, b = crowded(rng, 26, 18), crowded(rng, 18, 66)
    for left, right in [(a[::2], b), (a, b[:, ::2]), (np.asfortranarray(a), b[:, ::-1]), (a[:, ::3], b[::3])]:
        oracle.assert_bitwise_equal(fpes.gemm(left, right), oracle.gemm(left, right, "boundary"))
    v = a[:, ::2]
    oracle.assert_bitwise_equal(fpes.bias_add(v, b[::2, 3]), oracle.bias_add(v, b[::2, 3], "boundary"))
    oracle.assert_bitwise_equal(fpes.multiply(v, 0.5), oracle.multiply(v, np.float32(0.5), "boundary"))
    for shape in [(), (1,), (3, 5, 7), (2, 1, 3, 2)]:
        x = crowded(rng, *shape) if shape else np.float32(3)
        oracle.assert_bitwise_equal(
            fpes.multiply(np.asarray(x), 2.0**-64), oracle.multiply(x, np.float32(2.0**-64), "boundary")
        )


def test_operands_are_left_as_they_are(isa):
    rng = np.random.default_rng(8)
    a, b = crowded(rng, 5, 6), crowded(rng, 6, 7)
    before = a.copy(), b.copy()
    fpes.gemm(a, b), fpes.bias_add(a, b[:, 0]), fpes.multiply(a, 2.0)
    oracle.assert_bitwise_equal(a, before[0])
    oracle.assert_bitwise_equal(b, before[1])


class TestRefusals:
    matrix = np.ones((2, 3), np.float32)

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
    def test_other_types(self, dtype):
        other = self.matrix.astype(dtype)
        with pytest.raises(TypeError, match=np.dtype(dtype).name):
            fpes.gemm(other, self.matrix.T)
        with pytest.raises(TypeError, match=np.dtype(dtype).name):
            fpes.gemm(self.matrix.T, other)
        with pytest.raises(TypeError, match=np.dtype(dtype).name):
            fpes.bias_add(other, self.matrix[0])
        with pytest.raises(TypeError, match=np.dtype(dtype).name):
            fpes.multiply(other, 2.0)

    def test_shapes_that_do_not_fit(self):
        with pytest.raises(ValueError, match="3"):
            fpes.gemm(self.matrix, self.matrix)
        with pytest.raises(ValueError, match=r"."):
            fpes.gemm(self.matrix[0], self.matrix)
        with pytest.raises(ValueError, match="2"):
            fpes.bias_add(self.matrix, np.ones(2, np.float32))

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match="sometimes"):
            fpes.gemm(self.matrix, self.matrix.T, flush="sometimes")
        with pytest.raises(ValueError, match="sometimes"):
            fpes.multiply(self.matrix, 2.0, flush="sometimes")


def test_instruction_sets_and_threads_are_checked():
    assert fpes.get_isa() in fpes.supported_isas()
    with pytest.raises(ValueError, match="mmx"):
        fpes.set_isa("mmx")
    with pytest.raises(ValueError, match="0"):
        fpes.set_threads(0)
