"""Losses, to the bit, on every instruction set; that populations of every family have them; and metrics."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import images, random_theta

import fpes
from fpes import losses
from fpes._backends import CPU, Targets

MODES = oracle.FLUSH_MODES
LOSSES = tuple(losses.LOSSES)
# Batches and outputs around the edges of vectors, panels and blocks of samples.
BATCHES = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 130)
OUTPUTS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 70)
SIZES, BATCH = (9, 20, 13, 6), 37
PERTURBATIONS = {
    "full": fpes.FullRank(),
    "low rank": fpes.LowRank(3),
    "node": fpes.NodePerturbation(),
    "one layer": fpes.NodePerturbation(allocation=fpes.OneLayer(units=(7, None, None), pairs=(2, 1, 1))),
    "one layer, low rank": fpes.LowRank(allocation=fpes.OneLayer(units=5, pairs=(2, 1, 1))),
    "one unit, span": fpes.OneUnit(draws=(2, 1, 1)),
    "one unit, white": fpes.OneUnit("white", draws=(1, 2, 1)),
}
each_loss = pytest.mark.parametrize("loss", LOSSES)
every_mode = pytest.mark.parametrize("flush", MODES)
every_family = pytest.mark.parametrize("family", PERTURBATIONS)


def elementary(name: str):
    """exp or log, which test_elementary.py compares with the mathematics; the portable one, in IEEE mode."""

    def function(x):
        x, out = np.ascontiguousarray(x), np.empty_like(x)
        fpes._cpu.elementary(name, "baseline", False, x.ctypes.data, out.ctypes.data, x.size)
        return out

    return function


# Of the losses whose bits it can give: float32 [...] from outputs, targets, and whether operations flush.
ORACLES = {
    "squared_error": oracle.squared_error,
    "binary_cross_entropy": functools.partial(
        oracle.binary_cross_entropy, exp=elementary("exp"), log=elementary("log")
    ),
}


def expected_of(loss: str, outputs, targets, flush: str) -> np.ndarray:
    """What the oracle says."""
    return ORACLES[loss](outputs, targets, flush != "never")


def losses_of(outputs, targets, loss: str, flush: str = "boundary") -> np.ndarray:
    out = np.empty(len(outputs), np.float32)
    CPU.losses(flush, np.ascontiguousarray(outputs), Targets(loss, targets), out)
    return out


def targets_for(loss: str, rng, shape: tuple[int, ...], outputs: int) -> np.ndarray:
    """Labels; numbers; labels of which a third are soft."""
    if loss == "cross_entropy":
        return rng.integers(0, outputs, shape).astype(np.int32)
    if loss == "binary_cross_entropy":
        soft = rng.random((*shape, outputs))
        return np.where(soft < 0.33, soft, soft < 0.6).astype(np.float32)
    return rng.standard_normal((*shape, outputs)).astype(np.float32)


def wild(rng, rows: int, count: int) -> np.ndarray:
    """Outputs of every size: squares and products near 2^-126, zeros of both signs, some that overflow."""
    exponents = rng.choice([-140, -126, -63, -20, -2, 0, 2, 6, 70], (rows, count))
    v = np.ldexp(rng.uniform(-2, 2, (rows, count)), exponents).astype(np.float32)
    v[rng.random((rows, count)) < 0.1] = 0.0
    return np.where(rng.random((rows, count)) < 0.5, oracle.negate(v), v)


# --- The losses themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES[1:])
@every_mode
def test_bits_of_ordinary_outputs(isa, loss, flush):
    rng = np.random.default_rng(1)
    for rows in BATCHES:
        for count in OUTPUTS[rows % 3 :: 3]:
            outputs = (3 * rng.standard_normal((rows, count))).astype(np.float32)
            targets = targets_for(loss, rng, (rows,), count)
            want = expected_of(loss, outputs, targets, flush)
            oracle.assert_bitwise_equal(losses_of(outputs, targets, loss, flush), want, f"[{rows}, {count}], {isa}")


@pytest.mark.parametrize("loss", LOSSES[1:])
@every_mode
def test_bits_of_wild_outputs(isa, loss, flush):
    rng = np.random.default_rng(2)
    outputs = wild(rng, 400, 5)
    targets = targets_for(loss, rng, (400,), 5)
    if loss != "binary_cross_entropy":
        targets = np.where(rng.random(targets.shape) < 0.5, wild(rng, 400, 5), targets)
    want = expected_of(loss, outputs, targets, flush)
    oracle.assert_bitwise_equal(losses_of(outputs, targets, loss, flush), want, f"{flush}, {isa}")


@every_mode
def test_cross_entropy_is_the_same_in_every_instruction_set(isa, flush):
    rng = np.random.default_rng(3)
    for rows in BATCHES:
        for count in OUTPUTS[rows % 3 :: 3]:
            outputs = (3 * rng.standard_normal((rows, count))).astype(np.float32)
            labels = targets_for("cross_entropy", rng, (rows,), count)
            fpes.set_isa(isa)
            got = losses_of(outputs, labels, "cross_entropy", flush)
            np.testing.assert_allclose(got, oracle.cross_entropy(outputs, labels), rtol=2e-5, atol=2e-6)
            fpes.set_isa("baseline")
            oracle.assert_bitwise_equal(got, losses_of(outputs, labels, "cross_entropy", flush), isa)


def test_binary_cross_entropy_is_near_the_mathematics(isa):
    """To an absolute 1e-6, or a relative one where it is large; and it never overflows."""
    rng = np.random.default_rng(4)
    v = np.concatenate([rng.uniform(-90, 90, 4000), np.ldexp(1.0, np.arange(-140, 127)), [0.0]])
    v = np.concatenate([v, -v]).astype(np.float32)[:, None]
    t = targets_for("binary_cross_entropy", rng, (len(v),), 1)
    wide, target = v.astype(np.float64)[:, 0], t.astype(np.float64)[:, 0]
    exact = np.maximum(wide, 0) - wide * target + np.log1p(np.exp(-np.abs(wide)))
    got = losses_of(v, t, "binary_cross_entropy")
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-6)


def test_what_is_no_number_or_no_probability_gives_nan(isa):
    """As on a GPU, where nobody looks at targets before."""
    for loss, outputs, targets in (
        ("squared_error", [0.0, np.nan], [0.0, 0.0]),
        ("squared_error", [0.0, 0.0], [np.nan, 0.0]),
        ("binary_cross_entropy", [np.nan, 1.0], [1.0, 0.0]),
        ("binary_cross_entropy", [1.0, 1.0], [0.0, np.nan]),
        ("binary_cross_entropy", [1.0, 1.0], [0.0, 1.0001]),
        ("binary_cross_entropy", [1.0, 1.0], [-1e-30, 1.0]),
    ):
        rows = np.zeros((5, 2), np.float32)
        numbers = np.zeros((5, 2), np.float32)
        rows[3], numbers[3] = outputs, targets
        got = losses_of(rows, numbers, loss)
        assert np.isnan(got).tolist() == [False, False, False, True, False], (loss, outputs, targets, isa)


def test_python_and_cpp_know_the_same_losses():
    assert list(fpes._cpu.Loss.__members__) == list(LOSSES)
    assert all(losses.loss_named(name).name == name for name in LOSSES)


# --- Populations -----------------------------------------------------------------------------------------------------


@functools.lru_cache
def setting(sizes: tuple[int, ...], shape: tuple[int, ...], loss: str):
    """(theta, x, targets)."""
    rng = np.random.default_rng(sum(sizes))
    theta = random_theta(rng, oracle.Network(sizes))
    x = images(rng, int(np.prod(shape)), sizes[0]).reshape(*shape, sizes[0])
    return theta, x, targets_for(loss, rng, shape, sizes[-1])


def population(family: str, sizes=SIZES, flush: str = "boundary", groups: int = 1) -> fpes.Population:
    perturbation = PERTURBATIONS[family]
    one_unit = isinstance(perturbation, fpes.OneUnit)
    size = groups * (perturbation.members(sizes) if one_unit else 8)
    theta = setting(sizes, (BATCH,), LOSSES[0])[0]
    net = fpes.LinearNetwork(sizes, flush=flush)
    return fpes.Population(net, theta, size=size, sigma=0.4, perturbation=perturbation, seed=2**63 + 5, generation=3)


def expected_losses(pop: fpes.Population, x, y, loss: str) -> np.ndarray:
    """Those of the outputs of each member: [size, batch]."""
    outputs = pop.forward(x)
    groups = y[None] if x.ndim == 2 else y
    each = len(outputs) // len(groups)
    return np.stack([losses_of(o, groups[i // each], loss, pop.net.flush) for i, o in enumerate(outputs)])


@every_family
@each_loss
@every_mode
def test_fitness_is_that_of_the_outputs(isa, family, loss, flush):
    pop, (_, x, y) = population(family, flush=flush), setting(SIZES, (BATCH,), loss)
    want = expected_losses(pop, x, y, loss)
    each = pop.evaluate(x, y, loss, per_sample=True)
    oracle.assert_bitwise_equal(each.losses, want, f"{family}, {flush}, {isa}")
    oracle.assert_bitwise_equal(pop.evaluate(x, y, loss).values, oracle.fitness(want), f"{family}, {flush}, {isa}")
    if each.centre_losses is not None:
        centre = fpes.loss(pop.net, pop.theta, x, y, loss, per_sample=True)
        oracle.assert_bitwise_equal(each.centre_losses[0], centre, "centre")


@every_family
@pytest.mark.parametrize("loss", LOSSES[1:])
def test_nothing_depends_on_threads_chunks_or_ranges(isa, threads, family, loss):
    pop, (_, x, y) = population(family, groups=2), setting(SIZES, (BATCH,), loss)
    got = pop.evaluate(x, y, loss, per_sample=True, chunk=6).values
    half = pop.size // 4
    parts = [pop.evaluate(x, y, loss, per_sample=True, pairs=p).values for p in ((0, half), (half, pop.size // 2))]
    fpes.set_threads(1)
    want = pop.evaluate(x, y, loss, per_sample=True).values
    oracle.assert_bitwise_equal(got, want, f"{threads} threads")
    oracle.assert_bitwise_equal(np.concatenate(parts), want, "ranges")


@every_family
@each_loss
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_groups(isa, family, loss, batch):
    if batch == 1 and isinstance(PERTURBATIONS[family], fpes.OneUnit):
        batch = 2  # as many as there are draws
    pop, (_, x, y) = population(family, groups=2), setting(SIZES, (2, batch), loss)
    want = expected_losses(pop, x, y, loss)
    oracle.assert_bitwise_equal(pop.evaluate(x, y, loss, per_sample=True).losses, want, f"{family}, {isa}")
    oracle.assert_bitwise_equal(pop.evaluate(x, y, loss).values, oracle.fitness(want), f"{family}, {isa}")


@each_loss
@pytest.mark.parametrize("family", ["one unit, span", "one unit, white"])
def test_samples_count_for_their_weights(isa, family, loss):
    pop, (_, x, y) = population(family), setting(SIZES, (BATCH,), loss)
    weights = np.random.default_rng(5).uniform(0, 2, BATCH).astype(np.float32)
    each = pop.evaluate(x, y, loss, per_sample=True).losses.astype(np.float64)
    got = pop.evaluate(x, y, loss, sample_weights=weights)
    np.testing.assert_allclose(got, -(each * weights).mean(axis=1), rtol=1e-6)


@every_family
@pytest.mark.parametrize("loss", LOSSES[1:])
def test_an_evaluation_in_parts_has_the_centre_too(family, loss):
    pop, (_, x, y) = population(family), setting(SIZES, (BATCH,), loss)
    whole = pop.evaluate(x, y, loss)
    put_together = pop.evaluated(x, whole.values.copy(), y, loss)
    oracle.assert_bitwise_equal(pop.gradient(put_together), pop.gradient(whole))
    if whole.centre_losses is not None:
        oracle.assert_bitwise_equal(put_together.centre_losses, whole.centre_losses)


def random_perturbation(data, sizes):
    kind = data.draw(st.sampled_from(["full", "low rank", "node", "one unit"]), label="family")
    if kind == "low rank":
        return fpes.LowRank(data.draw(st.integers(1, 3), label="rank"))
    return {"full": fpes.FullRank, "node": fpes.NodePerturbation, "one unit": fpes.OneUnit}[kind]()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_network(data):
    depth = data.draw(st.integers(1, 3), label="depth")
    sizes = tuple(data.draw(st.lists(st.integers(1, 40), min_size=depth + 1, max_size=depth + 1), label="sizes"))
    batch, loss = data.draw(st.integers(1, 20), label="batch"), data.draw(st.sampled_from(LOSSES), label="loss")
    flush = data.draw(st.sampled_from(MODES), label="flush")
    perturbation = random_perturbation(data, sizes)
    size = perturbation.members(sizes) if isinstance(perturbation, fpes.OneUnit) else 4
    theta, x, y = setting(sizes, (batch,), loss)
    net = fpes.LinearNetwork(sizes, flush=flush)
    pop = fpes.Population(net, theta, size=size, sigma=0.3, perturbation=perturbation)
    before = fpes.get_isa()
    try:
        fpes.set_isa(data.draw(st.sampled_from(fpes.supported_isas()), label="isa"))
        got = pop.evaluate(x, y, loss, per_sample=True)
        outputs = pop.forward(x)
    finally:
        fpes.set_isa(before)
    if loss == "cross_entropy":
        np.testing.assert_allclose(got.losses, oracle.cross_entropy(outputs, y), rtol=2e-5, atol=2e-6)
    else:
        oracle.assert_bitwise_equal(got.losses, expected_of(loss, outputs, y, flush))
    oracle.assert_bitwise_equal(got.fitness, oracle.fitness(got.losses))


# --- One network -----------------------------------------------------------------------------------------------------


@each_loss
def test_the_loss_of_one_theta_has_the_populations_bits(isa, threads, loss):
    pop, (_, x, y) = population("full"), setting(SIZES, (130,), loss)
    fitness = pop.evaluate(x, y, loss).values
    for i in range(3):
        assert np.float32(-fpes.loss(pop.net, pop.member(i), x, y, loss)) == fitness[i]
    each = fpes.loss(pop.net, pop.member(1), x, y, loss, per_sample=True)
    oracle.assert_bitwise_equal(each, pop.evaluate(x, y, loss, per_sample=True).losses[1])


def outputs_of(values) -> tuple[fpes.LinearNetwork, np.ndarray, np.ndarray]:
    """(net, theta, x) whose outputs are these values."""
    values = np.asarray(values, np.float32)
    n = values.shape[1]
    theta = np.concatenate([np.eye(n, dtype=np.float32).ravel(), np.zeros(n, np.float32)])
    return fpes.LinearNetwork([n, n], scaling=1.0), theta, values


def test_metrics():
    given = outputs_of([[1, 2, 0], [3, 1, 1], [0, 0, -1], [5, 5, 5]])
    assert fpes.metric(*given, np.array([1, 2, 0, 1])) == 0.5
    given = outputs_of([[1.0, 0.0], [2.0, 0.0], [3.0, 3.0]])
    y = np.float32([[1, 0], [2, 1], [3, 2]])
    assert fpes.metric(*given, y, "squared_error") == 1.0 - 2.0 / 4.0
    assert fpes.metric(*given, given[2], "squared_error") == 1.0
    constant = np.ones_like(y)
    assert fpes.metric(*given, constant, "squared_error") == 0.0
    assert fpes.metric(*outputs_of(constant), constant, "squared_error") == 1.0
    given = outputs_of([[0.1, -3.0], [0.0, 2.0]])
    y = np.float32([[1, 0], [0, 0.5]])
    assert fpes.metric(*given, y, "binary_cross_entropy") == 0.75


def test_a_metric_of_huge_outputs_is_a_number_or_minus_infinity():
    given = outputs_of(np.full((3, 2), 3e38))
    assert fpes.metric(*given, np.float32([[0, 1], [1, 0], [2, 2]]), "squared_error") < -1e70


# --- Refusals --------------------------------------------------------------------------------------------------------

X, Y = setting(SIZES, (4,), "squared_error")[1:]


def with_one(place: tuple[int, int], value: float) -> np.ndarray:
    """Targets of which one is this."""
    y = Y.copy()
    y[place] = value
    return y


@pytest.mark.parametrize(
    ("loss", "y", "error", "message"),
    [
        ("mse", Y, ValueError, "loss is 'mse', expected 'cross_entropy', 'squared_error'"),
        (3, Y, TypeError, "loss is 3, expected a string: 'cross_entropy'"),
        ("squared_error", Y.astype(float), TypeError, "y has dtype float64, expected float32"),
        ("squared_error", np.zeros(4, np.int32), TypeError, "y has dtype int32, expected float32"),
        ("squared_error", Y[:, :5], ValueError, r"y has shape \(4, 5\), expected \[4, 6\]"),
        ("squared_error", Y[:3], ValueError, r"y has shape \(3, 6\), expected \[4, 6\]"),
        ("squared_error", Y[:, 0], ValueError, r"y has shape \(4,\), expected \[4, 6\]"),
        ("squared_error", with_one((2, 1), np.inf), ValueError, "the first inf at index 13"),
        ("binary_cross_entropy", with_one((0, 0), 3.5), ValueError, "to 3.5, expected 0 to 1"),
        ("binary_cross_entropy", Y > 0, TypeError, "y has dtype bool, expected float32"),
        ("cross_entropy", Y, TypeError, "y has dtype float32, expected integer labels"),
    ],
)
def test_targets_that_are_refused(loss, y, error, message):
    pop = population("full")
    for call in (
        lambda: pop.evaluate(X, y, loss),
        lambda: fpes.loss(pop.net, pop.theta, X, y, loss),
        lambda: fpes.metric(pop.net, pop.theta, X, y, loss),
    ):
        with pytest.raises(error, match=message):
            call()


def test_targets_of_groups():
    pop = population("full", groups=2)
    x = np.stack([X, X])
    with pytest.raises(ValueError, match=r"y has shape \(4, 6\), expected \[2, 4, 6\]"):
        pop.evaluate(x, Y, "squared_error")
