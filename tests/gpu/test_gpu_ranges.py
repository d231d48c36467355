"""On a GPU: parts of a population, and of its gradient, have the bits of the CPU backend."""

from __future__ import annotations

import oracle
import pytest
from test_ranges import EXACT, ONE_UNIT, PERTURBATIONS, ranges, setting

import fpes

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", [*PERTURBATIONS, *ONE_UNIT])
def test_parts_on_a_gpu(name):
    import cupy

    population, x, y = setting(name, groups=2)
    there = fpes.Population(
        population.net,
        cupy.asarray(population.theta),
        size=population.size,
        sigma=population.sigma,
        perturbation=population.perturbation,
        seed=population.seed,
        generation=population.generation,
    )
    x_there, y_there = cupy.asarray(x), cupy.asarray(y)
    whole = population.evaluate(x, y)
    parts = []
    for pairs in ranges(population, (0, 5, 6, 19, 24)):
        part = there.evaluate(x_there, y_there, pairs=pairs)
        oracle.assert_bitwise_equal(part.values.get(), whole.values[2 * pairs[0] : 2 * pairs[1]], f"{name}, {pairs}")
        floats = there.partial_gradient(cupy.asarray(whole.values), part, pairs=pairs)
        oracle.assert_bitwise_equal(floats.get(), population.partial_gradient(whole, pairs=pairs), f"{name}, {pairs}")
        if name in EXACT:
            weights = fpes.centred_ranks(whole.values)
            parts.append(there.partial_gradient(cupy.asarray(weights), pairs=pairs))
    if name in EXACT:
        oracle.assert_bitwise_equal(there.joined_gradient(parts).get(), population.gradient(weights), name)
