"""Populations on the workers of any executor of concurrent.futures.

A task is sent again if its worker is lost or takes too long, or if its pool breaks. In the end this process computes
it. The first answer counts, and all answers have the same bits.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from fpes import _checks
from fpes._checks import FloatArray
from fpes._version import __version__
from fpes.datasets import Minibatches
from fpes.devices import to_host
from fpes.distributed import worker
from fpes.distributed.errors import DigestError, VersionError, WorkerError
from fpes.distributed.messages import Message, Parcel, ThetaParcel, key_of
from fpes.distributed.replay import History, replay_pays, settings_of
from fpes.engine import Engine, LocalEngine, Measure, Samples, parts_pay, ranges
from fpes.evaluation import Evaluation
from fpes.health import warn
from fpes.population import Population
from fpes.strategy import Strategy

_TRIES = 3  # of a task by workers, before this process computes it
_ANSWER = worker.answer


class Workers:
    """The workers of an executor. They share the evaluation of populations, and of exact gradients if that is faster.

        with ProcessPoolExecutor(4) as executor:
            es.fit(data, steps=1000, executor=executor)

    or by hand:

        workers = fpes.distributed.Workers(executor)
        for x, y in batches:
            es.tell(workers.evaluate(es.ask(), x, y))

    Workers receive the data once. They receive theta in every generation; or, if they may be on other machines and it
    is cheaper, they take each step themselves (replay.py). A worker that dies, hangs or answers twice changes no bit.

    Args:
        executor: any concurrent.futures.Executor whose workers can import this package, or a function without arguments
            that creates one. The function is called again if the executor breaks. A broken ProcessPoolExecutor is
            always replaced by one of the same kind. Workers shuts down only the executors that it has created.
        parts: tasks for each generation. Default: the number of workers, if the executor has this information.
        limit: seconds after which a task counts as lost. It is then sent again, and in the end computed by this
            process.
        threads: threads of each worker. Default: workers on this machine divide its processors; other workers follow
            their environment (FPES_THREADS, affinity masks).

    Raises:
        TypeError: executor is neither an executor nor a function.
        ValueError: a number out of its range; parts is missing, and the executor doesn't have the number of workers.
    """

    def __init__(
        self,
        executor: Executor | Callable[[], Executor],
        *,
        parts: int | None = None,
        limit: float = 300.0,
        threads: int | None = None,
    ) -> None:
        made = not isinstance(executor, Executor)
        if made and not callable(executor):
            raise TypeError(
                f"executor is {executor!r}, expected a concurrent.futures.Executor, or a function that makes one"
            )
        self.limit = _checks.positive("limit", limit)
        self.threads = None if threads is None else _checks.integer("threads", threads, 1, 1024)
        self._make: Callable[[], Executor] | None = executor if made else None  # type: ignore[assignment]
        self._executor: Executor = executor() if made else executor  # type: ignore[operator,assignment]
        self._mine = made
        self.parts = _parts_of(self._executor) if parts is None else _checks.integer("parts", parts, 1, 2**20)
        self._run = os.urandom(8).hex()
        self._replays = False

    def __str__(self) -> str:
        threads = "a share of the processors" if self.threads is None else f"{self.threads} thread(s)"
        return f"{self.parts} workers of a {type(self._executor).__name__}, {threads} each"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Shut down the executor if Workers has created it."""
        if self._mine:
            _end(self._executor)
            self._mine = False

    # --- By hand ------------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        population: Population,
        x: Any,
        y: Any,
        loss: str | Callable[[Any, Any], Any] = "cross_entropy",
        *,
        per_sample: bool = False,
        sample_weights: FloatArray | None = None,
        chunk: int | None = None,
    ) -> Evaluation:
        """As population.evaluate() with these arguments, computed by the workers, with the same bits.

        Raises:
            TypeError, ValueError: as for population.evaluate(), raised by a worker; a loss that can't be sent.
            WorkerError: any other exception of a worker; the message has the worker's name and traceback.
            VersionError: a worker has another version of fpes.
        """
        measure = Measure(loss, per_sample, None if sample_weights is None else to_host(sample_weights), chunk)
        parcels = {"batch": Parcel("y", (to_host(x), to_host(y))), "measure": Parcel("loss", measure)}
        theta = ThetaParcel(to_host(population.theta))
        values = self._values("evaluate", population, theta, parcels, own_loss=callable(loss))
        return population.evaluated(x, _on_device(values, population), y, loss)

    # --- As the helpers of ES.fit() -----------------------------------------------------------------------------------

    def serve(self, strategy: Strategy, loss: Callable[[Any, Any], Any] | None) -> bool:
        """No: this process leads."""
        return False

    def leading(self) -> AbstractContextManager[None]:
        """Nobody waits: workers are sent tasks."""
        return nullcontext()

    @contextmanager
    def training(self, strategy: Strategy, minibatches: Minibatches, run: str) -> Iterator[Engine]:
        """Around the generations of a run."""
        self._run = run
        near = isinstance(self._executor, ProcessPoolExecutor | ThreadPoolExecutor)
        self._replays = not near and replay_pays(strategy, minibatches)
        try:
            yield _Training(self, strategy, minibatches)
        finally:
            if self._make is None:
                self.close()  # a pool that has taken the place of a broken one that was given

    def _gradient(self, population: Population, theta: ThetaParcel, weights: Any) -> FloatArray:
        """The gradient of exact sums, in parts, after an evaluation."""
        parcels = {"weights": Parcel("weights", to_host(weights))}
        total = self._values("gradient", population, theta, parcels, kept=True)
        gradient: FloatArray = to_host(population.joined_gradient([_on_device(total, population)]))
        return gradient

    # --- Tasks --------------------------------------------------------------------------------------------------------

    def _values(
        self,
        kind: str,
        population: Population,
        theta: ThetaParcel,
        parcels: dict[str, Parcel],
        *,
        own_loss: bool = False,
        kept: bool = False,
    ) -> np.ndarray:
        """The values of all ranges, put together: one after another, or added up where they are gradients.

        `kept`: whether workers should have theta already, so that it is sent only to those that ask for it.
        """
        parcels["shape"] = Parcel("net", (population.net, population.perturbation))
        origin = population.origin
        common: Message = {
            "version": __version__,
            "run": self._run,
            "step": origin.generation,
            "theta": theta.digest,
            "kind": kind,
            "size": origin.size,
            "sigma": origin.sigma,
            "seed": origin.seed,
            "device": "cpu" if isinstance(population.theta, np.ndarray) else "cuda",
            "digests": {name: parcel.digest for name, parcel in parcels.items()},
            "home": (socket.gethostname(), os.getpid(), self.parts),
            "threads": self.threads,
            "own_loss": own_loss,
        }
        tasks = [{**common, "begin": begin, "end": end} for begin, end in ranges(population, self.parts)]
        values = _Round(self, tasks, {**parcels, "theta": theta}, sends_theta=not kept).run()
        if kind == "evaluate":
            return np.concatenate(values)
        total = values[0]
        for part in values[1:]:
            total = total + part
        return total

    def _submit(self, message: Message) -> Future[Message] | None:
        """A task on its way; None where the executor is broken, and there is no other."""
        for _ in range(2):
            try:
                return self._executor.submit(_ANSWER, message)
            except (BrokenExecutor, RuntimeError, OSError) as error:  # broken, shut down, or breaking just now
                if not self._renew(error):
                    return None
        return None

    def _give_up_replays(self, answer: Message) -> None:
        """A replay has gone wrong: send theta from now on, so that its bits are sure to be the same everywhere."""
        if self._replays:
            self._replays = False
            warn(
                f"worker {answer['worker']} has come to other bits: {answer['other_bits']}. Theta is sent from now on. "
                "Either it was changed between two generations, or that machine computes other bits"
            )

    def _renew(self, reason: object) -> bool:
        """Another executor in the place of a broken one, where there is a way to make it."""
        if self._make is None and type(self._executor) is not ProcessPoolExecutor:
            warn(f"the executor is broken ({reason!r}), and this process computes what is left")
            return False
        old, mine = self._executor, self._mine
        self._executor, self._mine = _like(old) if self._make is None else self._make(), True
        warn(f"a worker was lost ({reason!r}): its pairs are computed by a fresh pool")
        if mine:
            _end(old, patience=0.0)
        return True


class _Round:
    """The tasks of one generation, until each has its values."""

    def __init__(
        self,
        workers: Workers,
        tasks: Sequence[Message],
        parcels: Mapping[str, Parcel | ThetaParcel],
        *,
        sends_theta: bool,
    ) -> None:
        self.workers = workers
        self.tasks = tasks
        self.parcels = parcels
        self.values: list[np.ndarray | None] = [None] * len(tasks)
        self.tries = [0] * len(tasks)
        self.wanted: list[set[str]] = [{*_ALWAYS_SENT, "theta"} if sends_theta else set(_ALWAYS_SENT) for _ in tasks]
        self.waiting: dict[Future[Message], tuple[int, float]] = {}  # task, and when it counts as lost

    def run(self) -> list[np.ndarray]:
        """The values of all tasks, in order."""
        for number in range(len(self.tasks)):
            self.send(number)
        while any(value is None for value in self.values):
            self.take_answers()
            self.send_late_ones_again()
        return [value for value in self.values if value is not None]

    def send(self, number: int) -> None:
        """A task to the executor, with what it may lack; or computed here, where workers have had their tries."""
        message = {**self.tasks[number], "parcels": {name: self.parcels[name].content for name in self.names(number)}}
        self.tries[number] += 1
        future = self.workers._submit(message) if self.tries[number] <= _TRIES else None
        if future is None:
            everything = {name: parcel.content for name, parcel in self.parcels.items()}
            self.accept(number, worker.answer({**message, "parcels": everything}))
        else:
            self.waiting[future] = (number, time.monotonic() + self.workers.limit)

    def names(self, number: int) -> list[str]:
        return [name for name in self.parcels if name in self.wanted[number]]

    def take_answers(self) -> None:
        """Wait for the next answers, or for the next task to be late."""
        latest = min((deadline for _, deadline in self.waiting.values()), default=0.0)
        done, _ = wait(self.waiting, timeout=max(0.0, latest - time.monotonic()), return_when=FIRST_COMPLETED)
        lost: list[int] = []
        reason: BaseException | None = None
        for future in done:
            number, _ = self.waiting.pop(future)
            error = future.exception() if not future.cancelled() else RuntimeError("the task was cancelled")
            if error is None:
                self.accept(number, future.result())
            elif isinstance(error, ImportError):
                raise WorkerError(f"a worker can't import fpes: {error}. Install it wherever workers run") from error
            else:
                lost.append(number)
                reason = error
        if reason is None:
            return
        if isinstance(reason, BrokenExecutor):  # all others of the pool are lost too, now or in a moment
            lost += [number for number, _ in self.waiting.values()]
            self.waiting.clear()
            self.workers._renew(reason)
        else:
            warn(f"a worker was lost ({reason!r}): its pairs are computed again")
        for number in sorted(set(lost)):
            if self.values[number] is None:
                self.send(number)

    def send_late_ones_again(self) -> None:
        """Tasks that take too long go to somebody else; a late answer is no longer waited for."""
        now = time.monotonic()
        late = {future: number for future, (number, deadline) in self.waiting.items() if deadline <= now}
        for future, number in late.items():
            del self.waiting[future]
            future.cancel()
            if self.values[number] is None:
                begin, end = self.tasks[number]["begin"], self.tasks[number]["end"]
                warn(
                    f"a worker has not answered for {self.workers.limit:g} s: pairs {begin} to {end} are computed "
                    "elsewhere. (Workers(executor, limit=) says how long they may take.)"
                )
                self.send(number)

    def accept(self, number: int, answer: Message) -> None:
        """What a worker says."""
        task, state = self.tasks[number], answer["state"]
        if state == "version":
            raise VersionError(
                f"worker {answer['worker']} has fpes {answer['version']}, and this is fpes {__version__}: install the "
                "same version everywhere, for the bits of two may differ"
            )
        if key_of(answer) != key_of(task):
            raise WorkerError(f"worker {answer['worker']} has answered {key_of(answer)}, expected {key_of(task)}")
        if state == "missing":
            if answer["other_bits"] is not None:
                self.workers._give_up_replays(answer)
            self.wanted[number] |= set(answer["missing"])
            self.tries[number] -= 1
            self.send(number)
        elif state == "failed":
            raise _failure(answer)
        elif self.values[number] is None:
            self.values[number] = answer["values"]


# What nobody has yet when a generation begins, and measures, which are small and may have new weights of samples.
_ALWAYS_SENT = ("steps", "samples", "weights", "batch", "measure")


class _Training:
    """Workers in a fit()."""

    def __init__(self, workers: Workers, strategy: Strategy, minibatches: Minibatches) -> None:
        self.workers = workers
        self.minibatches = minibatches
        self.device = strategy.device
        self.data = Parcel("data", minibatches.for_training_only())
        self.strategy = strategy
        self.history = History(strategy)
        self.local = LocalEngine(strategy, minibatches)

    def evaluate(self, population: Population, samples: Samples, measure: Measure) -> Evaluation:
        """The population on its minibatch."""
        parcels = {
            "minibatches": self.data,
            "samples": Parcel("samples", samples),
            "measure": Parcel("fitness", measure),
        }
        replays, state = self.workers._replays, self.strategy.state
        self.samples = samples
        self.theta = theta = ThetaParcel(state.theta, state.memory if replays else None)
        if replays:
            parcels["settings"] = Parcel("settings", settings_of(self.strategy))
            parcels["steps"] = Parcel("steps", self.history.steps(theta))
        values = self.workers._values("evaluate", population, theta, parcels, kept=replays)
        x, y = samples.arrays(self.minibatches, self.device)
        assert measure.loss is not None
        return population.evaluated(x, _on_device(values, population), y, measure.loss)

    def gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """In parts, where that pays."""
        if self.workers._replays:
            self.history.propose(self.samples, fitness)
        elif parts_pay(population, utilities, self.workers.parts):
            return self.workers._gradient(population, self.theta, utilities)
        return self.local.gradient(population, fitness, utilities, evaluation)


def processes(count: int, *, start: str = "spawn", limit: float = 300.0, threads: int | None = None) -> Workers:
    """`count` worker processes on this machine, with the standard library. If one dies, a new pool takes over.

        with fpes.distributed.processes(4) as workers:
            es.fit(data, steps=1000, executor=workers)

    Args:
        count: number of processes. They divide this machine's processors and GPUs among them.
        start: start method of multiprocessing: "spawn", "forkserver" or "fork".
        limit: as for Workers.
        threads: as for Workers.

    Raises:
        ValueError: a number out of its range.
    """
    number = _checks.integer("count", count, 1, 1024)
    context = multiprocessing.get_context(start)

    def make() -> Executor:
        places = context.Value("i", 0)
        return ProcessPoolExecutor(number, mp_context=context, initializer=worker.begin, initargs=(places,))

    return Workers(make, parts=number, limit=limit, threads=threads)


def _failure(answer: Message) -> Exception:
    """The exception that a worker's answer is for the user."""
    error = answer["error"]
    text = f"worker {answer['worker']} failed, on pairs {answer['begin']} to {answer['end']}:\n{answer['traceback']}"
    failure = (DigestError if isinstance(error, DigestError) else WorkerError)(text)
    failure.__cause__ = error
    return failure


def _parts_of(executor: Executor) -> int:
    """How many workers an executor has."""
    for name in ("_max_workers", "num_workers"):  # the standard ones and loky; mpi4py.futures
        count = getattr(executor, name, None)
        if isinstance(count, int) and count > 0:
            return count
    client = getattr(executor, "_client", None)  # Dask's
    if client is not None and hasattr(client, "nthreads"):
        return max(1, len(client.nthreads()))
    raise ValueError(f"parts is not given, and {executor!r} doesn't tell how many workers it has: Workers(..., parts=)")


def _like(executor: Executor) -> Executor:
    """A process pool as the broken one was when it was made. (It keeps its arguments, under names of its own.)"""
    kept = vars(executor)
    return ProcessPoolExecutor(
        kept.get("_max_workers"),
        mp_context=kept.get("_mp_context"),
        initializer=kept.get("_initializer"),
        initargs=kept.get("_initargs", ()),
    )


def _end(executor: Executor, patience: float = 0.2) -> None:
    """Shut an executor down at once; processes that hang would never hear of it, and are killed."""
    hanging = list((getattr(executor, "_processes", None) or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + patience
    for process in hanging:
        process.join(timeout=max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _on_device(values: np.ndarray, population: Population) -> Any:
    """Workers' values, where the population is."""
    return values if isinstance(population.theta, np.ndarray) else population._backend.copied_to_device(values)
