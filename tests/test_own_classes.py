"""Optimisers, schedules and shapings of one's own: in ES, in fit() and in checkpoints, as the package's own are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import oracle
import pytest

import fpes
from fpes import _config, checkpoint
from fpes.shaping import Weights, centred_ranks

NET = fpes.LinearNetwork([6, 8, 3])
RNG = np.random.default_rng(0)
X, Y = RNG.random((16, 6), np.float32), RNG.integers(0, 3, 16).astype(np.int32)
DATA = fpes.datasets.Dataset("own", np.tile(X, (3, 1)), np.tile(Y, 3), X, Y, classes=3)
f32 = np.float32


@fpes.register
@dataclass(frozen=True)
class MyLion:
    """Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2, without its weight decay."""

    beta1: float = 0.9
    beta2: float = 0.99

    def init(self, parameters):
        return {"momentum": np.zeros(parameters, f32)}

    def update(self, gradient, memory, theta, step):
        g, m = f32(step.factor) * gradient, memory["momentum"]
        direction = np.sign(f32(self.beta1) * m + f32(1 - self.beta1) * g)
        momentum = f32(self.beta2) * m + f32(1 - self.beta2) * g
        return theta + f32(step.learning_rate) * direction, {"momentum": momentum}


@fpes.register
@dataclass(frozen=True)
class MySGD:
    """fpes.SGD's formula again, so that its results are known to the bit."""

    momentum: float = 0.9

    def init(self, parameters):
        return {"velocity": np.zeros(parameters, f32)}

    def update(self, gradient, memory, theta, step):
        velocity = f32(self.momentum) * memory["velocity"] + f32(step.factor) * gradient
        return theta + f32(step.learning_rate) * velocity, {"velocity": velocity}


@fpes.register
@dataclass(frozen=True)
class Steps:
    """Tenfold less after each part of the run."""

    start: float
    at_fractions: tuple[float, ...] = (0.5, 0.75)

    def at(self, step, steps):
        return self.start * 0.1 ** sum(step >= fraction * steps for fraction in self.at_fractions)


@fpes.register
@dataclass(frozen=True)
class MyRanks:
    """The default shaping again."""

    def weights(self, fitness, groups):
        return Weights(centred_ranks(fitness, groups), 1.0 / (2.0 * max(1, len(fitness) // groups - 1)))


@fpes.register
@dataclass(frozen=True)
class Best:
    """The fittest members count, the others don't."""

    count: int

    def weights(self, fitness, groups):
        weights = np.zeros(fitness.shape, np.int32)
        weights[np.argsort(-fitness, kind="stable")[: self.count]] = 1
        return Weights(weights, 1.0 / self.count)


def make(**settings):
    return fpes.ES(NET, NET.init(0), **{"size": 12, "sigma": 0.1, "steps": 10, "seed": 4} | settings)


def trained(es, generations=4):
    for _ in range(generations):
        es.tell(es.ask().evaluate(X, Y))
    return es


@pytest.fixture(autouse=True)
def _what_a_test_registers_is_gone_with_it(monkeypatch):
    monkeypatch.setattr(_config, "_classes", dict(_config._classes))


OWN = [
    {"optimiser": MyLion(0.8), "learning_rate": 0.003},
    {"learning_rate": Steps(0.05), "sigma": Steps(0.1, (0.3,)), "weight_decay": Steps(0.2)},
    {"learning_rate": fpes.WarmUp(Steps(0.05), 0.3)},
    {"shaping": Best(3)},
    {"optimiser": MyLion(), "learning_rate": Steps(0.003), "shaping": Best(2), "averaging": 0.9, "clip": 0.5},
]


def test_lion_goes_where_its_formula_says():
    """One step along the population's gradient, each operation in float32."""
    es = make(optimiser=MyLion(), learning_rate=0.01, shaping="none")
    evaluation = es.ask().evaluate(X, Y)
    gradient = es.ask().gradient(np.array(evaluation), evaluation)
    theta = es.theta
    es.tell(evaluation)
    oracle.assert_bitwise_equal(es.theta, theta + f32(0.01) * np.sign(f32(1 - 0.9) * gradient))


@pytest.mark.parametrize(
    ("own", "packages"),
    [
        ({"optimiser": MySGD(0.7)}, {"optimiser": fpes.SGD(0.7)}),
        ({"shaping": MyRanks()}, {"shaping": "centred_ranks"}),
        ({"learning_rate": Steps(0.01, ())}, {"learning_rate": fpes.Constant(0.01)}),
    ],
)
def test_the_same_formula_gives_the_same_bits_as_the_packages(own, packages):
    settings = {"averaging": 0.9, "weight_decay": 0.1, "clip": 1.0}
    mine, theirs = trained(make(**settings | own)), trained(make(**settings | packages))
    oracle.assert_bitwise_equal(mine.theta, theirs.theta)
    oracle.assert_bitwise_equal(mine.solution, theirs.solution)


@pytest.mark.parametrize("settings", OWN, ids=repr)
def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(settings, tmp_path):
    es = make(**settings)
    whole = trained(make(**settings), 8)
    trained(es).save(tmp_path / "run.npz")
    loaded = fpes.ES.load(tmp_path / "run.npz")
    for name, value in settings.items():
        assert getattr(loaded, name) == value
    oracle.assert_bitwise_equal(trained(loaded).theta, whole.theta)
    assert not np.array_equal(whole.theta, make().theta)


@pytest.mark.parametrize("settings", OWN, ids=repr)
def test_fit_and_its_checkpoints(settings, tmp_path):
    class StopError(Exception):
        pass

    def stop(es):
        if es.generation == 6:
            raise StopError

    path = tmp_path / "run.npz"
    whole = make(**settings)
    whole.fit(DATA, batch=16, groups=1)
    with pytest.raises(StopError):
        make(**settings).fit(DATA, batch=16, groups=1, checkpoint=path, after_step=stop)
    resumed = fpes.ES.load(path)
    assert resumed.generation == 6
    resumed.fit(DATA, checkpoint=path)
    oracle.assert_bitwise_equal(resumed.theta, whole.theta)


def test_a_class_that_nobody_has_registered_is_named(tmp_path):
    path = tmp_path / "run.npz"
    make(optimiser=MyLion()).save(path)
    description, arrays = checkpoint.read(path)
    description["settings"]["optimiser"]["type"] = "Tiger"
    checkpoint.write(path, description, arrays)
    with pytest.raises(fpes.CheckpointError, match=r"unknown setting 'Tiger', expected one of Adam.*registers it"):
        fpes.ES.load(path)


def test_what_does_not_survive_a_checkpoint_is_refused_at_once():
    @fpes.register
    @dataclass(frozen=True)
    class Holder:
        what: object

        def at(self, step, steps):
            return 0.1

    with pytest.raises(TypeError, match=r"learning_rate is .*Holder.*which a checkpoint can't hold: .*function"):
        make(learning_rate=Holder(lambda: 0))
    with pytest.raises(TypeError, match=r"learning_rate is .*, and would come back from a checkpoint as .*what=nan"):
        make(learning_rate=Holder(float("nan")))


@pytest.mark.parametrize("given", [MyLion, MyLion(), 0.1, "best", lambda fitness, groups: fitness])
def test_what_is_no_shaping(given):
    with pytest.raises((TypeError, ValueError), match=r"shaping is .*, expected one of 'centred_ranks'"):
        make(shaping=given)


class TestRegister:
    def test_frozen_dataclasses_only(self):
        for cls in (type("Plain", (), {}), dataclass(type("Thawed", (), {})), MyLion(), "MyLion"):
            with pytest.raises(TypeError, match=r"can't be registered, expected a frozen dataclass"):
                fpes.register(cls)

    def test_a_name_has_one_class(self):
        before = fpes.Adam(0.8)
        with pytest.raises(ValueError, match=r"Adam is registered already, as fpes\.optimisers\.Adam"):
            fpes.register(dataclass(frozen=True)(type("Adam", (), {})))
        assert make(optimiser=before).optimiser == before

    def test_a_class_that_is_defined_again_takes_the_place_of_the_first(self):
        def define():
            @fpes.register
            @dataclass(frozen=True)
            class Again:
                def at(self, step, steps):
                    return 0.1

            return Again

        old, new = define(), define()
        assert make(learning_rate=new()).learning_rate == new()
        with pytest.raises(TypeError, match=r"put @fpes.register above class Again"):
            make(learning_rate=old())

    def test_fields_that_a_checkpoint_could_not_give_back(self):
        @dataclass(frozen=True)
        class Derived:
            x: int = field(default=0, init=False)

        @dataclass(frozen=True)
        class Typed:
            type: str = ""

        with pytest.raises(TypeError, match=r"Derived\.x is no argument of Derived\(\)"):
            fpes.register(Derived)
        with pytest.raises(ValueError, match=r"Typed has a field called type"):
            fpes.register(Typed)


@pytest.mark.parametrize(
    ("update", "error", "words"),
    [
        (lambda g, m, t: (t.astype(float), m), TypeError, r"theta that Odd.update\(\) gives has dtype float64"),
        (lambda g, m, t: (t[1:], m), ValueError, r"theta that Odd.update\(\) gives has shape"),
        (lambda g, m, t: (t + g, {}), ValueError, r"memory that Odd.update\(\) gives has \[\], expected \['m'\]"),
        (lambda g, m, t: (t + g, {"m": m["m"][1:]}), ValueError, r"memory\['m'\] that Odd.update\(\) gives has shape"),
        (lambda g, m, t: (t + g, [1]), TypeError, r"memory that Odd.update\(\) gives is \[1\]"),
        (lambda g, m, t: (np.add(t, g, out=t), m), ValueError, "read-only"),
        (lambda g, m, t: (t * f32("nan"), m), fpes.DivergedError, "leads to infinity or NaN"),
    ],
)
def test_an_update_that_gives_something_else_changes_nothing(update, error, words):
    @fpes.register
    @dataclass(frozen=True)
    class Odd:
        def init(self, parameters):
            return {"m": np.zeros(parameters, f32)}

        def update(self, gradient, memory, theta, step):
            return update(gradient, memory, theta)

    es = make(optimiser=Odd(), weight_decay=0.1)
    before, bits = es.theta, es.theta.copy()
    with pytest.raises(error, match=words):
        trained(es, 1)
    assert es.theta is before
    assert es.generation == 0
    oracle.assert_bitwise_equal(es.theta, bits)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_an_optimiser_that_stays_where_it_is(decay):
    """What it gives back unchanged is copied: every generation has a theta of its own."""

    @fpes.register
    @dataclass(frozen=True)
    class Still:
        def init(self, parameters):
            return {}

        def update(self, gradient, memory, theta, step):
            return theta, memory

    es = make(optimiser=Still(), learning_rate=0.1, weight_decay=decay)
    thetas = [es.theta]
    for _ in range(3):
        trained(es, 1)
        thetas.append(es.theta)
    copies = [theta.copy() for theta in thetas]
    trained(es, 2)
    for number, (theta, copy) in enumerate(zip(thetas, copies, strict=True)):
        oracle.assert_bitwise_equal(theta, copy)
        assert not any(np.may_share_memory(theta, other) for other in thetas[:number])
        assert theta.flags.writeable
    assert np.array_equal(thetas[0], thetas[-1]) == (decay == 0.0)


def test_a_schedule_is_checked_at_every_step():
    @fpes.register
    @dataclass(frozen=True)
    class Falling:
        def at(self, step, steps):
            return 0.1 - 0.1 * step

    es = trained(make(learning_rate=Falling()), 2)
    with pytest.raises(ValueError, match=r"learning_rate is -0\.1, expected 0 or above"):
        trained(es, 1)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (lambda fitness: fitness, TypeError, r"Odd.weights\(\) gives is a ndarray, expected fpes.shaping.Weights"),
        (lambda fitness: Weights(fitness[1:]), ValueError, r"has shape \(11,\), expected that of the fitness, \(12,\)"),
        (lambda fitness: Weights([1]), TypeError, "gives is a list, expected a NumPy array"),
        (lambda fitness: Weights(fitness, "half"), TypeError, "factor is 'half'"),
    ],
)
def test_a_shaping_that_gives_something_else(weights, error, words):
    @fpes.register
    @dataclass(frozen=True)
    class Odd:
        def weights(self, fitness, groups):
            return weights(fitness)

    with pytest.raises(error, match=words):
        trained(make(shaping=Odd()), 1)


@fpes.register
@dataclass(frozen=True)
class Shapes:
    """Remembers arrays of all shapes."""

    def init(self, parameters):
        return {"scalar": np.zeros((), f32), "table": np.ones((2, parameters), f32), "none": np.ones((2, 0), f32)}

    def update(self, gradient, memory, theta, step):
        later = {name: array + f32(1) for name, array in memory.items()}
        return theta + f32(1e-3) * memory["table"][1] * gradient, {
            name: np.asarray(array) for name, array in later.items()
        }


@pytest.mark.filterwarnings("ignore::fpes.TrainingWarning")
def test_what_an_optimiser_remembers_may_have_any_shape(tmp_path):
    """Optimiser.init() says so; such checkpoints were written, and then refused as damaged."""
    es = fpes.ES(NET, NET.init(0), size=8, sigma=0.1, optimiser=Shapes())
    es.fit(DATA, steps=3, batch=8, checkpoint=tmp_path / "run.npz")
    back = fpes.ES.load(tmp_path / "run.npz")
    for run in (es, back):
        run.fit(DATA, steps=5, batch=8)
    oracle.assert_bitwise_equal(back.theta, es.theta)
    assert back.state.memory["scalar"] == 5
    assert back.state.memory["none"].shape == (2, 0)
