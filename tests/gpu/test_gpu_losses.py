"""On a GPU: every loss has the bits of the CPU backend, in every family of perturbations."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from test_losses import LOSSES, MODES, PERTURBATIONS, targets_for
from test_network import images, random_theta

import fpes

pytestmark = pytest.mark.gpu

# (sizes, groups, batch): a narrow last layer and a wide one, in one launch; layers that fit no chip; many outputs.
NETWORKS = {
    "narrow": ((33, 65, 34, 11), 1, 130),
    "wide": ((13, 17, 9, 40), 2, 67),
    "a launch for each layer": ((20, 3000, 6, 7), 1, 33),
    "many outputs": ((20, 30, 12, 1000), 1, 9),
}


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def populations(cupy, network: str, family: str, flush: str):
    """The same population on the CPU and on the GPU, and x."""
    sizes, groups, batch = NETWORKS[network]
    rng, perturbation = np.random.default_rng(batch), PERTURBATIONS[family]
    net, theta = fpes.LinearNetwork(sizes, flush=flush), random_theta(rng, oracle.Network(sizes))
    each = perturbation.members(sizes) if isinstance(perturbation, fpes.OneUnit) else 8
    options = {"size": groups * each, "sigma": 0.3, "seed": 2**63 + 7, "perturbation": perturbation}
    x = images(rng, groups * batch, sizes[0]).reshape(groups, batch, sizes[0])
    there = fpes.Population(net, cupy.asarray(theta), **options)
    return fpes.Population(net, theta, **options), there, x if groups > 1 else x[0]


@pytest.mark.parametrize("flush", MODES)
@pytest.mark.parametrize("family", PERTURBATIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_losses_and_fitness(cupy, network, family, flush):
    cpu, gpu, x = populations(cupy, network, family, flush)
    for loss in LOSSES:
        y = targets_for(loss, np.random.default_rng(0), x.shape[:-1], cpu.net.classes)
        want = cpu.evaluate(x, y, loss, per_sample=True)
        got = gpu.evaluate(cupy.asarray(x), cupy.asarray(y), loss, per_sample=True)
        oracle.assert_bitwise_equal(cupy.asnumpy(got.values), want.values, f"{loss}: losses")
        got = gpu.evaluate(cupy.asarray(x), cupy.asarray(y), loss)
        oracle.assert_bitwise_equal(cupy.asnumpy(got.values), want.fitness, f"{loss}: fitness")


@pytest.mark.parametrize("loss", LOSSES)
def test_one_network(cupy, loss):
    cpu, gpu, x = populations(cupy, "narrow", "full", "boundary")
    y = targets_for(loss, np.random.default_rng(0), x.shape[:-1], cpu.net.classes)
    want = fpes.loss(cpu.net, cpu.theta, x, y, loss, per_sample=True)
    there = (gpu.net, gpu.theta, cupy.asarray(x), cupy.asarray(y), loss)
    oracle.assert_bitwise_equal(cupy.asnumpy(fpes.loss(*there, per_sample=True)), want)
    assert fpes.loss(*there) == fpes.loss(cpu.net, cpu.theta, x, y, loss)
    assert fpes.metric(*there) == fpes.metric(cpu.net, cpu.theta, x, y, loss)
