"""Full rank leaves out what is zero in all samples of a tile (csrc/cuda/packed_inputs.hpp), and no bit shows it.

The kernels run on the CPU by the host shim. Where a sum's sign hangs on a term that was left out, results are compared
with sums that are written here.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import shim_backend
from test_cuda_shim import GENERATION, H100, MODES, SEED, TURING, check_population, populations, setting

import fpes

pytestmark = shim_backend.needs_shim

FEATURES = 29


def zero_columns(pattern: str, features: int) -> np.ndarray:
    """Which columns are zero in every sample."""
    k = np.arange(features)
    return {
        "none": k < 0,
        "all": k >= 0,
        "first": k < 9,
        "last": k >= 20,
        "all but one": k != 13,
        "eight are left": k >= 8,
        "every other": k % 2 == 0,
    }[pattern]


@pytest.mark.parametrize("flush", MODES)
@pytest.mark.parametrize("pattern", ["none", "all", "first", "last", "all but one", "eight are left", "every other"])
@pytest.mark.parametrize("shared", [H100, TURING])
def test_zeros_that_all_samples_share(shared, pattern, flush):
    """In one launch and a layer at a time; drawn eight columns at a time, and one by one (9 of them)."""
    for width in (16, 9):
        sizes = (FEATURES, width, 12)
        cpu, shim = populations(sizes, (11,), "full", flush=flush, size=4)
        _, x, y = setting(sizes, (11,))
        x = np.where(zero_columns(pattern, FEATURES), np.float32(-0.0), x + np.float32(0.5))
        for reverse in (False, True):
            with shim_backend.device(reverse, shared):
                check_population(cpu, shim, x, y, f"{sizes}, {pattern}")


def test_each_tile_has_zeros_of_its_own():
    """Batches of groups, of several tiles of which the last isn't full; more columns than a block has threads."""
    for features, shape, size in ((FEATURES, (3, 70), 6), (1100, (2, 5), 4)):
        sizes = (features, 16, 5)
        cpu, shim = populations(sizes, shape, "full", size=size)
        _, x, y = setting(sizes, shape)
        rng = np.random.default_rng(features)
        x = x.copy()
        for group in x:
            for first in range(0, len(group), 16):
                group[first : first + 16, rng.random(features) < 0.6] = 0.0
        for reverse in (False, True):
            for shared in (H100, TURING):
                with shim_backend.device(reverse, shared):
                    check_population(cpu, shim, x, y, f"{features} features, {shape}")


def test_full_tiles_go_a_layer_at_a_time():
    """Where a population fills a device: a batch of 64 fills a tile of the layers' kernel, one of 32 another's."""
    net = fpes.LinearNetwork((784, 512, 512, 10))
    cpu = fpes.Population(net, net.init(0), size=1024, sigma=0.02)
    shim = shim_backend.ShimPopulation(cpu)
    with shim_backend.device(shared=H100, multiprocessors=132):
        for batch, plan in (
            (1, "one launch"),
            (32, "one launch"),
            (64, "a launch for each layer"),
            (128, "a launch for each layer"),
        ):
            assert plan in shim.plan(np.zeros((batch, 784), np.float32)), batch


# --- The sign of zero -------------------------------------------------------------------------------------------------


def sums_of_zeros(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x weights by multiply-adds, if all products are too small for float32.

    What is below a zero after rounding has the sign of the exact value: of the product, unless that is exactly zero.
    """
    total = np.zeros((len(x), weights.shape[1]), np.float32)
    for k in range(len(weights)):
        left, right = x[:, k, None], weights[None, k]
        product = left * right
        assert not product.any()
        total = np.where((left != 0) & (right != 0), product, total + product)
    return total


@pytest.mark.parametrize("shared", [H100, TURING])
@pytest.mark.parametrize("width", [24, 21])
def test_a_sum_of_minus_zero(shared, width):
    """A term of +0 that is left out would have made +0 of a sum of -0: here term 5.

    Terms 3 and 4 are not zero. The others of the eight that are multiplied, 6 to 11, are -0.
    """
    rng = np.random.default_rng(width)
    net = fpes.LinearNetwork((12, width), scaling=1.0, flush="never")
    theta = np.zeros(net.parameters, np.float32)
    [(weights, bias)] = net.unpack(theta)
    weights[...] = np.ldexp(rng.choice([-1.0, 1.0], weights.shape), -100)
    weights[6:] = -np.abs(weights[6:])
    bias[...] = -0.0
    x = np.zeros((70, 12), np.float32)
    x[:, 3:5] = np.ldexp(rng.choice([-1.0, 1.0], (70, 2)), -100)  # products of 2^-200: zeros, with a sign
    cpu = fpes.Population(net, theta, size=8, sigma=2.0**-120, seed=SEED, generation=GENERATION)
    want = np.stack([sums_of_zeros(net.unpack(cpu.member(i))[0][0], x) for i in range(8)])
    want = want + np.stack([net.unpack(cpu.member(i))[0][1] for i in range(8)])[:, None]
    minus = np.signbit(want) & (want == 0)
    plus = ~np.signbit(want) & (want == 0)
    assert minus.any()
    assert plus.any()
    for reverse in (False, True):
        with shim_backend.device(reverse, shared):
            got = shim_backend.ShimPopulation(cpu).forward(x)
        oracle.assert_bitwise_equal(got, want.astype(np.float32))
    oracle.assert_bitwise_equal(cpu.forward(x), want.astype(np.float32))


@pytest.mark.parametrize("shared", [H100, TURING])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_zero_does_not_make_zero(shared, value):
    """The CPU refuses them. A GPU, which can't without waiting, gives NaN, though the input is zero in all samples."""
    sizes = (FEATURES, 16, 5)
    cpu, shim = populations(sizes, (6,), "full", size=4)
    _, x, _ = setting(sizes, (6,))
    x = x.copy()
    x[:, 7] = 0.0
    with shim_backend.device(shared=shared):
        oracle.assert_bitwise_equal(shim.forward(x), cpu.forward(x))
        shim.theta[7 * 16 + 3] = value
        assert np.isnan(shim.forward(x)).all()
