"""The oracle's own tests: against exact fractions, published vectors, the CPU, and spelled-out loops."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import platform
import sys
from pathlib import Path

import mpmath
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import exact, noise
from oracle.flush import FLUSH_THRESHOLD, MIN_NORMAL, float_bits, round_wide, widen

BOTH = pytest.mark.parametrize("ftz", [False, True])
MODES = pytest.mark.parametrize("flush", oracle.FLUSH_MODES)
KINDS = pytest.mark.parametrize("kind", ["binomial", "rademacher"])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20170929)


def bits(x) -> list[int]:
    return float_bits(x).ravel().tolist()


def bit(x) -> int:
    """Bits of one float32 (or of a float that is one)."""
    return int(float_bits(np.float32(x)))


def mapped(operation, *arrays, ftz: bool) -> np.ndarray:
    """A scalar operation of `exact` over flat float32 arrays."""
    return oracle.from_bits([operation(*operands, ftz) for operands in zip(*map(bits, arrays), strict=True)])


# ---- float32 arithmetic ------------------------------------------------------------------------------------

# Any bit pattern, with special exponents and fractions far more often than chance would give them.
_special_fractions = st.sampled_from([0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF])
_special_exponents = st.sampled_from([0, 1, 2, 24, 25, 63, 64, 103, 126, 127, 254, 255])
_fraction = st.one_of(_special_fractions, st.integers(0, 0x7FFFFF))
_exponent = st.one_of(_special_exponents, st.integers(0, 255))
float32_bits = st.builds(lambda s, e, f: s << 31 | e << 23 | f, st.integers(0, 1), _exponent, _fraction)


@settings(max_examples=400, deadline=None)
@given(float32_bits, float32_bits, float32_bits, st.booleans())
def test_operations_agree_with_fractions(a, b, c, ftz):
    x, y, z = (oracle.from_bits(n) for n in (a, b, c))
    oracle.assert_bitwise_equal(oracle.fma(x, y, z, ftz), oracle.from_bits(exact.fma(a, b, c, ftz)))
    oracle.assert_bitwise_equal(oracle.mul(x, y, ftz), oracle.from_bits(exact.mul(a, b, ftz)))
    oracle.assert_bitwise_equal(oracle.add(x, y, ftz), oracle.from_bits(exact.add(a, b, ftz)))
    oracle.assert_bitwise_equal(oracle.div(x, y, ftz), oracle.from_bits(exact.div(a, b, ftz)))


def at_boundary(rng, operation: str, count: int) -> tuple[np.ndarray, ...]:
    """Crowded operands of one operation."""
    a, b, c = oracle.boundary_operands(rng, count)
    if operation == "div":
        # A divisor near 1/b makes a quotient near a*b, so at the boundary wherever the product was.
        reciprocal = 1.0 / np.where(widen(b) == 0, 1.0, widen(b))
        return a, oracle.to_float32(reciprocal)
    return {"fma": (a, b, c), "mul": (a, b), "add": (a, c)}[operation]


@BOTH
@pytest.mark.parametrize("operation", ["fma", "mul", "add", "div"])
def test_operations_at_the_boundary_agree_with_fractions(rng, operation, ftz):
    operands = at_boundary(rng, operation, 15_000)
    actual = getattr(oracle, operation)(*operands, ftz)
    oracle.assert_bitwise_equal(actual, mapped(getattr(exact, operation), *operands, ftz=ftz))


@BOTH
@pytest.mark.parametrize("operation", ["fma", "mul", "add", "div"])
def test_special_values_agree_with_fractions(operation, ftz):
    a, b, c = oracle.special_operands()
    operands = (a, b, c) if operation == "fma" else (a[::17], b[::17])
    actual = getattr(oracle, operation)(*operands, ftz)
    oracle.assert_bitwise_equal(actual, mapped(getattr(exact, operation), *operands, ftz=ftz))


def test_flush_rule_at_its_threshold():
    small = np.float32(2.0**-75)
    unit = np.float32(2.0**-76)  # small * unit = 2^-151, the distance of the threshold from 2^-126
    boundary = np.float32(2.0**-126)
    below = np.nextafter(unit, np.float32(1))
    assert bit(oracle.fma(-small, unit, boundary, True)) == 0x00800000  # the tie rounds up to 2^-126
    assert bit(oracle.fma(-small, below, boundary, True)) == 0x00000000
    assert bit(oracle.fma(small, unit, -boundary, True)) == 0x80800000
    assert bit(oracle.fma(small, below, -boundary, True)) == 0x80000000
    # IEEE rounds the same value on the subnormal grid, which is coarser.
    assert bit(oracle.fma(-small, below, boundary, False)) == 0x00800000


@BOTH
def test_to_float32_and_widen_are_inverse(rng, ftz):
    patterns = rng.integers(0, 2**32, 10_000)
    x = oracle.from_bits(patterns)
    expected = oracle.from_bits([exact.flush_operand(int(n), ftz) for n in patterns])
    oracle.assert_bitwise_equal(oracle.to_float32(widen(x, daz=ftz)), expected)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="float64"):
        oracle.add(np.float64(1), np.float32(1), False)


# ---- independence of MXCSR, and agreement with the CPU -----------------------------------------------------

IS_X86_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"
needs_mxcsr = pytest.mark.skipif(not IS_X86_LINUX, reason="sets MXCSR by glibc's fenv_t of x86-64")
_MXCSR_OFFSET, _FENV_BYTES = 28, 32
_FTZ_AND_DAZ = 0x8040


@contextlib.contextmanager
def cpu_flushes():
    """FTZ and DAZ in this thread's MXCSR."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    saved = (ctypes.c_uint8 * _FENV_BYTES)()
    libm.fegetenv(saved)
    changed = (ctypes.c_uint8 * _FENV_BYTES)(*saved)
    mxcsr = ctypes.c_uint32.from_buffer(changed, _MXCSR_OFFSET)
    mxcsr.value |= _FTZ_AND_DAZ
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(saved)


@needs_mxcsr
@BOTH
def test_results_do_not_depend_on_the_mode_of_the_cpu(rng, ftz):
    a, b, c = oracle.boundary_operands(rng, 20_000)

    def results():
        products = oracle.fma(a, b, c, ftz), oracle.mul(a, b, ftz)
        others = oracle.add(a, c, ftz), oracle.div(a, b, ftz)
        return np.concatenate([*products, *others, *oracle.boundary_operands(np.random.default_rng(1), 4000)])

    normal = results()
    with cpu_flushes():
        flushing = results()
    oracle.assert_bitwise_equal(flushing, normal)


@needs_mxcsr
def test_cpu_agrees_on_mul_add_and_div(rng):
    a, b, c = oracle.boundary_operands(rng, 200_000)
    for ftz, mode in ((False, contextlib.nullcontext()), (True, cpu_flushes())):
        with np.errstate(all="ignore"), mode:
            on_cpu = a * b, a + c, a / b
        oracle.assert_bitwise_equal(on_cpu[0], oracle.mul(a, b, ftz), "mul")
        oracle.assert_bitwise_equal(on_cpu[1], oracle.add(a, c, ftz), "add")
        oracle.assert_bitwise_equal(on_cpu[2], oracle.div(a, b, ftz), "div")


@needs_mxcsr
@pytest.mark.skipif(not IS_X86_LINUX or " fma " not in Path("/proc/cpuinfo").read_text(), reason="this CPU has no FMA")
def test_cpu_agrees_on_fma(rng):
    fmaf = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
    fmaf.restype = ctypes.c_float
    a, b, c = oracle.boundary_operands(rng, 30_000)
    # Boxed beforehand, for making a c_float from a Python float is a conversion that the mode would change.
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    boxed = [tuple(ctypes.c_float(x) for x in row) for row in rows]
    for ftz, mode in ((False, contextlib.nullcontext()), (True, cpu_flushes())):
        with mode:
            on_cpu = [fmaf(*row) for row in boxed]
        oracle.assert_bitwise_equal(np.array(on_cpu, dtype=np.float32), oracle.fma(a, b, c, ftz))


# ---- boundary operands -------------------------------------------------------------------------------------


def test_boundary_operands_reach_every_case(rng):
    count = 100_000
    a, b, c = oracle.boundary_operands(rng, count)
    assert a.shape == b.shape == c.shape == (count,)
    assert a.dtype == b.dtype == c.dtype == np.float32
    for x in (a, b, c):
        magnitudes = float_bits(x) & 0x7FFFFFFF
        assert magnitudes.max() < 0x7F800000
        assert np.count_nonzero((magnitudes > 0) & (magnitudes < 0x00800000)) > count // 50
        for zero in (0, 0x80000000):
            assert np.count_nonzero(float_bits(x) == zero) > count // 50

    products = np.abs(widen(a) * widen(b))
    sums = np.abs(widen(a) * widen(b) + widen(c))
    for values in (products, sums):
        assert np.count_nonzero(np.abs(values / MIN_NORMAL - 1) < 2.0**-20) > count // 10
        assert np.count_nonzero(values == FLUSH_THRESHOLD) > 100
        rounds_up = (values > FLUSH_THRESHOLD) & (values < MIN_NORMAL)
        assert np.count_nonzero(rounds_up) > 500
        assert np.count_nonzero((values < FLUSH_THRESHOLD) & (values > MIN_NORMAL - 2.0**-149)) > 500


def test_boundary_operands_tell_wrong_flush_rules_apart(rng):
    a, b, c = oracle.boundary_operands(rng, 100_000)
    for right, value in (
        (oracle.mul(a, b, True), widen(a, True) * widen(b, True)),
        (oracle.fma(a, b, c, True), widen(a, True) * widen(b, True) + widen(c, True)),
    ):
        on_the_grid_first = np.abs(round_wide(value, ftz=False)) < MIN_NORMAL
        before_rounding = np.abs(value) < MIN_NORMAL
        for flushes in (on_the_grid_first, before_rounding):
            wrong = np.where(flushes, 0.0, np.abs(widen(oracle.to_float32(value))))
            assert np.count_nonzero(wrong != np.abs(widen(right))) > 300


def test_boundary_operands_are_reproducible_and_of_any_count():
    for count in (0, 1, 7, 300_000):
        first, second = (oracle.boundary_operands(np.random.default_rng(5), count) for _ in range(2))
        for x, y in zip(first, second, strict=True):
            assert x.shape == (count,)
            oracle.assert_bitwise_equal(x, y)


# ---- noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "result"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
    ],
)
def test_philox_published_vectors(counter, key, result):
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, result)]
    assert oracle.philox(words[0], words[1]).tolist() == words[2]


def block_as_integer(seed, tensor, pair, generation, block) -> int:
    """One block as a 128-bit integer, bit i being bit i % 32 of word i // 32."""
    words = oracle.philox([block, tensor, pair, generation], [seed % 2**32, seed // 2**32]).tolist()
    return sum(word << 32 * i for i, word in enumerate(words))


def test_binomial_is_the_popcount_of_a_lane():
    seed, where = 0x123456789ABCDEF0, (11, 5, 3)
    z = oracle.integers("binomial", seed, *where, count=40)
    for element in range(40):
        lane = block_as_integer(seed, *where, element // 8) >> 16 * (element % 8) & 0xFFFF
        assert z[element] == lane.bit_count() - 8


def test_rademacher_is_one_bit():
    seed, where = 2**63 + 7, (2, 0, 2**32 - 1)
    z = oracle.integers("rademacher", seed, *where, count=300)
    for element in range(300):
        bit_value = block_as_integer(seed, *where, element // 128) >> element % 128 & 1
        assert z[element] == (1 if bit_value else -1)


@KINDS
@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, 1), (7, 2), (127, 130), (128, 128), (500, 500)])
def test_any_range_of_elements(kind, start, count):
    whole = oracle.integers(kind, 1, 2, 3, 4, count=1000)
    part = oracle.integers(kind, 1, 2, 3, 4, count=count, start=start)
    oracle.assert_bitwise_equal(part, whole[start : start + count])


@pytest.mark.parametrize(("kind", "variance"), [("binomial", 4.0), ("rademacher", 1.0)])
def test_noise_moments(kind, variance):
    z = oracle.integers(kind, 99, 0, 0, 0, count=200_000)
    assert abs(z.mean()) < 5 * np.sqrt(variance / z.size)
    assert abs(z.var() / variance - 1) < 0.02
    assert z.var() * noise.unit(kind) ** 2 == pytest.approx(1.0, abs=0.02)


def test_gaussian_is_refused():
    with pytest.raises(ValueError, match="gaussian"):
        oracle.integers("gaussian", 0, 0, 0, 0, count=1)
    with pytest.raises(ValueError, match="gaussian"):
        noise.unit("gaussian")


def test_counters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="seed"):
        oracle.integers("binomial", -1, 0, 0, 0, count=1)
    with pytest.raises(ValueError, match="pair"):
        oracle.integers("binomial", 0, 0, 2**32, 0, count=1)


# ---- matrix product and network ----------------------------------------------------------------------------


def chain(start: int, left: list[int], right: list[int], ftz: bool) -> int:
    """Bits of the chain of fused multiply-adds, spelled out."""
    acc = start
    for x, y in zip(left, right, strict=True):
        acc = exact.fma(x, y, acc, ftz)
    return acc


def gemm_spelled_out(a, b, ftz: bool) -> np.ndarray:
    out = [[chain(0, bits(row), bits(column), ftz) for column in b.T] for row in a]
    return oracle.from_bits(out).reshape(a.shape[0], b.shape[1])


def scaled_normal(rng, *shape, scale: float = 1.0) -> np.ndarray:
    return oracle.to_float32(rng.normal(size=shape) * scale)


@MODES
@pytest.mark.parametrize("scale", [1.0, 2.0**-125, 2.0**-140])
def test_gemm_is_the_chain(rng, flush, scale):
    a, b = scaled_normal(rng, 3, 17, scale=scale), scaled_normal(rng, 17, 5)
    a[0, ::3] = 0
    oracle.assert_bitwise_equal(oracle.gemm(a, b, flush), gemm_spelled_out(a, b, flush == "always"))


def test_gemm_accumulators_start_at_plus_zero():
    minus_zero, one = np.full((1, 4), -0.0, np.float32), np.ones((4, 1), np.float32)
    oracle.assert_bitwise_equal(oracle.gemm(minus_zero, one, "never"), np.zeros((1, 1), np.float32))
    empty = oracle.gemm(np.empty((2, 0), np.float32), np.empty((0, 3), np.float32), "always")
    oracle.assert_bitwise_equal(empty, np.zeros((2, 3), np.float32))


@MODES
def test_gemm_continues_a_chain(rng, flush):
    a, b = scaled_normal(rng, 4, 20, scale=2.0**-126), scaled_normal(rng, 20, 6)
    first = oracle.gemm(a[:, :7], b[:7], flush)
    oracle.assert_bitwise_equal(oracle.gemm(a[:, 7:], b[7:], flush, start=first), oracle.gemm(a, b, flush))


def random_theta(rng, network: oracle.Network) -> np.ndarray:
    theta = np.empty(network.parameters, np.float32)
    for weight, bias in network.unpack(theta):
        weight[...] = scaled_normal(rng, *weight.shape, scale=np.sqrt(2 / weight.shape[0]))
        bias[...] = scaled_normal(rng, *bias.shape)
    return theta


def elementwise(operation, x, y, ftz) -> np.ndarray:
    x, y = np.broadcast_arrays(x, y)
    return mapped(operation, x, y, ftz=ftz).reshape(x.shape)


def forward_spelled_out(network, theta, x) -> np.ndarray:
    """The three lines of the original, with divisions by the scaling."""
    product_ftz, other_ftz = network.flush == "always", network.flush != "never"
    scaling = np.float32(network.scaling)
    (first_weight, first_bias), *others = network.unpack(theta)
    h = elementwise(exact.add, gemm_spelled_out(x, first_weight, product_ftz), first_bias, other_ftz)
    h = elementwise(exact.div, h, scaling, other_ftz)
    for weight, bias in others:
        bias = elementwise(exact.div, bias, scaling, other_ftz)
        h = elementwise(exact.add, gemm_spelled_out(h, weight, product_ftz), bias, other_ftz)
    return elementwise(exact.mul, h, scaling, other_ftz)


@MODES
@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3), (6, 5, 4, 3)])
@pytest.mark.parametrize("scaling", [2.0**125, 2.0**126, 2.0**-126, 1.0])
def test_forward_is_the_three_lines(rng, flush, sizes, scaling):
    network = oracle.Network(sizes, scaling, flush)
    theta, x = random_theta(rng, network), scaled_normal(rng, 3, sizes[0])
    expected = forward_spelled_out(network, theta, x)
    oracle.assert_bitwise_equal(oracle.forward(network, theta, x), expected)


def test_boundary_is_a_hard_shrink_of_each_layer(rng):
    """In units of 1/scaling the network is linear, but for values below 0.5 that become 0.

    The sum of a later layer flushes three times: its operands, product and bias, and its result.
    """
    network = oracle.Network((20, 30, 10))
    theta, x = random_theta(rng, network), scaled_normal(rng, 8, 20)

    def shrink(v):
        return np.where(np.abs(v) < 0.5, 0.0, v)

    (w1, b1), (w2, b2) = [(widen(w), widen(b)) for w, b in network.unpack(theta)]
    expected = shrink(shrink(shrink(widen(x) @ w1 + b1) @ w2) + shrink(b2))
    # No more than float32 rounding errors; subnormal partial sums keep an absolute precision of 2^-24 units.
    np.testing.assert_allclose(widen(oracle.forward(network, theta, x)), expected, rtol=1e-5, atol=1e-5)


def test_initial_network_has_zero_logits_when_products_flush(rng):
    """What TensorFlow on a CPU was seen to do, and why the boundary mode is a mode of its own."""
    sizes = (784, 512, 32, 10)
    x = oracle.to_float32(rng.random((2, 784)) * (rng.random((2, 784)) < 0.2))
    logits = {}
    for flush in oracle.FLUSH_MODES:
        network = oracle.Network(sizes, flush=flush)
        theta = random_theta(rng, network)
        for _, bias in network.unpack(theta):
            bias[...] = 0
        logits[flush] = widen(oracle.forward(network, theta, x))
    assert not logits["always"].any()
    assert logits["boundary"].any()
    assert logits["never"].all()


@pytest.mark.parametrize("scaling", [2.0**127, 2.0**-127, 3.0, 0.0, -2.0])
def test_scalings_without_normal_reciprocal_are_refused(scaling):
    with pytest.raises(ValueError, match="scaling"):
        oracle.Network((2, 2), scaling)


# ---- population --------------------------------------------------------------------------------------------


def population(rng, perturbation, flush="boundary", kind="binomial", sizes=(5, 4, 3), scaling=2.0**125, **options):
    network = oracle.Network(sizes, scaling, flush)
    options = {"size": 4, "sigma": 0.1, "seed": 2**40 + 3, "generation": 6, **options}
    return oracle.Population(network, random_theta(rng, network), perturbation=perturbation, kind=kind, **options)


def test_tensor_ids():
    roles = (
        noise.WEIGHT,
        noise.BIAS,
        noise.FACTOR_A,
        noise.FACTOR_B,
        noise.NODE,
        noise.POSITIONS,
        noise.INIT,
    )
    assert [oracle.tensor_id(2, role) for role in roles] == [16, 17, 18, 19, 20, 21, 23]


@MODES
@KINDS
def test_full_members_spelled_out(rng, flush, kind):
    members = population(rng, "full", flush, kind)
    members.theta[:8] = oracle.from_bits([0, 0x80000000, 1, 0x80000001, 0x00800000, 0x007FFFFF, 2, 3])
    scale = bit(0.05 if kind == "binomial" else 0.1)
    for member in range(members.size):
        expected = []
        for tensor, size in ((0, 20), (1, 4), (8, 12), (9, 3)):
            z = oracle.integers(kind, 2**40 + 3, tensor, member // 2, 6, size)
            signed = scale | (member % 2) << 31
            for value in z.tolist():
                parameter = bit(members.theta[len(expected)])
                expected.append(exact.fma(bit(value), signed, parameter, flush == "always"))
        oracle.assert_bitwise_equal(members.perturbed_theta(member), oracle.from_bits(expected))


@MODES
def test_full_forward_is_an_ordinary_forward_of_each_member(rng, flush):
    members = population(rng, "full", flush)
    x = scaled_normal(rng, 2, 5)
    logits = members.forward(x)
    assert logits.shape == (4, 2, 3)
    for member in range(4):
        expected = oracle.forward(members.network, members.perturbed_theta(member), x)
        oracle.assert_bitwise_equal(logits[member], expected)


# One layer with scaling 1 shows a perturbed accumulator plus bias (all the other operations are exact).
@MODES
@KINDS
@pytest.mark.parametrize("size", [1.0, 2.0**-123])
@pytest.mark.parametrize("rank", [1, 3])
def test_lowrank_spelled_out(rng, flush, kind, size, rank):
    members = population(rng, "lowrank", flush, kind, sizes=(5, 3), scaling=1.0, rank=rank)
    x = scaled_normal(rng, 2, 5, scale=size)
    weight, bias = members.network.unpack(members.theta)[0]
    logits, product_ftz, other_ftz = members.forward(x), flush == "always", flush != "never"
    unit = 0.5 if kind == "binomial" else 1.0
    scale, bias_scale = bit(0.1 * unit * unit / np.sqrt(rank)), bit(0.1 * unit)
    for member, sample, j in np.ndindex(logits.shape):
        where = (member // 2, 6)
        sign = member % 2 << 31
        acc = chain(0, bits(x[sample]), bits(weight[:, j]), product_ftz)
        a = oracle.integers(kind, 2**40 + 3, 2, *where, rank * 5)
        b = oracle.integers(kind, 2**40 + 3, 3, *where, rank * 3)
        for r in range(rank):
            q = chain(0, bits(x[sample]), [bit(z) for z in a[5 * r : 5 * r + 5]], product_ftz)
            q = exact.mul(q, scale | sign, product_ftz)
            acc = exact.fma(q, bit(b[3 * r + j]), acc, product_ftz)
        z = oracle.integers(kind, 2**40 + 3, 1, *where, 3)[j]
        bias_j = exact.fma(bit(z), bias_scale | sign, bit(bias[j]), product_ftz)
        expected = exact.add(acc, bias_j, other_ftz)
        assert bit(logits[member, sample, j]) == exact.flush_operand(expected, other_ftz)


@MODES
@KINDS
def test_node_noise_spelled_out(rng, flush, kind):
    """Both layers: the second one's noise is scaled down, so that it is of the size of its accumulator."""
    members = population(rng, "node", flush, kind, size=2)
    x = scaled_normal(rng, 3, 5)
    product_ftz, scaling = flush == "always", 2.0**125
    unit = 0.5 if kind == "binomial" else 1.0
    for member in range(2):
        seen = []

        def add_noise(layer, _inputs, acc, member=member, seen=seen):
            scale = bit(0.1 * unit / (scaling if layer else 1.0)) | member << 31
            z = oracle.integers(kind, 2**40 + 3, 8 * layer + 4, 0, 6, acc.size)
            noisy = [exact.fma(bit(n), scale, old, product_ftz) for n, old in zip(z, bits(acc), strict=True)]
            seen.append(layer)
            return oracle.from_bits(noisy).reshape(acc.shape)

        expected = oracle.forward(members.network, members.theta, x, add_noise)
        assert seen == [0, 1]
        oracle.assert_bitwise_equal(members.forward(x)[member], expected)


def test_node_noise_of_a_scaled_layer_is_lost_when_products_flush(rng):
    """0.05 units are a subnormal number: the boundary product keeps it, a flushing one does not see it."""
    members = population(rng, "node", "always", size=2)
    z_scale = members.node_scale(1)
    assert 0 < widen(z_scale) < MIN_NORMAL
    acc = scaled_normal(rng, 3, 3, scale=2.0**-125)
    noisy = members._add_node_noise(0, 1, None, acc)
    np.testing.assert_array_equal(widen(noisy), widen(acc, daz=True))  # zeros may change their sign


@KINDS
@pytest.mark.parametrize("perturbation", ["full", "lowrank"])
def test_integer_gradient_spelled_out(rng, kind, perturbation):
    members = population(rng, perturbation, kind=kind, size=6, rank=2)
    u = np.array([5, -3, 1, 1, -1, -3])
    unit = 0.5 if kind == "binomial" else 1.0
    sums, scales = [], []
    for layer, (fan_in, fan_out) in enumerate([(5, 4), (4, 3)]):
        for i, j in np.ndindex(fan_in, fan_out):
            sums.append(0)
            for p in range(3):
                d = int(u[2 * p] - u[2 * p + 1])
                if perturbation == "full":
                    sums[-1] += d * int(members.draw(layer, 0, p, (fan_in, fan_out))[i, j])
                else:
                    a, b = members.draw(layer, 2, p, (2, fan_in)), members.draw(layer, 3, p, (2, fan_out))
                    sums[-1] += d * sum(int(a[r, i]) * int(b[r, j]) for r in range(2))
            full, lowrank = unit / (6 * 0.1), unit * unit / (np.sqrt(2.0) * 6 * 0.1)
            scales.append(full if perturbation == "full" else lowrank)
        for j in range(fan_out):
            z = [int(members.draw(layer, 1, p, (fan_out,))[j]) for p in range(3)]
            sums.append(sum(int(u[2 * p] - u[2 * p + 1]) * z[p] for p in range(3)))
            scales.append(unit / (6 * 0.1))
    expected = np.array([np.float32(np.float64(s) * scale) for s, scale in zip(sums, scales, strict=True)])
    oracle.assert_bitwise_equal(members.gradient(u), expected)
    oracle.assert_bitwise_equal(members.gradient(u.astype(np.int32)), expected)


@KINDS
@pytest.mark.parametrize("perturbation", ["full", "lowrank"])
def test_float_gradient_spelled_out(rng, kind, perturbation):
    members = population(rng, perturbation, kind=kind, sizes=(3, 2), size=6, rank=2)
    u = scaled_normal(rng, 6)
    unit = 0.5 if kind == "binomial" else 1.0
    d = [exact.add(bit(u[2 * p]), bit(u[2 * p + 1]) ^ 1 << 31, False) for p in range(3)]
    accs, scales = [], []
    for i, j in np.ndindex(3, 2):
        acc = 0
        for p in range(3):
            if perturbation == "full":
                acc = exact.fma(d[p], bit(members.draw(0, 0, p, (3, 2))[i, j]), acc, False)
                continue
            a, b = members.draw(0, 2, p, (2, 3)), members.draw(0, 3, p, (2, 2))
            for r in range(2):
                acc = exact.fma(exact.mul(d[p], bit(a[r, i]), False), bit(b[r, j]), acc, False)
        accs.append(acc)
        scales.append(unit / (6 * 0.1) if perturbation == "full" else unit * unit / (np.sqrt(2.0) * 6 * 0.1))
    for j in range(2):
        accs.append(chain(0, d, [bit(members.draw(0, 1, p, (2,))[j]) for p in range(3)], False))
        scales.append(unit / (6 * 0.1))
    expected = oracle.to_float32(widen(oracle.from_bits(accs)) * np.array(scales))
    oracle.assert_bitwise_equal(members.gradient(u), expected)


@KINDS
@pytest.mark.parametrize("perturbation", ["full", "lowrank"])
def test_gradient_estimates_the_gradient_of_a_linear_fitness(rng, kind, perturbation):
    """The estimator is unbiased, so that all units and scales must be right."""
    size, sigma = 3000, 0.1
    members = population(rng, perturbation, kind=kind, sizes=(3, 2), size=size, sigma=sigma, rank=2)
    slope = rng.normal(size=8)
    unit = noise.unit(kind)
    fitness = np.empty(size)
    for p in range(size // 2):
        step = sigma * unit * members.draw(0, noise.WEIGHT, p, (3, 2))
        if perturbation == "lowrank":
            a, b = members.draw_factors(0, p)
            step = sigma * unit**2 / np.sqrt(2) * (a.T @ b)
        change = slope[:6] @ step.ravel() + slope[6:] @ (sigma * unit * members.draw(0, noise.BIAS, p, (2,)))
        fitness[2 * p : 2 * p + 2] = change, -change
    estimate = widen(members.gradient(oracle.to_float32(fitness)))
    assert np.linalg.norm(estimate - slope) < 0.2 * np.linalg.norm(slope)


def test_gradient_refuses_what_it_cannot_do(rng):
    with pytest.raises(ValueError, match="node"):
        population(rng, "node").gradient(np.zeros(4, int))
    with pytest.raises(ValueError, match="shape"):
        population(rng, "full").gradient(np.zeros(5, int))
    with pytest.raises(OverflowError):
        population(rng, "full").gradient(np.array([2**61, 0, 0, 0]))
    with pytest.raises(TypeError, match="float64"):
        population(rng, "full").gradient(np.zeros(4))


# ---- loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e30])
def test_cross_entropy_agrees_with_mpmath(rng, scale):
    logits, labels = scaled_normal(rng, 20, 10, scale=scale), rng.integers(0, 10, 20)
    labels[:5] = np.argmax(logits[:5], axis=1)
    losses = oracle.cross_entropy(logits, labels)
    with mpmath.workdps(40):
        for row, label, loss in zip(logits.tolist(), labels.tolist(), losses.tolist(), strict=True):
            top = max(row)
            at = row.index(top)
            rest = mpmath.fsum(mpmath.exp(mpmath.mpf(v) - top) for v in row[:at] + row[at + 1 :])
            expected = mpmath.mpf(top) - row[label] + mpmath.log1p(rest)
            assert abs(loss - expected) <= 1e-14 * expected + 1e-300


def test_cross_entropy_takes_populations(rng):
    logits, labels = scaled_normal(rng, 3, 4, 10), rng.integers(0, 10, 4)
    losses = oracle.cross_entropy(logits, labels)
    for member in range(3):
        np.testing.assert_array_equal(losses[member], oracle.cross_entropy(logits[member], labels))


@pytest.mark.parametrize("batch", [1, 63, 64, 65, 200])
def test_fitness_is_the_sum_in_its_order(rng, batch):
    # Sizes so different that the order of the float64 sums shows.
    losses = oracle.to_float32(rng.random((3, batch)) * 2.0 ** rng.integers(-40, 40, (3, batch)))
    for member in range(3):
        total = 0.0
        for start in range(0, batch, 64):
            block_sum = 0.0
            for loss in losses[member, start : start + 64].tolist():
                block_sum += loss
            total += block_sum
        assert oracle.fitness(losses)[member] == np.float32(-(total / batch))


def test_fitness_blocks_matter():
    losses = np.full(128, 2.0**-53, np.float32)
    losses[0] = 1  # a plain running sum would stay at 1 for ever
    expected = np.float32(-((1.0 + 64 * 2.0**-53) / 128))
    assert oracle.fitness(losses) == expected
    assert bit(oracle.fitness(np.zeros(3, np.float32))) == 0x80000000  # minus a zero


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20))
def test_centred_ranks_spelled_out(values):
    n = len(values)
    # rank = (number below) + (number equal - 1) / 2, doubled
    expected = [2 * sum(w < v for w in values) + sum(w == v for w in values) - 1 - (n - 1) for v in values]
    ranks = oracle.centred_ranks(np.array(values, dtype=np.float32))
    assert ranks.tolist() == expected
    assert ranks.sum() == 0


def test_centred_ranks_see_subnormals_and_refuse_nans():
    assert oracle.centred_ranks(oracle.from_bits([2, 0, 1, 0x80000000])).tolist() == [3, -2, 1, -2]
    with pytest.raises(ValueError, match="NaN"):
        oracle.centred_ranks(np.array([1, np.nan], dtype=np.float32))


def test_ulp_error():
    one = np.float32(1)
    actual = np.array([one, np.nextafter(one, np.float32(2)), np.nextafter(one, np.float32(0))])
    np.testing.assert_array_equal(oracle.ulp_error(actual, np.ones(3)), [0, 1, 0.5])


# ---- comparison --------------------------------------------------------------------------------------------


def test_assert_bitwise_equal_reports_the_first_difference():
    expected = np.zeros((2, 3), np.float32)
    actual = expected.copy()
    actual[1, 1:] = 1.0, 2.0
    with pytest.raises(AssertionError) as failure:
        oracle.assert_bitwise_equal(actual, expected, "logits")
    assert str(failure.value) == (
        "logits: 2 of 6 differ, first at (1, 1): actual 1.0 (0x3f800000), expected 0.0 (0x00000000)"
    )


def test_assert_bitwise_equal_on_zeros_and_nans():
    nans = oracle.from_bits([0x7FC00000, 0xFFC00001, 0x7F800001])
    oracle.assert_bitwise_equal(nans, nans[::-1])
    oracle.assert_bitwise_equal(np.array([np.nan, -np.nan]), np.array([-np.nan, np.nan]))
    with pytest.raises(AssertionError, match="1 of 1"):
        oracle.assert_bitwise_equal(oracle.from_bits([0x7F800000]), oracle.from_bits([0x7F800001]))
    with pytest.raises(AssertionError, match="0x80000000"):
        oracle.assert_bitwise_equal(np.float32(-0.0), np.float32(0.0))


def test_assert_bitwise_equal_checks_shape_and_dtype():
    with pytest.raises(AssertionError, match="float64"):
        oracle.assert_bitwise_equal(np.zeros(2), np.zeros(2, np.float32))
    with pytest.raises(AssertionError, match=r"\(1, 2\)"):
        oracle.assert_bitwise_equal(np.zeros((1, 2)), np.zeros(2))
    oracle.assert_bitwise_equal(np.arange(3), np.arange(3))
    oracle.assert_bitwise_equal(np.empty((0, 2)), np.empty((0, 2)))
