"""The loop of ES.fit(): minibatch, population, fitness, step; with records, a limit of time, and its end.

Nothing in here decides about bits but the settings: what a generation sees depends on the seed and its number. The
clock decides when a run stops and when it is saved, never what it computes; with the one exception of calibrate(),
before the first generation, whose result is saved with the run.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from fpes import _checks, _config
from fpes._backends import CPU
from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes._signals import terminating_raises
from fpes.datasets import Augmentation, Dataset, ImportanceSampling, Minibatches
from fpes.devices import to_host
from fpes.engine import Engine, Helpers, Local, Measure, Samples
from fpes.evaluation import Evaluation
from fpes.health import DivergedError, active_fractions, diagnose, warn, weight_norms
from fpes.losses import Loss, loss_named
from fpes.perturbations import NodePerturbation, OneUnit
from fpes.records import Record
from fpes.saving import Saver
from fpes.shaping import all_equal

if TYPE_CHECKING:
    from fpes.es import ES

_T = TypeVar("_T")

_DEFAULT_BATCH = 512
_RECORDS = 50  # points of the training curves, or fewer where they would take more than
_RECORDING = 0.05  # of the time
_MEASURED_SAMPLES = 10_000  # training samples that the metric is measured on as it goes
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
    loss: str | None = None
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
    """What a checkpoint keeps of fit(): whose it is, where minibatches come from, and the curves so far.

    Args:
        id: tells the run from others; every ES that is made has its own, and one that is loaded its file's.
        data: fingerprint of the data set.
        since: the generation that saw this data set first.
        batch, groups, augmentation, importance, loss: as fit() takes them.
        fitness: the name of the user's function, where there was one.
        seconds: of training so far.
        plan: (generation, planned steps from there on).
        records: the points of the training curves.
        file: the checkpoint that fit() owns just now. No checkpoint keeps this.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    data: dict[str, Any] | None = None
    since: int = 0
    batch: int | None = None
    groups: int = 1
    augmentation: Augmentation | None = None
    importance: ImportanceSampling | None = None
    loss: str | None = None
    fitness: str | None = None
    seconds: float = 0.0
    plan: list[tuple[int, int]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    file: Path | None = field(default=None, compare=False)

    @property
    def samples(self) -> int:
        """How many training samples the data set has; 0 without one."""
        return 0 if self.data is None else int(self.data["shape"][0])

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "id": self.id,
            "data": self.data,
            "since": self.since,
            "batch": self.batch,
            "groups": self.groups,
            "augmentation": _config.to_json(self.augmentation),
            "importance": _config.to_json(self.importance),
            "loss": self.loss,
            "fitness": self.fitness,
            "seconds": self.seconds,
            "plan": [list(entry) for entry in self.plan],
            "records": [record.as_json() for record in self.records],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Run:
        """What as_json() gave.

        Raises:
            KeyError, TypeError, ValueError: something is missing, or of another type or size than as_json() gives.
        """
        run = cls(
            id=_text("id", value["id"]),
            data=value["data"],
            since=_step(value["since"]),
            batch=value["batch"],
            groups=_checks.integer("groups", value["groups"], 1, _checks.LARGEST_INDEX),
            augmentation=_optional("augmentation", _config.from_json(value["augmentation"]), Augmentation),
            importance=_optional("importance", _config.from_json(value["importance"]), ImportanceSampling),
            loss=_checked_name(value.get("loss")),
            fitness=None if value["fitness"] is None else _text("fitness", value["fitness"]),
            seconds=_checks.not_negative("seconds", value["seconds"]),
            plan=[(_step(generation), _step(steps)) for generation, steps in value["plan"]],
            records=[Record.from_json(record) for record in value["records"]],
        )
        if run.batch is not None:
            _checks.integer("batch", run.batch, 1, _checks.LARGEST_INDEX)
        if run.data is not None:
            name, (samples, features), checksum = (run.data[key] for key in ("name", "shape", "crc32"))
            run.data = {
                "name": _text("name", name),
                "shape": [_checks.integer("shape", n, 1, _checks.LARGEST_INDEX) for n in (samples, features)],
                "crc32": _checks.integer("crc32", checksum, 0, 2**32 - 1),
            }
        return run


def _step(value: Any) -> int:
    return _checks.integer("a generation", value, 0, _checks.LARGEST_INDEX)


def _checked_name(loss: Any) -> str | None:
    """Of a loss; older checkpoints have none."""
    return None if loss is None else loss_named(loss).name


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a text")
    return value


def fit(
    es: ES,
    data: Dataset,
    settings: Settings,
    limits: Limits,
    *,
    after_step: Callable[[ES], None] | None = None,
    executor: Any = None,
) -> None:
    """See ES.fit()."""
    started = time.monotonic()
    helpers = helpers_of(executor)
    if helpers.serve(es, settings.fitness):
        return
    prepared = prepare(es, data, settings, limits, after_step)
    saver = Saver(es, limits.checkpoint, limits.checkpoint_seconds)
    with terminating_raises(), saver.owning():
        prepared.adopt(es)
        with helpers.training(es, prepared.minibatches) as engine, es.computing_by(engine):
            loop = _Loop(es, engine, prepared, limits, saver, started=started)
            loop.plan()
            if es.steps is not None and es.generation >= es.steps:
                warn(
                    f"generation {es.generation} of {es.steps}: the planned end is reached, so there is nothing to "
                    "train; fit() with a larger number of steps goes on"
                )
            loop.run(after_step)


def helpers_of(executor: Any) -> Helpers:
    """Who shares the work of a fit().

    Raises:
        TypeError, ValueError: as fpes.distributed.Workers().
    """
    if executor is None:
        return Local()
    from fpes.distributed import Ranks, Workers

    return executor if isinstance(executor, Ranks | Workers) else Workers(executor)


def fingerprint(data: Dataset) -> dict[str, Any]:
    """What tells one data set from another: its name, its size, and a checksum of the training part."""
    checksum = zlib.crc32(data.y_train.data, zlib.crc32(data.x_train.data))
    return {"name": str(data.name), "shape": list(data.x_train.shape), "crc32": checksum}


@dataclass(frozen=True)
class Prepared:
    """The settings of a run from now on, all of them checked."""

    settings: Settings
    minibatches: Minibatches
    data: dict[str, Any]
    importance: ImportanceSampling | None
    loss: Loss
    fitness: str | None

    def adopt(self, es: ES) -> None:
        """Make them those of the run."""
        run, minibatches = es.run, self.minibatches
        if run.data != self.data:
            es.forget_residuals()
            run.data, run.since = self.data, es.generation
        run.batch, run.groups, run.augmentation = minibatches.batch, minibatches.groups, minibatches.augmentation
        run.importance, run.loss, run.fitness = self.importance, self.loss.name, self.fitness


def prepare(
    es: ES, data: Dataset, settings: Settings, limits: Limits, after_step: Callable[[ES], None] | None = None
) -> Prepared:
    """The run's settings from those given now and those from before. Changes nothing.

    Raises:
        TypeError, ValueError: as ES.fit() does.
    """
    if not isinstance(data, Dataset):
        raise TypeError(f"data is a {type(data).__name__}, expected a fpes.datasets.Dataset")
    if (data.features, data.outputs) != (es.net.features, es.net.classes):
        targets = f"{data.outputs} {'columns of targets' if data.classes is None else 'classes'}"
        raise ValueError(
            f"data has {data.features} features and {targets}, and the network has {es.net.features} inputs and "
            f"{es.net.classes} outputs"
        )
    _check_steps(es, settings, limits)
    _check_callable("after_step", after_step)
    run, found = es.run, fingerprint(data)
    half_finished = es.steps is not None and 0 < es.generation < es.steps
    if run.data is not None and run.data != found and half_finished:
        raise ValueError(
            f"data is {found}, and the first {es.generation} of {es.steps} generations have seen {run.data}: to train "
            "on other data, start a new ES from this one's theta"
        )
    if settings.chunk is not None and _checks.integer("chunk", settings.chunk, 2, _checks.LARGEST_INDEX) % 2:
        raise ValueError(f"chunk is {settings.chunk}, expected an even number: members come in antithetic pairs")
    default_batch = min(run.batch or _DEFAULT_BATCH, len(data.x_train))
    minibatches = Minibatches(
        data,
        default_batch if settings.batch is None else settings.batch,
        groups=_checked_groups(es, run.groups if settings.groups is None else settings.groups),
        seed=es.seed,
        augmentation=_optional("augmentation", settings.augmentation, Augmentation) or run.augmentation,
    )
    loss = _checked_loss(es, data, settings)
    return Prepared(
        settings, minibatches, found, _checked_importance(es, settings, loss), loss, _checked_fitness(es, settings)
    )


def _check_steps(es: ES, settings: Settings, limits: Limits) -> None:
    if settings.steps is None:
        if es.steps is None and limits.max_seconds is None:
            raise ValueError("steps is not given, nor max_seconds: expected one of them, or both")
    elif _checks.integer("steps", settings.steps, 1, _MOST_STEPS) < es.generation:
        raise ValueError(
            f"steps is {settings.steps}, and {es.generation} generations lie behind: expected at least as many, for "
            "steps counts from the beginning of the run"
        )


def _check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} is {value!r}, expected a function")


def _optional(name: str, value: Any, expected: type[_T]) -> _T | None:
    if value is not None and type(value) is not expected:
        raise TypeError(f"{name} is {value!r}, expected a fpes.datasets.{expected.__name__}")
    plain: _T | None = _config.plain(value)
    return plain


def _checked_groups(es: ES, groups: int) -> int:
    number, pairs = _checks.integer("groups", groups, 1, _checks.LARGEST_INDEX), es.size // 2
    if pairs % number:
        raise ValueError(f"groups is {number}, expected a divisor of the population's {pairs} antithetic pairs")
    return number


def _checked_loss(es: ES, data: Dataset, settings: Settings) -> Loss:
    """That of the run, whose targets these data have."""
    natural = "squared_error" if data.classes is None else "cross_entropy"
    loss = loss_named(next(name for name in (settings.loss, es.run.loss, natural) if name is not None))
    for name, y in (("y_train", data.y_train), ("y_test", data.y_test)):
        loss.targets(CPU, f"{name} of data, for loss {loss.name!r},", y, (len(y),), data.outputs)
    return loss


def _checked_importance(es: ES, settings: Settings, loss: Loss) -> ImportanceSampling | None:
    importance = _optional("importance", settings.importance, ImportanceSampling) or es.run.importance
    if importance is not None and settings.fitness is not None:
        raise ValueError("importance sampling goes by the cross-entropy of each sample, not by a fitness of one's own")
    if importance is not None and loss.name != "cross_entropy":
        raise ValueError(
            f"importance sampling goes by the cross-entropy of each sample, which tells how probable its label is, and "
            f"loss is {loss.name!r}: expected 'cross_entropy', or no importance sampling"
        )
    if importance is not None and isinstance(es.perturbation, NodePerturbation) and es.shaping != "none":
        raise ValueError(
            f'shaping is {es.shaping!r}, expected "none": importance sampling weighs the fitness of each sample, and '
            "shaping would undo that"
        )
    return importance


def _checked_fitness(es: ES, settings: Settings) -> str | None:
    """The name of the user's function."""
    _check_callable("fitness", settings.fitness)
    before = es.run.fitness if es.generation else None
    if settings.fitness is None:
        if before is not None:
            raise ValueError(
                f"fitness is not given, and the {es.generation} generations so far went by a function {before!r}, "
                "which a checkpoint can't hold: give it again, fit(fitness=...), or start a new ES from its theta"
            )
        return None
    name = getattr(settings.fitness, "__qualname__", type(settings.fitness).__qualname__)
    if before is not None and name != before:
        warn(f"fitness is {name!r} from generation {es.generation} on, and was {before!r} before")
    return str(name)


class _Loop:
    """One session of a run."""

    def __init__(
        self, es: ES, engine: Engine, prepared: Prepared, limits: Limits, saver: Saver, *, started: float
    ) -> None:
        self.es = es
        self.engine = engine
        self.minibatches = prepared.minibatches
        self.settings = prepared.settings
        self.loss = prepared.loss
        self.limits = limits
        self.saver = saver
        self.started = started
        self.seconds_before = es.run.seconds
        self.recorded_at = started
        self.recording_seconds = 0.0
        self.equal_generations = 0
        self.told: set[str] = set()
        self.most: int | None = None  # where the plan follows the clock, the most steps that it may have
        self.first_generation, self.first_generation_at = 0, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of this session."""
        return time.monotonic() - self.started

    # --- The plan -----------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Settle how many steps there will be, and save that."""
        es, wanted = self.es, self.settings.steps
        unplanned = es.generation == 0 or (wanted is None and es.steps is None)
        if self.limits.max_seconds is not None and unplanned:
            self.calibrate(wanted or es.steps or _MOST_STEPS)
        elif wanted is not None and wanted != es.steps:
            self.set_steps(wanted)
        self.keep_time()
        self.saver.save()

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
        self.set_steps(max(1, min(most, es.generation + int(left / float(np.mean(times))))))
        self.most = most
        self.first_generation, self.first_generation_at = es.generation, self.elapsed

    def replan(self) -> None:
        """Where generations turn out faster or slower than planned, change the plan to fit the time again."""
        es = self.es
        if self.most is None or es.generation == self.first_generation or es.steps is None:
            return
        pace = (self.elapsed - self.first_generation_at) / (es.generation - self.first_generation)
        steps = min(self.most, es.generation + max(1, int(self.time_left() / pace)))
        if abs(steps - es.steps) > _TOLERANCE * es.steps:
            self.set_steps(steps)
            self.keep_time()
            self.saver.try_to_save()

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
                self.keep_time()
                self.saver.save_if_due()
            self.end()
        except DivergedError:
            raise  # its state leads nowhere: the last checkpoint may be from before it went astray
        except BaseException as end:
            self.keep_time()
            self.saver.save_after(end)
            raise
        self.saver.save_at_the_end()

    def keep_time(self) -> None:
        """The run's time so far."""
        self.es.run.seconds = self.seconds_before + self.elapsed

    def end(self) -> None:
        """A plan that followed the clock ends where the clock has ended it: nothing of it is left to be done."""
        es = self.es
        if self.most is not None and es.steps is not None and es.generation < es.steps:
            self.set_steps(max(1, es.generation))
            self.record_if_due()

    def out_of_time(self) -> bool:
        """Whether the limit of time is reached."""
        return self.limits.max_seconds is not None and self.elapsed >= self.limits.max_seconds

    def evaluate(self) -> tuple[Evaluation, FloatArray | None]:
        """The fitness of the present population on its minibatch, and the residuals afterwards."""
        es, settings, importance = self.es, self.settings, self.es.run.importance
        step, chunk = es.generation, settings.chunk
        rows, weights, residuals = self.draw(step)
        samples = Samples(rows, step, self._strength(step))
        if settings.fitness is not None:
            return self.engine.evaluate(es, samples, Measure(settings.fitness, chunk=chunk)), None
        if isinstance(es.perturbation, OneUnit):
            return self.evaluate_units(samples, weights, residuals)
        node = isinstance(es.perturbation, NodePerturbation)
        measure = Measure(self.loss.name, per_sample=node or importance is not None, chunk=chunk)
        evaluation = self.engine.evaluate(es, samples, measure)
        if importance is None or residuals is None:
            return evaluation, None
        groups = to_host(evaluation.values).reshape(evaluation.groups, -1, evaluation.samples)
        residuals = importance.updated(residuals, rows, -_mean(groups, axis=1).ravel())
        with ieee_mode():
            weighted = groups * weights.reshape(evaluation.groups, 1, evaluation.samples)
        fitness = weighted.reshape(es.size, -1) if node else _mean(weighted, axis=2).ravel()
        return evaluation.with_fitness(fitness), residuals

    def evaluate_units(
        self, samples: Samples, weights: FloatArray, residuals: FloatArray | None
    ) -> tuple[Evaluation, FloatArray | None]:
        """As evaluate(), of OneUnit: losses are weighted as they come, and those of the centre are remembered."""
        es, importance = self.es, self.es.run.importance
        weighted = None if importance is None else self.minibatches.shaped(weights)
        measure = Measure(self.loss.name, sample_weights=weighted, chunk=self.settings.chunk)
        evaluation = self.engine.evaluate(es, samples, measure)
        if importance is None or residuals is None:
            return evaluation, None
        return evaluation, importance.updated(residuals, samples.rows, to_host(evaluation.centre_losses).ravel())

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
        first = step - self.es.run.since
        if (first + 1) * count <= samples:  # the first epoch, which sees every sample once
            return minibatches.rows(first), np.ones(count, np.float32), residuals
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
        for name, finding in diagnose(es.net, record.active, es.generation).items():
            if name not in self.told:
                self.told.add(name)
                warn(f"generation {es.generation}: {finding}")
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
            train=self.loss.measured(es.net(es.solution, x), y),
            test=self.loss.measured(es.net(es.solution, data.x_test), data.y_test),
            learning_rate=es.value("learning_rate", last),
            sigma=es.value("sigma", last),
            active=tuple(self.activity()),
            norms=tuple(weight_norms(es.net, es.solution)),
        )

    def activity(self) -> list[float]:
        """Active fractions on some training samples."""
        return active_fractions(self.es.net, self.es.solution, self.minibatches.data.x_train[:_ACTIVITY_SAMPLES])


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
