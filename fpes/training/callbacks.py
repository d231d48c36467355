"""Callbacks: functions that fit() calls after every generation, and that can end a run.

A callback is a function of the ES. It reads the state, `es.records`, and `es.last`, which has the population, its
fitness, the best member and the norms of the last step. Any exception ends the run after a last checkpoint;
StopTraining ends it normally.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fpes import _checks


class StopTraining(Exception):  # noqa: N818 - like StopIteration: no error
    """Raised by a callback: fit() takes a last point of the curves, saves a last checkpoint, and returns."""


@dataclass(frozen=True)
class EarlyStopping:
    """A callback that stops a run when the validation metric stops rising (Prechelt 1998, criterion UP).

        data = fpes.datasets.load("mnist").with_validation(0.1)
        es.fit(data, steps=2000, after_step=fpes.EarlyStopping(patience=200))

    It depends only on the records, so a resumed run stops at the same record.

    Args:
        patience: number of generations without a better record after which the run stops, 1 or more.
        least: smallest improvement of the metric that counts, 0 or above.

    Raises:
        TypeError, ValueError: another type, or a number out of its range.
    """

    patience: int
    least: float = 0.0

    def __post_init__(self) -> None:
        _checks.integer("patience", self.patience, 1, _checks.LARGEST_INDEX)
        _checks.not_negative("least", self.least)

    def __call__(self, es: Any) -> None:
        """After a generation.

        Raises:
            StopTraining: the metric hasn't risen for `patience` generations.
            ValueError: the data set has no validation part.
        """
        records = [record for record in es.records if record.valid is not None]
        if not records:
            raise ValueError("EarlyStopping needs a validation part: fit(data.with_validation(0.1), ...)")
        best = records[0]
        for record in records:
            if record.valid > best.valid + self.least:
                best = record
        if records[-1].generation - best.generation >= self.patience:
            raise StopTraining(
                f"the validation metric is {records[-1].valid:.4f} at generation {records[-1].generation}, and was "
                f"{best.valid:.4f} at generation {best.generation}"
            )
