"""Tied layers on a device, without one: the CUDA kernels on the host shim give the bits of the CPU backend.

test_tied.py compares those with the oracle.
"""

from __future__ import annotations

import fake_cupy
import numpy as np
import oracle
import pytest
import shim_backend
from cuda_double import host, install, on_gpu, shim
from test_cuda_shim import H100, TURING, check_population
from test_tied import FAMILIES, NETWORKS, each_family, each_kind, each_network, every_mode, populations, setting

import fpes

pytestmark = shim_backend.needs_shim


@each_network
@every_mode
@pytest.mark.parametrize("shared", [H100, TURING])
def test_forward(name, flush, shared):
    net, (theta, x, _) = populations(name, "full", flush=flush)[0].net, setting(name)
    for reverse in (False, True):
        with shim_backend.device(reverse, shared):
            oracle.assert_bitwise_equal(shim_backend.net_forward(net, theta, x), net(theta, x), f"{name}, {flush}")


@each_network
@each_family
@each_kind
@every_mode
def test_outputs_and_fitness(name, family, kind, flush):
    """In one launch, and a layer at a time on a device with little shared memory."""
    ours, _ = populations(name, family, kind, flush)
    _, x, y = setting(name)
    gpu = shim_backend.ShimPopulation(ours)
    for reverse, shared, launches in ((False, H100, "one launch"), (True, TURING, "a launch for each layer")):
        with shim_backend.device(reverse, shared):
            assert launches in gpu.plan(x)
            check_population(ours, gpu, x[:9], y[:9], f"{name}, {family}, {kind}, {flush}")


@pytest.mark.parametrize("family", ["full", "lowrank3"])
def test_more_layers_than_travel_with_a_launch(family):
    net = fpes.LinearNetwork((5, *(6,) * 30, 4), tied=[range(2, 31)])
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 5), np.float32), np.array([0, 3, 2], np.int32)
    ours = fpes.Population(net, net.init(0), size=4, sigma=0.1, perturbation=FAMILIES[family]("binomial"))
    gpu = shim_backend.ShimPopulation(ours)
    assert "a launch for each layer" in gpu.plan(x)
    check_population(ours, gpu, x, y, family)


@each_network
@each_family
@each_kind
def test_members_and_gradients(name, family, kind):
    ours, _ = populations(name, family, kind)
    gpu = shim_backend.ShimPopulation(ours)
    rng = np.random.default_rng(1)
    for reverse in (False, True):
        with shim_backend.device(reverse):
            for index in (0, 5):
                oracle.assert_bitwise_equal(gpu.member(index), ours.member(index), f"{name}, {family}, {kind}")
            for weights in (rng.integers(-2000, 2000, 6).astype(np.int32), rng.standard_normal(6).astype(np.float32)):
                want = ours.gradient(weights)
                oracle.assert_bitwise_equal(gpu.gradient(weights), want, f"{name}, {family}, {kind}, {weights.dtype}")


@each_network
@each_family
def test_ranges_and_groups(name, family, monkeypatch):
    """Called as a GPU would be."""
    install(monkeypatch, shim())
    ours, _ = populations(name, family, size=18)
    there = fpes.Population(
        ours.net,
        on_gpu(ours.theta),
        size=ours.size,
        sigma=ours.sigma,
        perturbation=ours.perturbation,
        seed=ours.seed,
        generation=ours.generation,
    )
    _, x, y = setting(name)
    count = len(x) // 3
    x, y = x[: 3 * count].reshape(3, count, -1), y[: 3 * count].reshape(3, count)
    whole = ours.evaluate(x, y)
    weights, parts = fpes.centred_ranks(whole.values), []
    for pairs in ((0, 2), (2, 7), (7, 9)):
        part = there.evaluate(on_gpu(x), on_gpu(y), pairs=pairs)
        oracle.assert_bitwise_equal(host(part.values), whole.values[2 * pairs[0] : 2 * pairs[1]], f"{name}, {pairs}")
        parts.append(there.partial_gradient(on_gpu(weights), pairs=pairs))
    oracle.assert_bitwise_equal(host(there.joined_gradient(parts)), ours.gradient(weights), name)
    assert not fake_cupy.state.waits, "the host waited for the device"


def test_other_perturbations_are_refused():
    """Before anything is put on the device."""
    net = fpes.LinearNetwork(NETWORKS["hidden"][0], tied=NETWORKS["hidden"][1])
    with pytest.raises(ValueError, match=r"net ties layers \(2, 3\)"):
        fpes.Population(net, net.init(0), size=2, sigma=0.1, perturbation=fpes.NodePerturbation())


def test_a_generation_of_training(monkeypatch):
    """The device changes no bit of a run."""
    install(monkeypatch, shim())
    net = fpes.LinearNetwork([16, 12, 12, 12, 10], tied=[(2, 3)])
    data = fpes.datasets.load("digits")
    runs = []
    for device in ("cpu", "cuda"):
        es = fpes.ES(net, net.init(1), size=8, sigma=0.1, perturbation=fpes.LowRank(2), seed=4, device=device)
        es.fit(data, steps=2, batch=16)
        runs.append(es)
    oracle.assert_bitwise_equal(runs[1].theta, runs[0].theta)
