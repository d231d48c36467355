"""Node perturbation one layer at a time, evaluated incrementally: bit for bit against its definition."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.one_layer import OneLayerPopulation
from test_network import images, random_theta

import fpes

MODES = oracle.FLUSH_MODES
SIGMA, SEED, GENERATION = 0.3, 0xFEDCBA9876543210, 5
# Sizes, units and draws around panels, columns taken at a time, and tiles of samples.
CASES = {
    "sparse first layer": ((13, 33, 17, 5), (7, None, None), (2, 1, 1), 67),
    "sparse everywhere": ((13, 33, 17, 5), (5, 3, 2), (1, 2, 1), 5),
    "all units": ((9, 20, 7), (None, None), (1, 2), 65),
    "one layer": ((9, 7), (3,), (2,), 3),
    "two layers": ((9, 140, 12), (16, None), (1, 1), 4),
    "every unit chosen": ((9, 16, 6), (16, 6), (1, 1), 3),
    "many columns": ((5, 40, 270, 4), (8, None, None), (3, 1, 1), 2),
    "five layers": ((6, 18, 19, 20, 21, 3), (4, 4, 4, 4, 3), (1, 1, 1, 1, 1), 2),
}
each_case = pytest.mark.parametrize("case", CASES)
every_mode = pytest.mark.parametrize("flush", MODES)


@functools.lru_cache
def setting(sizes: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(theta, x, labels), with weights large enough that activations come and go at the boundary."""
    rng = np.random.default_rng(batch)
    theta = random_theta(rng, oracle.Network(sizes))
    return theta, images(rng, batch, sizes[0]), rng.integers(0, sizes[-1], batch).astype(np.int32)


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
        perturbation=fpes.NodePerturbation(noise=kind, allocation=fpes.OneLayer(units=units, pairs=draws)),
    )
    network = oracle.Network(sizes, flush=flush)
    reference = OneLayerPopulation(network, theta, size, SIGMA, units, draws, SEED, GENERATION, kind)
    return ours, reference, x, labels


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
    """Not all changes vanish at the boundary, and not all survive it."""
    _, reference, x, _ = populations("sparse first layer")
    before = reference.unperturbed(x)[1][0]
    perturbed = [
        reference.cross(0, np.float32(z) * np.float32(SIGMA) + reference.unperturbed(x)[0][0]) for z in (-1, 1)
    ]
    changed = np.mean([h != before for h in perturbed])
    assert 0.05 < changed < 0.95
    outputs = expected_forward("sparse first layer", "binomial", "boundary")
    assert np.mean(outputs[0] != outputs[1]) > 0.5


@each_case
def test_fitness_is_that_of_the_outputs(isa, case):
    ours, _, x, labels = populations(case)
    each = ours.evaluate(x, labels, per_sample=True)
    losses = -np.stack([oracle.cross_entropy(logits, labels) for logits in ours.forward(x)])
    np.testing.assert_allclose(each, losses, rtol=1e-6, atol=1e-6)
    oracle.assert_bitwise_equal(ours.evaluate(x, labels), oracle.fitness(-each))


@each_case
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradient(isa, case, per_sample):
    for flush in ("boundary", "never"):
        ours, reference, x, labels = populations(case, flush=flush)
        weights = ours.evaluate(x, labels, per_sample=per_sample)
        got, want = ours.gradient(weights), reference.gradient(x, weights)
        oracle.assert_bitwise_equal(got, want, f"{case}, {flush}, {isa}")


@pytest.mark.parametrize("case", ["sparse first layer", "five layers"])
def test_nothing_depends_on_threads_or_chunks(isa, threads, case):
    ours, _, x, labels = populations(case)
    oracle.assert_bitwise_equal(ours.forward(x), expected_forward(case, "binomial", "boundary"))
    fitness = ours.evaluate(x, labels, per_sample=True)
    gradient = ours.gradient(fitness)
    fpes.set_threads(1)
    oracle.assert_bitwise_equal(fitness, ours.evaluate(x, labels, per_sample=True, chunk=4), f"{threads} threads")
    oracle.assert_bitwise_equal(gradient, ours.gradient(fitness), f"{threads} threads")


def test_gaussian_noise_is_the_same_in_every_instruction_set(isa):
    ours, _, x, labels = populations("sparse first layer", kind="gaussian")
    fitness = ours.evaluate(x, labels, per_sample=True)
    outputs, gradient = ours.forward(x), ours.gradient(fitness)
    fpes.set_isa("baseline")
    oracle.assert_bitwise_equal(outputs, ours.forward(x), isa)
    oracle.assert_bitwise_equal(gradient, ours.gradient(fitness), isa)


@settings(max_examples=40, deadline=None)
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
        perturbation=fpes.NodePerturbation(allocation=fpes.OneLayer(units=units, pairs=draws)),
    )
    reference = OneLayerPopulation(oracle.Network(sizes, flush=flush), theta, size, SIGMA, units, draws)
    oracle.assert_bitwise_equal(ours.forward(x), reference.forward(x))
    weights = ours.evaluate(x, labels, per_sample=True)
    oracle.assert_bitwise_equal(ours.gradient(weights), reference.gradient(x, weights))


def test_positions_ascend_and_reach_every_unit():
    units = (16, None, None)
    reference = OneLayerPopulation(oracle.Network((4, 100, 6, 3)), np.zeros(1, np.float32), 2, 0.1, units, (1, 1, 1))
    chosen = np.stack([reference.positions(0, 0, sample) for sample in range(2000)])
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(chosen.ravel(), minlength=100)
    # Strata of 6 and 7 units: each unit is chosen with probability 1/6 or 1/7.
    assert counts.min() > 2000 / 7 * 0.75
    assert counts.max() < 2000 / 6 * 1.25


def test_one_number_of_units_is_for_the_layers_that_are_wider():
    net = fpes.LinearNetwork((5, 40, 8, 3))
    theta = net.init(0)
    x = images(np.random.default_rng(0), 3, 5)

    def outputs(units):
        noise = fpes.NodePerturbation(allocation=fpes.OneLayer(units=units))
        return fpes.Population(net, theta, size=6, sigma=SIGMA, perturbation=noise).forward(x)

    oracle.assert_bitwise_equal(outputs(8), outputs((8, None, None)))


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"units": (4, None)}, 6, r"units is \(4, None\), expected one number for each of the 3 layers"),
        ({"units": (41, None, None)}, 6, r"units\[0\] is 41, expected 1 to 40"),
        ({"units": 0}, 6, "units is 0, expected 1"),
        ({"pairs": (1, 2)}, 6, r"pairs is \(1, 2\), expected one number for each of the 3 layers"),
        ({"pairs": (1, 0, 2)}, 6, r"pairs\[1\] is 0, expected 1"),
        ({"units": 4, "pairs": (2, 1, 1)}, 12, r"size is 12, expected a multiple of 8.*\(2, 1, 1\)"),
    ],
)
def test_what_does_not_fit_the_network(options, size, message):
    net = fpes.LinearNetwork((5, 40, 8, 3))
    noise = fpes.NodePerturbation(allocation=fpes.OneLayer(**options))
    with pytest.raises(ValueError, match=message):
        fpes.Population(net, net.init(0), size=size, sigma=SIGMA, perturbation=noise)


def test_units_that_are_no_number():
    net = fpes.LinearNetwork((5, 40, 8, 3))
    noise = fpes.NodePerturbation(allocation=fpes.OneLayer(units=2.5))
    with pytest.raises(TypeError, match=r"units is 2\.5, expected an integer"):
        fpes.Population(net, net.init(0), size=6, sigma=SIGMA, perturbation=noise)


def test_the_gradient_needs_an_evaluation():
    ours, _, _, _ = populations("two layers")
    with pytest.raises(ValueError, match="needs a batch: give it the evaluation"):
        ours.gradient(np.zeros(ours.size, np.float32))
