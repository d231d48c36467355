"""Populations on the ranks of an MPI job: one rank per processor, group of processors, or GPU.

Rank 0 leads: it draws the minibatches, watches the clock, writes and prints. The other ranks follow: each has a copy of
the run, evaluates its part of every population, and takes the same step, so theta is never sent. A generation has two
small messages, one Allgatherv of fitness, and one Allreduce of gradient sums if they are integers and sending them is
cheaper than drawing their noise again. Every rank computes everything else itself.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fpes._checks import FloatArray
from fpes._version import __version__
from fpes.datasets import Minibatches
from fpes.devices import to_device, to_host
from fpes.distributed.errors import DigestError, VersionError
from fpes.distributed.messages import digest_of
from fpes.distributed.replay import scheduled_values, settle
from fpes.distributed.sharing import process_name, processors, share_processors, shared_device
from fpes.engine import Engine, Measure, Samples, parts_pay, ranges
from fpes.evaluation import Evaluation
from fpes.health import DivergedError
from fpes.population import Population
from fpes.steps import State
from fpes.strategy import Strategy, local_gradient

_INTERRUPTED = 130
_WAKING, _NAP_SECONDS = 1, 0.005
_PATIENCE_SECONDS = 2.0  # in which rank 0 says what has ended it: the first rank that ends takes the others along


class Ranks:
    """The ranks of an MPI communicator, for ES.fit(executor=). Every rank creates one.

        ranks = fpes.distributed.Ranks()  # mpiexec -n 8 python train.py
        es.fit(data, steps=1000, checkpoint="run.npz", executor=ranks)
        if ranks.rank == 0:
            print(es.records[-1])

    The ranks of a machine divide the processors that they may use, and its GPUs if device is "cuda". After fit(), the
    ES of every rank is in the same state; rank 0 has the records and checkpoints.

    Args:
        communicator: communicator of mpi4py; MPI.COMM_WORLD if not given.

    Raises:
        ImportError: mpi4py is missing.
        VersionError: ranks have different versions of fpes.
    """

    def __init__(self, communicator: Any = None) -> None:
        try:
            from mpi4py import MPI
            from mpi4py.util import pkl5
        except ImportError as error:
            raise ImportError('ranks need mpi4py, and an MPI: pip install "fpes[mpi]"') from error
        self._mpi = MPI
        world = MPI.COMM_WORLD if communicator is None else communicator
        self._comm = pkl5.Intracomm(world.Dup())
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        machine = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.place: int = machine.Get_rank()
        masks = machine.allgather(processors())
        same = [place for place, mask in enumerate(masks) if mask == masks[self.place]]
        machine.Free()
        self.threads = share_processors(len(same), same.index(self.place))
        self._leads = False  # a run that has begun
        self._members = self._comm.allgather((socket.gethostname(), self.threads, __version__))
        versions = Counter(version for _, _, version in self._members)
        if len(versions) > 1:
            raise VersionError(f"ranks have different versions of fpes: {dict(versions)}, expected one")

    def __str__(self) -> str:
        machines: dict[str, list[int]] = {}
        for host, threads, _ in self._members:
            machines.setdefault(host, []).append(threads)
        shares = "; ".join(f"{host}: {', '.join(map(str, threads))}" for host, threads in machines.items())
        return f"{self.size} ranks on {len(machines)} machine(s), threads of each rank: {shares}"

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
        """As population.evaluate(), with the same bits. Every rank makes this call with the same arguments.

        Raises:
            DigestError: ranks have different theta.
            TypeError, ValueError: as for population.evaluate().
        """
        self._check_digests(population)
        weights = None if sample_weights is None else to_host(sample_weights)
        device = "cpu" if isinstance(population.theta, np.ndarray) else f"cuda:{population.theta.device.id}"
        return self._evaluation(population, x, y, Measure(loss, per_sample, weights, chunk), device)

    def _check_digests(self, population: Population) -> None:
        digests = self._comm.allgather(digest_of(to_host(population.theta)))
        different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if different:
            raise DigestError(
                f"theta of generation {population.generation} has digest {digests[0][:12]} on rank 0, and another one "
                f"on ranks {', '.join(map(str, different))}: every rank must have told its ES the same fitness"
            )

    # --- As the engine of ES.fit() ------------------------------------------------------------------------------------

    @contextmanager
    def leading(self) -> Iterator[None]:
        """On rank 0, around all of a fit()."""
        self._leads = False
        try:
            yield
        except BaseException as end:
            if not self._leads:  # so the others still wait for a run to begin
                self._wake()
                self._comm.bcast(("end", {"error": repr(end)}))
            raise

    @contextmanager
    def training(self, strategy: Strategy, minibatches: Minibatches, run: str) -> Iterator[Engine]:
        """On rank 0, around the generations of a run."""
        strategy.device = shared_device(strategy.device, self.place)
        self._wake()
        self._comm.bcast(("start", {"strategy": strategy, "minibatches": minibatches.for_training_only()}))
        self._leads = True
        leader = _Leader(self, strategy, minibatches)
        try:
            yield leader
        except BaseException as end:
            if leader.computing:  # the others wait in the middle of a generation, and can't be told
                traceback.print_exc()
                sys.stderr.flush()
                self._comm.Abort(_INTERRUPTED if isinstance(end, KeyboardInterrupt) else 1)
            self._comm.bcast(("end", {"generation": strategy.generation, "error": repr(end)}))
            raise
        self._comm.bcast(("end", {"generation": strategy.generation, "error": None}))

    def serve(self, strategy: Strategy | None = None, loss: Callable[[Any, Any], Any] | None = None) -> bool:
        """On all ranks except rank 0: follow one fit() to its end. An error here ends the job.

        Args:
            strategy: receives the state at the end.
            loss: the user's fitness function, if rank 0 has one.

        Returns:
            False on rank 0, which leads; True on the other ranks, after the end.

        Raises:
            RuntimeError: rank 0 has raised an error; its own message describes it.
        """
        if self.rank == 0:
            return False
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for rank 0, which saves and then ends the job
        try:
            self._sleep()
            kind, content = self._comm.bcast(None)
            if kind == "start":
                end = self._follow(_Follower(self, loss=loss, **content), strategy)
            else:
                end = content.get("error")
        except Exception:
            print(f"rank {self.rank} ({process_name()}) ends the job:", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            self._comm.Abort(1)
            raise
        finally:
            signal.signal(signal.SIGINT, before)
        if end is not None:
            time.sleep(_PATIENCE_SECONDS)
            raise RuntimeError(f"rank 0 has ended: {end}")
        return bool(kind != "dismiss")

    def dismiss(self) -> None:
        """On rank 0: release the other ranks, which wait in serve()."""
        self._wake()
        self._comm.bcast(("dismiss", {}))

    # A rank that waits for a collective call takes a whole processor. That is right within a generation, where it is
    # woken fastest; between two runs ranks sleep, and leave the processors to rank 0.
    def _wake(self) -> None:
        for rank in range(1, self.size):
            self._comm.send(None, dest=rank, tag=_WAKING)

    def _sleep(self) -> None:
        while not self._comm.iprobe(source=0, tag=_WAKING):
            time.sleep(_NAP_SECONDS)
        self._comm.recv(source=0, tag=_WAKING)

    def _follow(self, follower: _Follower, strategy: Strategy | None) -> str | None:
        """One message after another, to the end; the error that it ended with on rank 0."""
        while True:
            kind, content = self._comm.bcast(None)
            if kind == "end":
                follower.catch_up(content["generation"])
                if strategy is not None:
                    vars(strategy).update({**vars(follower.strategy), "device": strategy.device})
                error: str | None = content["error"]
                return error
            getattr(follower, kind)(**content)

    # --- What all ranks do at the same time ---------------------------------------------------------------------------

    def _mine(self, population: Population) -> tuple[int, int] | None:
        """This rank's pairs; none where there are more ranks than pairs."""
        parts = ranges(population, self.size)
        return parts[self.rank] if self.rank < len(parts) else None

    def _evaluation(self, population: Population, x: Any, y: Any, measure: Measure, device: str) -> Evaluation:
        """This rank's part, and then everybody's."""
        pairs = self._mine(population)
        own_loss = callable(measure.loss)
        part = None if pairs is None else measure.of(population, x, y, device, pairs)
        values = None if part is None else np.ascontiguousarray(to_host(part.values))
        shape: tuple[int, ...] = (x.shape[-2],) if measure.per_sample and not own_loss else ()
        dtype = np.dtype(np.float32)
        if own_loss:  # what a function gives, rank 0 knows
            shape, dtype = self._comm.bcast(None if values is None else (values.shape[1:], values.dtype))
        if values is None:
            values = np.empty((0, *shape), dtype)
        everything = np.empty((population.size, *shape), dtype)
        each = everything[:1].size
        counts = [2 * (end - begin) * each for begin, end in ranges(population, self.size)]
        counts += [0] * (self.size - len(counts))
        self._comm.Allgatherv(values, (everything, counts))
        placed = to_device(everything, device)
        assert measure.loss is not None
        return population.evaluated(x, placed, y, measure.loss, part=part)

    def _gradient(self, population: Population, weights: Any, evaluation: Evaluation | None, device: str) -> FloatArray:
        """The whole gradient: from everybody's exact sums where that pays, and else by every rank for itself."""
        if not parts_pay(population, weights, self.size):
            return local_gradient(population, weights, evaluation, device)
        pairs = self._mine(population)
        if pairs is None:
            sums = np.zeros(population.net.parameters, np.int64)
        else:
            sums = to_host(population.partial_gradient(to_device(weights, device), pairs=pairs))
        sums = sums.astype(sum_type(population, weights), copy=False)
        total = np.empty_like(sums)
        self._comm.Allreduce(sums, total)
        joined = population.joined_gradient([to_device(total.astype(np.int64, copy=False), device)])
        gradient: FloatArray = to_host(joined)
        return gradient


class _Leader:
    """Rank 0 in a fit()."""

    def __init__(self, ranks: Ranks, strategy: Strategy, minibatches: Minibatches) -> None:
        self.ranks = ranks
        self.strategy = strategy
        self.minibatches = minibatches
        self.computing = False  # in the middle of what all ranks do at the same time

    def announce(self, kind: str, **content: Any) -> None:
        strategy = self.strategy
        values = scheduled_values(strategy)
        self.computing = True
        self.ranks._comm.bcast((kind, {"scheduled": values, **content}))

    def evaluate(self, population: Population, samples: Samples, measure: Measure) -> Evaluation:
        """The population on its minibatch."""
        strategy = self.strategy
        x, y = samples.arrays(self.minibatches, strategy.device)
        told = replace(measure, loss=None) if callable(measure.loss) else measure
        place = (strategy.generation, digest_of(strategy.theta))
        self.announce("evaluate", place=place, samples=samples, measure=told)
        evaluation = self.ranks._evaluation(population, x, y, measure, strategy.device)
        self.computing = False
        return evaluation

    def gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """By all ranks."""
        self.announce("propose", fitness=fitness)
        gradient = self.ranks._gradient(population, utilities, evaluation, self.strategy.device)
        self.computing = False
        return gradient


@dataclass
class _Follower:
    """A copy of the run on another rank, which does what rank 0 announces."""

    ranks: Ranks
    strategy: Strategy
    minibatches: Minibatches
    loss: Callable[[Any, Any], Any] | None
    proposal: State | None = None  # the state after the generation whose fitness has come
    evaluation: Evaluation | None = None

    def __post_init__(self) -> None:
        strategy = self.strategy
        strategy.device = shared_device("cuda" if strategy.device.startswith("cuda") else "cpu", self.ranks.place)

    def catch_up(self, generation: int) -> None:
        """Take the step that rank 0 has taken, if it has."""
        if self.proposal is not None and generation == self.strategy.generation + 1:
            self.strategy.accept(self.proposal)
        self.proposal = None

    def evaluate(
        self, scheduled: Mapping[str, float], place: tuple[int, str], samples: Samples, measure: Measure
    ) -> None:
        """This rank's part of a population."""
        strategy = self.strategy
        self.catch_up(place[0])
        settle(strategy, scheduled)
        found = (strategy.generation, digest_of(strategy.theta))
        if found != place:
            raise DigestError(
                f"theta of rank {self.ranks.rank} is of generation {found[0]} with digest {found[1][:12]}, expected "
                f"generation {place[0]} and {place[1][:12]}: settings of the ES were changed in the middle of fit(), "
                "or this machine computes other bits"
            )
        if measure.loss is None:
            if self.loss is None:
                raise TypeError("fitness is a function on rank 0 only, expected fit(fitness=...) on every rank")
            measure = replace(measure, loss=self.loss)
        x, y = samples.arrays(self.minibatches, strategy.device)
        self.evaluation = self.ranks._evaluation(strategy.ask(), x, y, measure, strategy.device)

    def propose(self, scheduled: Mapping[str, float], fitness: FloatArray) -> None:
        """The step that this fitness leads to; whether it is taken, the next message tells."""
        settle(self.strategy, scheduled)
        assert self.evaluation is not None
        try:
            told = self.evaluation.with_fitness(to_device(fitness, self.strategy.device))
            self.proposal = self.strategy.proposed(told, self.gradient)
        except DivergedError:  # which rank 0 has come to as well, and will say
            self.proposal = None

    def gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """By all ranks."""
        return self.ranks._gradient(population, utilities, evaluation, self.strategy.device)


def sum_type(population: Population, weights: Any) -> type:
    """The narrowest integers that hold all sums of the gradient, whatever the noise is."""
    values = np.asarray(weights, np.int64)
    bound = float(np.abs(values[0::2] - values[1::2]).sum(dtype=np.float64)) * population.largest_term
    return np.int32 if bound < np.iinfo(np.int32).max else np.int64
