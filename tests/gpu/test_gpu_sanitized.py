"""On a GPU: every kernel on small sizes, with the bits of the CPU: what compute-sanitizer can watch in reasonable time.

`make gpu-check` runs these under memcheck, racecheck, synccheck and initcheck, CuPy's pool off (tests/gpu/no_pool.py),
so that an array's end is an allocation's end.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from test_network import images, random_theta

import fpes

pytestmark = [pytest.mark.gpu, pytest.mark.sanitizer]

# In one launch, and a layer at a time; where widths are multiples of eight, rows are drawn between multiply-adds.
FUSED, EIGHTS, LAYERED, LAYERED_EIGHTS = (13, 17, 9, 5), (13, 16, 24, 5), (9, 530, 4), (19, 520, 528, 4)
FAMILIES = {
    "full": fpes.FullRank(),
    "full, rademacher": fpes.FullRank("rademacher"),
    "full, gaussian": fpes.FullRank("gaussian"),
    "low rank": fpes.LowRank(3),
    "node": fpes.NodePerturbation(),
    "one layer": fpes.NodePerturbation(allocation=fpes.OneLayer(units=(3, None, None), pairs=(1, 1, 1))),
    "one layer, low rank": fpes.LowRank(allocation=fpes.OneLayer(units=(3, None, None), pairs=(1, 1, 1))),
}
SIZE = 12


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def compare(cupy, call, *arrays):
    oracle.assert_bitwise_equal(cupy.asnumpy(call(*map(cupy.asarray, arrays))), call(*arrays))


def network(sizes):
    rng = np.random.default_rng(0)
    batch = 7
    x = images(rng, batch, sizes[0])
    x[:, :8] = 0.0  # what full rank leaves out
    return fpes.LinearNetwork(sizes), random_theta(rng, oracle.Network(sizes)), x, rng.integers(0, sizes[-1], batch)


@pytest.mark.parametrize("flush", oracle.FLUSH_MODES)
@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 64, 16), (130, 132, 36), (1500, 1540, 20)], ids=str)
def test_products(cupy, shape, flush):
    m, n, k = shape
    rng = np.random.default_rng(1)
    a = rng.standard_normal((m, k), np.float32) * np.float32(1e-19)
    b = rng.standard_normal((k, n), np.float32) * np.float32(1e-19)
    compare(cupy, lambda a, b: fpes.gemm(a, b, flush=flush), a, b)


def test_elementwise_operations_and_noise(cupy):
    values = np.random.default_rng(2).standard_normal((33, 5), np.float32)
    compare(cupy, lambda v: fpes.multiply(v, 1e-38), values)
    compare(cupy, fpes.bias_add, values, values[0].copy())
    for kind in ("binomial", "rademacher", "gaussian"):
        draw = {"layer": 1, "role": "weight", "pair": 2, "first": 3, "count": 1001}
        oracle.assert_bitwise_equal(
            cupy.asnumpy(fpes.noise(kind, 9, device="cuda", **draw)), fpes.noise(kind, 9, **draw)
        )


@pytest.mark.parametrize("sizes", [FUSED, EIGHTS, LAYERED], ids=str)
def test_networks(cupy, sizes):
    net, theta, x, _ = network(sizes)
    compare(cupy, net, theta, x)


@pytest.mark.parametrize("sizes", [FUSED, EIGHTS, LAYERED, LAYERED_EIGHTS], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_populations_and_their_gradients(cupy, family, sizes):
    net, theta, x, y = network(sizes)
    perturbation = FAMILIES[family]
    if "one layer" in family and sizes == LAYERED:
        perturbation = type(perturbation)(allocation=fpes.OneLayer(units=(3, None), pairs=(1, 1)))
    by_sample = isinstance(perturbation, fpes.NodePerturbation)
    options = {"size": SIZE, "sigma": 0.3, "seed": 5, "perturbation": perturbation}

    def evaluate(theta, x, y):
        return fpes.Population(net, theta, **options).evaluate(x, y, per_sample=by_sample)

    def forward(theta, x):
        return fpes.Population(net, theta, **options).forward(x)

    def gradient(theta, x, y):
        population = fpes.Population(net, theta, **options)
        return population.gradient(population.evaluate(x, y, per_sample=by_sample))

    def exact_gradient(theta, weights):
        return fpes.Population(net, theta, **options).gradient(weights)

    compare(cupy, evaluate, theta, x, y)
    compare(cupy, forward, theta, x)
    compare(cupy, gradient, theta, x, y)
    if not by_sample:
        compare(cupy, exact_gradient, theta, np.arange(SIZE, dtype=np.int32) - 5)
    if "one layer" not in family and not by_sample:
        compare(cupy, lambda theta: fpes.Population(net, theta, **options).member(SIZE - 1), theta)
