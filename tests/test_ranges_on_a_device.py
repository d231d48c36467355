"""Populations in parts on a device, without one: the CUDA kernels on the host shim, the bits of the CPU."""

from __future__ import annotations

import fake_cupy
import numpy as np
import oracle
import pytest
import shim_backend
from cuda_double import host, install, on_gpu, shim
from test_ranges import EXACT, ONE_UNIT, PERTURBATIONS, RANGES_OF_GROUPS, Preparations, ranges, setting

import fpes

SPLIT = (0, 5, 6, 19, 24)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    install(monkeypatch, shim())


def on_device(population: fpes.Population) -> fpes.Population:
    """The same population there."""
    return fpes.Population(
        population.net,
        on_gpu(population.theta),
        size=population.size,
        sigma=population.sigma,
        perturbation=population.perturbation,
        seed=population.seed,
        generation=population.generation,
    )


@pytest.mark.parametrize("name", [*PERTURBATIONS, *ONE_UNIT])
def test_parts_on_a_device(name):
    population, x, y = setting(name, groups=2)
    there = on_device(population)
    x_there, y_there = on_gpu(x), on_gpu(y.astype(np.int32))
    whole, outputs = population.evaluate(x, y), population.forward(x)
    fitness = []
    for pairs in ranges(population, SPLIT):
        members = slice(2 * pairs[0], 2 * pairs[1])
        part = there.evaluate(x_there, y_there, pairs=pairs)
        fitness.append(host(part.values))
        oracle.assert_bitwise_equal(fitness[-1], whole.values[members], f"{name}, {pairs}")
        oracle.assert_bitwise_equal(host(there.forward(x_there, pairs=pairs)), outputs[members], name)
        floats = there.partial_gradient(on_gpu(whole.values), part, pairs=pairs)
        oracle.assert_bitwise_equal(host(floats), population.partial_gradient(whole, pairs=pairs), f"{name}, {pairs}")
    together = there.evaluated(x_there, on_gpu(np.concatenate(fitness)), y_there)
    oracle.assert_bitwise_equal(host(there.gradient(together)), population.gradient(whole), name)
    if name in EXACT:
        weights = fpes.centred_ranks(whole.values)
        parts = [there.partial_gradient(on_gpu(weights), pairs=pairs) for pairs in ranges(population, SPLIT)]
        assert all(isinstance(part, fake_cupy.ndarray) and part.dtype == np.int64 for part in parts)
        oracle.assert_bitwise_equal(host(there.joined_gradient(parts)), population.gradient(weights), name)


@pytest.mark.parametrize("floats_at_a_time", [2**25, 2**10])
@pytest.mark.parametrize("name", ONE_UNIT)
def test_a_range_prepares_its_own_groups(monkeypatch, name, floats_at_a_time):
    """With so little memory at a time that a group's matrices come after each other, too."""
    population, x, y = setting(name, groups=3, blocks=6)
    there, x_there, y_there = on_device(population), on_gpu(x), on_gpu(y.astype(np.int32))
    whole = population.evaluate(x, y)
    prepared = Preparations(monkeypatch, there)
    for pairs, groups in RANGES_OF_GROUPS.items():
        with shim_backend.device(reverse=pairs[0] == 0, floats_at_a_time=floats_at_a_time):
            part = there.evaluate(x_there, y_there, pairs=pairs)
            assert prepared.take() == [groups]
            oracle.assert_bitwise_equal(host(part.values), whole.values[2 * pairs[0] : 2 * pairs[1]], f"{pairs}")
            together = there.evaluated(x_there, on_gpu(whole.values), y_there, part=part)
            assert sorted({*range(3)} - {*range(*groups)}) == [g for some in prepared.take() for g in range(*some)]
            oracle.assert_bitwise_equal(host(there.gradient(together)), population.gradient(whole), f"{pairs}")
            oracle.assert_bitwise_equal(host(together.centre_losses), whole.centre_losses, f"{pairs}")
            oracle.assert_bitwise_equal(host(there.member(7, part)), population.member(7, whole), f"{pairs}")
            prepared.take()
