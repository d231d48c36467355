"""On a GPU: tied layers have the bits of the CPU backend."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from test_gpu_bits import compare
from test_tied import FAMILIES, each_family, each_kind, every_mode, populations, setting

import fpes

pytestmark = pytest.mark.gpu


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def everything(cupy, net, theta, x, y, what, **options):
    """Outputs, losses, fitness, gradients and members."""

    def population(theta):
        return fpes.Population(net, theta, **options)

    weights = np.random.default_rng(2).integers(-2000, 2000, options["size"]).astype(np.int32)
    floats = np.random.default_rng(3).standard_normal(options["size"]).astype(np.float32)
    compare(cupy, net, theta, x, what=f"forward: {what}")
    compare(cupy, lambda theta, x: population(theta).forward(x), theta, x, what=f"outputs: {what}")
    compare(cupy, lambda theta, x, y: population(theta).evaluate(x, y), theta, x, y, what=f"fitness: {what}")
    compare(cupy, lambda t, x, y: population(t).evaluate(x, y, per_sample=True), theta, x, y, what=f"losses: {what}")
    for given in (weights, floats):
        compare(cupy, lambda theta, w: population(theta).gradient(w), theta, given, what=f"gradient: {what}")
    compare(cupy, lambda theta: population(theta).member(3), theta, what=f"member: {what}")


@pytest.mark.parametrize("name", ["hidden", "all", "in turns", "wide"])
@each_family
@each_kind
@every_mode
def test_small_networks(cupy, name, family, kind, flush):
    ours, _ = populations(name, family, kind, flush)
    options = {"size": 6, "sigma": ours.sigma, "seed": ours.seed, "generation": 5, "perturbation": ours.perturbation}
    everything(cupy, ours.net, *setting(name), f"{name}, {family}, {kind}, {flush}", **options)


# Kept on the chip; a layer at a time; more layers than travel with a launch.
LARGE = {
    "MNIST": ((784, 512, 512, 512, 10), [(2, 3)]),
    "wide": ((50, 1100, 1100, 1100, 10), [(2, 3)]),
    "deep": ((16, *(64,) * 30, 10), [range(2, 31)]),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("family", ["full", "lowrank3"])
def test_large_networks(cupy, name, family):
    sizes, tied = LARGE[name]
    net = fpes.LinearNetwork(sizes, tied=tied)
    rng = np.random.default_rng(0)
    x, y = rng.random((33, sizes[0]), np.float32), rng.integers(0, sizes[-1], 33)
    options = {"size": 6, "sigma": 0.1, "seed": 7, "perturbation": FAMILIES[family]("binomial")}
    everything(cupy, net, net.init(0), x, y, f"{name}, {family}", **options)


def test_training(cupy):
    """The device changes no bit of a run."""
    net = fpes.LinearNetwork([16, 64, 64, 64, 10], tied=[(2, 3)])
    runs = []
    for device in ("cpu", "cuda"):
        es = fpes.ES(net, net.init(1), size=64, sigma=0.1, perturbation=fpes.LowRank(2), seed=4, device=device)
        es.fit(fpes.datasets.load("digits"), steps=5, batch=64)
        runs.append(es.theta)
    oracle.assert_bitwise_equal(runs[1], runs[0])
