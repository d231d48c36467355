"""Checks that a run, its data and its settings fit together. All checks come before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fpes._backends import CPU
from fpes.datasets import Dataset, ImportanceSampling, Minibatches
from fpes.health import warn
from fpes.losses import Loss, loss_named
from fpes.strategy import Strategy
from fpes.training.run import Run, fingerprint
from fpes.training.settings import Session, TrainingSettings

_DEFAULT_BATCH = 512


@dataclass(frozen=True)
class Prepared:
    """The checked settings of a run from now on.

    Args:
        settings: complete settings.
        minibatches: minibatches of the data set.
        data: its fingerprint.
        loss: that of the settings.
        fitness: the name of the user's function, if there is one.
    """

    settings: TrainingSettings
    minibatches: Minibatches
    data: dict[str, Any]
    loss: Loss
    fitness: str | None

    @property
    def importance(self) -> ImportanceSampling | None:
        """The importance sampling of the settings."""
        return self.settings.importance

    def adopt(self, run: Run, generation: int) -> None:
        """Use these settings and data in the run, from a generation on."""
        if run.data != self.data:
            run.residuals = None  # of other samples
            run.data, run.since = self.data, generation
        run.settings, run.fitness = self.settings, self.fitness


def prepare(strategy: Strategy, run: Run, data: Dataset, settings: TrainingSettings, session: Session) -> Prepared:
    """Check a run with these settings and data, without changing it.

    Raises:
        TypeError, ValueError: as for ES.fit().
    """
    found = _checked_data(strategy, run, data)
    _check_steps(strategy, session)
    minibatches = Minibatches(
        data,
        _batch(run, data, settings),
        groups=_checked_groups(strategy, settings.groups),
        seed=strategy.seed,
        augmentation=settings.augmentation,
    )
    loss = _checked_loss(data, settings)
    _check_importance(strategy, settings, session, loss)
    complete = settings.changed(batch=minibatches.batch, loss=loss.name)
    return Prepared(complete, minibatches, found, loss, _checked_fitness(strategy, run, session))


def _checked_data(strategy: Strategy, run: Run, data: Dataset) -> dict[str, Any]:
    """The fingerprint of the data, if they fit the network and the run."""
    if not isinstance(data, Dataset):
        raise TypeError(f"data is a {type(data).__name__}, expected a fpes.datasets.Dataset")
    net = strategy.net
    if (data.features, data.outputs) != (net.features, net.classes):
        targets = f"{data.outputs} {'columns of targets' if data.classes is None else 'classes'}"
        raise ValueError(
            f"data has {data.features} features and {targets}, and the network has {net.features} inputs and "
            f"{net.classes} outputs"
        )
    found = fingerprint(data)
    half_finished = strategy.steps is not None and 0 < strategy.generation < strategy.steps
    if run.data is not None and run.data != found and half_finished:
        raise ValueError(
            f"data is {found}, and the first {strategy.generation} of {strategy.steps} generations used "
            f"{run.data}: to train on other data, start a new ES from this one's theta"
        )
    return found


def _check_steps(strategy: Strategy, session: Session) -> None:
    if session.steps is None:
        if strategy.steps is None and session.max_seconds is None:
            raise ValueError("neither steps nor max_seconds is given: expected one of them, or both")
    elif session.steps < strategy.generation:
        raise ValueError(
            f"steps is {session.steps}, and {strategy.generation} generations are done: expected at least as many, "
            "because steps counts from the beginning of the run"
        )


def _batch(run: Run, data: Dataset, settings: TrainingSettings) -> int:
    """The size of a minibatch. A size from the run's settings is lowered if the data have fewer samples."""
    if settings.batch is None or settings.batch == run.settings.batch:
        return min(settings.batch or _DEFAULT_BATCH, len(data.x_train))
    return settings.batch


def _checked_groups(strategy: Strategy, groups: int) -> int:
    pairs = strategy.size // 2
    if pairs % groups:
        raise ValueError(f"groups is {groups}, expected a divisor of the population's {pairs} antithetic pairs")
    return groups


def _checked_loss(data: Dataset, settings: TrainingSettings) -> Loss:
    """The loss of the settings, if it suits the targets of these data."""
    natural = "squared_error" if data.classes is None else "cross_entropy"
    loss = loss_named(natural if settings.loss is None else settings.loss)
    for part, y in (("y_train", data.y_train), ("y_valid", data.y_valid), ("y_test", data.y_test)):
        if y is not None:
            loss.targets(CPU, f"{part} of data, for loss {loss.name!r},", y, (len(y),), data.outputs)
    return loss


def _check_importance(strategy: Strategy, settings: TrainingSettings, session: Session, loss: Loss) -> None:
    if settings.importance is None:
        return
    if session.fitness is not None:
        raise ValueError("importance sampling needs the cross-entropy of each sample, and can't use your own fitness")
    if loss.name != "cross_entropy":
        raise ValueError(
            f"importance sampling needs the cross-entropy of each sample, to know the probability of its label, and "
            f"loss is {loss.name!r}: expected 'cross_entropy', or no importance sampling"
        )
    if strategy.perturbation.per_sample and strategy.shaping != "none":
        raise ValueError(
            f'shaping is {strategy.shaping!r}, expected "none": importance sampling weighs the fitness of each sample, '
            "and shaping would undo that"
        )


def _checked_fitness(strategy: Strategy, run: Run, session: Session) -> str | None:
    """The name of the user's function."""
    before = run.fitness if strategy.generation else None
    if session.fitness is None:
        if before is not None:
            raise ValueError(
                f"fitness is not given, and the {strategy.generation} generations so far used a function "
                f"{before!r}, which a checkpoint can't hold: give it again, fit(fitness=...), or start a new ES from "
                "its theta"
            )
        return None
    name = getattr(session.fitness, "__qualname__", type(session.fitness).__qualname__)
    if before is not None and name != before:
        warn(f"fitness is {name!r} from generation {strategy.generation} on, and was {before!r} before")
    return str(name)
