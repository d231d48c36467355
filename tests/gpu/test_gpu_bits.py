"""On a GPU: every result has the bits of the CPU backend, which other tests compare with the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
from test_network import images, random_theta

import fpes
from fpes._backends import cuda_modules

pytestmark = pytest.mark.gpu

MODES = oracle.FLUSH_MODES
KINDS = ("binomial", "rademacher", "gaussian")
each_flush = pytest.mark.parametrize("flush", MODES)
each_kind = pytest.mark.parametrize("kind", KINDS)
# (sizes, batch, pairs): tails everywhere; the network of the README; layers too wide to be kept on the chip; many
# layers; many classes; one layer.
NETWORKS = {
    "odd": ((13, 17, 9, 5), 67, 3),
    "tails": ((33, 65, 34, 11), 130, 5),
    "MNIST": ((784, 512, 512, 10), 64, 4),
    "MNIST, one sample": ((784, 512, 512, 10), 1, 9),
    "wide": ((50, 1100, 40, 10), 33, 2),
    "wide eights": ((50, 1104, 520, 10), 70, 2),
    "very wide": ((20, 5000, 3), 5, 2),
    "deep": ((16,) + (64,) * 8 + (10,), 32, 3),
    "many classes": ((20, 30, 1000), 9, 2),
    "one layer": ((70, 3), 40, 6),
    "one of everything": ((1, 1, 1), 1, 1),
}
FAMILIES = {
    "full": fpes.FullRank,
    "low rank 1": lambda kind: fpes.LowRank(1, kind),
    "low rank 5": lambda kind: fpes.LowRank(5, kind),
    "node": fpes.NodePerturbation,
    "one layer": lambda kind: fpes.NodePerturbation(kind, allocation=fpes.OneLayer(units=4)),
    "one layer, low rank": lambda kind: fpes.LowRank(1, kind, allocation=fpes.OneLayer(units=4)),
}
each_network = pytest.mark.parametrize("network", NETWORKS)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def setting(network, flush, family, kind):
    """(net, theta, x, y, options of a Population)."""
    sizes, batch, pairs = NETWORKS[network]
    rng = np.random.default_rng(len(sizes) + batch)
    net = fpes.LinearNetwork(sizes, flush=flush)
    theta = random_theta(rng, oracle.Network(sizes))
    size = 2 * pairs * (net.layers if "one layer" in family else 1)
    options = {"size": size, "sigma": 0.3, "seed": 2**63 + 7, "generation": 5, "perturbation": FAMILIES[family](kind)}
    return net, theta, images(rng, batch, sizes[0]), rng.integers(0, sizes[-1], batch), options


def compare(cupy, call, *arrays, what=""):
    """The same call with NumPy and with CuPy arrays."""
    got, expected = call(*map(cupy.asarray, arrays)), call(*arrays)
    if isinstance(got, fpes.Evaluation):
        got, expected = got.values, expected.values
    assert isinstance(got, cupy.ndarray)
    oracle.assert_bitwise_equal(cupy.asnumpy(got), expected, what)


def edges(*extents):
    """Sizes around multiples of these extents."""
    return sorted({1, 2, *(n for e in extents for n in (e - 1, e, e + 1, 2 * e + 3))})


@each_flush
def test_products_around_the_edges_of_the_tiles(cupy, flush):
    tiles = cuda_modules.any_module().tile_extents()
    rng = np.random.default_rng(0)
    sizes = itertools.product(
        edges(tiles["gemm_small_rows"], tiles["gemm_rows"]),
        edges(tiles["gemm_small_columns"], tiles["gemm_columns"]),
        edges(4, tiles["gemm_depth"]),
    )
    for m, n, k in sizes:
        a = rng.standard_normal((m, k), np.float32) * np.float32(1e-19)
        b = rng.standard_normal((k, n), np.float32) * np.float32(1e-19)
        compare(cupy, lambda a, b: fpes.gemm(a, b, flush=flush), a, b, what=f"{m} x {n} x {k}")


@each_flush
@pytest.mark.parametrize("shape", [(1024, 1024, 1024), (8192, 512, 512), (4099, 1031, 517)], ids=str)
def test_large_products(cupy, flush, shape):
    m, n, k = shape
    rng = np.random.default_rng(1)
    a = rng.standard_normal((m, k), np.float32) * np.float32(1e-19)
    b = rng.standard_normal((k, n), np.float32) * np.float32(1e-19)
    compare(cupy, lambda a, b: fpes.gemm(a, b, flush=flush), a, b)


@each_flush
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_arrays_that_begin_anywhere(cupy, flush, offset):
    """A view may begin at any multiple of 4 bytes; vector loads want 16."""
    rng = np.random.default_rng(offset)
    flat_a, flat_b = rng.standard_normal(64 * 48 + 4, np.float32), rng.standard_normal(48 * 80 + 4, np.float32)

    def product(a, b):
        a = a[offset : offset + 64 * 48].reshape(64, 48)
        return fpes.gemm(a, b[offset : offset + 48 * 80].reshape(48, 80), flush=flush)

    compare(cupy, product, flat_a, flat_b)


@each_flush
def test_elementwise_operations(cupy, flush):
    a, b, _ = oracle.boundary_operands(np.random.default_rng(2), 1 << 20)
    values = a.reshape(1024, -1)
    compare(cupy, lambda v, b: fpes.bias_add(v, b, flush=flush), values, np.ascontiguousarray(b[: values.shape[1]]))
    for factor in (0.5, 1.0, 2.0**-100, 3.0, 2.0**125):
        compare(cupy, lambda v, factor=factor: fpes.multiply(v, factor, flush=flush), values, what=str(factor))


@each_kind
@pytest.mark.parametrize("role", ["weight", "positions", "init"])
def test_noise(cupy, kind, role):
    for first, count in ((0, 100_003), (129, 1), (2**34 - 5 if kind == "gaussian" else 2**35 - 5, 5)):
        draw = {"layer": 3, "role": role, "pair": 2**32 - 1, "generation": 9, "first": first, "count": count}
        got = fpes.noise(kind, 2**64 - 1, device="cuda", **draw)
        oracle.assert_bitwise_equal(cupy.asnumpy(got), fpes.noise(kind, 2**64 - 1, **draw), f"{kind}, {first}")


@each_flush
@each_network
def test_networks(cupy, network, flush):
    net, theta, x, _, _ = setting(network, flush, "full", "binomial")
    compare(cupy, net, theta, x)


@each_flush
@each_kind
@each_family
@each_network
def test_populations(cupy, network, family, kind, flush):
    net, theta, x, y, options = setting(network, flush, family, kind)

    def each(method):
        return lambda theta, *arrays: method(fpes.Population(net, theta, **options), *arrays)

    compare(cupy, each(lambda p, x: p.forward(x)), theta, x, what="forward")
    compare(cupy, each(lambda p, x, y: p.evaluate(x, y)), theta, x, y, what="fitness")
    compare(cupy, each(lambda p, x, y: p.evaluate(x, y, per_sample=True)), theta, x, y, what="losses")
    compare(cupy, each(lambda p, x, y: p.evaluate(x, y, chunk=2)), theta, x, y, what="in chunks")


@each_flush
@pytest.mark.parametrize("batch", [32, 64, 130])
def test_full_rank_on_a_full_device(cupy, batch, flush):
    """In one launch and a layer at a time, with inputs that are zero in all samples of some tiles."""
    rng = np.random.default_rng(batch)
    sizes = (784, 512, 512, 10)
    net = fpes.LinearNetwork(sizes, flush=flush)
    x = images(rng, batch, 784)
    x[:, rng.random(784) < 0.4] = 0.0
    x[: min(batch, 64), rng.random(784) < 0.2] = 0.0

    def evaluate(theta, x, y):
        return fpes.Population(net, theta, size=400, sigma=0.3, seed=7).evaluate(x, y, per_sample=True)

    compare(cupy, evaluate, random_theta(rng, oracle.Network(sizes)), x, rng.integers(0, 10, batch))


@each_flush
@each_family
@pytest.mark.parametrize("network", ["odd", "MNIST", "wide"])
def test_a_minibatch_for_each_group(cupy, network, family, flush):
    net, theta, x, y, options = setting(network, flush, family, "binomial")
    options["size"] *= 3

    def evaluate(theta, x, y):
        return fpes.Population(net, theta, **options).evaluate(x, y)

    compare(cupy, evaluate, theta, np.stack([x, x[::-1], x * x]), np.stack([y, y[::-1], y]))


@each_kind
@pytest.mark.parametrize("family", ["full", "low rank 1", "low rank 5"])
@each_network
def test_members_and_gradients(cupy, network, family, kind):
    net, theta, _, _, options = setting(network, "boundary", family, kind)
    options["size"] += 400  # sums that several blocks share

    def member(theta):
        return fpes.Population(net, theta, **options).member(options["size"] - 1)

    def gradient(theta, weights):
        return fpes.Population(net, theta, **options).gradient(weights)

    rng = np.random.default_rng(3)
    compare(cupy, member, theta, what="member")
    compare(cupy, gradient, theta, rng.integers(-999, 1000, options["size"]).astype(np.int32), what="integers")
    compare(cupy, gradient, theta, rng.standard_normal(options["size"], np.float32), what="floats")


@each_flush
@each_kind
@pytest.mark.parametrize("family", ["node", "one layer"])
@each_network
def test_gradients_of_node_perturbation(cupy, network, family, kind, flush):
    net, theta, x, y, options = setting(network, flush, family, kind)

    def gradient(per_sample):
        def call(theta, x, y):
            population = fpes.Population(net, theta, **options)
            return population.gradient(population.evaluate(x, y, per_sample=per_sample))

        return call

    compare(cupy, gradient(True), theta, x, y, what="weights of samples")
    compare(cupy, gradient(False), theta, x, y, what="weights of members")


@each_family
def test_the_same_bits_again(cupy, family):
    """What depends on the order in which blocks happen to finish shows when a call is repeated."""
    net, theta, x, y, options = setting("MNIST", "always", family, "binomial")
    options["size"] *= 50
    theta, x, y = map(cupy.asarray, (theta, x, y))
    first = cupy.asnumpy(fpes.Population(net, theta, **options).evaluate(x, y))
    for _ in range(20):
        again = fpes.Population(net, theta, **options).evaluate(x, y)
        oracle.assert_bitwise_equal(cupy.asnumpy(again), first, family)
