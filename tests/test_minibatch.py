"""A minibatch for each group of members, and evaluation in chunks: the same bits as group by group."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from test_network import images, random_theta

import fpes

SIZES, BATCH = (13, 33, 17, 5), 67
FAMILIES = {
    "full": fpes.FullRank(),
    "lowrank": fpes.LowRank(2),
    "node": fpes.NodePerturbation(),
    "one layer": fpes.NodePerturbation(allocation=fpes.OneLayer(units=(7, None, None), pairs=(2, 1, 1))),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
SIZE, GROUPS = 48, 3


def population(family: str, size: int = SIZE) -> fpes.Population:
    theta = random_theta(np.random.default_rng(1), oracle.Network(SIZES))
    net = fpes.LinearNetwork(SIZES)
    return fpes.Population(net, theta, size=size, sigma=0.3, seed=5, perturbation=FAMILIES[family])


def minibatches(groups: int = GROUPS) -> tuple[np.ndarray, np.ndarray]:
    """x [groups, batch, features] and labels [groups, batch]."""
    rng = np.random.default_rng(2)
    x = images(rng, groups * BATCH, SIZES[0]).reshape(groups, BATCH, SIZES[0])
    return x, rng.integers(0, SIZES[-1], (groups, BATCH))


def group_by_group(evaluate, groups: int = GROUPS) -> np.ndarray:
    """Each group's members of a population that saw that group's batch only."""
    per_group = SIZE // groups
    return np.concatenate([evaluate(g)[g * per_group : (g + 1) * per_group] for g in range(groups)])


@each_family
def test_each_group_sees_its_own_minibatch(isa, threads, family):
    pop, (x, y) = population(family), minibatches()
    each = [pop.evaluate(x[g], y[g]) for g in range(GROUPS)]
    assert np.unique(np.stack(each)[:, 0]).size == GROUPS
    oracle.assert_bitwise_equal(pop.evaluate(x, y), group_by_group(lambda g: each[g]), f"{family}, {isa}")
    outputs = group_by_group(lambda g: pop.forward(x[g]))
    oracle.assert_bitwise_equal(pop.forward(x), outputs, f"{family}, {isa}")


@each_family
def test_fitness_of_each_sample(isa, family):
    pop, (x, y) = population(family), minibatches()
    got = pop.evaluate(x, y, per_sample=True)
    assert got.shape == (SIZE, BATCH)
    oracle.assert_bitwise_equal(got, group_by_group(lambda g: pop.evaluate(x[g], y[g], per_sample=True)), family)


@each_family
@pytest.mark.parametrize("chunk", [2, 6, 14, 46, 48, 1000])
def test_chunks_change_no_bits(family, chunk):
    pop, (x, y) = population(family), minibatches()
    oracle.assert_bitwise_equal(pop.evaluate(x, y, chunk=chunk), pop.evaluate(x, y))
    oracle.assert_bitwise_equal(pop.forward(x[0], chunk=chunk), pop.forward(x[0]))


@pytest.mark.parametrize("family", ["node", "one layer"])
def test_the_gradient_is_the_mean_of_the_groups(family):
    """Each group is a population by itself, of a third of the members."""
    pop, (x, y) = population(family), minibatches()
    weights = pop.evaluate(x, y, per_sample=True)
    means = []
    for g in range(GROUPS):
        alone = np.zeros((SIZE, BATCH), np.float32)
        members = slice(g * SIZE // GROUPS, (g + 1) * SIZE // GROUPS)
        alone[members] = weights[members]
        means.append(pop.gradient(alone, pop.evaluate(x[g], y[g])).astype(np.float64))
    np.testing.assert_allclose(pop.gradient(weights), np.sum(means, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["node", "one layer"])
def test_the_gradient_does_not_depend_on_threads(isa, threads, family):
    pop, (x, y) = population(family), minibatches()
    weights = pop.evaluate(x, y, per_sample=True)
    got = pop.gradient(weights)
    fpes.set_threads(1)
    oracle.assert_bitwise_equal(got, pop.gradient(weights), f"{threads} threads, {isa}")


def test_groups_that_do_not_divide_the_pairs():
    x, y = minibatches(5)
    with pytest.raises(ValueError, match=r"x has 5 groups.*24 antithetic pairs"):
        population("full").evaluate(x, y)


def test_labels_of_another_shape():
    x, y = minibatches()
    with pytest.raises(ValueError, match=r"y has shape \(201,\), expected \[3, 67\]"):
        population("full").evaluate(x, y.ravel())


@pytest.mark.parametrize("chunk", [0, -2, 3])
def test_chunks_that_are_none(chunk):
    x, y = minibatches()
    with pytest.raises(ValueError, match=f"chunk is {chunk}, expected"):
        population("full").evaluate(x, y, chunk=chunk)
