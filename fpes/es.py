"""Evolution strategies: ask for a population, tell its fitness, and the centre moves."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fpes import _checks, _config, checkpoint, fitting
from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes._turns import in_turn
from fpes._version import __version__
from fpes.checkpoint import CheckpointError
from fpes.datasets import Augmentation, Dataset, ImportanceSampling
from fpes.devices import checked_device, to_device, to_host
from fpes.engine import Engine, Local
from fpes.evaluation import Evaluation, plain
from fpes.files import owned, resolved
from fpes.health import DivergedError, warn
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_SEED, LARGEST_WORD
from fpes.optimisers import Adam, Memory, Optimiser, Step, norm, weighted_sum
from fpes.perturbations import FullRank, NodePerturbation, OneUnit, Perturbation
from fpes.population import Population
from fpes.records import Record
from fpes.schedules import Constant, Schedule
from fpes.shaping import SHAPINGS, Shaping, all_equal, shaped

_ADVICE = "lower the learning rate or sigma, or go on from an earlier checkpoint"
_MOST_EVALUATIONS = 2**128
_SAVING_SECONDS = 10.0  # that save() waits for somebody else who is writing the same file
# What the constructor takes besides the network and theta, and a checkpoint describes.
SETTINGS = (
    "size",
    "sigma",
    "perturbation",
    "optimiser",
    "learning_rate",
    "weight_decay",
    "clip",
    "shaping",
    "averaging",
    "steps",
    "seed",
)


class _Number:
    """A number of ES's that may be a schedule: checked when it is assigned, and kept as Python's own numbers."""

    def __init__(self, checked: Callable[[str, Any], float]) -> None:
        self.checked = checked

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, es: ES, owner: type) -> float | Schedule:
        value: float | Schedule = vars(es)[self.name]
        return value

    def __set__(self, es: ES, value: float | Schedule) -> None:
        if isinstance(value, Schedule):
            number = _config.setting(self.name, value, Schedule, "a number or a schedule")
            self.checked(self.name, number.at(0, 1))
        else:
            number = self.checked(self.name, _config.plain(value))
        vars(es)[self.name] = number

    def at(self, es: ES, generation: int, steps: int) -> float:
        """What it is in a generation."""
        value = self.__get__(es, type(es))
        return self.checked(self.name, value.at(generation, steps)) if isinstance(value, Schedule) else float(value)


@dataclass(frozen=True)
class _State:
    """All that a generation changes. It is replaced as a whole, so an interrupt finds either the old or the new one."""

    generation: int
    theta: FloatArray
    memory: Memory
    average: FloatArray | None
    spare: Memory | None = None  # the memory of the generation before, of no more use
    residuals: FloatArray | None = None  # fit()'s: how wrong each training sample was last (importance.py)
    evaluations: int = 0
    fitness: float | None = None  # mean over the last population


class ES:
    """Evolution strategies with antithetic pairs (Salimans et al. 2017, algorithm 2).

    ::

        es = fpes.ES(net, net.init(seed=0), size=512, sigma=0.05, learning_rate=0.02)
        for x, y in batches:
            es.tell(es.ask().evaluate(x, y))

    Fitness may come from anywhere: es.ask().forward(x) gives the outputs of every member, and
    es.ask().evaluate(x, y, loss=function) calls a function of them. For data sets, fit() does the loop, with
    checkpoints.

    Node perturbation wants a fitness for each sample, es.ask().evaluate(x, y, per_sample=True), and works with [size]
    too, much less well.

    Several threads may use one ES: ask(), tell() and save() wait for each other.

    Numbers that may be schedules (schedules.py) may also be assigned between generations.

    Args:
        net: the network.
        theta: initial parameters, float32 [net.parameters], finite. Copied.
        size: members of a population, even.
        sigma: standard deviation of the perturbation, above 0; or a schedule.
        perturbation: FullRank() (default), LowRank(rank), NodePerturbation() or OneUnit().
        optimiser: Adam() (default), SGD(), ClipUp(), or one of your own (optimisers.Optimiser).
        learning_rate: how far a step goes, 0 or above; or a schedule.
        weight_decay: fraction of the weights, not of the biases, that a step takes away, times the learning rate
            (Loshchilov & Hutter 2019, algorithm 2); or a schedule.
        clip: the largest Euclidean norm of the gradient; longer ones are shortened to it.
        shaping: "centred_ranks", "z_score", "sign" or "none", or one of your own (shaping.Shaping); by default centred
            ranks, and none for node perturbation and OneUnit, whose gradients need the differences themselves.
        averaging: factor of the running mean of theta, from 0 (none) to below 1: `solution` is that mean.
        steps: how many generations are planned: schedules need to know.
        seed: of the noise, and of fit()'s minibatches, 0 ... 2**64 - 1.
        device: where populations are computed: "cpu", "cuda" or "cuda:1". Not part of the state: a run may change
            it half-way, to the same bits.

    Raises:
        TypeError, ValueError: as Population does; a number out of range; an optimiser, a schedule or a shaping of a
            class that isn't registered, for a checkpoint couldn't hold it.
        ImportError: device isn't "cpu", and CuPy is missing.
    """

    sigma = _Number(_checks.positive)
    learning_rate = _Number(_checks.not_negative)
    weight_decay = _Number(_checks.not_negative)

    def __init__(
        self,
        net: LinearNetwork,
        theta: FloatArray,
        *,
        size: int,
        sigma: float | Schedule,
        perturbation: Perturbation | None = None,
        optimiser: Optimiser | None = None,
        learning_rate: float | Schedule = 0.01,
        weight_decay: float | Schedule = 0.0,
        clip: float | None = None,
        shaping: str | Shaping | None = None,
        averaging: float = 0.0,
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.net = net
        self.size = _checks.integer("size", size, 2, 2 * LARGEST_WORD)
        self.sigma = sigma
        self.perturbation = FullRank() if perturbation is None else _config.plain(perturbation)
        words = "an Adam, SGD, ClipUp, or an object with init() and update()"
        self.optimiser: Optimiser = _config.setting(
            "optimiser", Adam() if optimiser is None else optimiser, Optimiser, words
        )
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip = None if clip is None else _checks.positive("clip", clip)
        self.shaping = _checked_shaping(shaping, self.perturbation)
        self.averaging = _checks.real("averaging", averaging)
        self.steps = None if steps is None else _checks.integer("steps", steps, 1, _checks.LARGEST_INDEX)
        self.seed = _checks.integer("seed", seed, 0, LARGEST_SEED)
        self.device = checked_device(device)
        self.run = fitting.Run()
        self._engine: Engine = Local()
        copy = np.array(theta)
        self._scratch = np.empty_like(copy)
        memory = _checked_memory(self.optimiser.init(copy.size), f"{type(self.optimiser).__name__}.init()")
        self._state = _State(0, copy, memory, copy if self.averaging else None)
        self._population: Population | None = None
        self._warned = False
        self._check()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in SETTINGS)
        return f"ES({self.net!r}, {settings}; generation {self.generation})"

    @property
    def theta(self) -> FloatArray:
        """The centre of the population, float32 [net.parameters]. Every generation makes a new array."""
        return self._state.theta

    @property
    def generation(self) -> int:
        """How many generations lie behind."""
        return self._state.generation

    @property
    def evaluations(self) -> int:
        """Of one member on one sample, so far, as far as tell() was given evaluations."""
        return self._state.evaluations

    @property
    def fitness(self) -> float | None:
        """Mean fitness of the last population; None before the first."""
        return self._state.fitness

    @property
    def solution(self) -> FloatArray:
        """The parameters to use: the running mean where there is one, else theta."""
        return self.theta if self._state.average is None else self._state.average

    @property
    def residuals(self) -> FloatArray | None:
        """How wrong each training sample was when fit() last saw it, float32; None without importance sampling."""
        return self._state.residuals

    @property
    def records(self) -> list[Record]:
        """The points of the training curves that fit() has taken so far."""
        return self.run.records

    @ieee_mode()
    def value(self, name: str, generation: int) -> float:
        """What "sigma", "learning_rate" or "weight_decay" is in a generation, schedules applied."""
        value = getattr(self, name)
        if self.steps is None and isinstance(value, Schedule) and not isinstance(value, Constant):
            raise ValueError(
                f"{name} is {value!r}, which needs to know how many generations there will be: give ES or fit() the "
                "argument steps"
            )
        number: float = vars(ES)[name].at(self, generation, self.steps or 1)
        return number

    @in_turn
    def ask(self) -> Population:
        """The population of the present generation. Asking again gives the same one."""
        sigma, population = self.value("sigma", self.generation), self._population
        if population is None or (population.generation, population.sigma) != (self.generation, sigma):
            self._population = population = self._population_at(sigma)
        return population

    def _population_at(self, sigma: float) -> Population:
        """That of the present generation, with this standard deviation."""
        return Population(
            self.net,
            to_device(self.theta, self.device),
            size=self.size,
            sigma=sigma,
            perturbation=self.perturbation,
            seed=self.seed,
            generation=self.generation,
        )

    def tell(self, fitness: Any) -> None:
        """Move theta towards the fitter members, and go on to the next generation.

        Args:
            fitness: what ask().evaluate() gave, higher is better; [size], or [size, batch] for node perturbation only.
                Where each group of members saw a minibatch of its own, each is shaped by itself. Without a batch also
                an array, float32 or float64 [size], which counts as one group; not for node perturbation, whose
                gradient needs the batch.

        Raises:
            TypeError: fitness is no such array.
            ValueError: wrong shape, the evaluation of another population, an array for node perturbation.
            DivergedError: NaN in fitness, or a step that leads to infinity or NaN. Nothing has changed then.
        """
        self.advance(fitness, self._state.residuals)

    @in_turn
    def advance(self, fitness: Any, residuals: FloatArray | None) -> None:
        """As tell(), and at the same moment replace what fit() remembers of its samples."""
        state = replace(self._proposal(fitness), residuals=residuals)
        groups = fitness.groups if isinstance(fitness, Evaluation) else 1
        if not self._warned and all_equal(_checks.numpy_array("fitness", to_host(plain(fitness))), groups):
            self._warned = True
            warn(
                f"all members of generation {self.generation} have the same fitness, so nothing can be learnt from "
                "them: the network may be dead (fpes.health.active_fractions tells), sigma too small, or the fitness "
                "too coarse"
            )
        self._state = state

    @in_turn
    def rehearse(self, fitness: Any) -> None:
        """All that tell() does, and then leave everything as it was: to find out how long a generation takes."""
        self._proposal(fitness)

    def fit(
        self,
        data: Dataset,
        *,
        steps: int | None = None,
        batch: int | None = None,
        groups: int | None = None,
        augmentation: Augmentation | None = None,
        importance: ImportanceSampling | None = None,
        loss: str | None = None,
        fitness: Callable[[Any, Any], Any] | None = None,
        chunk: int | None = None,
        max_seconds: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 30.0,
        after_step: Callable[[ES], None] | None = None,
        executor: Any = None,
    ) -> list[Record]:
        """Train on a data set until the planned number of generations is done.

        ::

            es.fit(data, steps=2000, batch=512, checkpoint="run.npz")
            ...
            es = fpes.ES.load("run.npz")  # after a crash, on this machine or another
            es.fit(data, checkpoint="run.npz")  # ends with the same bits as if nothing had happened

        Whatever ends it, a last checkpoint is saved first, and then the exception is raised again: Ctrl-C, SIGTERM, an
        error in `fitness` or `after_step`. Only a DivergedError leaves the last periodic one.

        Args:
            data: trains on its training part; a metric on both parts is measured as it goes, about 50 times. Once the
                planned end is reached, fit() goes on with other data too; importance sampling begins anew with them.
            steps: how many generations are planned, in all; as before if not given, and what the constructor was told
                at first. Schedules follow the new number: where 400 are done and 800 wanted, they are half-way.
            batch: samples in a minibatch; as before if not given, and 512, or all that there are, at first.
            groups: minibatches for each generation: one for all members (1), or one for each group; as before if not
                given, and 1 at first.
            augmentation: deforms the images of each minibatch; as before if not given, and none at first.
            importance: prefers samples that are still wrong; as before if not given, and off at first. For loss
                "cross_entropy", and node perturbation without shaping.
            loss: "cross_entropy", "squared_error" or "binary_cross_entropy", as for Population.evaluate(); as before if
                not given, and what suits the data at first: cross-entropy for labels, squared error for numbers. It
                chooses the metric too: accuracy, R² or the fraction of right labels (fpes.metric()).
            fitness: fitness(outputs, y) of outputs float32 [size, batch, outputs] and the minibatch's targets as
                float32 [size] or, for node perturbation, [size, batch]; higher is better. Minus the loss if not given.
                A checkpoint keeps its name only, so it must be given again.
            chunk: as for Population.evaluate().
            max_seconds: a limit to the time. At the very start it is turned into a number of generations, `steps` at
                most, by timing a few; so schedules come to their end in time. A run that comes to the limit before its
                plan ends nevertheless stops, and can be resumed.
            checkpoint: file to save to, at the start, at the end, and every `checkpoint_seconds` in between. It is this
                run's alone until fit() ends. As save() does, it replaces earlier states of this run only.
            checkpoint_seconds: time between checkpoints. One that fails, on a full disk, is warned of and tried again.
            after_step: called after every generation, for progress bars and the like.
            executor: who shares the work: any concurrent.futures.Executor, or Workers or Ranks of fpes.distributed.
                This process alone if not given. It decides about no bit.

        Returns:
            records: the points of the training curves (records.py).

        Raises:
            TypeError, ValueError: an argument of the wrong type or out of its range; no number of steps and no limit;
                data whose targets aren't the loss's;
                other data than the half-finished run has seen; no `fitness` where the run had one.
            FileExistsError: `checkpoint` holds another run's state, or a later one of this run. Nothing was done then.
            BlockingIOError: somebody else is writing it. Nothing was done then.
            DivergedError: as tell(); or no member has differed in fitness for some generations.
            OSError: the first checkpoint can't be written; nothing was done then.
            NotSavedError: training is done, and the last checkpoint can't be written.

        Warns:
            TrainingWarning: the planned end is reached already, so there is nothing to do; signs of trouble.
        """
        settings = fitting.Settings(steps, batch, groups, augmentation, importance, loss, fitness, chunk)
        limits = fitting.Limits(max_seconds, None if checkpoint is None else Path(checkpoint), checkpoint_seconds)
        fitting.fit(self, data, settings, limits, after_step=after_step, executor=executor)
        return self.records

    @contextmanager
    def computing_by(self, engine: Engine) -> Iterator[None]:
        """Gradients are made by an engine (engine.py) meanwhile."""
        self._engine = engine
        try:
            yield
        finally:
            self._engine = Local()

    def forget_residuals(self) -> None:
        """What fit() remembers of its samples is of no use for others."""
        self._state = replace(self._state, residuals=None)

    @in_turn
    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a checkpoint: all that it takes to go on to the same bits. The file is whole, or the old one is kept.

        A file is replaced where it holds an earlier state, or the same, of this run: of this ES, or of the one that it
        was loaded from. A checkpoint without any generation is replaced too.

        Args:
            path: the file. Of a symbolic link, the file that it names.
            overwrite: replace whatever is there.

        Raises:
            ValueError: NaN or infinity has come into theta.
            FileExistsError: the file holds something else; the message says what.
            BlockingIOError: somebody else is writing the file: a fit(), perhaps in another process.
            OSError: it can't be written.
        """
        target = resolved(Path(path))
        # fit() owns its own file, and whoever is called by it may save there as well.
        with nullcontext() if self.run.file == target else owned(target, wait=_SAVING_SECONDS):
            if not overwrite:
                checkpoint.check_replaceable(target, self.run.id, self.generation)
            checkpoint.write(target, *self.described())

    def described(self) -> tuple[dict[str, Any], checkpoint.Arrays]:
        """What a checkpoint holds: a description, as plain values, and arrays."""
        description = {
            "version": __version__,
            "network": self.net.as_json(),
            "settings": {name: _config.to_json(_config.plain(getattr(self, name))) for name in SETTINGS},
            "generation": self.generation,
            "evaluations": self.evaluations,
            "fitness": _config.number_to_json(self.fitness),
            "run": self.run.as_json(),
        }
        arrays: checkpoint.Arrays = {"theta": self.theta}
        arrays |= {f"memory_{name}": array for name, array in self._state.memory.items()}
        for name in ("average", "residuals"):
            array = getattr(self._state, name)
            if array is not None:
                arrays[name] = array
        checkpoint.check_finite(arrays)
        return description, arrays

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "cpu") -> ES:
        """What save() has written, ready for the next generation, on this device or another.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, truncated, or no checkpoint.
            ValueError, ImportError, RuntimeError: the device can't be used.
        """
        checked_device(device)
        description, arrays = checkpoint.read(Path(path))
        try:
            return cls._restored(description, arrays, device)
        # Its digest is right, so it isn't damaged; whatever is wrong with it, the reader is to know which file it is.
        except Exception as error:
            written = description.get("version", "unknown")
            raise CheckpointError(
                f"{path} was written by fpes {written}, and this is fpes {__version__}, which can't make sense of it: "
                f"{type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _restored(cls, description: dict[str, Any], arrays: checkpoint.Arrays, device: str) -> ES:
        net = LinearNetwork(**description["network"])
        settings = {name: _config.from_json(value) for name, value in description["settings"].items()}
        if sorted(settings) != sorted(SETTINGS):
            raise ValueError(f"its settings are {', '.join(settings)}, expected {', '.join(SETTINGS)}")
        _checks.check_shape("theta", arrays["theta"].shape, (net.parameters,))
        es = cls(net, arrays["theta"], **settings, device=device)
        run = fitting.Run.from_json(description["run"])
        shapes: dict[str, tuple[int, ...]] = {"theta": (net.parameters,)}
        shapes |= {f"memory_{name}": array.shape for name, array in es._state.memory.items()}
        if "average" in arrays:
            shapes["average"] = (net.parameters,)
        if "residuals" in arrays:
            shapes["residuals"] = (run.samples,)
        found = {name: array.shape for name, array in arrays.items()}
        if found != shapes:
            raise ValueError(f"its arrays have shapes {found}, expected {shapes}")
        if "residuals" in arrays and not ((arrays["residuals"] > 0) & (arrays["residuals"] <= 1)).all():
            raise ValueError("its residuals are not all above 0 and up to 1")
        es._state = _State(
            generation=_checks.integer("generation", description["generation"], 0, LARGEST_WORD),
            theta=arrays["theta"],
            memory={name: arrays[f"memory_{name}"] for name in es._state.memory},
            average=arrays.get("average"),
            residuals=arrays.get("residuals"),
            evaluations=_checks.integer("evaluations", description["evaluations"], 0, _MOST_EVALUATIONS),
            fitness=_config.number_from_json(description["fitness"]),
        )
        es.run = run
        return es

    def _check(self) -> None:
        """What would fail later on fails now."""
        if not 0.0 <= self.averaging < 1.0:
            raise ValueError(f"averaging is {self.averaging}, expected a number from 0 to below 1")
        # Checks theta, size and the rest. How many steps there will be may not be known yet; how they begin is.
        self._population_at(self.sigma.at(0, 1) if isinstance(self.sigma, Schedule) else self.sigma)

    @ieee_mode()
    def _proposal(self, fitness: Any) -> _State:
        """The state after this fitness."""
        population = self.ask()
        evaluation = fitness if isinstance(fitness, Evaluation) else None
        if evaluation is not None:
            evaluation.check_belongs_to(population.origin)
            evaluation.check_covers((0, self.size // 2))
        elif isinstance(self.perturbation, NodePerturbation | OneUnit):
            raise ValueError(
                f"fitness is an array, and the gradient of {self.perturbation!r} needs the batch it belongs to: "
                "expected "
                "what ask().evaluate() gave, or its with_fitness(array)"
            )
        values = self._checked_fitness(to_host(plain(fitness)))
        weights = shaped(self.shaping, values, 1 if evaluation is None else evaluation.groups)
        utilities = weights.values
        if utilities.dtype == np.float64 or isinstance(self.perturbation, NodePerturbation):
            utilities = utilities.astype(np.float32, copy=False)
        gradient = self._engine.gradient(self, population, values, utilities, evaluation)
        theta, memory = self._stepped(gradient, weights.factor)
        average = self._averaged(theta)
        self._check_step({"parameters": theta, "means of parameters": average, **_memory_names(memory)})
        with np.errstate(invalid="ignore"):  # infinity of either sign has no mean
            mean = float(values.mean(dtype=np.float64))
        return _State(
            self.generation + 1,
            theta,
            memory,
            average,
            spare=self._state.memory,
            evaluations=self.evaluations + (0 if evaluation is None else self.size * evaluation.samples),
            fitness=mean,
        )

    def _stepped(self, gradient: FloatArray, factor: float) -> tuple[FloatArray, Memory]:
        """Theta and the optimiser's memory after a step along the gradient times the factor."""
        state, rate = self._state, self.value("learning_rate", self.generation)
        step = Step(state.generation, self._clipped(gradient, factor), rate, state.spare)
        start = self._decayed(rate).view()
        start.flags.writeable = False  # it is, or may be, the present theta
        theta, memory = self.optimiser.update(gradient, state.memory, start, step)
        what = f"{type(self.optimiser).__name__}.update()"
        theta = _checks.float_array(f"theta that {what} gives", theta, start.shape)
        if np.may_share_memory(theta, start):
            theta = theta.copy()
        return theta, _checked_memory(memory, what, state.memory)

    def _check_step(self, results: Mapping[str, FloatArray | None]) -> None:
        """Refuse a step that leads to infinity or NaN anywhere: no later one would lead back."""
        for what, array in results.items():
            if array is not None and not math.isfinite(norm(array)):
                raise DivergedError(
                    f"the step of generation {self.generation} leads to infinity or NaN in "
                    f"{np.count_nonzero(~np.isfinite(array))} of {array.size} {what}, and was not taken: {_ADVICE}"
                )

    def _checked_fitness(self, fitness: Any) -> FloatArray:
        per_sample = np.ndim(fitness) == 2
        if per_sample and not isinstance(self.perturbation, NodePerturbation):
            raise ValueError(
                f"fitness has shape {np.shape(fitness)}, expected [{self.size}]: only node perturbation makes use of a "
                "fitness for each sample; take its mean over the batch"
            )
        values = _checks.numpy_array("fitness", fitness)
        _checks.check_fitness("fitness", values, self.size, values.shape[1] if per_sample else None)
        bad = np.flatnonzero(np.isnan(values).reshape(self.size, -1).any(axis=1))
        if bad.size:
            raise DivergedError(
                f"the fitness of generation {self.generation} is NaN for {bad.size} of {self.size} members, the first "
                f"{int(bad[0])}: {_ADVICE}"
            )
        return values

    def _clipped(self, gradient: FloatArray, factor: float) -> float:
        """The factor, lowered where the gradient times it would be longer than it may be."""
        if self.clip is None:
            return factor
        length = factor * norm(gradient)
        return factor * min(1.0, self.clip / length) if length > 0.0 else factor

    def _decayed(self, learning_rate: float) -> FloatArray:
        """Theta after weight decay, which is for weights: a bias below the boundary does nothing as it is."""
        keep = 1.0 - learning_rate * self.value("weight_decay", self.generation)
        if keep == 1.0:
            return self.theta
        layers = zip(self.net.unpack(self.theta), self.net.unpack(self._scratch), strict=True)
        for (weight, bias), (shrunk, kept) in layers:
            weighted_sum(keep, weight, 0.0, weight, out=shrunk)
            kept[...] = bias
        return self._scratch

    def _averaged(self, theta: FloatArray) -> FloatArray | None:
        if self._state.average is None:
            return None
        # Shorter memory at first, so that the initial weights are soon forgotten.
        factor = min(self.averaging, (self.generation + 1) / (self.generation + 10))
        return weighted_sum(factor, self._state.average, 1.0 - factor, theta)


def _memory_names(memory: Memory) -> dict[str, FloatArray | None]:
    return {f"numbers that the optimiser remembers ({name})": array for name, array in memory.items()}


def _checked_memory(memory: Any, what: str, before: Memory | None = None) -> Memory:
    """What an optimiser is to remember, as `what` gave it: named and shaped as before."""
    if not isinstance(memory, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in memory):
        raise TypeError(f"the memory that {what} gives is {memory!r}, expected a dictionary of arrays by identifiers")
    if before is not None and memory.keys() != before.keys():
        raise ValueError(f"the memory that {what} gives has {list(memory)}, expected {list(before)}")
    shapes = {name: None if before is None else before[name].shape for name in memory}
    return {
        name: _checks.float_array(f"memory[{name!r}] that {what} gives", array, shapes[name])
        for name, array in memory.items()
    }


def _checked_shaping(shaping: str | Shaping | None, perturbation: Perturbation) -> str | Shaping:
    if shaping is None:
        return "none" if isinstance(perturbation, NodePerturbation | OneUnit) else "centred_ranks"
    if not isinstance(shaping, str):
        words = f"one of {', '.join(map(repr, SHAPINGS))}, or an object with weights(fitness, groups)"
        checked: Shaping = _config.setting("shaping", shaping, Shaping, words)
        return checked
    if shaping not in SHAPINGS:
        raise ValueError(f"shaping is {shaping!r}, expected one of {', '.join(map(repr, SHAPINGS))}")
    return shaping
