"""What it costs to share a population between processes, and what it gains: the figures of docs/machines.md.

    python benchmarks/sharing.py            # worker processes; ranks and actors where there are an MPI and Ray
    python benchmarks/sharing.py --steps 9  # generations of each measurement; the fastest counts
    python benchmarks/sharing.py --runs 3 --json FILE  # the fastest of three runs, stored for write_tables.py
    python benchmarks/sharing.py --bytes --json FILE   # what the messages of workers weigh, on any machine

Each process has one thread, so two processes have twice the processors of one. Numbers are of ordinary size, because
some processors (Intel's) compute subnormal numbers a hundred times more slowly, and then nothing else counts. A
generation is taken apart where it runs in one process: evaluation, gradient, and the step with all that surrounds it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["FPES_THREADS"] = "1"

import numpy as np
from bench_machine import machine

import fpes
from fpes.datasets import Dataset
from fpes.distributed import Ranks, RayExecutor, Workers, processes
from fpes.distributed.ranks import sum_type
from fpes.engine import Local, LocalEngine, parts_pay
from fpes.files import written_whole

WIDE, NARROW = (784, 512, 512, 10), (64, 64, 64, 10)
# name: (sizes, perturbation, members, batch, groups)
CASES: dict[str, tuple[tuple[int, ...], Any, int, int, int]] = {
    "full rank, 512": (WIDE, fpes.FullRank(), 512, 16, 1),
    "low rank, 512": (WIDE, fpes.LowRank(), 512, 16, 1),
    "low rank of one layer, 512": (WIDE, fpes.LowRank(allocation=fpes.OneLayer(pairs=(2, 2, 4))), 512, 16, 1),
    "node of one layer, 512": (
        WIDE,
        fpes.NodePerturbation(allocation=fpes.OneLayer(32, (2, 2, 4))),
        512,
        16,
        1,
    ),
    "full rank, 65536": (NARROW, fpes.FullRank(), 65536, 16, 1),
    "low rank, 65536": (NARROW, fpes.LowRank(), 65536, 16, 1),
    "low rank of one layer, 65536": (NARROW, fpes.LowRank(allocation=fpes.OneLayer(pairs=(2, 2, 4))), 65536, 16, 1),
    "one unit, 33088": (WIDE, fpes.OneUnit(), 2 * 2068 * 8, 32, 8),
}


def dataset(sizes: tuple[int, ...]) -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.random((2048, sizes[0]), np.float32), rng.integers(0, sizes[-1], 2048).astype(np.int32)
    return Dataset("noise", x, y, x[:64], y[:64], sizes[-1])


def network(sizes: tuple[int, ...]) -> fpes.LinearNetwork:
    """Without subnormal numbers."""
    return fpes.LinearNetwork(sizes, scaling=1.0)


def run(case: str, steps: int, executor: Any) -> float:
    """Seconds of the fastest generation."""
    sizes, perturbation, members, batch, groups = CASES[case]
    net = network(sizes)
    es = fpes.ES(net, net.init(0), size=members, sigma=0.05, perturbation=perturbation, learning_rate=1e-3)
    times: list[float] = []
    es.fit(
        dataset(sizes),
        steps=steps + 1,
        batch=batch,
        groups=groups,
        executor=executor,
        after_step=lambda es: times.append(time.perf_counter()),
    )
    return float(np.diff(times).min()) if times else 0.0


class Timed(Local):
    """One process, whose evaluation and gradient are timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"evaluate": [], "gradient": []}

    def training(self, strategy: Any, minibatches: Any, run: str) -> Any:
        self.inner = LocalEngine(strategy, minibatches)
        return nullcontext(self)

    def evaluate(self, *arguments: Any) -> Any:
        return self._timed("evaluate", *arguments)

    def gradient(self, *arguments: Any) -> Any:
        return self._timed("gradient", *arguments)

    def _timed(self, what: str, *arguments: Any) -> Any:
        begin = time.perf_counter()
        result = getattr(self.inner, what)(*arguments)
        self.seconds[what].append(time.perf_counter() - begin)
        return result


class Counted(Workers):
    """Workers whose messages are weighed."""

    sent = received = tasks = 0

    def _submit(self, message: Any) -> Any:
        self.tasks += 1
        self.sent += len(pickle.dumps(message, protocol=5))
        future = super()._submit(message)
        future.add_done_callback(self._weigh)
        return future

    def _weigh(self, done: Any) -> None:
        self.received += len(pickle.dumps(done.result(), protocol=5))


def apart(case: str, steps: int) -> dict[str, float]:
    """Milliseconds of one process: the generation and its parts."""
    from fpes.training import trainer

    timed, before = Timed(), trainer.helpers_of
    trainer.helpers_of = lambda executor: timed
    try:
        whole = run(case, steps, None)
    finally:
        trainer.helpers_of = before
    parts = {what: 1e3 * min(seconds) for what, seconds in timed.seconds.items()}
    return {"generation": 1e3 * whole, **parts}


class Elsewhere(Executor):
    """A pool that doesn't say that it is on this machine, so its workers replay steps where that pays."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def submit(self, fn: Any, /, *arguments: Any, **options: Any) -> Any:
        return self._pool.submit(fn, *arguments, **options)


def traffic(case: str, disguised: Callable[[Executor], Executor]) -> tuple[int, int]:
    """Bytes to and from two workers in a generation, once they have the data."""
    with processes(2, threads=1) as pool:
        counted = Counted(disguised(pool._executor), parts=2, threads=1)
        marks = []
        sizes, perturbation, members, batch, groups = CASES[case]
        net = network(sizes)
        es = fpes.ES(net, net.init(0), size=members, sigma=0.05, perturbation=perturbation, learning_rate=1e-3)
        es.fit(
            dataset(sizes),
            steps=9,
            batch=batch,
            groups=groups,
            executor=counted,
            after_step=lambda es: marks.append((counted.sent, counted.received)),
        )
    each = np.diff(marks, axis=0)
    sent, received = (int(np.median(each[:, column])) for column in (0, 1))  # a worker may have fallen behind
    return sent, received


@contextmanager
def actors(count: int) -> Iterator[Workers]:
    """Actors of Ray on this machine."""
    import ray

    ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with RayExecutor(count) as executor:
            yield Workers(executor, threads=1)
    finally:
        ray.shutdown()


def ranks_of(case: str, steps: int) -> None:
    """On every rank: the time of a generation, printed by rank 0."""
    ranks = Ranks()
    seconds = run(case, steps, ranks)
    if ranks.rank == 0:
        print(json.dumps(1e3 * seconds))


def mpiexec() -> str | None:
    return shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def measure(case: str, steps: int) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case, **apart(case, steps)}
    with processes(1, threads=1) as pool:
        row["1 worker"] = 1e3 * run(case, steps, pool)
    with processes(2, threads=1) as pool:
        row["2 workers"] = 1e3 * run(case, steps, pool)
    if mpiexec() is not None:
        for count in (1, 2):
            command = [mpiexec(), "-n", str(count), sys.executable, __file__, "--ranks", case, "--steps", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row[f"{count} rank{'s' if count > 1 else ''}"] = json.loads(done.stdout.strip().splitlines()[-1])
    if find_spec("ray") is not None:
        for count in (1, 2):
            with actors(count) as pool:
                row[f"{count} actor{'s' if count > 1 else ''}"] = 1e3 * run(case, steps, pool)
    again = apart(case, steps)  # before and after all others: the machine may have been busy
    row |= {name: min(row[name], again[name]) for name in again}
    sizes, perturbation, members, batch, _ = CASES[case]
    net = network(sizes)
    population = fpes.Population(net, net.init(0), size=members, sigma=0.05, perturbation=perturbation)
    weights = fpes.centred_ranks(np.random.default_rng(0).random(members))
    row["exchanged"] = parts_pay(population, weights, 2)
    # Of all ranks: what Allgatherv and Allreduce give to each.
    row["fitness bytes"] = 4 * members * (batch if perturbation.per_sample else 1)
    row["sum bytes"] = net.parameters * np.dtype(sum_type(population, weights)).itemsize if row["exchanged"] else 0
    return row


def weigh(case: str) -> dict[str, Any]:
    """Bytes to and from two workers in a generation, and to two that replay steps where that pays."""
    sent, received = traffic(case, lambda pool: pool)
    replayed, _ = traffic(case, Elsewhere)
    return {"case": case, "sent": sent, "received": received, "replayed": replayed}


def fastest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs of a case the smallest of each time; all else is the same in each."""
    return {
        name: round(min(row[name] for row in rows), 3) if isinstance(value, float) else value
        for name, value in rows[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7, help="generations of each measurement; the fastest counts")
    parser.add_argument("--runs", type=int, default=1, help="measurements of each case; the fastest counts")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--bytes", action="store_true", help="weigh the messages of workers instead")
    parser.add_argument("--json", type=Path, help="store the results there")
    parser.add_argument("--ranks", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", fpes.TrainingWarning)  # of a network that flushes nothing
    if options.ranks:
        return ranks_of(options.ranks, options.steps)
    rows = []
    for case in CASES:
        if options.only in case:
            if options.bytes:
                rows.append(weigh(case))
            else:
                rows.append(fastest([measure(case, options.steps) for _ in range(options.runs)]))
            print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        stored = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": machine(), "rows": rows}
        with written_whole(options.json) as aside:
            aside.write_text(json.dumps(stored, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
