"""One run by several processes: the same bits, whatever happens to the processes."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import distributed_run
import numpy as np
import oracle
import pytest
from distributed_run import RUNS, STEPS, train

import fpes
import fpes.distributed.workers as workers_module
from fpes import engine
from fpes.distributed import DigestError, VersionError, WorkerError, Workers, processes, worker

each_run = pytest.mark.parametrize("name", RUNS)


@functools.lru_cache
def alone(name: str, steps: int = STEPS) -> np.ndarray:
    """Theta of one process."""
    return train(name, steps).theta


@functools.lru_cache
def alone_by_function(steps: int) -> np.ndarray:
    return train("full", steps, fitness=distributed_run.mean_output).theta


@pytest.fixture(scope="module")
def forks():
    """Processes that start fast: copies of one that has imported fpes."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["fpes.distributed", "distributed_run"])
    return "forkserver"


@pytest.fixture(scope="module")
def pool(forks):
    context = multiprocessing.get_context(forks)
    with ProcessPoolExecutor(5, mp_context=context) as executor:
        yield executor


class Inline(Executor):
    """Answers at once, in this process, after what a test does to the message."""

    _max_workers = 3

    def __init__(self, change=lambda message: message, changed_answer=lambda answer: answer):
        self.change, self.changed_answer = change, changed_answer
        self.messages = []

    def submit(self, fn, /, message):
        self.messages.append(message)
        future = Future()
        future.set_result(self.changed_answer(fn(self.change(message))))
        return future


# --- The same bits ----------------------------------------------------------------------------------------------------


@each_run
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_any_number_of_workers_gives_the_same_theta(pool, monkeypatch, name, parts):
    monkeypatch.setattr(engine, "_PAIRS_WORTH_A_SUM", 0)  # gradients in parts too
    es = train(name, executor=Workers(pool, parts=parts))
    assert es.generation == STEPS
    oracle.assert_bitwise_equal(es.theta, alone(name), f"{name}, {parts} workers")


def test_threads_are_an_executor_too():
    before = fpes.get_threads()
    with ThreadPoolExecutor(3) as executor:
        oracle.assert_bitwise_equal(train("low", executor=executor).theta, alone("low"))
    assert fpes.get_threads() == before


def test_by_hand():
    es, other = distributed_run.beginning("node-one-layer"), distributed_run.beginning("node-one-layer")
    workers = Workers(Inline())
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, y = rng.random((5, 8, 16), np.float32), rng.integers(0, 4, (5, 8))
        evaluation = workers.evaluate(es.ask(), x, y, per_sample=True)
        oracle.assert_bitwise_equal(evaluation.values, other.ask().evaluate(x, y, per_sample=True).values)
        es.tell(evaluation)
        other.tell(other.ask().evaluate(x, y, per_sample=True))
    oracle.assert_bitwise_equal(es.theta, other.theta)
    by_function = workers.evaluate(es.ask(), x, y, distributed_run.first_output)
    oracle.assert_bitwise_equal(by_function.values, es.ask().evaluate(x, y, distributed_run.first_output).values)


def test_workers_are_sent_what_they_lack_and_no_more(monkeypatch):
    monkeypatch.setattr(worker, "_kept", {})
    executor = Inline()
    train("full", 10, executor=executor)
    sent = [set(message["parcels"]) for message in executor.messages]
    # Three tasks go out before the first worker has said what it lacks, and one process answers them all.
    assert [number for number, parcels in enumerate(sent) if "minibatches" in parcels] == [3, 4, 5]
    assert all({"theta", "samples", "measure"} <= parcels for parcels in sent)


def test_theta_is_sent_once_a_generation(monkeypatch):
    """Gradients in parts find it where the evaluation has left it."""
    monkeypatch.setattr(engine, "_PAIRS_WORTH_A_SUM", 0)
    monkeypatch.setattr(worker, "_kept", {})
    executor = Inline()
    oracle.assert_bitwise_equal(train("full", 5, executor=executor).theta, alone("full", 5))
    gradients = [message for message in executor.messages if message["kind"] == "gradient"]
    assert len(gradients) == 15
    assert all(set(message["parcels"]) == {"weights"} for message in gradients)


# --- Trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a function", "an executor"])
def test_killed_workers_change_no_bit(forks, given):
    """A random worker is killed after every second generation."""
    context, rng = multiprocessing.get_context(forks), random.Random(0)
    made = functools.partial(ProcessPoolExecutor, 3, mp_context=context)
    killed = []

    def kill(es):
        if es.generation % 2:
            with contextlib.suppress(ProcessLookupError, IndexError):  # the pool may be breaking already
                victim = rng.choice(list(workers._executor._processes))
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    told = pytest.warns(fpes.TrainingWarning, match=r"a worker was lost \(.*by a fresh pool")
    with Workers(made if given == "a function" else made()) as workers, told:
        es = train("full", executor=workers, after_step=kill)
    oracle.assert_bitwise_equal(es.theta, alone("full"))
    assert len(set(killed)) > STEPS // 4


def test_workers_end_with_the_process_that_trains():
    """Killed, it can't tell them."""
    script = (
        "from distributed_run import train\n"
        "from fpes.distributed import processes\n"
        "with processes(2, start='forkserver') as workers:\n"
        "    train('full', 10**6, executor=workers,\n"
        "          after_step=lambda es: print(*workers._executor._processes, flush=True))\n"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", script], cwd=os.path.dirname(__file__), stdout=subprocess.PIPE, text=True
    )
    with training:
        pids = [int(pid) for pid in training.stdout.readline().split()]
        assert len(pids) == 2
        assert all(runs(pid) for pid in pids)
        training.kill()
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether there is such a process, that isn't only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_fresh_pool_ends_with_its_run(forks, monkeypatch):
    """What takes the place of a broken executor is nobody's but the run's."""
    made, like = [], workers_module._like
    monkeypatch.setattr(workers_module, "_like", lambda broken: made.append(like(broken)) or made[-1])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(forks)) as executor:
        assert executor.submit(os._exit, 1).exception() is not None
        with pytest.warns(fpes.TrainingWarning, match="by a fresh pool"):
            oracle.assert_bitwise_equal(train("low", 3, executor=executor).theta, alone("low", 3))
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[0].submit(int)


def test_a_worker_that_sleeps_is_not_waited_for(forks, tmp_path, monkeypatch):
    """Its pairs are computed elsewhere; what it answers late counts no more."""
    flag = tmp_path / "sleep"
    monkeypatch.setenv("FPES_TEST_SLEEP", str(flag))
    context = multiprocessing.get_context("spawn")  # inherits the environment of now
    with Workers(functools.partial(ProcessPoolExecutor, 2, mp_context=context), parts=3, limit=0.5) as workers:
        train("full", 1, executor=Workers(workers._executor))  # started, and imported
        flag.touch()
        with pytest.warns(fpes.TrainingWarning, match=r"has not answered for 0.5 s: pairs \d+ to \d+ are computed els"):
            es = train("full", 5, executor=workers, fitness=distributed_run.sleeps_once)
    assert not flag.exists()
    oracle.assert_bitwise_equal(es.theta, alone_by_function(5))


def test_a_broken_executor_that_nobody_can_replace():
    """This process computes what is left."""

    class Gone(Inline):
        def submit(self, fn, /, message):
            raise RuntimeError("cannot schedule new futures after shutdown")

    with pytest.warns(fpes.TrainingWarning, match="the executor is broken .*, and this process computes what is left"):
        oracle.assert_bitwise_equal(train("low", 5, executor=Gone()).theta, alone("low", 5))


def test_an_executor_that_loses_every_task():
    class Loses(Inline):
        def submit(self, fn, /, message):
            future = Future()
            future.set_exception(OSError("the line is down"))
            return future

    with pytest.warns(fpes.TrainingWarning, match=r"a worker was lost \(OSError.*computed again"):
        oracle.assert_bitwise_equal(train("low", 3, executor=Loses()).theta, alone("low", 3))


def test_a_workers_exception_has_its_name_and_traceback():
    with pytest.raises(WorkerError, match=r"worker \S+:\d+ failed, on pairs 0 to 17:") as failure:
        train("full", executor=Workers(Inline(), parts=1), fitness=distributed_run.raises)
    assert "in raises\n" in str(failure.value)
    assert isinstance(failure.value.__cause__, KeyError)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(worker, "__version__", "0.0.1")
    with pytest.raises(VersionError, match=r"worker \S+ has fpes 0\.0\.1, and this is fpes"):
        train("full", executor=Inline())


def test_a_digest_that_differs_is_an_error():
    def damaged(message):
        parcels = dict(message["parcels"])
        middle = len(parcels["theta"]) // 2  # among the numbers
        parcels["theta"] = parcels["theta"][:middle] + b"\x01" + parcels["theta"][middle + 1 :]
        return {**message, "parcels": parcels}

    with pytest.raises(DigestError, match=r"theta has arrived with digest .*, expected"):
        train("full", executor=Inline(damaged))


def test_an_answer_to_another_task_is_refused():
    with pytest.raises(WorkerError, match=r"has answered .*, expected"):
        train("full", executor=Inline(changed_answer=lambda answer: {**answer, "begin": answer["begin"] + 1}))


def test_what_cant_be_sent_is_said_at_once():
    with pytest.raises(TypeError, match=r"can't be sent to a worker: .* Define functions at the top level"):
        train("full", executor=Inline(), fitness=lambda outputs, labels: outputs[:, 0, 0])


def test_refusals():
    with pytest.raises(TypeError, match=r"executor is 3, expected a concurrent.futures.Executor, or a function"):
        train("full", executor=3)
    with pytest.raises(ValueError, match=r"parts is not given, and .* doesn't tell how many workers it has"):
        Workers(Executor())
    with pytest.raises(ValueError, match="limit is 0, expected a number above 0"):
        Workers(Inline(), limit=0)
    with pytest.raises(ValueError, match="count is 0, expected"):
        processes(0)


# --- Processes of our own ---------------------------------------------------------------------------------------------


def test_processes_divide_the_processors(monkeypatch):
    monkeypatch.delenv("FPES_THREADS", raising=False)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with processes(2) as workers:
        oracle.assert_bitwise_equal(train("one-unit", 3, executor=workers).theta, alone("one-unit", 3))
        # Of two workers one may have had all the tasks, and the other still be as it began.
        found = {workers._executor.submit(fpes.get_threads).result() for _ in range(20)}
    assert found & {available // 2 or 1, (available + 1) // 2}


def test_fpes_threads_stands(monkeypatch):
    monkeypatch.setenv("FPES_THREADS", "3")
    with processes(1) as workers:
        train("full", 1, executor=workers)
        assert workers._executor.submit(fpes.get_threads).result() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads the processes of this user")
def test_nothing_is_left_running(forks):
    with processes(2, start=forks) as workers:
        train("full", 1, executor=workers)
        children = list(workers._executor._processes.values())
    for process in children:
        process.join(timeout=10)
        assert not process.is_alive()
