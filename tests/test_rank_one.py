"""Low rank one layer at a time, evaluated incrementally: bit for bit against its definition."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.rank_one import RankOnePopulation
from test_one_layer import CASES, GENERATION, MODES, SEED, each_case, every_mode, setting

import fpes

SIGMA = 0.2


def populations(case, kind="binomial", flush="boundary", rounds=2):
    """Ours, the reference, and the batch."""
    sizes, units, draws, batch = CASES[case]
    theta, x, labels = setting(sizes, batch)
    size = 2 * rounds * sum(draws)
    ours = fpes.Population(
        fpes.LinearNetwork(sizes, flush=flush),
        theta,
        size=size,
        sigma=SIGMA,
        seed=SEED,
        generation=GENERATION,
        perturbation=fpes.LowRank(noise=kind, allocation=fpes.OneLayer(units=units, pairs=draws)),
    )
    network = oracle.Network(sizes, flush=flush)
    return (
        ours,
        RankOnePopulation(network, theta, size, SIGMA, units, draws, SEED, GENERATION, kind),
        x,
        labels,
    )


@functools.lru_cache
def expected_forward(case, kind, flush):
    _, reference, x, _ = populations(case, kind, flush)
    return reference.forward(x)


@each_case
@every_mode
@pytest.mark.parametrize("kind", ["binomial", "rademacher"])
def test_forward(isa, case, flush, kind):
    ours, _, x, _ = populations(case, kind, flush)
    oracle.assert_bitwise_equal(ours.forward(x), expected_forward(case, kind, flush), f"{case}, {kind}, {flush}, {isa}")


def test_the_cases_perturb():
    """Outputs differ between the members of a pair and between pairs, and not everywhere."""
    outputs = expected_forward("sparse first layer", "binomial", "boundary")
    assert 0.5 < np.mean(outputs[0] != outputs[1]) <= 1.0
    assert np.mean(outputs[0] != outputs[2]) > 0.5


@each_case
def test_members_are_networks(isa, case):
    """A member's parameters have the bits of the definition, and give nearly the population's outputs."""
    ours, reference, x, _ = populations(case, flush="never")
    outputs = ours.forward(x)
    for i in range(ours.size):
        theta = ours.member(i)
        oracle.assert_bitwise_equal(theta, reference.member(i), f"{case}, member {i}, {isa}")
        np.testing.assert_allclose(ours.net(theta, x), outputs[i], rtol=2e-3, atol=2e-3)


@each_case
@pytest.mark.parametrize("shape", [fpes.centred_ranks, lambda fitness: fitness], ids=["ranks", "raw"])
def test_gradient(isa, case, shape):
    ours, reference, x, labels = populations(case)
    weights = shape(ours.evaluate(x, labels))
    oracle.assert_bitwise_equal(ours.gradient(weights), reference.weights_gradient(weights), f"{case}, {isa}")


@pytest.mark.parametrize("case", ["sparse first layer", "five layers"])
def test_nothing_depends_on_threads_or_chunks(isa, threads, case):
    ours, _, x, labels = populations(case)
    oracle.assert_bitwise_equal(ours.forward(x), expected_forward(case, "binomial", "boundary"))
    fitness = ours.evaluate(x, labels)
    gradient = ours.gradient(fitness)
    fpes.set_threads(1)
    oracle.assert_bitwise_equal(fitness, ours.evaluate(x, labels, chunk=4), f"{threads} threads")
    oracle.assert_bitwise_equal(gradient, ours.gradient(fitness), f"{threads} threads")


def test_gaussian_noise_is_the_same_in_every_instruction_set(isa):
    ours, _, x, labels = populations("sparse first layer", kind="gaussian")
    outputs, gradient = ours.forward(x), ours.gradient(ours.evaluate(x, labels))
    fpes.set_isa("baseline")
    oracle.assert_bitwise_equal(outputs, ours.forward(x), isa)
    oracle.assert_bitwise_equal(gradient, ours.gradient(ours.evaluate(x, labels)), isa)


def test_each_group_has_its_own_minibatch(isa):
    ours, _, _, _ = populations("sparse first layer")
    sizes, _, _, batch = CASES["sparse first layer"]
    _, x, _ = setting(sizes, 2 * batch)
    outputs = ours.forward(x.reshape(2, batch, -1))
    half = ours.size // 2
    oracle.assert_bitwise_equal(outputs[:half], ours.forward(x[:batch])[:half], isa)
    oracle.assert_bitwise_equal(outputs[half:], ours.forward(x[batch:])[half:], isa)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_network(data):
    depth = data.draw(st.integers(1, 4), label="depth")
    sizes = tuple(data.draw(st.lists(st.integers(1, 40), min_size=depth + 1, max_size=depth + 1), label="sizes"))
    units = tuple(data.draw(st.one_of(st.none(), st.integers(1, width))) for width in sizes[1:])
    draws = tuple(data.draw(st.integers(1, 3)) for _ in range(depth))
    batch = data.draw(st.integers(1, 5), label="batch")
    flush = data.draw(st.sampled_from(MODES), label="flush")
    theta, x, labels = setting(sizes, batch)
    size = 2 * sum(draws)
    ours = fpes.Population(
        fpes.LinearNetwork(sizes, flush=flush),
        theta,
        size=size,
        sigma=SIGMA,
        perturbation=fpes.LowRank(allocation=fpes.OneLayer(units=units, pairs=draws)),
    )
    reference = RankOnePopulation(oracle.Network(sizes, flush=flush), theta, size, SIGMA, units, draws)
    oracle.assert_bitwise_equal(ours.forward(x), reference.forward(x))
    weights = fpes.centred_ranks(ours.evaluate(x, labels))
    oracle.assert_bitwise_equal(ours.gradient(weights), reference.weights_gradient(weights))


def test_the_estimate_is_the_gradient():
    """On a linear network the mean of many estimates is the closed-form gradient of a linear fitness."""
    net = fpes.LinearNetwork((6, 8, 3), flush="never")
    theta, x = net.init(3), np.random.default_rng(3).random((4, 6)).astype(np.float32)
    direction = np.random.default_rng(4).standard_normal(3).astype(np.float32)
    population = fpes.Population(
        net,
        theta,
        size=60_000,
        sigma=0.1,
        perturbation=fpes.LowRank(allocation=fpes.OneLayer((4, None), (2, 1))),
    )
    fitness = np.ascontiguousarray((population.forward(x) @ direction).mean(axis=1))
    (w1, _), (w2, _) = net.unpack(theta)
    got = net.unpack(population.gradient(fitness))
    want = [np.outer(x.mean(axis=0), w2 @ direction), np.outer((x @ w1).mean(axis=0), direction)]
    for (weight, bias), expected in zip(got, want, strict=True):
        error = np.linalg.norm(weight - expected) / np.linalg.norm(expected)
        assert error < 0.1
        assert (bias == 0.0).all()


def test_rank_two_is_refused():
    with pytest.raises(ValueError, match="rank is 2, expected 1 where each pair perturbs one layer"):
        fpes.LowRank(rank=2, allocation=fpes.OneLayer(units=4))


def test_draws_must_fit_the_population():
    net = fpes.LinearNetwork((5, 40, 3))
    with pytest.raises(ValueError, match="size is 8, expected a multiple of 6"):
        fpes.Population(
            net, net.init(0), size=8, sigma=SIGMA, perturbation=fpes.LowRank(allocation=fpes.OneLayer(pairs=(2, 1)))
        )
