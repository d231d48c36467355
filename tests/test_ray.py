"""Actors of Ray: the same bits as one process, whatever happens to the actors. Without Ray, all of it is skipped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed_run
import oracle
import pytest
from distributed_run import RUNS, train
from test_distributed import alone, alone_by_function, runs

import fpes
from fpes.distributed import RayExecutor, WorkerError, Workers, replay, workers

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason='NOT TESTED: Ray isn\'t there (pip install "fpes[ray]")'
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

FOLDER = str(Path(__file__).parent)
PATH = os.pathsep.join([FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])])
STEPS = 12
SMALL = {"num_cpus": 0.1}  # so that all of them have room


@pytest.fixture(scope="module", autouse=True)
def _cluster(tmp_path_factory):
    import ray

    flag = tmp_path_factory.mktemp("ray") / "sleep"
    os.environ["FPES_TEST_SLEEP"] = str(flag)
    environment = {"PYTHONPATH": PATH, "FPES_TEST_SLEEP": str(flag)}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()
    del os.environ["FPES_TEST_SLEEP"]


@pytest.fixture(scope="module", params=[1, 2, 3, 5], ids="{}-actors".format)
def actors(request):
    with RayExecutor(request.param, **SMALL) as executor:
        yield executor


def pids(executor: RayExecutor) -> list[int]:
    """Of the processes of the actors."""
    import ray

    return ray.get([actor.call.remote(os.getpid, (), {}) for actor in executor._tasks])


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("replays", [False, True], ids=["theta sent", "replayed"])
def test_any_number_of_actors_gives_the_same_theta(actors, monkeypatch, name, replays):
    monkeypatch.setattr(workers, "replay_pays", lambda strategy, minibatches: replays)
    es = train(name, STEPS, executor=actors)
    oracle.assert_bitwise_equal(es.theta, alone(name, STEPS), f"{name}, {actors._max_workers} actors")


@pytest.mark.parametrize("replays", [False, True], ids=["theta sent", "replayed"])
def test_killed_actors_change_no_bit(monkeypatch, replays):
    """kill -9 of a random actor in every second generation; another one takes its place."""
    monkeypatch.setattr(workers, "replay_pays", lambda strategy, minibatches: replays)
    rng, killed = random.Random(0), []

    def kill(es: fpes.ES) -> None:
        if es.generation % 2:
            killed.append(rng.choice(pids(executor)))
            os.kill(killed[-1], signal.SIGKILL)

    with RayExecutor(2, **SMALL) as executor:
        with pytest.warns(fpes.TrainingWarning, match=r"a worker was lost \(.*computed again"):
            es = train("full", STEPS, executor=executor, after_step=kill)
        assert len(set(pids(executor))) == 2
        assert list(executor._tasks.values()) == [0, 0]
    oracle.assert_bitwise_equal(es.theta, alone("full", STEPS))
    assert len(set(killed)) == STEPS // 2


def test_an_actor_that_sleeps_is_replaced():
    with RayExecutor(2, **SMALL) as executor:
        train("full", 1, executor=executor)  # started, and imported
        before = pids(executor)
        Path(os.environ["FPES_TEST_SLEEP"]).touch()
        sharing = Workers(executor, parts=3, limit=0.5)
        with pytest.warns(fpes.TrainingWarning, match=r"has not answered for 0.5 s: pairs \d+ to \d+ are computed els"):
            es = train("full", 5, executor=sharing, fitness=distributed_run.sleeps_once)
        assert len(set(pids(executor)) & set(before)) == 1
    oracle.assert_bitwise_equal(es.theta, alone_by_function(5))


def test_an_actors_exception_has_its_name_and_traceback():
    with RayExecutor(1, **SMALL) as executor:
        [pid] = pids(executor)
        with pytest.raises(WorkerError, match=rf"worker \S+:{pid} failed, on pairs 0 to 17:") as failure:
            train("full", executor=executor, fitness=distributed_run.raises)
    assert "in raises\n" in str(failure.value)
    assert isinstance(failure.value.__cause__, KeyError)


def test_actors_end_with_the_executor():
    with RayExecutor(2, **SMALL) as executor:
        processes = pids(executor)
        assert all(runs(pid) for pid in processes)
    with pytest.raises(RuntimeError, match="the executor is shut down"):
        executor.submit(int)
    wait_for_the_end_of(processes)


def test_an_executor_like_any_other():
    with RayExecutor(2, **SMALL) as executor:
        assert list(executor.map(pow, (2, 3, 4), (5, 2, 1))) == [32, 9, 4]
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result()


def test_an_optimiser_of_ones_own_needs_no_class_in_the_actors():
    assert not replay._ours(fpes.ES(**own()))
    with RayExecutor(1, **SMALL) as executor:
        es = train("full", 3, es=fpes.ES(**own()), executor=executor)
    oracle.assert_bitwise_equal(es.theta, train("full", 3, es=fpes.ES(**own())).theta)


def own() -> dict[str, object]:
    from test_replay import Uphill

    net = fpes.LinearNetwork(distributed_run.SIZES)
    return {"net": net, "theta": net.init(0), "size": 34, "sigma": 0.1, "optimiser": Uphill()}


SCRIPT = """
import ray
from distributed_run import train
from fpes.distributed import RayExecutor
from test_ray import SMALL, pids
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
with RayExecutor(2, **SMALL) as executor:
    print(*pids(executor), flush=True)
    train("full", 10**6, executor=executor, checkpoint="run.npz",
          after_step=lambda es: es.generation == 5 and print("five", flush=True))
"""


def test_ctrl_c_ends_the_run_and_its_actors(tmp_path):
    """The whole group of processes hears of it, as in a terminal."""
    environment = {**os.environ, "PYTHONPATH": PATH}
    training = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        processes = [int(pid) for pid in training.stdout.readline().split()]
        assert training.stdout.readline() == "five\n"
        os.killpg(training.pid, signal.SIGINT)
        _, errors = training.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert training.returncode != 0
    saved = fpes.ES.load(tmp_path / "run.npz")
    assert saved.generation >= 5
    oracle.assert_bitwise_equal(saved.theta, train("full", saved.generation).theta)
    wait_for_the_end_of(processes)


def wait_for_the_end_of(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)
