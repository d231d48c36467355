"""exp, log and normal deviates against the mathematics: the same bits in every instruction set and mode."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from fpes import _cpu

# The errors that csrc/common/elementary.hpp states, from runs over all arguments.
EXP_ULP = 0.655
LOG_ULP = 0.883
NORMAL_ABSOLUTE = 1.1e-6
NORMAL_RELATIVE = 5.6 * 2.0**-24
LARGEST_NORMAL = 6.7638

ISAS = _cpu.supported_isas()
SMALLEST_NORMAL = 2.0**-126
LARGEST_FLOAT = float(np.finfo(np.float32).max)

every_isa = pytest.mark.parametrize("isa", ISAS)
every_mode = pytest.mark.parametrize("ftz", [False, True], ids=["ieee", "ftz"])
every_function = pytest.mark.parametrize("name", ["exp", "log"])


def elementary(name: str, isa: str, ftz: bool, x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(x, dtype=np.float32)
    out = np.full_like(x, 12345.0)
    _cpu.elementary(name, isa, ftz, x.ctypes.data, out.ctypes.data, x.size)
    return out


def normal_pair(isa: str, ftz: bool, bits0: np.ndarray, bits1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert bits0.dtype == bits1.dtype == np.uint32
    assert bits0.shape == bits1.shape
    bits0, bits1 = np.ascontiguousarray(bits0), np.ascontiguousarray(bits1)
    z0, z1 = np.full(bits0.shape, 12345.0, np.float32), np.full(bits0.shape, 12345.0, np.float32)
    pointers = (array.ctypes.data for array in (bits0, bits1, z0, z1))
    _cpu.normal_pair(isa, ftz, *pointers, bits0.size)
    return z0, z1


def floats(bits) -> np.ndarray:
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def assert_same_bits(got: np.ndarray, want: np.ndarray, arguments: np.ndarray) -> None:
    """Payloads of NaN apart."""
    assert got.shape == want.shape
    different = (got.view(np.uint32) != want.view(np.uint32)) & ~(np.isnan(got) & np.isnan(want))
    if different.any():
        i = int(np.flatnonzero(different)[0])
        pytest.fail(f"{different.sum()} of {got.size} differ; {arguments[i]!r}: {got[i]!r}, want {want[i]!r}")


def edge_floats() -> np.ndarray:
    """Every power of two with its neighbours, subnormals, infinities, NaN, the ends of ranges; both signs."""
    exponents = np.arange(256, dtype=np.uint32)[:, None] << 23
    around_powers = (exponents + np.array([-2, -1, 0, 1, 2], np.int64)).ravel()
    around_powers = around_powers[(around_powers >= 0) & (around_powers < 2**31)].astype(np.uint32)
    around_ends = np.float32([88.72284, 87.33655, 103.97208, 103.2789, 2 / 3, 4 / 3, 0.5, 1.0]).view(np.uint32)
    around_ends = (around_ends[:, None] + np.arange(-64, 65)).ravel().astype(np.uint32)
    subnormals = np.uint32([1, 2, 3, 0x1234, 0x400000, 0x7FFFFF])
    positive = np.concatenate([around_powers, around_ends, subnormals, np.uint32([0, 0x7F800000, 0x7FC00000])])
    return floats(np.concatenate([positive, positive | np.uint32(1 << 31)]))


def some_floats(name: str, count: int) -> np.ndarray:
    """Arguments spread over the domain of a function, and some of what lies outside it."""
    rng = np.random.default_rng(20170930)
    anything = floats(rng.integers(0, 2**32, count // 4, dtype=np.uint32))
    if name == "exp":
        bulk = rng.uniform(-90.0, 90.0, count // 2)
        near = rng.standard_normal(count // 4) * 2.0 ** rng.uniform(-30, 2, count // 4)
    else:
        bulk = floats(rng.integers(0x00800000, 0x7F800000, count // 2, dtype=np.uint32))
        near = 1.0 + rng.uniform(-1.0, 1.0, count // 4) * 2.0 ** rng.uniform(-24, -0.01, count // 4)
    return np.concatenate([edge_floats(), anything, bulk.astype(np.float32), near.astype(np.float32)])


def exact_in_double(name: str, x: np.ndarray) -> np.ndarray:
    """The documented function, in double: a subnormal argument of log or result of exp is zero."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        if name == "log":
            return np.where(np.abs(wide) < SMALLEST_NORMAL, -np.inf, np.log(wide))
        exact = np.exp(wide)
        exact[exact < SMALLEST_NORMAL] = 0.0
        exact[exact >= LARGEST_FLOAT + 2.0**103] = np.inf
        return exact


def error_in_ulp(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """In units of the spacing of floats in the binade of the exact number, which is finite and not zero."""
    _, exponent = np.frexp(exact)
    return np.abs(got.astype(np.float64) - exact) / np.ldexp(1.0, exponent - 24)


@every_isa
@every_mode
@pytest.mark.parametrize(("name", "bound"), [("exp", EXP_ULP), ("log", LOG_ULP)])
def test_error_on_millions_of_arguments(isa, ftz, name, bound):
    x = some_floats(name, 4_000_000)
    got, exact = elementary(name, isa, ftz, x), exact_in_double(name, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    plain = np.isfinite(exact) & (exact != 0)
    special = ~plain & ~np.isnan(exact)
    np.testing.assert_array_equal(got[special], exact[special].astype(np.float32))
    assert np.isfinite(got[plain]).all()
    assert plain.sum() > 2_000_000
    error = error_in_ulp(got[plain], exact[plain])
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({float(x[plain][worst]).hex()}) is off by {error[worst]:.4f} ULP"
    assert error[worst] > 0.5, "a bound that nothing comes near to: are the arguments the right ones?"


@every_isa
@every_mode
@pytest.mark.parametrize(("name", "bound"), [("exp", EXP_ULP), ("log", LOG_ULP)])
def test_error_against_mpmath(isa, ftz, name, bound):
    # The worst arguments of all are at the end.
    worst = np.float32([float.fromhex("-0x1.77a192p+2"), float.fromhex("0x1.4665f2p+0")])
    x = np.concatenate([edge_floats(), some_floats(name, 4_000)[-3_000:], worst])
    exact_function = {"exp": mpmath.exp, "log": mpmath.log}[name]
    got = elementary(name, isa, ftz, x)
    compared = 0
    with mpmath.workprec(120):
        for argument, result in zip(x.tolist(), got.tolist(), strict=True):
            in_domain = -87.3 < argument < 88.7 if name == "exp" else SMALLEST_NORMAL <= argument <= LARGEST_FLOAT
            if not in_domain or (name == "log" and argument == 1.0):
                continue
            exact = exact_function(mpmath.mpf(argument))
            _, exponent = mpmath.frexp(exact)
            error = abs(mpmath.mpf(result) - exact) / mpmath.ldexp(1, int(exponent) - 24)
            assert error <= bound, f"{name}({argument.hex()}) = {result.hex()} is off by {float(error):.4f} ULP"
            compared += 1
    assert compared > 3_000


@every_isa
@every_mode
def test_special_values_of_exp(isa, ftz):
    inf, nan = np.inf, np.nan
    x = np.float32([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-127, SMALLEST_NORMAL, -SMALLEST_NORMAL, inf, -inf, nan])
    want = np.float32([1, 1, 1, 1, 1, 1, 1, inf, 0, nan])
    assert_same_bits(elementary("exp", isa, ftz, x), want, x)
    payloads = floats([0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFFC12345, 0xFFFFFFFF])
    assert np.isnan(elementary("exp", isa, ftz, payloads)).all()


@every_isa
@every_mode
def test_exp_of_what_is_never_above_zero_is_exp(isa, ftz):
    """Every 1,009th float from -0 to -inf, all near the smallest result, zeros, and NaN with other payloads."""
    near_the_end = np.float32(-87.33655).view(np.uint32) + np.arange(-500, 500)
    x = floats(np.concatenate([np.arange(0x80000000, 0xFF800001, 1_009), near_the_end, [0, 0xFF800000]]).astype("u4"))
    assert_same_bits(elementary("exp_of_nonpositive", isa, ftz, x), elementary("exp", isa, ftz, x), x)
    payloads = floats([0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFFC12345, 0xFFFFFFFF])
    assert np.isnan(elementary("exp_of_nonpositive", isa, ftz, payloads)).all()


@every_isa
@every_mode
def test_exp_ends_where_the_result_leaves_the_normal_range(isa, ftz):
    with mpmath.workprec(120):
        smallest = mpmath.log(mpmath.mpf(2) ** -126)
        # From half a spacing above the largest float on, rounding to nearest gives infinity.
        overflow = mpmath.log(mpmath.mpf(LARGEST_FLOAT) + mpmath.mpf(2) ** 103)
        candidates = np.float32(float(smallest)).view(np.uint32) + np.arange(-50, 51)
        low = floats(candidates.astype(np.uint32))
        high = floats((np.float32(float(overflow)).view(np.uint32) + np.arange(-50, 51)).astype(np.uint32))
        is_zero = np.array([mpmath.mpf(v) < smallest for v in low.tolist()])
        is_inf = np.array([mpmath.mpf(v) >= overflow for v in high.tolist()])
    assert 0 < is_zero.sum() < is_zero.size
    assert 0 < is_inf.sum() < is_inf.size
    at_low, at_high = elementary("exp", isa, ftz, low), elementary("exp", isa, ftz, high)
    np.testing.assert_array_equal(at_low.view(np.uint32) == 0, is_zero)
    assert (at_low[~is_zero] >= SMALLEST_NORMAL).all()
    np.testing.assert_array_equal(np.isposinf(at_high), is_inf)
    beyond = np.float32([-88, -100, -104, -1e4, -LARGEST_FLOAT, 89, 100, 1e4, LARGEST_FLOAT])
    want = np.float32([0] * 5 + [np.inf] * 4)
    assert_same_bits(elementary("exp", isa, ftz, beyond), want, beyond)


@every_isa
@every_mode
def test_special_values_of_log(isa, ftz):
    inf, nan = np.inf, np.nan
    below_normal = float(np.nextafter(np.float32(SMALLEST_NORMAL), np.float32(0)))
    cases = [
        (1.0, 0.0),
        (inf, inf),
        (nan, nan),
        (0.0, -inf),
        (-0.0, -inf),
        (2.0**-149, -inf),
        (-(2.0**-149), -inf),
        (below_normal, -inf),
        (-below_normal, -inf),
        (-SMALLEST_NORMAL, nan),
        (-1.0, nan),
        (-LARGEST_FLOAT, nan),
        (-inf, nan),
        (SMALLEST_NORMAL, -126 * np.log(2.0)),
        (LARGEST_FLOAT, np.log(LARGEST_FLOAT)),
    ]
    x, want = np.float32(cases).T.copy()
    assert_same_bits(elementary("log", isa, ftz, x), want, x)
    payloads = floats([0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFFC12345, 0xFFFFFFFF])
    assert np.isnan(elementary("log", isa, ftz, payloads)).all()


@every_isa
@every_mode
@every_function
def test_same_bits_in_every_isa_and_mode(isa, ftz, name):
    x = some_floats(name, 1_000_000)
    assert_same_bits(elementary(name, isa, ftz, x), elementary(name, ISAS[0], False, x), x)


@every_isa
@every_mode
@every_function
def test_any_count(isa, ftz, name):
    """A remainder that doesn't fill a vector gives the same, and nothing is written behind it."""
    x = np.linspace(0.1, 9.0, 67, dtype=np.float32)
    want = elementary(name, isa, ftz, x)
    for count in range(x.size + 1):
        out = np.full(x.size, -7.0, np.float32)
        _cpu.elementary(name, isa, ftz, x.ctypes.data, out.ctypes.data, count)
        assert_same_bits(out[:count], want[:count], x)
        assert (out[count:] == -7.0).all()


# --- Normal deviates ---


def edge_bits() -> np.ndarray:
    """The ends of both halves, all powers of two, the switch of the reduction at 2/3, eighths of a turn."""
    points = [0, 2**32, *(2**k for k in range(32)), *(2**32 - 2**k for k in range(32))]
    points += [2**32 * k // 3 for k in (1, 2)] + [2**29 * k for k in range(1, 8)]
    near = np.array(points, np.int64)[:, None] + np.array([-129, -64, -33, -3, -2, -1, 0, 1, 2, 3, 33, 64, 129])
    return np.unique(near % 2**32).astype(np.uint32)


def all_pairs(bits0: np.ndarray, bits1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(bits0, bits1.size), np.tile(bits1, bits0.size)


def random_bits(count: int, seed: int = 1958) -> tuple[np.ndarray, np.ndarray]:
    bits = np.random.default_rng(seed).integers(0, 2**32, (2, count), dtype=np.uint32)
    return bits[0], bits[1]


def normals_in_double(bits0: np.ndarray, bits1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Box-Muller on (bits0 + 1/2) / 2^32 and bits1 / 2^32; the angle is reduced before it is rounded."""
    from_zero = (bits0 + 0.5) * 2.0**-32
    from_one = (~bits0 + 0.5) * 2.0**-32
    upper = bits0 >= 2**31
    radius = np.sqrt(-2 * np.where(upper, np.log1p(-np.where(upper, from_one, 0.5)), np.log(from_zero)))
    turns = bits1.astype(np.int64)
    quarter = (turns + 2**29) >> 30
    angle = (turns - (quarter << 30)) * (2 * np.pi * 2.0**-32)
    s, c = np.sin(angle), np.cos(angle)
    cosine = np.choose(quarter % 4, [c, -s, -c, s])
    sine = np.choose(quarter % 4, [s, c, -s, -c])
    return radius * cosine, radius * sine


def assert_close_to(got: np.ndarray, exact: np.ndarray, bits0: np.ndarray, bits1: np.ndarray) -> None:
    assert np.isfinite(got).all()
    error = np.abs(got.astype(np.float64) - exact)
    # The relative bound holds for zero too: exactly zero is exactly hit. float64 itself is off by some 1e-16.
    excess = np.maximum(error - NORMAL_ABSOLUTE, error - (NORMAL_RELATIVE + 1e-15) * np.abs(exact))
    worst = int(excess.argmax())
    where = f"bits 0x{bits0[worst]:08x}, 0x{bits1[worst]:08x}: {got[worst]!r}, want {exact[worst]!r}"
    assert excess[worst] <= 0, where


@every_isa
@every_mode
def test_normals_against_double(isa, ftz):
    edges = edge_bits()
    some0, some1 = random_bits(edges.size)
    for bits0, bits1 in (all_pairs(edges, edges), (edges, some1), (some0, edges), random_bits(2_000_000)):
        for got, exact in zip(normal_pair(isa, ftz, bits0, bits1), normals_in_double(bits0, bits1), strict=True):
            assert_close_to(got, exact, bits0, bits1)
            assert np.abs(got).max() <= LARGEST_NORMAL


def test_normals_against_mpmath():
    rng = np.random.default_rng(3)
    edges = edge_bits()
    bits0, bits1 = (np.concatenate([rng.choice(edges, 2_000), bits]) for bits in random_bits(1_000))
    z0, z1 = normal_pair(ISAS[-1], False, bits0, bits1)
    exact = []
    with mpmath.workprec(120):
        for first, second in zip(bits0.tolist(), bits1.tolist(), strict=True):
            radius = mpmath.sqrt(-2 * mpmath.log((first + mpmath.mpf(0.5)) / 2**32))
            half_turns = mpmath.mpf(second) / 2**31
            exact.append((float(radius * mpmath.cospi(half_turns)), float(radius * mpmath.sinpi(half_turns))))
    exact0, exact1 = np.array(exact).T
    assert_close_to(z0, exact0, bits0, bits1)
    assert_close_to(z1, exact1, bits0, bits1)


@every_isa
@every_mode
def test_ends_of_the_radius(isa, ftz):
    """u = 2^-33 is the longest; u = 1 - 2^-33 the shortest, not zero: -log u is precise there too."""
    bits0 = np.uint32([0, 1, 2**32 - 2, 2**32 - 1])
    radius, sine = normal_pair(isa, ftz, bits0, np.zeros(4, np.uint32))
    assert (sine == 0).all()
    want = [np.sqrt(66 * np.log(2)), np.sqrt(66 * np.log(2) - 2 * np.log(3)), np.sqrt(3) * 2.0**-16, 2.0**-16]
    np.testing.assert_allclose(radius, want, rtol=3e-7)


@every_isa
def test_quarter_turns_are_exact(isa):
    bits0 = np.full(4, 123456789, np.uint32)
    radius = normal_pair(isa, False, bits0[:1], np.zeros(1, np.uint32))[0][0]
    z0, z1 = normal_pair(isa, False, bits0, np.arange(4, dtype=np.uint32) << 30)
    np.testing.assert_array_equal(z0, radius * np.float32([1, 0, -1, 0]))
    np.testing.assert_array_equal(z1, radius * np.float32([0, 1, 0, -1]))


@every_isa
def test_radius_falls_as_the_bits_rise(isa):
    rng = np.random.default_rng(5)
    everywhere = [rng.integers(0, 2**32, 500_000, dtype=np.uint32), edge_bits()]
    runs = [np.arange(start, start + 100_000, dtype=np.int64) for start in (0, 2**31 - 50_000, 2**33 // 3 - 50_000)]
    bits0 = np.sort(np.concatenate([*everywhere, *(run.astype(np.uint32) for run in runs)]))
    radius, _ = normal_pair(isa, False, bits0, np.zeros_like(bits0))
    assert (np.diff(radius) <= 0).all()


@every_isa
@every_mode
def test_normals_have_the_same_bits_in_every_isa_and_mode(isa, ftz):
    edges = edge_bits()
    for bits0, bits1 in (all_pairs(edges, edges), random_bits(1_000_000)):
        got, want = normal_pair(isa, ftz, bits0, bits1), normal_pair(ISAS[0], False, bits0, bits1)
        assert_same_bits(got[0], want[0], bits0)
        assert_same_bits(got[1], want[1], bits1)


@every_isa
@every_mode
def test_normal_pairs_of_any_count(isa, ftz):
    bits0, bits1 = random_bits(67)
    want = normal_pair(isa, ftz, bits0, bits1)
    for count in range(bits0.size + 1):
        out = np.full((2, bits0.size), -77.0, np.float32)
        inputs = (bits0.ctypes.data, bits1.ctypes.data)
        _cpu.normal_pair(isa, ftz, *inputs, out[0].ctypes.data, out[1].ctypes.data, count)
        for got, whole in zip(out, want, strict=True):
            assert_same_bits(got[:count], whole[:count], bits0)
            assert (got[count:] == -77.0).all()


@pytest.fixture(scope="module")
def deviates() -> np.ndarray:
    """Two rows of four million, in double. All instruction sets give these, so one is enough."""
    return np.stack(normal_pair(ISAS[-1], False, *random_bits(4_000_000))).astype(np.float64)


def test_moments(deviates):
    """Each within five standard errors of what a normal distribution has."""
    z, n = deviates.ravel(), deviates.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)


def test_the_two_of_a_pair_are_independent(deviates):
    z0, z1 = deviates
    assert abs((z0 * z1).mean()) < 5 / np.sqrt(z0.size)
    assert abs(((z0**2 - 1) * (z1**2 - 1)).mean()) < 5 * 2 / np.sqrt(z0.size)


def test_tails(deviates):
    z, n = deviates.ravel(), deviates.size
    for limit in (1.0, 2.0, 3.0, 4.0, 4.5, 5.0):
        expected = n * float(mpmath.erfc(limit / mpmath.sqrt(2))) / 2
        for count in ((z > limit).sum(), (z < -limit).sum()):
            assert abs(count - expected) < 5 * np.sqrt(expected), (limit, count, expected)
    # Among eight million the largest is above 4.9 and below 6.4 with a probability of 0.998.
    assert 4.9 < np.abs(z).max() < 6.4


def test_distribution_by_kolmogorov_smirnov(deviates):
    stats = pytest.importorskip("scipy.stats")
    for z in deviates:
        assert stats.kstest(z[:1_000_000], "norm").pvalue > 1e-3
    angle = np.arctan2(deviates[1], deviates[0]) / (2 * np.pi)
    assert stats.kstest(angle[:1_000_000] % 1.0, "uniform").pvalue > 1e-3
    uniform = np.exp(-(deviates**2).sum(axis=0) / 2)
    assert stats.kstest(uniform[:1_000_000], "uniform").pvalue > 1e-3
