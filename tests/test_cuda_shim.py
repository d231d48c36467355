"""Every CUDA kernel, run on the CPU by the host shim: bit for bit what the CPU backend computes.

Threads run in ascending and in descending order, in every flush mode, with sizes around the edges of every tile, on
devices with much and with little shared memory.
"""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
import shim_backend
from test_network import images, random_theta

import fpes

pytestmark = shim_backend.needs_shim

MODES = oracle.FLUSH_MODES
KINDS = ("binomial", "rademacher", "gaussian")
FAMILIES = ("full", "lowrank1", "lowrank3", "node")
SIGMA, SEED, GENERATION = 0.3, 0xFEDCBA9876543210, 5
# Bytes of shared memory that a block may have.
H100, A100, TURING = 232448, 166912, 65536

every_mode = pytest.mark.parametrize("flush", MODES)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(params=["ascending", "descending"])
def reverse(request):
    """Runs the test with threads in both orders."""
    with shim_backend.device(reverse=request.param == "descending"):
        yield request.param == "descending"


@functools.lru_cache
def extents() -> dict[str, int]:
    return shim_backend.module("always").tile_extents()


@functools.lru_cache
def setting(sizes: tuple[int, ...], shape: tuple[int, ...]):
    """(theta, x, labels) for x of shape [batch] or [groups, batch] without its features."""
    rng = np.random.default_rng(sum(sizes))
    theta = random_theta(rng, oracle.Network(sizes))
    x = images(rng, int(np.prod(shape)), sizes[0]).reshape(*shape, sizes[0])
    return theta, x, rng.integers(0, sizes[-1], shape).astype(np.int32)


def perturbation(family: str, kind: str):
    if family == "full":
        return fpes.FullRank(noise=kind)
    if family == "node":
        return fpes.NodePerturbation(noise=kind)
    return fpes.LowRank(rank=int(family.removeprefix("lowrank")), noise=kind)


def populations(sizes, shape, family, kind="binomial", flush="boundary", size=6):
    """The same population on the CPU and on the shim."""
    net = fpes.LinearNetwork(sizes, flush=flush)
    what = family if not isinstance(family, str) else perturbation(family, kind)
    options = {"sigma": SIGMA, "seed": SEED, "generation": GENERATION, "perturbation": what}
    cpu = fpes.Population(net, setting(sizes, shape)[0], size=size, **options)
    return cpu, shim_backend.ShimPopulation(cpu)


def check_population(cpu, shim, x, y, what):
    """Outputs, losses and fitness."""
    oracle.assert_bitwise_equal(shim.forward(x), cpu.forward(x), f"outputs: {what}")
    losses = cpu.evaluate(x, y, per_sample=True)
    oracle.assert_bitwise_equal(shim.evaluate(x, y, per_sample=True), losses, f"losses: {what}")
    oracle.assert_bitwise_equal(shim.evaluate(x, y), cpu.evaluate(x, y), f"fitness: {what}")


# --- The matrix product ----------------------------------------------------------------------------------------------


def around(extent: int) -> tuple[int, ...]:
    return extent - 1, extent, extent + 1


def gemm_operands(m, n, k):
    """Products around the flush boundary, sums that cross it, and exact zeros."""
    rng = np.random.default_rng(m * 1000 + n + k)
    a = np.ldexp(rng.standard_normal((m, k)), rng.integers(-66, -60, (m, k))).astype(np.float32)
    b = np.ldexp(rng.standard_normal((k, n)), rng.integers(-66, -60, (k, n))).astype(np.float32)
    a[rng.random((m, k)) < 0.1] = 0.0
    return a, b


@every_mode
@pytest.mark.parametrize("tile", ["gemm", "gemm_small"])
def test_gemm_around_tile_edges(reverse, flush, tile):
    rows, columns, depth = extents()[f"{tile}_rows"], extents()[f"{tile}_columns"], extents()["gemm_depth"]
    edges = [*zip(around(rows), around(columns)[::-1], around(depth), strict=True), (2 * rows + 3, 4, 3 * depth + 4)]
    # One multiprocessor is never idle, and of many some always are: so the first takes the large tile.
    with shim_backend.device(reverse, multiprocessors=1 if tile == "gemm" else 10**6):
        for m, n, k in [*edges, (1, 1, 1), (5, columns + 4, depth + 4)]:
            a, b = gemm_operands(m, n, k)
            got = shim_backend.gemm(a, b, flush)
            oracle.assert_bitwise_equal(got, fpes.gemm(a, b, flush=flush), f"[{m}, {k}] [{k}, {n}], {flush}")


@pytest.mark.parametrize("offsets", [(4, 0, 0), (0, 4, 0), (0, 0, 4)])
def test_gemm_of_unaligned_operands(offsets):
    """Extents that are multiples of four, at addresses that aren't multiples of 16 bytes."""
    a, b = gemm_operands(12, 20, 24)
    got = shim_backend.gemm(a, b, "boundary", offsets)
    oracle.assert_bitwise_equal(got, fpes.gemm(a, b, flush="boundary"))


def test_gemm_of_more_tiles_than_a_strip(reverse):
    """The second strip of tiles is less high than the first."""
    rows, columns = extents()["gemm_small_rows"], extents()["gemm_small_columns"]
    a, b = gemm_operands(rows * extents()["gemm_strip"] + rows + 1, columns + 1, 3)
    with shim_backend.device(reverse, multiprocessors=10**6):
        oracle.assert_bitwise_equal(shim_backend.gemm(a, b, "always"), fpes.gemm(a, b, flush="always"))


@every_mode
def test_gemm_of_nothing_but_negative_zeros(flush):
    """A last few k's that were filled up with zeros would turn a sum of -0 into +0."""
    tiny = np.float32(2.0**-149)
    a, b = np.full((3, 5), -tiny), np.full((5, 7), tiny)
    oracle.assert_bitwise_equal(shim_backend.gemm(a, b, flush), fpes.gemm(a, b, flush=flush))


# --- Primitives ------------------------------------------------------------------------------------------------------


@every_mode
def test_elementwise(reverse, flush):
    rng = np.random.default_rng(1)
    build = shim_backend.module(flush)
    mode = build.Flush.__members__[flush]
    for rows, n in ((1, 1), (3, 85), (7, 37)):
        v, bias = (np.ldexp(rng.standard_normal(s), -126).astype(np.float32) for s in ((rows, n), (n,)))
        out = shim_backend.Guarded((rows, n))
        shim_backend.call(flush, "bias_add", mode, v.ctypes.data, bias.ctypes.data, out.address, rows, n)
        out.check()
        oracle.assert_bitwise_equal(out.array, fpes.bias_add(v, bias, flush=flush))
        shim_backend.call(flush, "multiply", mode, v.ctypes.data, 0.75, out.address, rows * n)
        out.check()
        oracle.assert_bitwise_equal(out.array, fpes.multiply(v, 0.75, flush=flush))


@pytest.mark.parametrize("flush", ["never", "always"])
@each_kind
def test_noise(reverse, flush, kind):
    build = shim_backend.module(flush)
    for first, count in ((0, 1), (0, 300), (3, 2100), (129, 64), (2**33 + 5, 20)):
        out = shim_backend.Guarded((count,))
        stream = (build.NoiseKind.__members__[kind], SEED, 3, build.NoiseRole.weight, 7, GENERATION)
        shim_backend.call(flush, "noise", *stream, first, count, out.address)
        out.check()
        want = fpes.noise(kind, SEED, layer=3, role="weight", pair=7, generation=GENERATION, first=first, count=count)
        oracle.assert_bitwise_equal(out.array, want, f"{kind}, {count} from {first} on")


@pytest.mark.parametrize("flush", ["never", "always"])
@pytest.mark.parametrize("name", ["exp", "log"])
def test_elementary(flush, name):
    rng = np.random.default_rng(2)
    x = oracle.from_bits(rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32))
    got, want = shim_backend.Guarded((x.size,)), np.empty_like(x)
    shim_backend.call(flush, "elementary", name, x.ctypes.data, got.address, x.size)
    got.check()
    fpes._cpu.elementary(name, fpes.get_isa(), flush == "always", x.ctypes.data, want.ctypes.data, x.size)
    oracle.assert_bitwise_equal(got.array, want)


# --- Populations -----------------------------------------------------------------------------------------------------


@each_family
@each_kind
@every_mode
def test_population(reverse, family, kind, flush):
    """All layers in one launch, for a narrow last layer and for another one."""
    for sizes, batch in (((13, 17, 9, 5), 11), ((9, 20, 18), 5)):
        cpu, shim = populations(sizes, (batch,), family, kind, flush)
        _, x, y = setting(sizes, (batch,))
        assert "one launch" in shim.plan(x)
        check_population(cpu, shim, x, y, f"{family}, {kind}, {flush}, {sizes}")


@each_family
@every_mode
@pytest.mark.parametrize("shared", [A100, TURING])
def test_a_layer_at_a_time(reverse, family, flush, shared):
    """Networks too wide for a launch, on devices of two sizes; columns just beyond a tile's."""
    sizes, batch = ((7, 513, 6), 3) if shared == A100 else ((5, 129, 12, 4), 9)
    kind = KINDS[len(flush) % 3]
    cpu, shim = populations(sizes, (batch,), family, kind, flush, size=4)
    _, x, y = setting(sizes, (batch,))
    with shim_backend.device(reverse, shared=shared):
        assert "a launch for each layer" in shim.plan(x)
        check_population(cpu, shim, x, y, f"{family}, {kind}, {flush}, {sizes}")


# Which tile carries what, on which device: (sizes, batch, shared memory, multiprocessors).
TILES = {
    "wide": ((6, 510, 3), 97, H100, 1),
    "middle": ((6, 255, 3), 65, H100, 1),
    "narrow": ((6, 127, 3), 129, H100, 1),
    "low": ((6, 300, 3), 15, A100, 1),
    "lowest": ((6, 300, 3), 7, A100, 100),
}


@pytest.mark.parametrize("family", ["full", "node"])
@pytest.mark.parametrize("tile", TILES)
def test_each_tile(family, tile):
    """A batch that ends just behind an edge of a tile, and a layer that ends just before one."""
    sizes, batch, shared, multiprocessors = TILES[tile]
    cpu, shim = populations(sizes, (batch,), family, size=2)
    _, x, y = setting(sizes, (batch,))
    shape = f"{extents()[f'{tile}_rows']} rows x {extents()[f'{tile}_columns']} columns"
    for reverse in (False, True):
        with shim_backend.device(reverse, shared, multiprocessors):
            if family == "full":
                assert shape in shim.plan(x)
            oracle.assert_bitwise_equal(shim.evaluate(x, y, per_sample=True), cpu.evaluate(x, y, per_sample=True))


@pytest.mark.parametrize("widths", [(8, 16), (16, 17), (9, 15), (9, 24), (7, 128), (12, 1)])
@pytest.mark.parametrize("family", ["full", "lowrank3", "node"])
def test_widths_around_tile_edges(reverse, family, widths):
    """k's around a block of weights, and last layers around what is narrow."""
    for features in (1, 7, 8, 9, 16):
        sizes = (features, *widths)
        cpu, shim = populations(sizes, (3,), family, size=2)
        _, x, _ = setting(sizes, (3,))
        oracle.assert_bitwise_equal(shim.forward(x), cpu.forward(x), f"{family}, {sizes}")


@each_family
@pytest.mark.parametrize("batch", [1, 8, 63, 64, 65, 130])
def test_batches(family, batch):
    """Losses are summed in blocks of 64 samples, and tiles of rows end inside members."""
    sizes = (5, 12, 4)
    cpu, shim = populations(sizes, (batch,), family, size=10)
    _, x, y = setting(sizes, (batch,))
    for reverse in (False, True):
        with shim_backend.device(reverse):
            oracle.assert_bitwise_equal(shim.evaluate(x, y), cpu.evaluate(x, y), f"{family}, batch {batch}")


@pytest.mark.parametrize("family", [*FAMILIES, "lowrank20"])
@pytest.mark.parametrize("shared", [H100, TURING])
def test_groups_and_parts(family, shared):
    """Minibatches of groups, evaluated in ranges of pairs that begin and end inside a group."""
    sizes, shape = (11, 14, 7), (3, 5)
    cpu, shim = populations(sizes, shape, family, size=18)
    _, x, y = setting(sizes, shape)
    want = cpu.evaluate(x, y)
    for reverse, (begin, end) in ((False, (0, 9)), (True, (2, 7)), (False, (7, 8))):
        with shim_backend.device(reverse, shared):
            got = shim.evaluate(x, y, pairs=(begin, end))
            oracle.assert_bitwise_equal(got, want[2 * begin : 2 * end], f"{family}, pairs {begin} to {end}")


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_add_up_in_blocks_of_samples_in_order(family):
    """Of one order that it could be, the sum of a block is a tie in float32, and of any other it is above."""
    net = fpes.LinearNetwork((1, 2), scaling=1.0)
    theta = np.array([0.0, 1.0, 0.0, 0.0], np.float32)  # logits 0 and x: the loss of class 0 is x, if x is large
    cpu = fpes.Population(net, theta, size=2, sigma=2.0**-100, seed=SEED, perturbation=perturbation(family, "binomial"))
    # 2^23 is lost where it is added to 2^77 in double, and many of them are not.
    for batch, total in ((64, 2.0**77), (128, 2.0**77 + 2.0**54)):
        x = np.full((batch, 1), 2.0**23, np.float32)
        x[:2, 0] = 2.0**77, 2.0**53
        y = np.zeros(batch, np.int32)
        want = np.full(2, -total / batch, np.float32)
        oracle.assert_bitwise_equal(cpu.evaluate(x, y), want, f"CPU, {batch}")
        oracle.assert_bitwise_equal(shim_backend.ShimPopulation(cpu).evaluate(x, y), want, f"shim, {batch}")


@pytest.mark.parametrize("family", ["full", "node"])
@pytest.mark.parametrize("shared", [H100, TURING])
def test_a_label_that_is_no_class_gives_nan(family, shared):
    """Nobody can refuse it without waiting for it."""
    _, shim = populations((5, 6, 4), (3,), family, size=4)
    _, x, _ = setting((5, 6, 4), (3,))
    for below in (-1, -17):  # where a logit of the row before lies, in global and in shared memory
        with shim_backend.device(shared=shared):
            losses = shim.evaluate(x, np.array([3, below, 4]), per_sample=True)
        assert np.isnan(losses).tolist() == [[False, True, True]] * 4


def test_more_ranks_than_fit_on_the_chip(reverse):
    """In a layer whose sums would take the place of what the later ranks multiply."""
    cpu, shim = populations((11, 14, 20), (5,), "lowrank20", size=4)
    _, x, _ = setting((11, 14, 20), (5,))
    assert "a launch for each layer" in shim.plan(x)
    oracle.assert_bitwise_equal(shim.forward(x), cpu.forward(x))


def nearly_subnormal(sizes, flush: str, family: str, kind: str = "binomial") -> fpes.Population:
    """The last layer's parameters lie about 2^-126, and so does what they are perturbed by."""
    net = fpes.LinearNetwork(sizes, scaling=1.0, flush=flush)
    rng = np.random.default_rng(8)
    theta = random_theta(rng, oracle.Network(sizes))
    for part in net.unpack(theta)[-1]:
        part[...] = np.ldexp(rng.standard_normal(part.shape), -126)
    options = {"seed": SEED, "generation": GENERATION, "perturbation": perturbation(family, kind)}
    return fpes.Population(net, theta, size=6, sigma=2.0**-126, **options)


@each_family
@every_mode
def test_perturbed_parameters_near_the_boundary(family, flush):
    """Parameters are perturbed in the arithmetic of the product, where it matters which."""
    for sizes in ((13, 20), (13, 24), (6, 9, 5)):
        cpu = nearly_subnormal(sizes, flush, family)
        shim = shim_backend.ShimPopulation(cpu)
        _, x, _ = setting(sizes, (3,))
        oracle.assert_bitwise_equal(shim.forward(x), cpu.forward(x), f"{family}, {flush}, {sizes}")
        for index in (0, 1) if family != "node" else ():
            oracle.assert_bitwise_equal(shim.member(index), cpu.member(index), f"member {index} of {sizes}")


@each_kind
@every_mode
@pytest.mark.parametrize("exponent", [-126, -125, 100])
def test_extreme_scales_of_full_noise(flush, kind, exponent):
    """Draws are multiplied in units of 2^-22 where that is exact: not where the scale, half of sigma, is subnormal."""
    net = fpes.LinearNetwork((13, 24), scaling=1.0, flush=flush)
    theta = np.ldexp(np.random.default_rng(2).standard_normal(net.parameters, np.float32), max(exponent, -126))
    options = {"seed": SEED, "perturbation": perturbation("full", kind)}
    cpu = fpes.Population(net, theta.astype(np.float32), size=6, sigma=2.0**exponent, **options)
    _, x, _ = setting((13, 24), (3,))
    oracle.assert_bitwise_equal(shim_backend.ShimPopulation(cpu).forward(x), cpu.forward(x))


@pytest.mark.parametrize("family", ["full", "lowrank1", "node"])
@pytest.mark.parametrize("shared", [H100, TURING])
def test_unaligned_networks(family, shared):
    """Extents that are multiples of four, at addresses that aren't multiples of 16 bytes."""
    sizes, shape = (8, 24, 136, 20), (5,)
    cpu, _ = populations(sizes, shape, family, size=4)
    theta, x, y = setting(sizes, shape)
    with shim_backend.device(shared=shared):
        check_population(cpu, shim_backend.ShimPopulation(cpu, offset=4), x, y, family)
        got = shim_backend.net_forward(cpu.net, theta, x, offset=4)
        oracle.assert_bitwise_equal(got, cpu.net(theta, x), "unperturbed")


@pytest.mark.parametrize("family", ["full", "lowrank1", "node"])
@pytest.mark.parametrize("places", [1, 3])
def test_a_layer_at_a_time_of_some_pairs_at_a_time(family, places):
    sizes, shape = (5, 129, 12, 4), (2, 3)
    cpu, shim = populations(sizes, shape, family, size=16)
    _, x, y = setting(sizes, shape)
    with shim_backend.device(shared=TURING, floats_at_a_time=places * 2 * shape[1] * max(sizes)):
        check_population(cpu, shim, x, y, f"{family}, {places} at a time")
        got = shim.evaluate(x, y, pairs=(3, 8))
        oracle.assert_bitwise_equal(got, cpu.evaluate(x, y)[6:], f"{family}, the last pairs, {places} at a time")


@every_mode
@pytest.mark.parametrize("shared", [H100, TURING])
def test_the_unperturbed_network(reverse, flush, shared):
    for sizes, batch in (((13, 17, 9, 5), 67), ((6, 131), 3), ((3, 5, 30), 2)):
        theta, x, _ = setting(sizes, (batch,))
        net = fpes.LinearNetwork(sizes, flush=flush)
        with shim_backend.device(reverse, shared):
            oracle.assert_bitwise_equal(shim_backend.net_forward(net, theta, x), net(theta, x), f"{flush}, {sizes}")


def test_more_layers_than_a_launch_takes(reverse):
    sizes = (4, *[5] * 30, 3)
    cpu, shim = populations(sizes, (3,), "node", size=4)
    _, x, y = setting(sizes, (3,))
    assert "a launch for each layer" in shim.plan(x)
    check_population(cpu, shim, x, y, "31 layers")


@pytest.mark.parametrize("family", ["full", "lowrank1", "lowrank3"])
@each_kind
@every_mode
def test_member(reverse, family, kind, flush):
    cpu, shim = populations((13, 17, 9, 5), (2,), family, kind, flush)
    for index in (0, 3):
        oracle.assert_bitwise_equal(shim.member(index), cpu.member(index), f"{family}, {kind}, {flush}")


# --- Gradients -------------------------------------------------------------------------------------------------------


def float_weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def subnormal_weights(*shape: int) -> np.ndarray:
    """Gradients are never flushed. Some terms of these are even below what is rounded up to 2^-149."""
    return float_weights(*shape) * np.float32(1e-44)


@pytest.mark.parametrize("family", ["full", "lowrank1", "lowrank3"])
@each_kind
@pytest.mark.parametrize("flush", ["never", "boundary"])
def test_gradient(reverse, family, kind, flush):
    for sizes, size in (((13, 17, 9, 5), 6), ((66, 65, 3), 4)):
        cpu, shim = populations(sizes, (2,), family, kind, flush, size)
        ranks = oracle.centred_ranks(float_weights(size)).astype(np.int32)
        for weights in (ranks, float_weights(size), subnormal_weights(size)):
            got, want = shim.gradient(weights), cpu.gradient(weights)
            oracle.assert_bitwise_equal(got, want, f"{family}, {kind}, {flush}, {sizes}, {weights.dtype}")


@pytest.mark.parametrize(
    ("family", "largest"), [("full", 2**20), ("full", 2**30), ("lowrank3", 2**17), ("lowrank3", 2**26)]
)
def test_integers_that_need_more_than_a_float(reverse, family, largest):
    """The exact sum passes 2^24, and its terms are shared out among blocks."""
    rng = np.random.default_rng(3)
    weights = rng.integers(-largest, largest + 1, 400).astype(np.int32)
    weights[::2], weights[1::2] = np.abs(weights[::2]), -np.abs(weights[1::2])
    cpu, shim = populations((9, 10), (2,), family, size=400)
    oracle.assert_bitwise_equal(shim.gradient(weights), cpu.gradient(weights))


@pytest.mark.parametrize("terms", [1, 5, 40])
def test_low_rank_gradient_of_some_terms_at_a_time(terms):
    cpu, shim = populations((9, 10), (2,), "lowrank3", size=64)
    weights = np.random.default_rng(4).integers(-(2**20), 2**20, 64).astype(np.int32)
    with shim_backend.device(floats_at_a_time=terms * (3 * 12 + 12)):
        for each in (weights, weights.astype(np.float32)):
            oracle.assert_bitwise_equal(shim.gradient(each), cpu.gradient(each), f"{terms} at a time, {each.dtype}")


@each_kind
@every_mode
def test_node_gradient(reverse, kind, flush):
    for sizes, shape in (((13, 17, 9, 5), (7,)), ((3, 66, 5), (2, 3)), ((5, 4), (3,))):
        cpu, shim = populations(sizes, shape, "node", kind, flush, size=8)
        _, x, y = setting(sizes, shape)
        evaluation = cpu.evaluate(x, y)
        shim.evaluate(x, y)
        for weights in (float_weights(8), float_weights(8, shape[-1]), subnormal_weights(8)):
            got, want = shim.gradient(weights), cpu.gradient(weights, evaluation)
            oracle.assert_bitwise_equal(got, want, f"{kind}, {flush}, {sizes}, {weights.shape}")


@pytest.mark.parametrize("places", [1, 3])
def test_node_gradient_of_some_pairs_at_a_time(places):
    sizes, shape = (6, 17, 9, 5), (2, 3)
    cpu, shim = populations(sizes, shape, "node", size=16)
    _, x, y = setting(sizes, shape)
    evaluation = cpu.evaluate(x, y)
    shim.evaluate(x, y)
    weights = float_weights(16, shape[-1])
    with shim_backend.device(floats_at_a_time=places * 2 * shape[1] * (1 + sum(sizes[1:-1]))):
        oracle.assert_bitwise_equal(shim.gradient(weights), cpu.gradient(weights, evaluation), f"{places} at a time")


# Sizes, units, draws and batches: few and all units, in the first, a middle and the last layer.
ONE_LAYER = {
    "sparse first layer": ((13, 33, 17, 5), (7, None, None), (2, 1, 1), (5,)),
    "sparse everywhere": ((13, 33, 17, 5), (5, 3, 2), (1, 2, 1), (2, 3)),
    "all units": ((9, 20, 7), (None, None), (1, 2), (3,)),
    "one layer": ((9, 7), (3,), (2,), (3,)),
    "every unit chosen": ((9, 16, 6), (16, 6), (1, 1), (66,)),
    "wide": ((5, 40, 140, 4), (8, None, None), (3, 1, 1), (2,)),
}


def check_ranges(cpu, shim, x, y, cycle):
    """Ranges of pairs that begin and end inside cycles of draws, the first one or not."""
    want = cpu.evaluate(x, y)
    for begin, end in ((1, 2 * cycle), (cycle, 2 * cycle - 1)):
        got = shim.evaluate(x, y, pairs=(begin, end))
        oracle.assert_bitwise_equal(got, want[2 * begin : 2 * end], f"pairs {begin} to {end}")


@pytest.mark.parametrize("case", ONE_LAYER)
@every_mode
@pytest.mark.parametrize("shared", [H100, TURING])
def test_one_layer(reverse, case, flush, shared):
    sizes, units, draws, shape = ONE_LAYER[case]
    for kind in KINDS if case == "sparse everywhere" else KINDS[:1]:
        what = fpes.NodePerturbation(noise=kind, allocation=fpes.OneLayer(units=units, pairs=draws))
        size = 4 * sum(draws)
        cpu, shim = populations(sizes, shape, what, flush=flush, size=size)
        _, x, y = setting(sizes, shape)
        with shim_backend.device(reverse, shared):
            check_population(cpu, shim, x, y, f"{case}, {kind}, {flush}")
            evaluation = cpu.evaluate(x, y)
            oracle.assert_bitwise_equal(shim._sums.array, evaluation.seen.sums, "sums")
            check_ranges(cpu, shim, x, y, sum(draws))
            shim.evaluate(x, y)
            for weights in (float_weights(size), float_weights(size, shape[-1]), subnormal_weights(size)):
                got, want = shim.gradient(weights), cpu.gradient(weights, evaluation)
                oracle.assert_bitwise_equal(got, want, f"gradient: {case}, {kind}, {flush}, {weights.shape}")


@pytest.mark.parametrize("case", ONE_LAYER)
@every_mode
def test_rank_one_of_a_layer(reverse, case, flush):
    sizes, units, draws, shape = ONE_LAYER[case]
    kind = KINDS[len(case) % 3]
    size = 4 * sum(draws)
    what = fpes.LowRank(rank=1, noise=kind, allocation=fpes.OneLayer(units=units, pairs=draws))
    cpu, shim = populations(sizes, shape, what, flush=flush, size=size)
    _, x, y = setting(sizes, shape)
    check_population(cpu, shim, x, y, f"{case}, {kind}, {flush}")
    check_ranges(cpu, shim, x, y, sum(draws))
    for index in (0, size - 1):
        oracle.assert_bitwise_equal(shim.member(index), cpu.member(index), f"member {index}: {case}, {kind}, {flush}")
    for weights in (oracle.centred_ranks(float_weights(size)).astype(np.int32), float_weights(size)):
        got, want = shim.gradient(weights), cpu.gradient(weights)
        oracle.assert_bitwise_equal(got, want, f"gradient: {case}, {kind}, {flush}, {weights.dtype}")


@pytest.mark.parametrize("what", [fpes.NodePerturbation, fpes.LowRank])
@pytest.mark.parametrize("shared", [H100, TURING])
def test_one_layer_of_some_pairs_at_a_time(what, shared):
    sizes, shape, draws = (13, 33, 9, 21), (2, 3), (3, 2, 2)
    cpu, shim = populations(sizes, shape, what(allocation=fpes.OneLayer((5, None, 2), draws)), size=4 * sum(draws))
    _, x, y = setting(sizes, shape)
    for places in (1, 3):
        with shim_backend.device(shared=shared, floats_at_a_time=places * 2 * shape[1] * max(sizes)):
            check_population(cpu, shim, x, y, f"{places} at a time")
            check_ranges(cpu, shim, x, y, sum(draws))


@pytest.mark.parametrize("what", [fpes.NodePerturbation, fpes.LowRank])
def test_more_units_than_are_changed_at_a_time(reverse, what):
    """And more inputs than are drawn at a time."""
    sizes = (515, 1030, 3)
    cpu, shim = populations(sizes, (1,), what(allocation=fpes.OneLayer(units=(1027, None), pairs=(1, 1))), size=4)
    _, x, _ = setting(sizes, (1,))
    oracle.assert_bitwise_equal(shim.forward(x), cpu.forward(x))


# --- What isn't right is refused -------------------------------------------------------------------------------------


def test_a_build_refuses_the_modes_of_the_other():
    for flush, build in (("never", shim_backend.module("always")), ("boundary", shim_backend.module("never"))):
        with pytest.raises(ValueError, match="never"):
            build.bias_add(build.Execution(0, 0), build.Flush.__members__[flush], 0, 0, 0, 1, 1)


def test_a_workspace_too_small():
    build = shim_backend.module("always")
    cpu, shim = populations((5, 4), (3,), "full")
    _, x, _ = setting((5, 4), (3,))
    weights = np.zeros(cpu.size, np.int32)
    arguments = (shim._network[1], shim._native, weights.ctypes.data, True, cpu.size, 0, cpu.size // 2, 0, 0)
    size = build.population_gradient_workspace(build.Execution(0, 0), *arguments)
    assert size > 0
    with pytest.raises(ValueError, match=f"at least {size}"):
        build.population_gradient(build.Execution(0, 0, x.ctypes.data, size - 1), *arguments)


def test_a_device_that_isnt_there():
    build = shim_backend.module("always")
    with pytest.raises(build.CudaError, match="invalid device ordinal 1") as failure:
        build.bias_add(build.Execution(1, 0), build.Flush.always, 0, 0, 0, 1, 1)
    assert failure.value.args[:2] == (101, "cudaErrorInvalidDevice")
