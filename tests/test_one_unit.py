"""Members that differ from the network in one unit's weights: bit for bit against their definition, and what their
directions promise.
"""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
from oracle.one_unit import RIDGE, OneUnitPopulation
from test_network import images, random_theta

import fpes

MODES = oracle.FLUSH_MODES
SIGMA, SEED, GENERATION = 0.4, 0xFEDCBA9876543210, 5
# Sizes, draws, blocks, groups of samples and samples of each, around vectors, panels, tiles of rows, and units and rows
# taken at a time.
CASES = {
    "three layers": ((13, 33, 17, 5), (1, 3, 2), 2, 2, 7),
    "one batch for several blocks": ((7, 18, 9, 4), (2, 1, 1), 4, 2, 5),
    "one layer": ((9, 7), (3,), 2, 1, 6),
    "two layers": ((9, 140, 12), (1, 2), 1, 1, 4),
    "many columns": ((5, 6, 130, 34), (1, 1, 1), 1, 1, 3),
    "five layers": ((6, 18, 19, 20, 21, 3), (1, 1, 1, 1, 1), 1, 1, 2),
    "one sample": ((6, 9, 8, 3), (1, 1, 1), 2, 2, 1),
    "many samples": ((5, 4, 3, 2), (1, 2, 1), 1, 1, 67),
    "many draws": ((5, 4, 3, 2), (16, 16, 16), 1, 1, 16),
}
each_case = pytest.mark.parametrize("case", CASES)
every_mode = pytest.mark.parametrize("flush", MODES)
both_directions = pytest.mark.parametrize("directions", ["span", "white"])


@functools.lru_cache
def setting(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(theta, x, labels), with weights large enough that activations come and go at the boundary."""
    sizes, _, _, groups, batch = CASES[case]
    rng = np.random.default_rng(batch)
    theta = random_theta(rng, oracle.Network(sizes))
    x = images(rng, groups * batch, sizes[0]).reshape(groups, batch, sizes[0])
    return theta, x, rng.integers(0, sizes[-1], (groups, batch)).astype(np.int32)


def population(case: str, directions: str = "span", flush: str = "boundary") -> fpes.Population:
    sizes, draws, blocks, _, _ = CASES[case]
    perturbation = fpes.OneUnit(directions, draws)
    return fpes.Population(
        fpes.LinearNetwork(sizes, flush=flush),
        setting(case)[0],
        size=blocks * perturbation.members(sizes),
        sigma=SIGMA,
        seed=SEED,
        generation=GENERATION,
        perturbation=perturbation,
    )


@functools.lru_cache
def reference(case: str, directions: str = "span", flush: str = "boundary") -> OneUnitPopulation:
    sizes, draws, _, _, _ = CASES[case]
    theta, x, _ = setting(case)
    network, size = oracle.Network(sizes, flush=flush), population(case, directions).size
    return OneUnitPopulation(network, theta, size, SIGMA, draws, x, directions == "span", SEED, GENERATION)


@functools.lru_cache
def expected_forward(case: str, directions: str, flush: str) -> np.ndarray:
    return reference(case, directions, flush).forward()


@each_case
@every_mode
@both_directions
def test_forward(isa, case, directions, flush):
    ours = population(case, directions, flush).forward(setting(case)[1])
    oracle.assert_bitwise_equal(
        ours, expected_forward(case, directions, flush), f"{case}, {directions}, {flush}, {isa}"
    )


def test_the_cases_perturb():
    """Some members change outputs on some samples, and not all do."""
    outputs = expected_forward("three layers", "span", "boundary")
    changed = (outputs[0::2] != outputs[1::2]).any(axis=2)
    assert 0.3 < changed.mean() < 0.95


@each_case
@both_directions
def test_fitness_is_that_of_the_outputs(isa, case, directions):
    ours, (_, x, labels) = population(case, directions), setting(case)
    outputs = ours.forward(x)
    each = ours.evaluate(x, labels, per_sample=True)
    batches = [labels[i * len(x) // len(outputs)] for i in range(len(outputs))]
    losses = -np.stack([oracle.cross_entropy(*pair) for pair in zip(outputs, batches, strict=True)])
    np.testing.assert_allclose(each, losses, rtol=1e-6, atol=1e-6)
    fitness = ours.evaluate(x, labels)
    oracle.assert_bitwise_equal(fitness, oracle.fitness(-each.values), f"{case}, {directions}, {isa}")
    oracle.assert_bitwise_equal(each.fitness, fitness.values)


@functools.lru_cache
def baseline_losses(case: str) -> np.ndarray:
    isa = fpes.get_isa()
    fpes.set_isa("baseline")
    try:
        return population(case).evaluate(*setting(case)[1:], per_sample=True).values
    finally:
        fpes.set_isa(isa)


@each_case
def test_losses_are_the_same_in_every_instruction_set(isa, case):
    losses = population(case).evaluate(*setting(case)[1:], per_sample=True)
    oracle.assert_bitwise_equal(losses.values, baseline_losses(case), f"{case}, {isa}")


def test_the_centre_is_evaluated_too(isa):
    ours, (theta, x, labels) = population("three layers"), setting("three layers")
    evaluation = ours.evaluate(x, labels)
    logits = ours.net(theta, x.reshape(-1, x.shape[-1])).reshape(*labels.shape, -1)
    expected = np.stack([oracle.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)])
    np.testing.assert_allclose(evaluation.centre_losses, expected, rtol=1e-6, atol=1e-6)


def test_samples_count_for_their_weights(isa):
    ours, (_, x, labels) = population("many samples"), setting("many samples")
    weights = np.random.default_rng(1).uniform(0.0, 3.0, labels.shape).astype(np.float32)
    losses = oracle.widen(-ours.evaluate(x, labels, per_sample=True).values)
    total = np.zeros(ours.size)
    for start in range(0, labels.shape[1], 64):
        block = np.zeros(ours.size)
        for b in range(start, min(start + 64, labels.shape[1])):
            block += float(weights[0, b]) * losses[:, b]
        total += block
    expected = oracle.to_float32(-(total / labels.shape[1]))
    oracle.assert_bitwise_equal(ours.evaluate(x, labels, sample_weights=weights).values, expected, isa)


@each_case
@both_directions
@pytest.mark.parametrize("shape", [fpes.centred_ranks, lambda fitness: fitness], ids=["ranks", "raw"])
def test_gradient(isa, case, directions, shape):
    for flush in ("boundary", "never"):
        ours, (_, x, labels) = population(case, directions, flush), setting(case)
        evaluation = ours.evaluate(x, labels)
        weights = shape(evaluation.values)
        expected = reference(case, directions, flush).gradient(weights)
        assert np.any(expected)
        got = ours.gradient(weights, evaluation)
        oracle.assert_bitwise_equal(got, expected, f"{case}, {directions}, {flush}, {isa}")


@each_case
@both_directions
def test_members_are_networks(isa, case, directions):
    """A member's parameters have the bits of the definition, and give nearly the population's outputs."""
    ours, (_, x, labels) = population(case, directions, "never"), setting(case)
    evaluation, outputs = ours.evaluate(x, labels), ours.forward(x)
    for i in range(0, ours.size, 5):
        theta = ours.member(i, evaluation)
        expected = reference(case, directions, "never").member(i)
        oracle.assert_bitwise_equal(theta, expected, f"{case}, {directions}, member {i}, {isa}")
        batch = x[i * len(x) // ours.size]
        np.testing.assert_allclose(ours.net(theta, batch), outputs[i], rtol=1e-4, atol=1e-4)


@both_directions
def test_nothing_depends_on_threads_or_chunks(isa, threads, directions):
    ours, (_, x, labels) = population("three layers", directions), setting("three layers")
    oracle.assert_bitwise_equal(ours.forward(x), expected_forward("three layers", directions, "boundary"))
    fitness = ours.evaluate(x, labels)
    gradient = ours.gradient(fitness)
    fpes.set_threads(1)
    for chunk in (2, 94, 190, ours.size):
        one = ours.evaluate(x, labels, chunk=chunk)
        oracle.assert_bitwise_equal(fitness.values, one.values, f"{threads} threads, chunk {chunk}")
        oracle.assert_bitwise_equal(fitness.centre_losses, one.centre_losses, f"{threads} threads, chunk {chunk}")
        oracle.assert_bitwise_equal(
            ours.forward(x, chunk=chunk), expected_forward("three layers", directions, "boundary")
        )
    oracle.assert_bitwise_equal(gradient, ours.gradient(fitness), f"{threads} threads")


# --- What directions promise ------------------------------------------------------------------------------------------


def changes_of(ours: fpes.Population, evaluation: fpes.Evaluation, layer: int) -> np.ndarray:
    """The + members' changes of a layer's weights in unit 0, draw by draw: [draws, fan_in]."""
    sizes, draws = ours.net.sizes, ours.perturbation.draws
    first = 2 * sum(d * n for d, n in zip(draws[:layer], sizes[1:], strict=False))
    members = [first + 2 * draw * sizes[layer + 1] for draw in range(draws[layer])]
    before = ours.net.unpack(ours.theta)[layer][0][:, 0]
    return np.stack([ours.net.unpack(ours.member(i, evaluation))[layer][0][:, 0] - before for i in members])


def test_a_complete_set_of_draws_spans_the_inputs():
    """As many orthogonal draws as samples: the sum of their outer products is the projector onto the span, times the
    number of draws and the squared factor.
    """
    rng = np.random.default_rng(0)
    net = fpes.LinearNetwork([40, 3], flush="never")
    x, y = rng.standard_normal((16, 40)).astype(np.float32), rng.integers(0, 3, 16)
    perturbation = fpes.OneUnit(draws=(16,))
    ours = fpes.Population(net, net.init(0), size=perturbation.members(net.sizes), sigma=0.5, perturbation=perturbation)
    changes = changes_of(ours, ours.evaluate(x, y), 0).astype(np.float64)
    wide = x.astype(np.float64)
    gram = wide @ wide.T
    ridge = RIDGE * np.trace(gram) / 16
    projector = wide.T @ np.linalg.inv(gram + ridge * np.eye(16)) @ wide
    factor = 0.5 / np.sqrt(np.trace(gram) / 16)
    np.testing.assert_allclose(changes.T @ changes / 16 / factor**2, projector, atol=2e-5)
    assert abs(np.trace(projector) - 16) < 0.1  # so the ridge takes little away


@pytest.mark.parametrize("directions", ["span", "white"])
def test_sigma_is_what_members_change_in_the_pre_activations(directions):
    """Root mean square over the batch, of each layer, up to the ridge."""
    rng = np.random.default_rng(3)
    sizes = (30, 40, 20, 5)
    perturbation = fpes.OneUnit(directions, (8, 8, 8))
    net = fpes.LinearNetwork(sizes, flush="never")
    x, y = rng.standard_normal((8, 30)).astype(np.float32), rng.integers(0, 5, 8)
    ours = fpes.Population(
        net, net.init(1), size=perturbation.members(sizes), sigma=SIGMA, perturbation=perturbation, seed=2
    )
    evaluation, h = ours.evaluate(x, y), x.astype(np.float64)
    for layer, (weight, _) in enumerate(net.unpack(ours.theta)):
        changes = h @ changes_of(ours, evaluation, layer).T.astype(np.float64)
        tolerance = 0.02 if directions == "span" else 0.3
        assert np.sqrt(np.mean(changes**2)) == pytest.approx(SIGMA, rel=tolerance), f"layer {layer}"
        h = h @ weight


@both_directions
def test_the_gradient_is_unbiased(directions):
    """Against the exact gradient of the mean loss, where nothing is flushed and the network is linear.

    In the span against what the ridge leaves of it. How far the mean of many may be off, their own spread says.
    """
    rng = np.random.default_rng(5)
    sizes, batch = (12, 10, 4), 8
    net = fpes.LinearNetwork(sizes, flush="never")
    theta = net.init(4)
    x, y = rng.standard_normal((batch, 12)).astype(np.float32), rng.integers(0, 4, batch)
    perturbation = fpes.OneUnit(directions, (2, 2))
    estimates = []
    for generation in range(60):
        ours = fpes.Population(
            net,
            theta,
            size=100 * perturbation.members(sizes),
            sigma=0.03,
            perturbation=perturbation,
            generation=generation,
        )
        estimates.append(ours.gradient(ours.evaluate(x, y)).astype(np.float64))
    exact = exact_gradient(net, theta, x.astype(np.float64), y, ridge=directions == "span")
    weights = np.concatenate([np.ones(120), np.zeros(10), np.ones(40), np.zeros(4)]) == 1
    mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(59)
    assert not np.any(mean[~weights])  # biases
    z = (mean - exact)[weights] / error[weights]
    assert np.abs(z).max() < 6.0
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.7  # all units share a direction, so it isn't the mean of so many
    assert np.linalg.norm((mean - exact)[weights]) < 0.05 * np.linalg.norm(exact)


def exact_gradient(net, theta, x, y, ridge: bool) -> np.ndarray:
    """Of the mean fitness, by the chain rule in double; with the ridge, what the span's estimate expects instead."""
    (w1, _), (w2, _) = ((w.astype(np.float64), b) for w, b in net.unpack(theta))
    h = x @ w1
    logits = h @ w2
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    d2 = (np.eye(4)[y] - probabilities) / len(y)
    result = np.zeros(net.parameters)
    layers = [(x, d2 @ w2.T), (h, d2)]
    views = [result[:120].reshape(12, 10), result[130:170].reshape(10, 4)]
    for (inputs, upstream), view in zip(layers, views, strict=True):
        gram = inputs @ inputs.T
        if ridge:
            upstream = np.linalg.solve(gram + RIDGE * np.trace(gram) / len(y) * np.eye(len(y)), gram @ upstream)
        view[...] = inputs.T @ upstream
    return result


def test_white_directions_take_large_batches(isa):
    """More samples than a Gram matrix is made for, and fewer units at a time."""
    net = fpes.LinearNetwork([5, 40, 3])
    perturbation = fpes.OneUnit("white")
    ours = fpes.Population(
        net, net.init(0) * 3, size=perturbation.members(net.sizes), sigma=0.3, perturbation=perturbation
    )
    rng = np.random.default_rng(2)
    x, y = rng.random((3001, 5), dtype=np.float32), rng.integers(0, 3, 3001)
    each = ours.evaluate(x, y, per_sample=True)
    oracle.assert_bitwise_equal(ours.evaluate(x, y), oracle.fitness(-each.values), isa)
    losses = -np.stack([oracle.cross_entropy(logits, y) for logits in ours.forward(x)])
    np.testing.assert_allclose(each, losses, rtol=1e-6, atol=1e-6)


# --- Degenerate batches, and what is refused --------------------------------------------------------------------------


def test_equal_samples_work():
    """The Gram matrix is singular, and the ridge takes care."""
    net = fpes.LinearNetwork([6, 5, 3])
    perturbation = fpes.OneUnit(draws=(4, 4))
    ours = fpes.Population(
        net, net.init(0) * 4, size=perturbation.members(net.sizes), sigma=0.3, perturbation=perturbation
    )
    x = np.tile(np.float32([0.5, 0.1, 0.9, 0.0, 0.3, 1.0]), (4, 1))
    evaluation = ours.evaluate(x, np.array([0, 0, 0, 0]))
    gradient = ours.gradient(evaluation)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)


def test_a_layer_without_inputs_is_left_alone():
    net = fpes.LinearNetwork([6, 5, 4, 3])
    theta = net.init(0)
    net.unpack(theta)[0][0][...] *= np.float32(1e-3)  # so the first layer's units are all flushed
    for directions in ("span", "white"):
        perturbation = fpes.OneUnit(directions)
        ours = fpes.Population(net, theta, size=perturbation.members(net.sizes), sigma=0.1, perturbation=perturbation)
        evaluation = ours.evaluate(np.eye(6, dtype=np.float32)[:4], np.array([0, 1, 2, 0]))
        gradient = net.unpack(ours.gradient(evaluation))
        assert np.isfinite(evaluation.values).all()
        assert not np.any(gradient[1][0])
        assert not np.any(gradient[2][0])
        oracle.assert_bitwise_equal(ours.member(10, evaluation), theta)  # of the second layer


def ours_of(**settings):
    net = fpes.LinearNetwork([6, 5, 3])
    perturbation = settings.get("perturbation", fpes.OneUnit())
    size = settings.get("size") or 2 * perturbation.members(net.sizes)
    return fpes.Population(net, net.init(0), size=size, sigma=0.1, perturbation=perturbation)


X, Y = np.zeros((3, 4, 6), np.float32), np.zeros((3, 4), np.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fpes.OneUnit("random"), "directions is 'random', expected 'span' or 'white'"),
        (lambda: ours_of(perturbation=fpes.OneUnit(draws=(1, 2, 3)), size=2), r"draws is \(1, 2, 3\), expected one"),
        (lambda: ours_of(perturbation=fpes.OneUnit(draws=(0, 1)), size=2), r"draws\[0\] is 0, expected 1 to"),
        (lambda: ours_of(size=20), r"size is 20, expected a multiple of 16: .* \(1 x 5, 1 x 3\)"),
        (lambda: ours_of().evaluate(X, Y), "x has 3 groups of samples, which don't divide the population's 16"),
        (
            lambda: ours_of().evaluate(np.zeros((4, 4, 6), np.float32), np.zeros((4, 4), np.int32)),
            "x has 4 groups of samples, expected a divisor of 2",
        ),
        (
            lambda: ours_of(perturbation=fpes.OneUnit(draws=(5, 1))).evaluate(X[0], Y[0]),
            r"draws is \(5, 1\), expected at most 4, the samples of a minibatch",
        ),
        (
            lambda: ours_of().evaluate(np.zeros((1025, 6), np.float32), np.zeros(1025, np.int32)),
            "x has 1025 samples in a minibatch, expected at most 1024",
        ),
        (
            lambda: ours_of().gradient(np.zeros(32, np.float32)),
            "the gradient of OneUnit depends on the batch: give the evaluation",
        ),
        (lambda: ours_of().member(0), "members of OneUnit depend on the batch: give the evaluation"),
        (lambda: ours_of().evaluate(X[0], Y[0], sample_weights=np.full(4, np.nan, np.float32)), "sample_weights has 4"),
        (lambda: ours_of().evaluate(X[0], Y[0], sample_weights=np.ones(3, np.float32)), "sample_weights has shape"),
        (
            lambda: ours_of(perturbation=fpes.FullRank(), size=2).evaluate(
                X[0], Y[0], sample_weights=np.ones(4, np.float32)
            ),
            "sample_weights are for OneUnit only",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_evaluation_belongs_to_its_population():
    ours, (_, x, labels) = population("three layers"), setting("three layers")
    other = population("three layers", "white").evaluate(x, labels)
    for call in (lambda: ours.member(0, other), lambda: ours.gradient(other)):
        with pytest.raises(ValueError, match="the evaluation is of another population: it has perturbation"):
            call()


def test_what_an_evaluation_holds_is_its_own():
    ours, (_, x, labels) = population("three layers"), setting("three layers")
    seen = x.copy()
    evaluation = ours.evaluate(seen, labels)
    expected = ours.gradient(evaluation), ours.member(3, evaluation)
    seen[...] = 0.0
    oracle.assert_bitwise_equal(ours.gradient(evaluation), expected[0])
    oracle.assert_bitwise_equal(ours.member(3, evaluation), expected[1])


# --- Training ---------------------------------------------------------------------------------------------------------


def trainer(**settings) -> fpes.ES:
    net = fpes.LinearNetwork([16, 64, 64, 10])
    perturbation = fpes.OneUnit(draws=(2, 4, 2))
    defaults = {"learning_rate": fpes.Cosine(0.01), "weight_decay": 0.02, "steps": 60}
    return fpes.ES(
        net,
        net.init(0),
        size=16 * perturbation.members(net.sizes),
        sigma=0.06,
        perturbation=perturbation,
        **(defaults | settings),
    )


FIT = {"batch": 16, "groups": 16, "importance": fpes.datasets.ImportanceSampling(1.0, 0.2)}


def test_it_learns_what_a_linear_network_cannot():
    data = fpes.datasets.load("digits")
    es = trainer(steps=500)
    es.fit(data, **FIT)
    assert fpes.losses.accuracy(es.net(es.theta, data.x_train), data.y_train) > 0.97
    linear = fpes.LinearNetwork(es.net.sizes, flush="never")
    assert fpes.losses.accuracy(linear(es.theta, data.x_train), data.y_train) < 0.95


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    data, path = fpes.datasets.load("digits"), tmp_path / "run.npz"
    whole = trainer()
    whole.fit(data, **FIT)

    class StopError(Exception):
        pass

    def stop(es):
        if es.generation == 23:
            es.save(path)
            raise StopError

    with pytest.raises(StopError):
        trainer().fit(data, after_step=stop, **FIT)
    rest = fpes.ES.load(path)
    assert rest.perturbation == fpes.OneUnit(draws=(2, 4, 2))
    rest.fit(data)
    oracle.assert_bitwise_equal(rest.theta, whole.theta)
    oracle.assert_bitwise_equal(rest.residuals, whole.residuals)


def test_tell_needs_the_evaluation():
    es = trainer()
    with pytest.raises(ValueError, match=r"the gradient of OneUnit\(.*\) needs the batch it belongs to"):
        es.tell(np.zeros(es.size, np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 3, "groups": 16}, r"draws is \(2, 4, 2\), expected at most 3, the samples of a minibatch"),
        (
            {"batch": 16, "groups": 32},
            "x has 32 groups of samples, expected a divisor of 16: the population has 16 blocks",
        ),
        ({"batch": 16, "groups": 7}, "groups is 7, expected a divisor of"),
    ],
)
def test_settings_of_a_run_that_are_refused(settings, message):
    es = trainer()
    with pytest.raises(ValueError, match=message):
        es.fit(fpes.datasets.load("digits"), **settings)
    assert es.generation == 0


@pytest.mark.filterwarnings("ignore::fpes.TrainingWarning")  # of dead layers, and of members that are all the same
@pytest.mark.parametrize("data", ["one image", "nothing but zeros"])
def test_a_run_on_degenerate_data(data):
    """Every minibatch is singular, or zero: the parameters stay finite, and zeros teach nothing."""
    digits = fpes.datasets.load("digits")
    x = np.tile(digits.x_train[:1], (300, 1)) if data == "one image" else np.zeros((300, 16), np.float32)
    y = np.full(300, digits.y_train[0], np.int32)
    es = trainer(steps=5, weight_decay=0.0)
    es.fit(fpes.datasets.Dataset(data, x, y, x[:9].copy(), y[:9].copy(), 10), **FIT)
    assert np.isfinite(es.theta).all()
    before = trainer().theta
    assert np.array_equal(es.theta, before) == (data == "nothing but zeros")


def test_minibatches_of_one_sample():
    net, perturbation = fpes.LinearNetwork([16, 64, 64, 10]), fpes.OneUnit()
    es = fpes.ES(
        net, net.init(0), size=16 * perturbation.members(net.sizes), sigma=0.06, perturbation=perturbation, steps=5
    )
    es.fit(fpes.datasets.load("digits"), batch=1, groups=16)
    assert np.isfinite(es.theta).all()
    assert not np.array_equal(es.theta, net.init(0))
