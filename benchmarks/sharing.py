"""What it costs to share a population between processes, and what it gains: the figures of docs/machines.md.

    python benchmarks/sharing.py            # worker processes, and ranks where there is an MPI
    python benchmarks/sharing.py --steps 9  # generations of each measurement; the fastest counts

Each process has one thread, so two processes have twice the processors of one. A generation is taken apart where it
runs in one process: evaluation, gradient, and the step with all that surrounds it.
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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ["FPES_THREADS"] = "1"

import numpy as np

import fpes
from fpes.datasets import Dataset
from fpes.distributed import Ranks, Workers, processes
from fpes.engine import Local, LocalEngine, parts_pay

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
    "one unit, 25x2068": (WIDE, fpes.OneUnit(), 2 * 2068 * 8, 32, 8),
}


def dataset(sizes: tuple[int, ...]) -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.random((2048, sizes[0]), np.float32), rng.integers(0, sizes[-1], 2048).astype(np.int32)
    return Dataset("noise", x, y, x[:64], y[:64], sizes[-1])


def run(case: str, steps: int, executor: Any) -> float:
    """Seconds of the fastest generation."""
    sizes, perturbation, members, batch, groups = CASES[case]
    net = fpes.LinearNetwork(sizes)
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


def traffic(case: str) -> dict[str, float]:
    """Bytes of a generation of two workers, once they have the data."""
    with processes(2, threads=1) as pool:
        counted = Counted(pool._executor, parts=2, threads=1)
        marks = []
        sizes, perturbation, members, batch, groups = CASES[case]
        net = fpes.LinearNetwork(sizes)
        es = fpes.ES(net, net.init(0), size=members, sigma=0.05, perturbation=perturbation, learning_rate=1e-3)
        es.fit(
            dataset(sizes),
            steps=6,
            batch=batch,
            groups=groups,
            executor=counted,
            after_step=lambda es: marks.append((counted.sent, counted.received)),
        )
    each = np.diff(marks, axis=0)
    sent, received = (int(each[:, column].min()) for column in (0, 1))
    return {"sent": sent, "received": received}


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
            row[f"{count} ranks"] = json.loads(done.stdout.strip().splitlines()[-1])
    again = apart(case, steps)  # before and after all others: the machine may have been busy
    row |= {name: min(row[name], again[name]) for name in again}
    sizes, perturbation, members, *_ = CASES[case]
    net = fpes.LinearNetwork(sizes)
    population = fpes.Population(net, net.init(0), size=members, sigma=0.05, perturbation=perturbation)
    integers = np.ones(members, np.int32)
    row["exchanged"] = parts_pay(population, integers, 2)
    row["parameters"], row["members"] = net.parameters, members
    row |= traffic(case)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--ranks")
    options = parser.parse_args()
    if options.ranks:
        return ranks_of(options.ranks, options.steps)
    for case in CASES:
        if options.only in case:
            print(
                json.dumps(
                    {k: round(v, 3) if isinstance(v, float) else v for k, v in measure(case, options.steps).items()}
                )
            )
            sys.stdout.flush()
    return None


if __name__ == "__main__":
    main()
