"""ES: ask and tell in every family, with every way of shaping; and what happens to fitness that is no good."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import oracle
import pytest

import fpes
from fpes.optimisers import norm

SIZES = (6, 33, 20, 4)
NET = fpes.LinearNetwork(SIZES)
FAMILIES = {
    "full": fpes.FullRank(),
    "low rank": fpes.LowRank(2),
    "rank one, one layer": fpes.LowRank(allocation=fpes.OneLayer(units=(8, None, None), pairs=(2, 1, 1))),
    "node": fpes.NodePerturbation(),
    "one layer": fpes.NodePerturbation(allocation=fpes.OneLayer(units=(8, None, None), pairs=(2, 1, 1))),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def beginning() -> np.ndarray:
    """Initial parameters, with biases that aren't zero."""
    theta = NET.init(2)
    for _, bias in NET.unpack(theta):
        bias[...] = np.random.default_rng(0).standard_normal(bias.size)
    return theta


def make(family: str = "full", **settings) -> fpes.ES:
    defaults = {"size": 24, "sigma": 0.1, "perturbation": FAMILIES[family], "seed": 3}
    return fpes.ES(NET, beginning(), **{**defaults, **settings})


def batch(groups: int = 0, samples: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    shape = (groups, samples) if groups else (samples,)
    return rng.random((*shape, SIZES[0]), dtype=np.float32), rng.integers(0, SIZES[-1], shape)


def evaluated(es: fpes.ES, groups: int = 0) -> np.ndarray:
    return es.ask().evaluate(*batch(groups), per_sample=isinstance(es.perturbation, fpes.NodePerturbation))


@each_family
@pytest.mark.parametrize("shaping", ["centred_ranks", "z_score", "sign", "none"])
@pytest.mark.parametrize("groups", [0, 3])
def test_tell_takes_the_optimisers_step_along_the_populations_gradient(family, shaping, groups):
    es = make(family, shaping=shaping, optimiser=fpes.SGD(0.5), learning_rate=0.1, weight_decay=0.2)
    start, fitness = es.theta.copy(), evaluated(es, groups)
    columns = fitness.reshape(max(1, groups), 24 // max(1, groups), -1).astype(np.float64)
    if shaping == "centred_ranks":
        less = (columns[:, None] < columns[:, :, None]).sum(axis=2)
        equal = (columns[:, None] == columns[:, :, None]).sum(axis=2)
        shaped = (less + (equal - 1) / 2) / (columns.shape[1] - 1) - 0.5
    elif shaping == "z_score":
        shaped = (columns - columns.mean(1, keepdims=True)) / columns.std(1, keepdims=True)
    elif shaping == "sign":
        shaped = (
            np.sign(columns - columns.reshape(len(columns), -1, 2, columns.shape[2])[:, :, ::-1].reshape(columns.shape))
            / 2
        )
    else:
        shaped = columns
    population = make(family).ask()
    weights = shaped.reshape(fitness.shape).astype(np.float32)
    gradient = population.gradient(weights, population.evaluate(*batch(groups)))
    es.tell(fitness)
    for weight, _ in NET.unpack(start):
        weight *= 1 - 0.1 * 0.2  # and biases stay as they are
    expected = start + 0.1 * gradient.astype(np.float64)
    np.testing.assert_allclose(es.theta, expected, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())
    assert es.generation == 1
    assert es.evaluations == 24 * 9
    assert es.fitness == pytest.approx(fitness.mean(), rel=1e-5)


@each_family
def test_asking_again_gives_the_same_population(family):
    es = make(family)
    assert es.ask() is es.ask()
    before = evaluated(es)
    es.tell(before)
    after = es.ask()
    assert after.generation == 1
    assert after.theta is es.theta
    assert (evaluated(es) != before).any()


def test_each_generation_has_a_theta_of_its_own():
    es = make()
    kept = es.theta
    copy = kept.copy()
    es.tell(evaluated(es))
    es.tell(evaluated(es))
    oracle.assert_bitwise_equal(kept, copy)


def test_schedules_are_followed():
    es = make(sigma=fpes.Exponential(0.2, 0.1), learning_rate=fpes.Cosine(0.1), steps=4)
    for generation in range(4):
        assert es.ask().sigma == pytest.approx(0.2 * 0.5 ** (generation / 4))
        rate = es.value("learning_rate", generation)
        assert rate == pytest.approx(0.05 * (1 + np.cos(np.pi * generation / 4)))
        before, length = es.theta, None
        es.tell(evaluated(es))
        length = np.abs(es.theta - before).max()
        assert length <= rate * 1.5
    assert es.value("learning_rate", 4) == 0.0


def test_numbers_may_be_assigned_between_generations():
    es = make(learning_rate=0.1)
    es.tell(evaluated(es))
    es.learning_rate, es.sigma = 0.0, 0.5
    before = es.theta
    assert es.ask().sigma == 0.5
    es.tell(evaluated(es))
    oracle.assert_bitwise_equal(es.theta, before)


def test_the_gradient_is_clipped():
    free, clipped = (make(optimiser=fpes.SGD(0.0), learning_rate=1.0, clip=clip) for clip in (None, 0.01))
    start = free.theta
    for es in (free, clipped):
        es.tell(evaluated(es))
    long, short = free.theta - start, clipped.theta - start
    assert norm(long) > 0.1
    assert norm(short) == pytest.approx(0.01, rel=1e-3)
    np.testing.assert_allclose(short * (norm(long) / 0.01), long, atol=1e-3 * norm(long))
    same = make(optimiser=fpes.SGD(0.0), learning_rate=1.0, clip=1e3)
    same.tell(evaluated(same))
    oracle.assert_bitwise_equal(same.theta, free.theta)


def test_the_running_mean():
    es = make(averaging=0.5, learning_rate=0.1)
    mean = es.theta.astype(np.float64)
    for generation in range(8):
        es.tell(evaluated(es))
        factor = min(0.5, (generation + 1) / (generation + 10))
        mean = factor * mean + (1 - factor) * es.theta
        np.testing.assert_allclose(es.solution, mean, rtol=1e-5, atol=1e-6)
    assert (es.solution != es.theta).any()
    assert make().solution is not None
    plain = make()
    assert plain.solution is plain.theta


def test_fitness_from_anywhere():
    """Outputs pulled towards a target of one's own."""
    es = make(learning_rate=0.05, size=64)
    x, _ = batch(samples=5)
    target = np.random.default_rng(0).standard_normal((5, SIZES[-1])).astype(np.float32)

    def error(theta):
        return float(((NET(theta, x) - target) ** 2).mean())

    before = error(es.theta)
    for _ in range(60):
        es.tell(-((es.ask().forward(x) - target) ** 2).mean(axis=(1, 2)))
    assert error(es.theta) < 0.3 * before


@pytest.mark.parametrize("family", ["full", "one layer"])
def test_the_same_bits_on_every_isa_and_any_number_of_threads(family):
    results, isa, threads = [], fpes.get_isa(), fpes.get_threads()
    try:
        for name, count in [*((name, 2) for name in fpes.supported_isas()), (isa, 1), (isa, 5)]:
            fpes.set_isa(name)
            fpes.set_threads(count)
            es = make(family, learning_rate=fpes.Cosine(0.1), steps=4, clip=0.5, averaging=0.9)
            for _ in range(4):
                es.tell(evaluated(es))
            results.append(es.solution)
    finally:
        fpes.set_isa(isa)
        fpes.set_threads(threads)
    for theta in results[1:]:
        oracle.assert_bitwise_equal(theta, results[0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"size": 7}, ValueError, "size is 7, expected an even number"),
            ({"sigma": 0.0}, ValueError, "sigma is 0.0, expected a number above 0"),
            ({"sigma": fpes.Cosine(0.1), "steps": 0}, ValueError, "steps is 0"),
            ({"learning_rate": -1.0}, ValueError, "learning_rate is -1.0, expected 0 or above"),
            ({"learning_rate": float("nan")}, ValueError, "learning_rate is nan"),
            ({"weight_decay": "much"}, TypeError, "weight_decay is 'much', expected a number"),
            ({"optimiser": "adam"}, TypeError, "optimiser is 'adam', expected an Adam, SGD, ClipUp"),
            ({"shaping": "ranks"}, ValueError, "shaping is 'ranks', expected one of 'centred_ranks', 'z_score'"),
            ({"clip": 0.0}, ValueError, "clip is 0.0, expected a number above 0"),
            ({"averaging": 1.0}, ValueError, "averaging is 1.0, expected a number from 0 to below 1"),
            ({"seed": -1}, ValueError, "seed is -1"),
            ({"perturbation": "full"}, TypeError, "perturbation is 'full', expected a FullRank"),
            # With a schedule and without steps, as without one.
            ({"size": 7, "learning_rate": fpes.Cosine(0.1)}, ValueError, "size is 7, expected an even number"),
            ({"sigma": -1, "learning_rate": fpes.Cosine(0.1)}, ValueError, "sigma is -1, expected a number above 0"),
            ({"sigma": fpes.Cosine(0.0)}, ValueError, "sigma is 0.0, expected a number above 0"),
            ({"weight_decay": -1, "sigma": fpes.Cosine(0.1)}, ValueError, "weight_decay is -1, expected 0 or above"),
            ({"perturbation": "full", "sigma": fpes.Cosine(0.1)}, TypeError, "perturbation is 'full'"),
            # What a checkpoint couldn't hold.
            (
                {"optimiser": type("Lion", (fpes.SGD,), {})()},
                TypeError,
                "optimiser is Lion.*put @fpes.register",
            ),
            (
                {"learning_rate": type("Steps", (fpes.Cosine,), {})(0.1)},
                TypeError,
                "learning_rate is Steps.*put @fpes",
            ),
            ({"learning_rate": lambda step: 0.1}, TypeError, "learning_rate is <function.*a number"),
            ({"sigma": 10**400}, ValueError, "sigma is beyond what a float can hold"),
        ],
    )
    def test_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            make(**settings)

    @pytest.mark.parametrize("name", ["sigma", "learning_rate", "weight_decay"])
    def test_what_is_assigned_later(self, name):
        es = make()
        before = getattr(es, name)
        with pytest.raises(ValueError, match=f"{name} is -1"):
            setattr(es, name, -1)
        assert getattr(es, name) == before

    def test_theta(self):
        with pytest.raises(ValueError, match="theta has 1 values that are NaN"):
            fpes.ES(NET, np.where(np.arange(NET.parameters) == 5, np.nan, 0).astype(np.float32), size=4, sigma=0.1)
        with pytest.raises(TypeError, match="theta has dtype float64"):
            fpes.ES(NET, np.zeros(NET.parameters), size=4, sigma=0.1)

    def test_a_schedule_without_steps(self):
        es = make(learning_rate=fpes.Cosine(0.1))
        with pytest.raises(ValueError, match=r"learning_rate is Cosine.*give ES or fit\(\) the argument steps"):
            es.tell(evaluated(es))
        assert es.generation == 0

    @pytest.mark.parametrize(
        ("fitness", "error", "words"),
        [
            (np.zeros(23, np.float32), ValueError, r"fitness has shape \(23,\), expected \[24\]"),
            (
                np.zeros((24, 9), np.float32),
                ValueError,
                "only node perturbation uses a fitness for each sample",
            ),
            (np.zeros(24, int), TypeError, "fitness has dtype int64"),
            ([0.0] * 24, TypeError, "fitness is a list"),
        ],
    )
    def test_fitness(self, fitness, error, words):
        es = make()
        with pytest.raises(error, match=words):
            es.tell(fitness)
        assert es.generation == 0


class TestDivergence:
    def test_nan_is_named_and_changes_nothing(self):
        es = make()
        before, fitness = es.theta, evaluated(es)
        fitness[5] = np.nan
        with pytest.raises(fpes.DivergedError, match=r"generation 0 is NaN for 1 of 24 members, the first 5.*lower"):
            es.tell(fitness)
        assert (es.generation, es.theta is before) == (0, True)
        es.tell(np.nan_to_num(fitness))
        assert es.generation == 1

    def test_a_step_into_infinity_is_not_taken(self):
        es = make(optimiser=fpes.SGD(), learning_rate=3e38, shaping="none")
        before = es.theta
        with pytest.raises(fpes.DivergedError, match=r"step of generation 0 leads to infinity or NaN in \d+ of"):
            es.tell(1e3 * np.arange(24, dtype=np.float32))
        assert (es.generation, es.theta is before) == (0, True)

    @pytest.mark.parametrize("optimiser", [fpes.Adam(), fpes.SGD(), fpes.ClipUp()], ids=repr)
    def test_nor_is_one_that_leaves_infinity_in_what_is_remembered(self, optimiser):
        """Theta may be finite still; but from such a memory no step leads back."""
        es = make(optimiser=optimiser, learning_rate=1e-30, shaping="none")
        x, y = batch()
        for penalty in (-1e20, -3e38):
            fitness = es.ask().evaluate(x, y)
            fitness[5] = penalty
            with contextlib.suppress(fpes.DivergedError):  # where it overflows, which is for the optimiser to say
                es.tell(fitness)
            arrays = (es.theta, *es.state.memory.values())
            assert all(np.isfinite(array).all() for array in arrays)
            es.tell(es.ask().evaluate(x, y))

    def test_nor_one_that_overflows_the_mean(self):
        es = make(optimiser=fpes.Adam(), learning_rate=0.05, shaping="none")
        fitness = evaluated(es)
        fitness[5] = -1e20
        with pytest.raises(fpes.DivergedError, match=r"\d+ of \d+ numbers that the optimiser remembers \(square\)"):
            es.tell(fitness)
        assert es.generation == 0

    @pytest.mark.parametrize("groups", [0, 3])
    def test_equal_fitness_is_warned_of_once(self, groups):
        es = make()
        flat = np.repeat(np.arange(max(1, groups), dtype=np.float32), 24 // max(1, groups))
        with pytest.warns(fpes.TrainingWarning, match="all members of generation 0 have the same fitness"):
            es.tell(evaluated(es, groups).with_fitness(flat))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            es.tell(evaluated(es, groups).with_fitness(flat))
        assert es.generation == 2


def test_an_interrupted_tell_leaves_the_old_state_or_makes_the_new_one(monkeypatch):
    """Ctrl-C at the worst moment: while the optimiser runs."""
    es = make()
    before, fitness = es.theta, evaluated(es)
    update = fpes.Adam.update

    def interrupted(*arguments):
        update(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fpes.Adam, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        es.tell(fitness)
    monkeypatch.undo()
    assert es.theta is before
    es.tell(fitness)
    undisturbed = make()
    undisturbed.tell(evaluated(undisturbed))
    oracle.assert_bitwise_equal(es.theta, undisturbed.theta)


def test_a_proposal_changes_nothing():
    es, plain = make(), make()
    es.proposed(evaluated(es))
    assert es.generation == 0
    for each in (es, plain):
        each.tell(evaluated(each))
    oracle.assert_bitwise_equal(es.theta, plain.theta)
