"""A run: its identity, its settings and data, and its curves so far."""

from __future__ import annotations

import secrets
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fpes import _checks, _config
from fpes._checks import FloatArray
from fpes.datasets import Dataset
from fpes.records import Record
from fpes.training.settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class Residuals:
    """The error of each training sample when it was last evaluated, from a generation on.

    The previous residuals are kept too: after an interrupt between this change and the step of theta, they still fit
    the state.
    """

    generation: int
    values: FloatArray  # [samples]
    before: Residuals | None = None

    def at(self, generation: int) -> FloatArray | None:
        """The residuals that a generation uses."""
        if self.generation <= generation:
            return self.values
        return None if self.before is None else self.before.at(generation)

    def followed_by(self, generation: int, values: FloatArray) -> Residuals:
        """New residuals, from a later generation on."""
        kept = self if self.generation < generation else self.before
        return Residuals(generation, values, None if kept is None else replace(kept, before=None))


@dataclass
class Run:
    """The part of a checkpoint besides the strategy.

    Args:
        id: identifies the run. Every new ES has its own; a loaded ES has the id of its file.
        data: fingerprint of the data set.
        since: the first generation with this data set.
        settings: settings of the training.
        fitness: the name of the user's function, if there is one.
        seconds: training time so far.
        plan: (generation, planned steps from there on).
        records: the points of the training curves.
        residuals: the residuals of importance sampling, if it is used.
        file: the checkpoint that fit() owns at present. Checkpoints don't store this.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    data: dict[str, Any] | None = None
    since: int = 0
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    fitness: str | None = None
    seconds: float = 0.0
    plan: list[tuple[int, int]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    residuals: Residuals | None = field(default=None, compare=False)
    file: Path | None = field(default=None, compare=False)

    @property
    def samples(self) -> int:
        """The number of training samples; 0 without a data set."""
        return 0 if self.data is None else int(self.data["shape"][0])

    def residuals_at(self, generation: int) -> FloatArray | None:
        """The last error of each training sample; None if unknown."""
        return None if self.residuals is None else self.residuals.at(generation)

    def remember(self, generation: int, values: FloatArray | None) -> None:
        """Store the residuals for a later generation and the following ones."""
        if values is not None:
            before = self.residuals
            self.residuals = Residuals(generation, values) if before is None else before.followed_by(generation, values)

    def as_json(self) -> dict[str, Any]:
        """As plain values, without the residuals."""
        return {
            "id": self.id,
            "data": self.data,
            "since": self.since,
            "settings": _config.to_json(self.settings),
            "fitness": self.fitness,
            "seconds": self.seconds,
            "plan": [list(entry) for entry in self.plan],
            "records": [record.as_json() for record in self.records],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Run:
        """The run of a result of as_json().

        Raises:
            KeyError, TypeError, ValueError: a value is missing, or has another type or size than as_json() gives.
        """
        return cls(
            id=_text("id", value["id"]),
            data=None if value["data"] is None else _checked_fingerprint(value["data"]),
            since=_step(value["since"]),
            settings=_settings_of(value),
            fitness=None if value["fitness"] is None else _text("fitness", value["fitness"]),
            seconds=_checks.not_negative("seconds", value["seconds"]),
            plan=[(_step(generation), _step(steps)) for generation, steps in value["plan"]],
            records=[Record.from_json(record) for record in value["records"]],
        )


def fingerprint(data: Dataset) -> dict[str, Any]:
    """The identity of a data set: its name, its size, and a checksum of the training part."""
    checksum = zlib.crc32(data.y_train.data, zlib.crc32(data.x_train.data))
    return {"name": str(data.name), "shape": list(data.x_train.shape), "crc32": checksum}


def _settings_of(value: dict[str, Any]) -> TrainingSettings:
    """The settings of a run. Checkpoints of early versions store them one by one."""
    if "settings" not in value:
        names = ("batch", "groups", "augmentation", "importance")
        return TrainingSettings(**{name: _config.from_json(value[name]) for name in names}, loss=value.get("loss"))
    settings = _config.from_json(value["settings"])
    if not isinstance(settings, TrainingSettings):
        raise TypeError(f"settings is {settings!r}, expected TrainingSettings")
    return settings


def _checked_fingerprint(data: dict[str, Any]) -> dict[str, Any]:
    name, (samples, features), checksum = (data[key] for key in ("name", "shape", "crc32"))
    return {
        "name": _text("name", name),
        "shape": [_checks.integer("shape", n, 1, _checks.LARGEST_INDEX) for n in (samples, features)],
        "crc32": _checks.integer("crc32", checksum, 0, 2**32 - 1),
    }


def _step(value: Any) -> int:
    return _checks.integer("a generation", value, 0, _checks.LARGEST_INDEX)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a text")
    return value
