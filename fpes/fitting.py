"""The loop of ES.fit(): minibatch, population, fitness, step; with records, checkpoints, a limit of time, and its end.

Nothing in here decides about bits but the settings: what a generation sees depends on the seed and its number. The
clock decides when a run stops and when it is saved, never what it computes; with the one exception of calibrate(),
before the first generation, whose result is saved with the run.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fpes import _checks, _config
from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes.controls import accuracy
from fpes.datasets import Augmentation, Dataset, ImportanceSampling, Minibatches
from fpes.devices import to_device, to_host
from fpes.evaluation import Evaluation
from fpes.health import DivergedError, TrainingWarning, active_fractions, diagnose, weight_norms
from fpes.perturbations import NodePerturbation, OneUnit
from fpes.records import Record
from fpes.shaping import all_equal

if TYPE_CHECKING:
    from fpes.es import ES

_DEFAULT_BATCH = 512
_RECORDS = 50  # points of the training curves, or fewer where they would take more than
_RECORDING = 0.05  # of the time
_MEASURED_SAMPLES = 10_000  # training samples that accuracy is measured on as it goes
_ACTIVITY_SAMPLES = 1_000
_CALIBRATION_SECONDS, _CALIBRATION_FRACTION = 2.0, 0.05
_RESERVE = 0.01  # of the time
_TOLERANCE = 0.02  # by which the plan may be off before it is changed
_MOST_STEPS = 10**9
_EQUAL_GENERATIONS = 20  # in a row, after which a run without any difference in fitness is given up


@dataclass(frozen=True)
class Settings:
    """What fit() was asked to do. None: as before."""

    steps: int | None = None
    batch: int | None = None
    groups: int | None = None
    augmentation: Augmentation | None = None
    importance: ImportanceSampling | None = None
    fitness: Callable[[Any, Any], Any] | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class Limits:
    """When it stops and when it saves."""

    max_seconds: float | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.max_seconds is not None:
            _checks.positive("max_seconds", self.max_seconds)
        _checks.not_negative("checkpoint_seconds", self.checkpoint_seconds)


@dataclass
class Run:
    """What a checkpoint keeps of fit(): where minibatches come from, and the curves so far."""

    data: dict[str, Any] | None = None
    batch: int | None = None
    groups: int = 1
    augmentation: Augmentation | None = None
    importance: ImportanceSampling | None = None
    seconds: float = 0.0
    plan: list[tuple[int, int]] = field(default_factory=list)  # (generation, planned steps from there on)
    records: list[Record] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "data": self.data,
            "batch": self.batch,
            "groups": self.groups,
            "augmentation": _config.to_json(self.augmentation),
            "importance": _config.to_json(self.importance),
            "seconds": self.seconds,
            "plan": [list(entry) for entry in self.plan],
            "records": [record.as_json() for record in self.records],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Run:
        """What as_json() gave."""
        return cls(
            data=value["data"],
            batch=value["batch"],
            groups=value["groups"],
            augmentation=_config.from_json(value["augmentation"]),
            importance=_config.from_json(value["importance"]),
            seconds=value["seconds"],
            plan=[(generation, steps) for generation, steps in value["plan"]],
            records=[Record.from_json(record) for record in value["records"]],
        )


class Terminated(SystemExit):
    """SIGTERM came. Exit status 143, as a shell reports it."""


def fit(es: ES, data: Dataset, settings: Settings, limits: Limits, after_step: Callable[[ES], None] | None) -> None:
    """See ES.fit()."""
    started = time.monotonic()
    minibatches = _prepare(es, data, settings)
    loop = _Loop(es, minibatches, settings, limits, started)
    with _sigterm_raises():
        loop.plan()
        loop.run(after_step)


def fingerprint(data: Dataset) -> dict[str, Any]:
    """What tells one data set from another: its name, its size, and a checksum of the training part."""
    checksum = zlib.crc32(data.y_train.data, zlib.crc32(data.x_train.data))
    return {"name": data.name, "shape": list(data.x_train.shape), "crc32": checksum}


def _prepare(es: ES, data: Dataset, settings: Settings) -> Minibatches:
    """The run's settings from those given now and those from before."""
    if not isinstance(data, Dataset):
        raise TypeError(f"data is a {type(data).__name__}, expected a fpes.datasets.Dataset")
    if (data.features, data.classes) != (es.net.features, es.net.classes):
        raise ValueError(
            f"data has {data.features} features and {data.classes} classes, and the network has {es.net.features} "
            f"inputs and {es.net.classes} outputs"
        )
    run, found = es.run, fingerprint(data)
    half_finished = es.steps is not None and 0 < es.generation < es.steps
    if run.data is not None and run.data != found and half_finished:
        raise ValueError(
            f"data is {found}, and the first {es.generation} of {es.steps} generations have seen {run.data}: to train "
            "on other data, start a new ES from this one's theta"
        )
    default_batch = run.batch or min(_DEFAULT_BATCH, len(data.x_train))
    batch = default_batch if settings.batch is None else settings.batch
    groups = run.groups if settings.groups is None else settings.groups
    augmentation = run.augmentation if settings.augmentation is None else settings.augmentation
    minibatches = Minibatches(data, batch, groups=groups, seed=es.seed, augmentation=augmentation)
    run.data, run.batch, run.groups, run.augmentation = found, batch, groups, augmentation
    run.importance = _checked_importance(es, settings)
    return minibatches


def _checked_importance(es: ES, settings: Settings) -> ImportanceSampling | None:
    importance = es.run.importance if settings.importance is None else settings.importance
    if importance is not None and settings.fitness is not None:
        raise ValueError("importance sampling goes by the cross-entropy of each sample, not by a fitness of one's own")
    if importance is not None and isinstance(es.perturbation, NodePerturbation) and es.shaping != "none":
        raise ValueError(
            f'shaping is {es.shaping!r}, expected "none": importance sampling weighs the fitness of each sample, and '
            "shaping would undo that"
        )
    return importance


class _Loop:
    """One session of a run."""

    def __init__(self, es: ES, minibatches: Minibatches, settings: Settings, limits: Limits, started: float) -> None:
        self.es = es
        self.minibatches = minibatches
        self.settings = settings
        self.limits = limits
        self.started = started
        self.seconds_before = es.run.seconds
        self.saved_at = self.recorded_at = started
        self.recording_seconds = 0.0
        self.equal_generations = 0
        self.told: set[str] = set()
        self.most: int | None = None  # where the plan follows the clock, the most steps that it may have
        self.first_generation_at = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of this session."""
        return time.monotonic() - self.started

    # --- The plan -----------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Settle how many steps there will be, and save that."""
        es, wanted = self.es, self.settings.steps
        if wanted is not None:
            wanted = _checks.integer("steps", wanted, 1, _MOST_STEPS)
        if es.generation == 0 and self.limits.max_seconds is not None:
            self.calibrate(wanted or es.steps or _MOST_STEPS)
        elif wanted is not None and wanted != es.steps:
            self.set_steps(wanted)
        if es.steps is None:
            raise ValueError("steps is not given, nor max_seconds: expected one of them, or both")
        self.save()

    def set_steps(self, steps: int) -> None:
        """Change the plan."""
        self.es.steps = steps
        self.es.run.plan.append((self.es.generation, steps))

    def calibrate(self, most: int) -> None:
        """Plan as many generations as fit into the time, at most so many: a few are timed, and thrown away."""
        es, before = self.es, self.es.steps
        es.steps = most
        try:
            self.rehearse()  # the first one finds cold caches
            times: list[float] = []
            budget = min(_CALIBRATION_SECONDS, _CALIBRATION_FRACTION * self.time_left())
            begin = time.monotonic()
            while not times or time.monotonic() - begin < budget:
                times.append(_seconds(self.rehearse))
        except BaseException:
            es.steps = before
            raise
        left = self.time_left() * (1.0 - _RECORDING)
        self.set_steps(max(1, min(most, int(left / float(np.mean(times))))))
        self.most = most
        self.first_generation_at = self.elapsed

    def replan(self) -> None:
        """Where generations turn out faster or slower than planned, change the plan to fit the time again."""
        es = self.es
        if self.most is None or es.generation == 0 or es.steps is None:
            return
        pace = (self.elapsed - self.first_generation_at) / es.generation
        steps = min(self.most, es.generation + max(1, int(self.time_left() / pace)))
        if abs(steps - es.steps) > _TOLERANCE * es.steps:
            self.set_steps(steps)
            self.save()

    def time_left(self) -> float:
        """Seconds to plan with."""
        assert self.limits.max_seconds is not None
        return self.limits.max_seconds * (1.0 - _RESERVE) - self.elapsed

    def rehearse(self) -> None:
        """A generation that changes nothing."""
        self.es.rehearse(self.evaluate()[0])

    # --- Generations --------------------------------------------------------------------------------------------------

    def run(self, after_step: Callable[[ES], None] | None) -> None:
        """Generation after generation, until the plan or the time is at its end."""
        es = self.es
        assert es.steps is not None
        try:
            self.record_if_due()
            while es.generation < es.steps and not self.out_of_time():
                fitness, residuals = self.evaluate()
                es.advance(self.watched(fitness), residuals)
                self.record_if_due()
                if after_step is not None:
                    after_step(es)
                self.save_if_due()
            self.save()
        except (KeyboardInterrupt, SystemExit):
            self.save()
            raise

    def out_of_time(self) -> bool:
        """Whether the limit of time is reached."""
        return self.limits.max_seconds is not None and self.elapsed >= self.limits.max_seconds

    def evaluate(self) -> tuple[Evaluation, FloatArray | None]:
        """The fitness of the present population on its minibatch, and the residuals afterwards."""
        es, settings, importance = self.es, self.settings, self.es.run.importance
        population, step = es.ask(), es.generation
        rows, weights, residuals = self.draw(step)
        x, y = (to_device(array, es.device) for array in self.minibatches.samples(rows, step, self._strength(step)))
        if settings.fitness is not None:
            return population.evaluate(x, y, settings.fitness, chunk=settings.chunk), None
        if isinstance(es.perturbation, OneUnit):
            return self.evaluate_units(x, y, rows, weights, residuals)
        node = isinstance(es.perturbation, NodePerturbation)
        evaluation = population.evaluate(x, y, per_sample=node or importance is not None, chunk=settings.chunk)
        if importance is None or residuals is None:
            return evaluation, None
        groups = to_host(evaluation.values).reshape(evaluation.groups, -1, evaluation.samples)
        residuals = importance.updated(residuals, rows, -_mean(groups, axis=1).ravel())
        weighted = groups * weights.reshape(evaluation.groups, 1, evaluation.samples)
        fitness = weighted.reshape(es.size, -1) if node else _mean(weighted, axis=2).ravel()
        return evaluation.with_fitness(fitness), residuals

    def evaluate_units(
        self,
        x: Any,
        y: Any,
        rows: npt.NDArray[np.int64],
        weights: FloatArray,
        residuals: FloatArray | None,
    ) -> tuple[Evaluation, FloatArray | None]:
        """As evaluate(), of OneUnit: losses are weighted as they come, and those of the centre are remembered."""
        es, importance = self.es, self.es.run.importance
        weighted = to_device(weights.reshape(y.shape), es.device) if importance is not None else None
        evaluation = es.ask().evaluate(x, y, sample_weights=weighted, chunk=self.settings.chunk)
        if importance is None or residuals is None:
            return evaluation, None
        return evaluation, importance.updated(residuals, rows, to_host(evaluation.centre_losses).ravel())

    def _strength(self, step: int) -> float:
        """Of the augmentation."""
        augmentation, steps = self.minibatches.augmentation, self.es.steps
        return 1.0 if augmentation is None or steps is None else augmentation.strength(step, steps)

    def draw(self, step: int) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray | None]:
        """Which samples a step sees, what they count for, and the residuals that decided about it."""
        minibatches, importance = self.minibatches, self.es.run.importance
        samples, count = len(minibatches.data.x_train), minibatches.groups * minibatches.batch
        if importance is None:
            return minibatches.rows(step), np.ones(count, np.float32), None
        residuals = importance.start(samples) if self.es.residuals is None else self.es.residuals
        if (step + 1) * count <= samples:  # the first epoch, which sees every sample once
            return minibatches.rows(step), np.ones(count, np.float32), residuals
        rows, weights = importance.draw(residuals, count, self.es.seed, step)
        return rows, weights, residuals

    def watched(self, fitness: Evaluation) -> Evaluation:
        """The same fitness, unless members haven't differed for long."""
        equal = all_equal(to_host(fitness.values), fitness.groups)
        self.equal_generations = self.equal_generations + 1 if equal else 0
        if self.equal_generations >= _EQUAL_GENERATIONS:
            fractions = ", ".join(f"{fraction:.1%}" for fraction in self.activity())
            raise DivergedError(
                f"for {self.equal_generations} generations no member has differed from another in fitness, so nothing "
                f"is learnt any more; active units, layer by layer: {fractions}. Where a layer has none, start from "
                "larger weights or lower the weight decay; else raise sigma"
            )
        return fitness

    # --- Records and checkpoints --------------------------------------------------------------------------------------

    def record_if_due(self) -> None:
        """Take a point of the curves now and then, at the beginning, and at the end."""
        es = self.es
        assert es.steps is not None
        if es.records and es.generation < es.steps:
            few_steps = es.generation - es.records[-1].generation < es.steps / _RECORDS
            little_time = time.monotonic() - self.recorded_at < self.recording_seconds / _RECORDING
            if few_steps or little_time:
                return
        if es.records and es.records[-1].generation == es.generation:
            return
        begin = time.monotonic()
        record = self.measured()
        es.records.append(record)
        self.recorded_at = time.monotonic()
        self.recording_seconds = self.recorded_at - begin
        for finding in diagnose(es.net, record.active):
            if finding not in self.told:
                self.told.add(finding)
                warnings.warn(f"generation {es.generation}: {finding}", TrainingWarning, stacklevel=5)
        if es.generation < es.steps:
            self.replan()

    def measured(self) -> Record:
        """Where the run stands."""
        es, data = self.es, self.minibatches.data
        x, y = data.x_train[:_MEASURED_SAMPLES], data.y_train[:_MEASURED_SAMPLES]
        last = max(0, es.generation - 1)
        return Record(
            generation=es.generation,
            evaluations=es.evaluations,
            seconds=round(self.seconds_before + self.elapsed, 3),
            loss=None if es.fitness is None else -es.fitness,
            train=accuracy(es.net(es.solution, x), y),
            test=accuracy(es.net(es.solution, data.x_test), data.y_test),
            learning_rate=es.value("learning_rate", last),
            sigma=es.value("sigma", last),
            active=tuple(self.activity()),
            norms=tuple(weight_norms(es.net, es.solution)),
        )

    def activity(self) -> list[float]:
        """Active fractions on some training samples."""
        return active_fractions(self.es.net, self.es.solution, self.minibatches.data.x_train[:_ACTIVITY_SAMPLES])

    def save_if_due(self) -> None:
        """A checkpoint every so many seconds. One that fails isn't the end: the last one is still there."""
        if time.monotonic() - self.saved_at < self.limits.checkpoint_seconds:
            return
        try:
            self.save()
        except OSError as error:
            self.saved_at = time.monotonic()
            warnings.warn(f"{error}; training goes on, and the last checkpoint is kept", TrainingWarning, stacklevel=4)

    def save(self) -> None:
        """A checkpoint, where one is wanted."""
        self.es.run.seconds = self.seconds_before + self.elapsed
        if self.limits.checkpoint is not None:
            self.es.save(self.limits.checkpoint)
        self.saved_at = time.monotonic()


@ieee_mode()
def _mean(values: FloatArray, axis: int) -> FloatArray:
    """The mean along an axis, added up in order in float64.

    Along the first axis of a contiguous array numpy.sum() adds one slice after the other; along the last it goes by an
    order that depends on the machine.
    """
    slices = np.ascontiguousarray(np.moveaxis(values, axis, 0))
    mean: FloatArray = (slices.sum(axis=0, dtype=np.float64) / len(slices)).astype(np.float32)
    return mean


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM becomes an exception, so that there is a last checkpoint; unless the program handles it by itself."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise Terminated(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
