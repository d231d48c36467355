"""Workers that take the steps of a run themselves: the same bits, fewer bytes, and theta for those that can't."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import OrderedDict, defaultdict
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace

import distributed_run
import numpy as np
import oracle
import pytest
from distributed_run import RUNS, train
from test_distributed import Inline, alone

import fpes
from fpes.datasets import Dataset, Minibatches
from fpes.distributed import Workers, replay, worker, workers
from fpes.distributed.messages import ThetaParcel
from fpes.schedules import Constant, Cosine, Exponential, WarmUp

STEPS = 20


@pytest.fixture(autouse=True)
def _replays(monkeypatch):
    """Networks of tests are small, and the first worker of each test is new."""
    monkeypatch.setattr(workers, "replay_pays", lambda strategy, minibatches: True)
    forget()


def forget() -> None:
    """As a worker that was started again."""
    worker._kept.clear()
    worker._replicas.clear()


class Several(Executor):
    """Workers in this process, each with a memory of its own; `choose` says which of them has a task."""

    _max_workers = 3

    def __init__(self, choose):
        self.choose = choose
        self.memories = defaultdict(lambda: ({}, OrderedDict()))
        self.log = []  # (worker, message, answer)

    def submit(self, fn, /, message):
        number = self.choose(message)
        worker._kept, worker._replicas = self.memories[number]
        answer = fn(message)
        self.log.append((number, message, answer))
        future = Future()
        future.set_result(answer)
        return future

    def theta_sent(self, number=None):
        """The generations for which theta was sent."""
        return [message["step"] for who, message, _ in self.log if "theta" in message["parcels"] and who == number]


@pytest.fixture
def several(monkeypatch):
    monkeypatch.setattr(worker, "_kept", worker._kept)
    monkeypatch.setattr(worker, "_replicas", worker._replicas)
    return Several


def by_range(message):
    """Each range has its own worker, as with actors."""
    return message["begin"]


# --- The same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_any_number_of_workers_gives_the_same_theta(several, name, parts):
    executor = several(by_range)
    es = train(name, STEPS, executor=Workers(executor, parts=parts))
    oracle.assert_bitwise_equal(es.theta, alone(name, STEPS), f"{name}, {parts} workers")
    assert len(executor.memories) == parts
    assert all(executor.theta_sent(number) == [0] for number in executor.memories)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": fpes.SGD(0.5), "clip": 0.01},
        {"optimiser": fpes.ClipUp()},
        {"weight_decay": Cosine(0.5), "learning_rate": Cosine(0.1), "sigma": Exponential(0.1, 0.05)},
        {"shaping": "z_score", "averaging": 0.9},
        {"learning_rate": WarmUp(Constant(0.1), 0.5)},
    ],
    ids=str,
)
def test_whatever_a_step_depends_on_is_replayed(several, settings):
    def run(**options):
        es = fpes.ES(**{**vars_of(distributed_run.beginning("full")), **settings})
        return train("full", STEPS, es=es, **options)

    executor = several(by_range)
    es = run(executor=executor)
    expected = run()
    oracle.assert_bitwise_equal(es.theta, expected.theta)
    oracle.assert_bitwise_equal(es.solution, expected.solution)
    assert all(executor.theta_sent(number) == [0] for number in executor.memories)


def vars_of(es):
    names = ("net", "theta", "size", "sigma", "perturbation", "learning_rate", "seed")
    return {name: getattr(es, name) for name in names}


def test_settings_that_change_between_generations(several):
    """Settings of a schedule travel with each step. After a change of another setting, theta is sent once."""

    def change(es):
        es.learning_rate = 0.01 + 0.001 * es.generation
        if es.generation == 5:
            es.clip = 0.01

    executor = several(by_range)
    es = train("full", 10, executor=executor, after_step=change)
    oracle.assert_bitwise_equal(es.theta, train("full", 10, after_step=change).theta)
    assert all(executor.theta_sent(number) == [0, 5] for number in executor.memories)


def test_theta_that_stays_the_same_for_some_generations(several):
    """Nobody has to take such a step, until there are more of them than a task carries."""

    def change(es):
        es.learning_rate = 0.0 if es.generation in (1, 2, 6, 7, 8, 9, 10, 11) else 0.03

    executor = several(by_range)
    es = train("full", 15, executor=executor, after_step=change)
    oracle.assert_bitwise_equal(es.theta, train("full", 15, after_step=change).theta)
    assert all(executor.theta_sent(number) == [0, 13] for number in executor.memories)


def test_a_run_that_goes_on_from_a_checkpoint(several, tmp_path):
    """The workers still have theta of the first half, or of later generations that were never saved."""
    executor, path = several(by_range), tmp_path / "run.npz"
    es = train("full", 6, executor=executor)
    es.save(path)
    train("full", 9, es=es, executor=executor)
    resumed = train("full", STEPS, es=fpes.ES.load(path), executor=executor)
    oracle.assert_bitwise_equal(resumed.theta, train("full", STEPS, es=fpes.ES.load(path)).theta)


# --- Fewer bytes ------------------------------------------------------------------------------------------------------


class Weighed(Inline):
    """Counts the bytes of the messages of each generation."""

    _max_workers = 2

    def __init__(self):
        super().__init__()
        self.bytes = defaultdict(int)

    def submit(self, fn, /, message):
        self.bytes[message["step"]] += len(pickle.dumps(message, protocol=5))
        return super().submit(fn, message)


def wide(steps: int, executor: Executor | None, perturbation=None) -> fpes.ES:
    """A network with 305,930 parameters."""
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 400), np.float32), rng.integers(0, 10, 64).astype(np.int32)
    net = fpes.LinearNetwork((400, 400, 350, 10))
    es = fpes.ES(net, net.init(0), size=32, sigma=0.05, perturbation=perturbation or fpes.LowRank())
    es.fit(Dataset("noise", x, y, x[:8], y[:8], 10), steps=steps, batch=4, executor=executor)
    return es


def test_fewer_bytes_are_sent(monkeypatch):
    """Two workers, once they have the data: a thousandth of theta, where the rule is left alone."""
    monkeypatch.undo()
    monkeypatch.setattr(worker, "_kept", {})
    replayed, sent = Weighed(), Weighed()
    es = wide(6, replayed)
    monkeypatch.setattr(workers, "replay_pays", lambda strategy, minibatches: False)
    forget()
    oracle.assert_bitwise_equal(wide(6, sent).theta, es.theta)
    theta = es.theta.nbytes
    for generation in range(1, 6):
        assert 2 * theta < sent.bytes[generation] < 2 * theta + 10_000
        assert replayed.bytes[generation] < 10_000 < theta / 100


def test_the_rule(monkeypatch):
    monkeypatch.undo()
    net = fpes.LinearNetwork((784, 512, 512, 10))
    y = np.zeros(1024, np.int32)

    def pays(size=512, batch=16, groups=1, net=net, **settings):
        es = fpes.ES(net, net.init(0), size=size, sigma=0.05, **settings)
        features = net.sizes[0]
        x = np.zeros((1024, features), np.float32)
        data = Dataset("zeros", x, y, x[:1], y[:1], 10)
        return replay.replay_pays(es, Minibatches(data, batch, groups=groups))

    one_layer = fpes.OneLayer(32, (2, 2, 4))
    assert pays(perturbation=fpes.LowRank())
    assert pays(perturbation=fpes.NodePerturbation(allocation=one_layer))
    assert pays(perturbation=fpes.OneUnit(), size=2 * 2068 * 8, batch=32, groups=8)
    assert pays(size=64)
    assert not pays()  # full rank: drawing 256 pairs' noise takes longer
    assert not pays(perturbation=fpes.LowRank(), size=4096)
    assert not pays(perturbation=fpes.NodePerturbation())
    assert not pays(perturbation=fpes.NodePerturbation(allocation=one_layer), batch=512)  # bytes of fitness
    assert not pays(perturbation=fpes.LowRank(), net=fpes.LinearNetwork((64, 64, 10)))  # theta is small
    assert not pays(perturbation=fpes.LowRank(), optimiser=Uphill())  # workers may not have its class


@fpes.register
@dataclass(frozen=True)
class Uphill:
    """An optimiser of a user's own."""

    def init(self, parameters):
        return {}

    def update(self, gradient, memory, theta, step):
        return theta + np.float32(step.learning_rate) * gradient, {}


def test_workers_of_this_machine_are_sent_theta(several):
    """Standard pools: through a pipe theta is as fast as a replay."""
    messages = []

    class Pool(ProcessPoolExecutor):
        def submit(self, fn, /, message):
            messages.append(message)
            future = Future()
            future.set_result(fn(message))
            return future

    es = train("low", 5, executor=Pool(2))
    oracle.assert_bitwise_equal(es.theta, alone("low", 5))
    assert len(messages) >= 10
    assert all("theta" in message["parcels"] and "steps" not in message["digests"] for message in messages)


# --- Workers that can't replay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missed", [1, 3, 4, 7])
def test_a_worker_that_fell_behind(several, missed):
    """It takes the steps that it has missed, up to four, or else is sent theta."""
    absent = range(3, 3 + missed)
    executor = several(lambda message: 0 if message["step"] in absent else message["begin"])
    es = train("node-one-layer", 15, executor=Workers(executor, parts=2))
    oracle.assert_bitwise_equal(es.theta, alone("node-one-layer", 15))
    assert executor.theta_sent(0) == [0]
    other = max(executor.memories)
    assert executor.theta_sent(other) == ([0] if missed + 1 <= replay._STEPS_SENT else [0, 3 + missed])


def test_workers_that_are_started_again(several):
    def choose(message):
        if message["begin"] and message["step"] % 2 and message["step"] not in restarted:
            restarted.append(message["step"])
            executor.memories.pop(message["begin"], None)
        return message["begin"]

    restarted = []
    executor = several(choose)
    es = train("low", 10, executor=Workers(executor, parts=2))
    oracle.assert_bitwise_equal(es.theta, alone("low", 10))
    assert executor.theta_sent(0) == [0]
    assert executor.theta_sent(max(executor.memories)) == [0, 1, 3, 5, 7, 9]


def test_two_runs_at_a_time(several):
    """On the same workers, in turns: each has its own replica."""
    executor, others = several(by_range), []
    inner = distributed_run.beginning("low")

    def one_generation(es):
        train("low", es.generation, es=inner, executor=executor)
        others.append(inner.generation)

    outer = train("full", 8, executor=executor, after_step=one_generation)
    oracle.assert_bitwise_equal(outer.theta, alone("full", 8))
    oracle.assert_bitwise_equal(inner.theta, in_turns("low", 8))
    assert others == list(range(1, 9))


def in_turns(name, steps):
    es = distributed_run.beginning(name)
    for step in range(1, steps + 1):
        train(name, step, es=es)
    return es.theta


# --- Other bits -------------------------------------------------------------------------------------------------------


def test_other_bits_are_never_used(several, monkeypatch):
    """A worker whose steps lead elsewhere says so; theta is sent from then on."""
    taken = replay.Replica._take

    def other(self, step, minibatches):
        if step.generation == 4:
            step = replace(step, fitness=step.fitness[::-1])
        taken(self, step, minibatches)

    monkeypatch.setattr(replay.Replica, "_take", other)
    executor = several(by_range)
    with pytest.warns(
        fpes.TrainingWarning, match=r"worker \S+ has come to other bits: the step of generation 4 leads to"
    ):
        es = train("low", 10, executor=Workers(executor, parts=2))
    oracle.assert_bitwise_equal(es.theta, alone("low", 10))
    assert [answer["other_bits"] is not None for _, _, answer in executor.log if answer["state"] == "missing"].count(
        True
    ) == 2
    for number in executor.memories:
        assert sorted(set(executor.theta_sent(number))) == [0, 5, 6, 7, 8, 9]


def test_theta_that_was_changed_between_generations(several):
    """By hand: other bits than the step leads to, which is said, and right."""

    def change(es):
        if es.generation == 3:
            es.accept(replace(es.state, theta=es.theta * np.float32(0.5)))

    with pytest.warns(fpes.TrainingWarning, match="Either it was changed between two generations, or that machine"):
        es = train("full", 6, executor=several(by_range), after_step=change)
    oracle.assert_bitwise_equal(es.theta, train("full", 6, after_step=change).theta)


def test_a_memory_of_other_bits_is_found_out(several, monkeypatch):
    """The optimiser's memory has no digest of its own. A step from it leads to another theta."""

    class Damaged(ThetaParcel):
        def __init__(self, theta, memory=None):
            super().__init__(theta, memory and {name: array + np.float32(1) for name, array in memory.items()})

    monkeypatch.setattr(workers, "ThetaParcel", Damaged)
    with pytest.warns(fpes.TrainingWarning, match="has come to other bits: the step of generation 0 leads to"):
        es = train("low", 5, executor=several(by_range))
    oracle.assert_bitwise_equal(es.theta, alone("low", 5))


def test_a_step_is_not_taken_twice():
    """Tasks that come late or twice find theta, or are told that it is missing."""
    executor = Inline()
    train("low", 6, executor=Workers(executor, parts=1))
    last = executor.messages[-1]
    values = worker.answer(last)["values"]
    assert worker.answer(last)["values"].tobytes() == values.tobytes()
    assert worker.answer(executor.messages[-2])["state"] == "done"  # theta of the generation before is kept
    assert worker.answer(executor.messages[-4])["missing"] == ["theta"]
    assert worker.answer(last)["values"].tobytes() == values.tobytes()


# --- Processes --------------------------------------------------------------------------------------------------------


def test_processes_that_replay(monkeypatch):
    """Of three processes any may have any task, so they fall behind and catch up as it comes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fpes.distributed", "distributed_run"])

    class Elsewhere(Executor):
        """A pool that doesn't say that it is on this machine."""

        _max_workers = 3

        def __init__(self):
            self.pool = ProcessPoolExecutor(3, mp_context=context)
            self.submit, self.shutdown = self.pool.submit, self.pool.shutdown

    with Elsewhere() as executor:
        for name in ("full", "low", "node-one-layer", "one-unit"):
            theta = train(name, STEPS, executor=Workers(executor, parts=5)).theta
            oracle.assert_bitwise_equal(theta, alone(name, STEPS), name)
