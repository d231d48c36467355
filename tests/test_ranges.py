"""Populations in parts: ranges of pairs give the bits of the whole, and exact sums add up to its gradient."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import shim_backend
from test_network import random_theta

import fpes

SIZES, BATCH, SIZE = (13, 17, 9, 5), 24, 48
PERTURBATIONS = {
    "full": fpes.FullRank(),
    "full-rademacher": fpes.FullRank(noise="rademacher"),
    "low": fpes.LowRank(rank=3),
    "low-one-layer": fpes.LowRank(allocation=fpes.OneLayer(pairs=(1, 2, 1), units=4)),
    "node": fpes.NodePerturbation(),
    "node-one-layer": fpes.NodePerturbation(allocation=fpes.OneLayer(pairs=(1, 2, 1), units=4)),
}
ONE_UNIT = {
    "one-unit": fpes.OneUnit(draws=(1, 1, 1)),
    "one-unit-white": fpes.OneUnit(draws=(1, 1, 1), directions="white"),
}
EXACT = ["full", "full-rademacher", "low", "low-one-layer"]
SPLITS = [(0, 24), (0, 1, 24), (0, 5, 6, 19, 24)]
each_perturbation = pytest.mark.parametrize("name", [*PERTURBATIONS, *ONE_UNIT])
each_split = pytest.mark.parametrize("split", SPLITS, ids=str)


def setting(name: str, groups: int = 1, size: int = SIZE, blocks: int = 2):
    """(population, x, labels); so many blocks of one unit."""
    rng = np.random.default_rng(7)
    perturbation = (PERTURBATIONS | ONE_UNIT)[name]
    if name in ONE_UNIT:
        size = perturbation.members(SIZES) * blocks
    theta = random_theta(rng, oracle.Network(SIZES))
    net = fpes.LinearNetwork(SIZES)
    population = fpes.Population(net, theta, size=size, sigma=0.1, perturbation=perturbation, seed=3, generation=9)
    shape = (groups, BATCH) if groups > 1 else (BATCH,)
    x = rng.random((*shape, SIZES[0]), np.float32)
    return population, x, rng.integers(0, SIZES[-1], shape)


def ranges(population: fpes.Population, split) -> list[tuple[int, int]]:
    """The split, stretched to the population's number of pairs."""
    edges = [edge * (population.size // 2) // split[-1] for edge in split]
    return list(itertools.pairwise(edges))


@each_perturbation
@each_split
@pytest.mark.parametrize("groups", [1, 2])
def test_parts_of_an_evaluation_are_those_of_the_whole(name, split, groups):
    population, x, y = setting(name, groups)
    whole = population.evaluate(x, y, per_sample=True)
    outputs = population.forward(x)
    for pairs in ranges(population, split):
        members = slice(2 * pairs[0], 2 * pairs[1])
        part = population.evaluate(x, y, pairs=pairs, per_sample=True, chunk=4)
        assert part.pairs == pairs
        oracle.assert_bitwise_equal(part.values, whole.values[members], f"{name}, {pairs}")
        oracle.assert_bitwise_equal(population.evaluate(x, y, pairs=pairs).values, whole.fitness[members])
        oracle.assert_bitwise_equal(population.forward(x, pairs=pairs), outputs[members])
        by_function = population.evaluate(x, y, lambda out, y: out.mean(axis=(1, 2)), pairs=pairs)
        oracle.assert_bitwise_equal(by_function.values, outputs[members].mean(axis=(1, 2)))


@each_perturbation
@pytest.mark.parametrize("groups", [1, 2])
def test_fitness_put_together_is_the_evaluation(name, groups):
    population, x, y = setting(name, groups)
    whole = population.evaluate(x, y)
    parts = [population.evaluate(x, y, pairs=pairs).values for pairs in ranges(population, SPLITS[2])]
    together = population.evaluated(x, np.concatenate(parts), y)
    oracle.assert_bitwise_equal(together.values, whole.values)
    oracle.assert_bitwise_equal(population.gradient(together), population.gradient(whole))
    if name in ONE_UNIT:
        oracle.assert_bitwise_equal(together.centre_losses, whole.centre_losses)
        oracle.assert_bitwise_equal(population.member(3, together), population.member(3, whole))


@pytest.mark.parametrize("name", EXACT)
@each_split
def test_exact_sums_add_up_to_the_gradient(isa, name, split):
    population, _, _ = setting(name)
    for largest in (1, 47, 2**21, 2**40):
        weights = np.random.default_rng(largest).integers(-largest, largest + 1, SIZE)
        parts = [population.partial_gradient(weights, pairs=pairs) for pairs in ranges(population, split)]
        assert all(part.dtype == np.int64 for part in parts)
        expected = population.gradient(weights)
        oracle.assert_bitwise_equal(population.joined_gradient(parts), expected, f"{name}, {largest}, {isa}")
        oracle.assert_bitwise_equal(population.joined_gradient(parts[::-1]), expected)
        oracle.assert_bitwise_equal(population.joined_gradient([sum(parts)]), expected)


def test_exact_sums_are_integers_of_the_noise():
    population, _, _ = setting("full")
    weights = np.random.default_rng(0).integers(-9, 10, SIZE)
    sums = population.partial_gradient(weights, pairs=(3, 5))
    first = fpes.noise("binomial", 3, layer=0, role="weight", pair=3, generation=9, count=20)
    second = fpes.noise("binomial", 3, layer=0, role="weight", pair=4, generation=9, count=20)
    expected = (weights[6] - weights[7]) * first.astype(int) + (weights[8] - weights[9]) * second.astype(int)
    np.testing.assert_array_equal(sums[:20], expected)


@each_perturbation
@each_split
def test_sums_of_floats_have_a_fixed_order(name, split):
    """Parts are added in order; the whole as one range is the gradient itself."""
    population, x, y = setting(name, groups=2)
    fitness = population.evaluate(x, y)
    parts = [population.partial_gradient(fitness, pairs=pairs) for pairs in ranges(population, split)]
    assert all(part.dtype == np.float32 for part in parts)
    whole, joined = population.gradient(fitness), population.joined_gradient(parts)
    in_order = np.zeros(len(whole))
    for part in parts:
        in_order += part
    oracle.assert_bitwise_equal(joined, in_order.astype(np.float32), name)
    np.testing.assert_allclose(joined, whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    if len(parts) == 1:
        oracle.assert_bitwise_equal(joined, whole, name)


@pytest.mark.parametrize("name", ["node", "node-one-layer", "one-unit"])
def test_a_range_needs_no_more_than_its_own_evaluation(name):
    population, x, y = setting(name, groups=2)
    whole = population.evaluate(x, y)
    for pairs in ranges(population, SPLITS[2]):
        part = population.evaluate(x, y, pairs=pairs)
        expected = population.partial_gradient(whole.values, whole, pairs=pairs)
        oracle.assert_bitwise_equal(population.partial_gradient(whole.values, part, pairs=pairs), expected, name)


class Preparations:
    """The groups that a backend prepares; and memory that it gives out is full of NaN, not of earlier results."""

    def __init__(self, monkeypatch, population: fpes.Population):
        self.groups: list[tuple[int, int]] = []
        kind = type(population._backend)
        prepare, empty = kind.prepare_units, kind.empty

        def noted(backend, population, batch, state, groups):
            self.groups.append(groups)
            prepare(backend, population, batch, state, groups)

        def full(backend, shape, dtype=np.float32):
            array = empty(backend, shape, dtype)
            array[...] = np.nan if np.dtype(dtype).kind == "f" else -1
            return array

        monkeypatch.setattr(kind, "prepare_units", noted)
        monkeypatch.setattr(kind, "empty", full)

    def take(self) -> list[tuple[int, int]]:
        groups, self.groups = self.groups, []
        return groups


# 6 blocks of 31 pairs in 3 groups: groups begin at pairs 62 and 124.
RANGES_OF_GROUPS = {(0, 1): (0, 1), (61, 63): (0, 2), (62, 124): (1, 2), (70, 185): (1, 3), (140, 160): (2, 3)}


@pytest.mark.parametrize("name", ONE_UNIT)
@pytest.mark.parametrize(("pairs", "groups"), RANGES_OF_GROUPS.items(), ids=str)
def test_a_range_prepares_its_own_groups(monkeypatch, name, pairs, groups):
    population, x, y = setting(name, groups=3, blocks=6)
    whole, outputs = population.evaluate(x, y), population.forward(x)
    weights = whole.values
    gradient, member = population.gradient(whole), population.member(7, whole)
    partial = population.partial_gradient(weights, whole, pairs=pairs)

    prepared, members = Preparations(monkeypatch, population), slice(2 * pairs[0], 2 * pairs[1])
    oracle.assert_bitwise_equal(population.forward(x, pairs=pairs), outputs[members])
    part = population.evaluate(x, y, pairs=pairs)
    oracle.assert_bitwise_equal(part.values, weights[members])
    assert prepared.take() == [groups, groups]

    oracle.assert_bitwise_equal(population.partial_gradient(weights, part, pairs=pairs), partial)
    oracle.assert_bitwise_equal(population.member(7, part), member)
    prepared.take()
    together = population.evaluated(x, weights, y, part=part)
    assert sorted({*range(3)} - {*range(*groups)}) == [g for some in prepared.take() for g in range(*some)]
    oracle.assert_bitwise_equal(population.gradient(together), gradient)
    oracle.assert_bitwise_equal(together.centre_losses, whole.centre_losses)
    assert prepared.take() == []


@pytest.mark.parametrize("name", ["full", "node-one-layer", "one-unit"])
@each_split
def test_a_function_is_called_for_each_group_of_a_range(name, split):
    """It couldn't tell which members belong to which targets; of all members it can."""
    population, x, y = setting(name, groups=2)
    outputs, calls = population.forward(x), []

    def right(outputs, y):
        calls.append((len(outputs), y.shape))
        each = outputs.reshape(len(y), -1, *outputs.shape[1:])
        return np.take_along_axis(each, y[:, None, :, None], axis=3).reshape(outputs.shape[:2])

    expected = np.stack(
        [[out[b, label] for b, label in enumerate(y[2 * i // len(outputs)])] for i, out in enumerate(outputs)]
    )
    oracle.assert_bitwise_equal(population.evaluate(x, y, right).values, expected)
    assert calls == [(population.size, (2, BATCH))]
    for begin, end in ranges(population, split):
        part = population.evaluate(x, y, right, pairs=(begin, end))
        oracle.assert_bitwise_equal(part.values, expected[2 * begin : 2 * end], f"{name}, {begin}, {end}")
    if len(split) > 2:
        assert {shape for _, shape in calls[1:]} == {(1, BATCH)}
    seen = []
    anything = population.evaluate(
        x, seen, lambda outputs, y: y.append(len(outputs)) or outputs[:, 0, 0], pairs=(1, 20)
    )
    assert seen == [38] == [len(anything)]  # y that isn't of groups stays what it is


def test_a_part_without_losses_of_the_centre_gives_an_evaluation_that_has_them():
    population, x, y = setting("one-unit", groups=2)
    whole = population.evaluate(x, y)
    part = population.evaluate(x, y, lambda outputs, y: outputs.mean(axis=(1, 2)), pairs=(0, 5))
    assert part.centre_losses is None
    oracle.assert_bitwise_equal(population.evaluated(x, whole.values, y, part=part).centre_losses, whole.centre_losses)
    part = population.evaluate(x, y, pairs=(0, 5))
    assert population.evaluated(x, whole.values, part=part).centre_losses is None


@shim_backend.needs_shim
@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_parts_on_the_cuda_kernels(name, reverse):
    population, x, y = setting(name, groups=2)
    weights = np.random.default_rng(0).integers(-47, 48, SIZE).astype(np.int32)
    with shim_backend.device(reverse=reverse, floats_at_a_time=2**12):
        kernels = shim_backend.ShimPopulation(population)
        evaluation = population.evaluate(x, y)
        kernels.evaluate(x, y)
        for pairs in ranges(population, SPLITS[2]):
            if name in EXACT:
                sums = kernels.gradient_sums(weights, pairs)
                np.testing.assert_array_equal(sums, population.partial_gradient(weights, pairs=pairs))
            floats = evaluation.values
            expected = population.partial_gradient(floats, evaluation, pairs=pairs)
            oracle.assert_bitwise_equal(kernels.gradient(floats, pairs), expected, f"{name}, {pairs}")
        if name in EXACT:
            sums = population.partial_gradient(weights, pairs=(0, SIZE // 2))
            oracle.assert_bitwise_equal(kernels.scale_sums(sums), population.gradient(weights), name)


def test_refusals():
    population, x, y = setting("full")
    for pairs in [(0, 25), (-1, 3), (3, 3), (24, 24)]:
        with pytest.raises(ValueError, match=r"pairs\[[01]\] is .*, expected"):
            population.evaluate(x, y, pairs=pairs)
    with pytest.raises(TypeError, match=r"pairs is 3, expected a tuple \(begin, end\)"):
        population.forward(x, pairs=3)
    part = population.evaluate(x, y, pairs=(0, 5))
    for call in (population.gradient, lambda part: population.partial_gradient(part, pairs=(4, 6))):
        with pytest.raises(ValueError, match=r"the evaluation is of pairs \(0, 5\), expected one of pairs"):
            call(part)
    with pytest.raises(ValueError, match="parts is empty"):
        population.joined_gradient([])
    with pytest.raises(TypeError, match="parts have dtypes float32, int64, expected all int64 or all float32"):
        population.joined_gradient([np.zeros(1, np.float32), np.zeros(1, np.int64)])
    with pytest.raises(ValueError, match=r"parts has shape \(1,\)"):
        population.joined_gradient([np.zeros(1, np.int64)])
    with pytest.raises(ValueError, match="add up to more than 64 bits hold"):
        setting("low")[0].partial_gradient(np.tile([2**53, -(2**53)], SIZE // 2), pairs=(0, 1))


def test_a_part_is_not_told():
    net = fpes.LinearNetwork(SIZES)
    es = fpes.ES(net, net.init(0), size=SIZE, sigma=0.1)
    x, y = setting("full")[1:]
    with pytest.raises(ValueError, match=r"the evaluation is of pairs \(0, 7\), expected one of pairs \(0, 24\)"):
        es.tell(es.ask().evaluate(x, y, pairs=(0, 7)))
    assert es.generation == 0
