"""The records of a run: points of its training curves."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fpes import _checks, _config
from fpes.files import written_whole

_METRICS = ("loss", "train", "test", "valid")  # which may be NaN or infinite


@dataclass(frozen=True)
class Record:
    """One point of a training curve.

    Args:
        generation: number of completed generations.
        evaluations: number of evaluations so far, each of one member on one sample.
        seconds: training time so far, over all sessions.
        loss: minus the mean fitness of the last generation; None before the first.
        train: the metric that suits the loss (fpes.metric) on training samples, for example accuracy. At most 1.
        test: the same on the test part.
        learning_rate: learning rate of the last generation.
        sigma: standard deviation of the perturbation in the last generation.
        active: for each layer, the fraction of outputs that are not flushed to zero.
        norms: for each layer, the root mean square of its weights, relative to the initial weights.
        valid: the metric on the validation part; None if the data set has none.
    """

    generation: int
    evaluations: int
    seconds: float
    loss: float | None
    train: float
    test: float
    learning_rate: float
    sigma: float
    active: tuple[float, ...]
    norms: tuple[float, ...]
    valid: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self) | {name: _config.number_to_json(getattr(self, name)) for name in _METRICS}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        """The record of a result of as_json().

        Raises:
            KeyError, TypeError, ValueError: a value is missing, unknown, or not a number.
        """
        layers = {name: tuple(_checks.real(name, number) for number in value[name]) for name in ("active", "norms")}
        counts = {name: _checks.integer(name, value[name], 0, 2**128) for name in ("generation", "evaluations")}
        numbers = ("seconds", "learning_rate", "sigma")
        reals = {name: _checks.real(name, value[name]) for name in numbers}
        metrics = {name: _metric(name, value[name]) for name in ("train", "test")}
        optional = {name: _config.number_from_json(value.get(name)) for name in ("loss", "valid")}
        return cls(**{**value, **layers, **counts, **reals, **metrics, **optional})

    def row(self) -> dict[str, float | int | None]:
        """The record as columns. Fields with a number for each layer become active_1, active_2 ..."""
        columns: dict[str, float | int | None] = {}
        for name, value in asdict(self).items():
            if isinstance(value, tuple):
                columns |= {f"{name}_{layer}": number for layer, number in enumerate(value, start=1)}
            else:
                columns[name] = value
        return columns


def _metric(name: str, value: Any) -> float:
    number = _config.number_from_json(value)
    if number is None:
        raise TypeError(f"{name} is None, expected a number")
    return number


def write_csv(records: Sequence[Record], path: Path) -> None:
    """Write all records as one table with a header. Without records the table has only the header.

    Raises:
        OSError: the file can't be written; the message names it.
    """
    names = list(records[0].row()) if records else [field.name for field in fields(Record)]
    with written_whole(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(record.row() for record in records)
