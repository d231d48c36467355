"""The settings of a run, and the additional arguments of one call of fit()."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from fpes import _checks, _config
from fpes.datasets import Augmentation, ImportanceSampling
from fpes.losses import loss_named

_T = TypeVar("_T")

MOST_STEPS = 10**9

Callback = Callable[[Any], object]


@_config.register
@dataclass(frozen=True)
class TrainingSettings:
    """The settings of training on a data set. Checkpoints store them.

    Args:
        batch: samples in a minibatch; None: 512, or all samples if there are fewer.
        groups: minibatches for each generation: one for all members (1), or one for each group.
        augmentation: deforms the images of each minibatch; None: unchanged images.
        importance: draws samples that are still wrong more often; None: every sample once per epoch.
        loss: "cross_entropy", "squared_error" or "binary_cross_entropy"; None: the loss that suits the data.

    Raises:
        TypeError, ValueError: another type, or a number out of its range.
    """

    batch: int | None = None
    groups: int = 1
    augmentation: Augmentation | None = None
    importance: ImportanceSampling | None = None
    loss: str | None = None

    def __post_init__(self) -> None:
        checked = {
            "batch": None if self.batch is None else _checks.integer("batch", self.batch, 1, _checks.LARGEST_INDEX),
            "groups": _checks.integer("groups", self.groups, 1, _checks.LARGEST_INDEX),
            "augmentation": _optional("augmentation", self.augmentation, Augmentation),
            "importance": _optional("importance", self.importance, ImportanceSampling),
            "loss": None if self.loss is None else loss_named(self.loss).name,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def changed(self, **given: Any) -> TrainingSettings:
        """These settings, with the given values that aren't None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Session:
    """The arguments of one call of fit() besides the settings of its run; see ES.fit().

    Raises:
        TypeError, ValueError: another type, or a number out of its range.
    """

    steps: int | None = None
    fitness: Callable[[Any, Any], Any] | None = None
    chunk: int | None = None
    max_seconds: float | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 30.0
    after_step: Callback | Sequence[Callback] | None = None
    executor: Any = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            _checks.integer("steps", self.steps, 1, MOST_STEPS)
        _check_function("fitness", self.fitness)
        if self.chunk is not None and _checks.integer("chunk", self.chunk, 2, _checks.LARGEST_INDEX) % 2:
            raise ValueError(f"chunk is {self.chunk}, expected an even number: members come in antithetic pairs")
        if self.max_seconds is not None:
            _checks.positive("max_seconds", self.max_seconds)
        _checks.not_negative("checkpoint_seconds", self.checkpoint_seconds)
        for callback in self.callbacks:
            _check_function("after_step", callback)

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """The functions to call after every generation."""
        if self.after_step is None:
            return ()
        return tuple(self.after_step) if isinstance(self.after_step, Sequence) else (self.after_step,)


def _check_function(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} is {value!r}, expected a function")


def _optional(name: str, value: Any, expected: type[_T]) -> _T | None:
    if value is not None and type(value) is not expected:
        raise TypeError(f"{name} is {value!r}, expected a fpes.datasets.{expected.__name__}")
    plain: _T | None = _config.plain(value)
    return plain
