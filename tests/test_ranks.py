"""One run by the ranks of an MPI job: the same bits, and what becomes of it where a rank is lost."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import distributed_run
import numpy as np
import oracle
import pytest
from distributed_run import RUNS, STEPS, train

import fpes
import fpes.presets

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason='NOT TESTED: there is no MPI (pip install "fpes[mpi]" mpich brings one)',
)

EVERY_RUN = """
import sys, numpy as np, distributed_run, fpes
from fpes import engine
from fpes.distributed import Ranks

ranks = Ranks()
thetas = {}
for name in distributed_run.RUNS:
    engine._PAIRS_WORTH_A_SUM = 0 if ranks.size % 2 else 10**9  # exact sums are exchanged, or not
    thetas[name] = distributed_run.train(name, executor=ranks).theta
thetas["by function"] = distributed_run.train("full", 5, executor=ranks, fitness=distributed_run.mean_output).theta
for rank in range(ranks.size):
    if rank == ranks.rank and rank in (0, ranks.size - 1):
        np.savez(f"{sys.argv[1]}/{rank}.npz", **thetas)
if ranks.rank == 0:
    print(ranks)
"""


@functools.lru_cache
def alone(name: str) -> np.ndarray:
    if name == "by function":
        return train("full", 5, fitness=distributed_run.mean_output).theta
    return train(name).theta


def mpiexec(ranks: int, script: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    """A script on so many ranks."""
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_any_number_of_ranks_gives_the_same_theta(ranks, tmp_path):
    said = mpiexec(ranks, EVERY_RUN, tmp_path).stdout
    assert f"{ranks} ranks on 1 machine(s), threads of each rank: " in said
    for rank in {0, ranks - 1}:
        with np.load(tmp_path / f"{rank}.npz") as thetas:
            for name in (*RUNS, "by function"):
                oracle.assert_bitwise_equal(thetas[name], alone(name), f"{name}, rank {rank} of {ranks}")


@needs_mpi
def test_a_lost_rank_ends_the_job_and_any_number_of_processes_goes_on(tmp_path):
    """Three ranks lose one; the checkpoint that they leave goes on by two, and then by one process."""
    checkpoint = tmp_path / "run.npz"
    dies = """
import os, signal, sys, distributed_run
from fpes.distributed import Ranks
ranks = Ranks()
def loss(outputs, labels):
    loss.calls = getattr(loss, "calls", 0) + 1
    if ranks.rank == 1 and loss.calls == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return distributed_run.mean_output(outputs, labels)
loss.__qualname__ = "mean_output"
distributed_run.train("full", executor=ranks, fitness=loss, checkpoint=sys.argv[1], checkpoint_seconds=0)
"""
    assert mpiexec(3, dies, checkpoint, check=False).returncode != 0
    assert fpes.ES.load(checkpoint).generation in (18, 19)
    goes_on = """
import sys, distributed_run, fpes
from fpes.distributed import Ranks
es, loss = fpes.ES.load(sys.argv[1]), distributed_run.mean_output
distributed_run.train("full", 30, es, executor=Ranks(), fitness=loss, checkpoint=sys.argv[1])
"""
    mpiexec(2, goes_on, checkpoint)
    es = fpes.ES.load(checkpoint)
    assert es.generation == 30
    train("full", STEPS, es, fitness=distributed_run.mean_output, checkpoint=checkpoint)
    expected = train("full", STEPS, fitness=distributed_run.mean_output)
    oracle.assert_bitwise_equal(es.theta, expected.theta)


@needs_mpi
def test_errors_of_rank_0_reach_the_user_and_end_the_job():
    script = """
import distributed_run
from fpes.distributed import Ranks
def stop(es):
    if es.generation == 3:
        raise RuntimeError("enough")
distributed_run.train("low", executor=Ranks(), after_step=stop)
"""
    failed = mpiexec(3, script, check=False)
    assert failed.returncode != 0
    assert "RuntimeError: enough" in failed.stderr


@needs_mpi
@pytest.mark.parametrize("wrong", ["groups=4", "checkpoint='/no/such/folder/run.npz'", "chunk=es.cannot_be_sent()"])
def test_an_error_before_the_first_generation_ends_the_job_too(wrong):
    """The other ranks wait for a run that doesn't begin."""
    script = f"""
import distributed_run, fpes
from fpes.distributed import Ranks
class ES(fpes.ES):
    def cannot_be_sent(self):
        self.note = lambda: 0
es = distributed_run.beginning("full")
es.__class__ = ES
distributed_run.train("full", es=es, executor=Ranks(), {wrong})
"""
    failed = mpiexec(3, script, check=False)
    assert failed.returncode != 0
    assert "Error: " in failed.stderr
    assert "Error: rank 0 has ended: " in failed.stderr


@needs_mpi
def test_a_theta_that_differs_is_an_error_by_name():
    script = """
import numpy as np, distributed_run
from fpes.distributed import DigestError, Ranks
ranks = Ranks()
es = distributed_run.beginning("full")
if ranks.rank == 1:
    es.tell(np.arange(34, dtype=np.float32))
x, y = np.zeros((2, 16), np.float32), np.zeros(2, int)
try:
    ranks.evaluate(es.ask(), x, y)
except DigestError as error:
    print(error)
"""
    said = mpiexec(2, script).stdout
    assert "has digest" in said
    assert "on rank 0, and another one on ranks 1" in said


@needs_mpi
def test_by_hand():
    script = """
import numpy as np, distributed_run
from fpes.distributed import Ranks
ranks = Ranks()
es, other = distributed_run.beginning("one-unit"), distributed_run.beginning("one-unit")
rng = np.random.default_rng(0)
for _ in range(3):
    x, y = rng.random((2, 8, 16), np.float32), rng.integers(0, 4, (2, 8))
    es.tell(ranks.evaluate(es.ask(), x, y))
    other.tell(other.ask().evaluate(x, y))
assert np.array_equal(es.theta.view(np.int32), other.theta.view(np.int32))
"""
    mpiexec(3, script)


def test_without_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'ranks need mpi4py, and an MPI: pip install "fpes\[mpi\]"'):
        fpes.distributed.Ranks()


# The command, with a baseline that takes no time.
QUICK_COMMAND = """
from dataclasses import replace
from fpes import presets
from fpes.cli import main
presets.PRESETS["digits"] = replace(presets.PRESETS["digits"], baseline_steps=5)
main()
"""


@needs_mpi
def test_the_command_under_mpiexec(tmp_path):
    """Rank 0 writes and talks; a run of three ranks goes on by two worker processes."""
    options = ["--seeds", "1", "--quiet", "--no-plot", "--population", "64", "--batch", "32", "--output", str(tmp_path)]
    command = [sys.executable, "-c", QUICK_COMMAND, "train", *options]

    def run(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    said = run(MPIEXEC, "-n", "3", *command, "--steps", "6")
    assert said.count("3 ranks on 1 machine(s), threads of each rank: ") == 1
    assert said.count("digits: deep linear network") == 1
    said = run(*command, "--steps", "9", "--resume", "--workers", "2")
    assert "2 workers of a ProcessPoolExecutor, a share of the processors each." in said
    preset = replace(fpes.presets.PRESETS["digits"], size=64)
    alone = preset.es(0)
    for steps in (6, 9):
        alone.fit(fpes.datasets.load("digits", seed=0), steps=steps, batch=32)
    oracle.assert_bitwise_equal(fpes.ES.load(tmp_path / "seed-0" / "checkpoint.npz").theta, alone.theta)
