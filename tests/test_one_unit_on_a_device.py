"""OneUnit's CUDA kernels, run on the CPU by the host shim and called as a GPU would be: the bits of the CPU backend.

test_one_unit.py compares those with the definition.
"""

from __future__ import annotations

import fake_cupy
import numpy as np
import oracle
import pytest
import shim_backend
from cuda_double import host, install, on_gpu, shim
from test_network import images, random_theta
from test_one_unit import each_case, every_mode, population, setting

import fpes

both_directions = pytest.mark.parametrize("directions", ["span", "white"])
# Bytes of shared memory that a block may have: the last isn't enough for many rows at a time.
SHARED = {"H100": 232448, "Turing": 65536, "little": 40 * 1024}


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    install(monkeypatch, shim())
    yield
    assert not fake_cupy.state.waits, "the host waited for the device"


def on_device(cpu: fpes.Population) -> fpes.Population:
    """The same population there."""
    return fpes.Population(
        cpu.net,
        on_gpu(cpu.theta),
        size=cpu.size,
        sigma=cpu.sigma,
        perturbation=cpu.perturbation,
        seed=cpu.seed,
        generation=cpu.generation,
    )


def check(cpu: fpes.Population, x: np.ndarray, labels: np.ndarray, what: str) -> None:
    """Outputs, losses, fitness, centre, gradients and members."""
    gpu, there, classes = on_device(cpu), on_gpu(x), on_gpu(labels)
    oracle.assert_bitwise_equal(host(gpu.forward(there)), cpu.forward(x), f"outputs: {what}")
    weights = np.random.default_rng(3).uniform(0.0, 2.0, labels.shape).astype(np.float32)
    for sample_weights in (None, weights):
        settings = {} if sample_weights is None else {"sample_weights": on_gpu(sample_weights)}
        expected = cpu.evaluate(x, labels, sample_weights=sample_weights, per_sample=True)
        each = gpu.evaluate(there, classes, per_sample=True, **settings)
        oracle.assert_bitwise_equal(host(each.values), expected.values, f"losses: {what}")
        oracle.assert_bitwise_equal(host(each.fitness), expected.fitness, f"fitness beside losses: {what}")
        fitness = gpu.evaluate(there, classes, **settings)
        oracle.assert_bitwise_equal(host(fitness.values), expected.fitness, f"fitness: {what}")
        oracle.assert_bitwise_equal(host(fitness.centre_losses), expected.centre_losses, f"centre: {what}")
    ranks = fpes.centred_ranks(expected.fitness)
    for shaped in (expected.fitness, ranks):
        got = gpu.gradient(on_gpu(shaped), fitness)
        oracle.assert_bitwise_equal(host(got), cpu.gradient(shaped, expected), f"gradient: {what}")
    for i in {0, 1, cpu.size // 2, cpu.size - 1}:
        got = gpu.member(i, fitness)
        oracle.assert_bitwise_equal(host(got), cpu.member(i, expected), f"member {i}: {what}")


@each_case
@every_mode
@both_directions
def test_everything(case, flush, directions):
    with shim_backend.device(reverse=flush == "always"):
        check(population(case, directions, flush), *setting(case)[1:], f"{case}, {directions}, {flush}")


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("reverse", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("case", ["three layers", "many columns", "five layers"])
def test_devices(case, shared, reverse):
    """Little shared memory, little memory at a time, and threads in both orders."""
    for floats_at_a_time in (2**25, 2**10):
        with shim_backend.device(reverse, SHARED[shared], floats_at_a_time=floats_at_a_time):
            check(population(case), *setting(case)[1:], f"{case}, {shared}, {floats_at_a_time}")


def test_activations_that_fit_no_block():
    """A layer so wide that four rows of it are more than shared memory holds."""
    sizes, rng = (3, 5, 1300, 2), np.random.default_rng(0)
    perturbation = fpes.OneUnit()
    cpu = fpes.Population(
        fpes.LinearNetwork(sizes),
        random_theta(rng, oracle.Network(sizes)),
        size=perturbation.members(sizes),
        sigma=0.4,
        perturbation=perturbation,
    )
    with shim_backend.device(shared=SHARED["little"], floats_at_a_time=2**17):
        check(cpu, images(rng, 3, 3), np.array([0, 1, 1]), "wide")


def test_more_units_than_a_block_has_and_more_samples_than_a_tile():
    sizes, rng = (40, 70, 12, 4), np.random.default_rng(1)
    perturbation = fpes.OneUnit(draws=(2, 3, 1))
    cpu = fpes.Population(
        fpes.LinearNetwork(sizes),
        random_theta(rng, oracle.Network(sizes)),
        size=perturbation.members(sizes),
        sigma=0.4,
        perturbation=perturbation,
    )
    check(cpu, images(rng, 35, 40), rng.integers(0, 4, 35), "many units and samples")


@both_directions
def test_a_population_may_be_taken_in_parts(directions):
    cpu, (_, x, labels) = population("three layers", directions), setting("three layers")
    gpu, expected = on_device(cpu), cpu.evaluate(x, labels)
    for chunk in (2, 94, cpu.size):
        fitness = gpu.evaluate(on_gpu(x), on_gpu(labels), chunk=chunk)
        oracle.assert_bitwise_equal(host(fitness.values), expected.values, f"chunk {chunk}")
        oracle.assert_bitwise_equal(host(fitness.centre_losses), expected.centre_losses, f"chunk {chunk}")


def test_a_layer_without_inputs_and_equal_samples():
    net = fpes.LinearNetwork([6, 5, 4, 3])
    theta = net.init(0) * 3
    perturbation = fpes.OneUnit(draws=(2, 2, 2))
    for scale, x in (
        (1e-3, np.eye(6, dtype=np.float32)[:4]),
        (1.0, np.tile(np.float32([[0.5, 0, 1, 1, 0, 0.2]]), (4, 1))),
    ):
        moved = theta.copy()
        net.unpack(moved)[0][0][...] *= np.float32(scale)  # so the first layer's units are all flushed, or aren't
        cpu = fpes.Population(net, moved, size=perturbation.members(net.sizes), sigma=0.3, perturbation=perturbation)
        check(cpu, x, np.array([0, 1, 2, 0]), f"scale {scale}")


def test_what_only_the_values_tell_is_nan():
    """Nothing waits on a GPU to look at labels and integer weights."""
    cpu, (_, x, labels) = population("three layers"), setting("three layers")
    gpu = on_device(cpu)
    wrong = labels.copy()
    wrong[0, 0] = 7
    fitness = host(gpu.evaluate(on_gpu(x), on_gpu(wrong)).values)
    assert np.isnan(fitness[: cpu.size // 2]).all()
    assert np.isfinite(fitness[cpu.size // 2 :]).all()
    weights = np.zeros(cpu.size, np.int64)
    weights[3] = 2**40
    assert np.isnan(host(gpu.gradient(on_gpu(weights), gpu.evaluate(on_gpu(x), on_gpu(labels))))).all()


def test_layers_beyond_what_a_launch_carries_are_refused():
    sizes = [3] * 27
    net, perturbation = fpes.LinearNetwork(sizes), fpes.OneUnit()
    cpu = fpes.Population(net, net.init(0), size=perturbation.members(sizes), sigma=0.1, perturbation=perturbation)
    with pytest.raises(ValueError, match="the network has 26 layers, expected at most 24 for one-unit populations"):
        on_device(cpu).evaluate(on_gpu(np.ones((2, 3), np.float32)), on_gpu(np.array([0, 1])))


def test_training_on_a_device_has_the_bits_of_the_cpu():
    data = fpes.datasets.load("digits")
    settings = {"batch": 8, "groups": 2, "importance": fpes.datasets.ImportanceSampling(1.0, 0.2)}
    runs: list[fpes.ES] = []
    for device in ("cpu", "cuda"):
        net, perturbation = fpes.LinearNetwork([16, 12, 9, 10]), fpes.OneUnit(draws=(2, 4, 2))
        es = fpes.ES(
            net,
            net.init(0),
            size=2 * perturbation.members(net.sizes),
            sigma=0.1,
            perturbation=perturbation,
            steps=3,
            device=device,
        )
        es.fit(data, **settings)
        runs.append(es)
    oracle.assert_bitwise_equal(runs[1].theta, runs[0].theta)
    oracle.assert_bitwise_equal(runs[1].residuals, runs[0].residuals)
    fake_cupy.state.waits.clear()  # the state of a run is the host's
