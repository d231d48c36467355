"""An evaluation is a value: nothing that happens afterwards, or elsewhere, changes what a step makes of it."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import oracle
import pytest

import fpes

NET = fpes.LinearNetwork([6, 33, 20, 4])
THETA = NET.init(0)
RNG = np.random.default_rng(0)
X, OTHER = (RNG.random((9, 6), dtype=np.float32) for _ in range(2))
Y = RNG.integers(0, 4, 9)
PERTURBATIONS = {
    "full": fpes.FullRank(),
    "low rank": fpes.LowRank(2),
    "node": fpes.NodePerturbation(),
    "one layer": fpes.NodePerturbation(allocation=fpes.OneLayer(units=(7, None, None), pairs=(2, 1, 1))),
    "one layer, low rank": fpes.LowRank(allocation=fpes.OneLayer(units=8, pairs=(2, 1, 1))),
}
NODE = ["node", "one layer"]
every_family = pytest.mark.parametrize("family", PERTURBATIONS)
node = pytest.mark.parametrize("family", NODE)


def population(family="full", **changes) -> fpes.Population:
    options = {"size": 24, "sigma": 0.1, "perturbation": PERTURBATIONS[family], "seed": 3, **changes}
    return fpes.Population(options.pop("net", NET), options.pop("theta", THETA), **options)


def strategy(family="full", **changes) -> fpes.ES:
    return fpes.ES(NET, THETA, size=24, sigma=0.1, perturbation=PERTURBATIONS[family], seed=3, **changes)


def refused(pop, *arguments, **options):
    with pytest.raises(ValueError, match="expected"):
        pop.evaluate(*arguments, **options)


# --- Nothing of a call lies in the population ------------------------------------------------------------------------


@node
@pytest.mark.parametrize(
    "disturb",
    [
        lambda pop, x: pop.forward(OTHER),
        lambda pop, x: pop.evaluate(OTHER, Y),
        lambda pop, x: pop.evaluate(OTHER[:3], Y[:3]),
        lambda pop, x: x.fill(0.5),
        lambda pop, x: refused(pop, OTHER, Y + 9),
        lambda pop, x: refused(pop, OTHER, Y, chunk=3),
    ],
    ids=["forward", "evaluate", "other size", "inputs changed in place", "refused labels", "refused chunk"],
)
def test_what_happens_between_evaluation_and_gradient_changes_nothing(family, disturb):
    want = population(family).gradient(population(family).evaluate(X, Y, per_sample=True))
    pop, x = population(family), X.copy()
    evaluation = pop.evaluate(x, Y, per_sample=True)
    disturb(pop, x)
    oracle.assert_bitwise_equal(pop.gradient(evaluation), want)


@every_family
def test_a_step_is_that_of_the_evaluation_told(family):
    want, es = strategy(family), strategy(family)
    want.tell(want.ask().evaluate(X, Y))
    x = X.copy()
    evaluation = es.ask().evaluate(x, Y)
    es.ask().evaluate(np.stack([OTHER] * 3), np.stack([Y] * 3))
    x[:] = 0
    es.tell(evaluation)
    oracle.assert_bitwise_equal(es.theta, want.theta)
    assert es.evaluations == want.evaluations == 24 * 9


@every_family
def test_one_population_in_several_threads(family):
    """Batches of several sizes at once, so that nothing shared could fit."""
    pop = population(family)
    sizes = (1, 9, 300)
    x = [np.resize(X, (n, 6)) for n in sizes]
    y = [np.resize(Y, n) for n in sizes]
    want = [pop.gradient(w, e) for w, e in ((np.float32(e), e) for e in map(pop.evaluate, x, y))]
    wrong = []

    def work(i):
        for _ in range(20):
            evaluation = pop.evaluate(x[i], y[i], chunk=8)
            wrong.extend([i] * (pop.gradient(evaluation).tobytes() != want[i].tobytes()))

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1, 2, 0)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_memory_that_is_needed_only():
    """Only node perturbation's gradient needs the inputs."""
    assert population("full").evaluate(X, Y).seen.inputs is None
    assert not np.shares_memory(population("node").evaluate(X, Y).seen.inputs.x, X)


# --- What doesn't belong together ------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generation": 1}, "generation 1, expected 0"),
        ({"seed": 4}, "seed 4, expected 3"),
        ({"sigma": 0.2}, r"sigma 0\.2, expected 0\.1"),
        ({"size": 48}, "size 48, expected 24"),
        ({"theta": NET.init(1)}, "other parameters theta"),
        ({"net": NET.with_flush("never")}, "flush='never'"),
        ({"perturbation": fpes.FullRank("gaussian")}, "gaussian"),
    ],
)
def test_the_evaluation_of_another_population_is_refused(family, changes, words):
    foreign = population(family, **changes).evaluate(X, Y)
    with pytest.raises(ValueError, match=f"another population: it has .*{words}"):
        population(family).gradient(np.zeros(24, np.float32), foreign)
    es = strategy(family)
    with pytest.raises(ValueError, match=f"another population: it has .*{words}"):
        es.tell(foreign)
    assert es.generation == 0


def test_another_network_is_refused():
    net = fpes.LinearNetwork([6, 20, 33, 4])
    foreign = population(net=net, theta=net.init(0)).evaluate(X, Y)
    with pytest.raises(ValueError, match=r"sizes \[6, 20, 33, 4\], expected \[6, 33, 20, 4\]"):
        strategy().tell(foreign)


@every_family
def test_an_equal_population_is_the_same_one(family):
    """Evaluated elsewhere, from a copy of theta: what distributed programs do."""
    evaluation = pickle.loads(pickle.dumps(population(family, theta=THETA.copy()).evaluate(X, Y)))
    oracle.assert_bitwise_equal(
        population(family).gradient(evaluation), population(family).gradient(population(family).evaluate(X, Y))
    )


@node
def test_node_perturbation_refuses_an_array(family):
    es = strategy(family)
    with pytest.raises(ValueError, match=r"fitness is an array.*ask.*evaluate.*with_fitness"):
        es.tell(np.zeros(24, np.float32))


# --- Fitness of one's own --------------------------------------------------------------------------------------------


@every_family
def test_fitness_by_a_function(family):
    """The function sees outputs and y as they are, and what it gives is told."""
    pop, targets, seen = population(family), np.ones((9, 4)), []

    def error(outputs, y):
        seen.append((outputs, y))
        return -((outputs - y) ** 2).mean(axis=(1, 2))

    evaluation = pop.evaluate(X, targets, loss=error)
    oracle.assert_bitwise_equal(seen[0][0], pop.forward(X))
    assert seen[0][1] is targets
    np.testing.assert_array_equal(evaluation, -((pop.forward(X) - targets) ** 2).mean(axis=(1, 2)))
    assert (evaluation.groups, evaluation.samples, evaluation.dtype) == (1, 9, np.float64)
    es = strategy(family)
    es.tell(es.ask().evaluate(X, targets, loss=error))
    assert es.generation == 1


@pytest.mark.parametrize("given", [[0.0] * 24, None, np.float32(1), "much", np.zeros(24, int), np.zeros((24, 1))])
def test_a_function_that_gives_no_fitness(given):
    with pytest.raises((TypeError, ValueError), match=r"what the fitness function gives (is|has)"):
        population().evaluate(X, Y, loss=lambda outputs, y: given)


def test_other_fitness_of_the_same_evaluation():
    es, again = strategy("node"), strategy("node")
    evaluation = es.ask().evaluate(X, Y, per_sample=True)
    doubled = evaluation.with_fitness(2 * np.asarray(evaluation))
    es.tell(doubled)
    again.tell(2 * again.ask().evaluate(X, Y, per_sample=True))
    oracle.assert_bitwise_equal(es.theta, again.theta)
    for shape in ((23,), (24, 8), (24, 9, 1), ()):
        with pytest.raises(ValueError, match=r"values has shape .*, expected \[24\] or \[24, 9\]"):
            evaluation.with_fitness(np.zeros(shape, np.float32))
    with pytest.raises(TypeError, match="values has dtype int64, expected float32 or float64"):
        evaluation.with_fitness(np.zeros(24, np.int64))


# --- It is used as an array ------------------------------------------------------------------------------------------


def test_it_is_the_array_of_fitness():
    evaluation = population().evaluate(X, Y)
    values = np.asarray(evaluation)
    assert values is evaluation.values
    assert (evaluation.shape, evaluation.dtype, evaluation.ndim, len(evaluation)) == ((24,), np.float32, 1, 24)
    assert (evaluation == values).all()
    assert (values == evaluation).all()
    assert evaluation.argmax() == values.argmax()
    assert evaluation.mean() == values.mean() == np.mean(evaluation)
    assert list(evaluation) == list(values)
    assert evaluation[3] == values[3]
    assert evaluation[:4].tobytes() == values[:4].tobytes()
    np.testing.assert_array_equal(fpes.centred_ranks(evaluation), fpes.centred_ranks(values))
    np.testing.assert_array_equal(np.sort(evaluation), np.sort(values))
    assert np.asarray(evaluation, np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(evaluation), values)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(evaluation)
    with pytest.raises(AttributeError, match="nothing"):
        evaluation.nothing  # noqa: B018


def test_losses_are_minus_the_values_of_samples():
    evaluation = population().evaluate(X, Y, per_sample=True)
    assert evaluation.shape == (24, 9)
    np.testing.assert_array_equal(evaluation.losses, -np.asarray(evaluation))
    oracle.assert_bitwise_equal(evaluation.fitness, population().evaluate(X, Y))
    assert population().evaluate(X, Y).losses is None


def test_what_is_assigned_is_told():
    es, want = strategy(shaping="none"), strategy(shaping="none")
    evaluation = es.ask().evaluate(X, Y)
    evaluation[5] = -3.0
    evaluation[7] -= 1.0
    array = np.array(want.ask().evaluate(X, Y))
    array[5] = -3.0
    array[7] -= 1.0
    es.tell(evaluation)
    want.tell(array)
    oracle.assert_bitwise_equal(es.theta, want.theta)


@node
def test_arithmetic_keeps_the_batch(family):
    es = strategy(family)
    penalty = np.linspace(0, 1, 24)
    for evaluation in (
        es.ask().evaluate(X, Y),
        np.float32(2) * es.ask().evaluate(X, Y) - penalty,
        -es.ask().evaluate(X, Y),
    ):
        assert isinstance(evaluation, fpes.Evaluation)
        assert evaluation.samples == 9
    evaluation = es.ask().evaluate(X, Y)
    same = evaluation
    evaluation -= 1.0
    assert evaluation is same
    assert isinstance(evaluation > 0, np.ndarray)
    assert isinstance(evaluation[:3] + 1, np.ndarray)
    assert isinstance(evaluation - es.ask().evaluate(OTHER, Y), np.ndarray)  # of two batches
    es.tell(evaluation)


def test_copies():
    evaluation = population("node").evaluate(X, Y)
    for other in (copy.copy(evaluation), copy.deepcopy(evaluation), pickle.loads(pickle.dumps(evaluation))):
        oracle.assert_bitwise_equal(other, evaluation)
        oracle.assert_bitwise_equal(population("node").gradient(other), population("node").gradient(evaluation))


def test_an_evaluation_that_is_not_ready_has_no_attributes():
    with pytest.raises(AttributeError, match="no attribute"):
        fpes.Evaluation.__new__(fpes.Evaluation).shape  # noqa: B018 - the attribute is what is tested


def test_groups_are_shaped_by_themselves():
    """Whatever is evaluated afterwards."""
    x, y = np.stack([X, OTHER, X]), np.stack([Y, Y, Y])
    es = strategy(shaping="centred_ranks")
    evaluation = es.ask().evaluate(x, y)
    assert (evaluation.groups, evaluation.samples) == (3, 9)
    weights = fpes.centred_ranks(np.asarray(evaluation), groups=3)
    gradient = es.ask().gradient(weights)
    es.ask().evaluate(X, Y)
    optimiser = fpes.SGD(0.0)
    by_hand = fpes.ES(NET, THETA, size=24, sigma=0.1, seed=3, optimiser=optimiser, learning_rate=1.0)
    by_hand.tell(evaluation)
    np.testing.assert_allclose(by_hand.theta - THETA, gradient / (2 * 7), rtol=1e-3, atol=1e-5)


# --- Arrays of other libraries, on the CPU ---------------------------------------------------------------------------


class Array:
    """As PyTorch's and JAX's on the CPU: __array__, and no NumPy array."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


class Exchanged:
    """DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("foreign", [Array, Exchanged])
def test_arrays_of_other_libraries(foreign):
    want = population().evaluate(X, Y)
    pop = fpes.Population(NET, foreign(THETA), size=24, sigma=0.1, seed=3)
    got = pop.evaluate(foreign(X), foreign(Y))
    oracle.assert_bitwise_equal(got, want)
    oracle.assert_bitwise_equal(NET(foreign(THETA), foreign(X)), NET(THETA, X))
    oracle.assert_bitwise_equal(fpes.gemm(foreign(X), foreign(X.T.copy())), fpes.gemm(X, X.T))
    es, other = strategy(), strategy()
    es.tell(foreign(np.array(want)))
    other.tell(want)
    oracle.assert_bitwise_equal(es.theta, other.theta)


def test_double_fitness():
    """Ranked as it is: what differs only beyond float32 is no tie."""
    fitness = 1.0 + np.arange(24) * 1e-12
    np.testing.assert_array_equal(fpes.centred_ranks(fitness), 2 * np.arange(24) - 23)
    es, want = strategy(), strategy()
    es.tell(fitness)
    want.tell(np.arange(24, dtype=np.float32))
    oracle.assert_bitwise_equal(es.theta, want.theta)
