"""The training curves: the times of their points, and the measurements."""

from __future__ import annotations

import time
from typing import Any

from fpes._checks import FloatArray
from fpes.datasets import Dataset
from fpes.health import active_fractions, diagnose, warn, weight_norms
from fpes.losses import Loss
from fpes.records import Record
from fpes.strategy import Strategy
from fpes.training.clock import RECORDING, Clock
from fpes.training.run import Run

_RECORDS = 50  # points, or fewer where they would take more than their share of the time
_MEASURED_SAMPLES = 10_000  # training samples that the metric is measured on as it goes
_ACTIVITY_SAMPLES = 1_000


class Curves:
    """Takes points of a run's curves, and warns about signs of trouble.

    Args:
        strategy, run: the strategy to measure, and the run whose records receive the points.
        data: the data set of the measurements.
        loss: its metric is measured.
        clock: the run's time.
    """

    def __init__(self, strategy: Strategy, run: Run, data: Dataset, loss: Loss, clock: Clock) -> None:
        self.strategy = strategy
        self.run = run
        self.data = data
        self.loss = loss
        self.clock = clock
        self._recorded_at = clock.started
        self._seconds = 0.0  # that the last point took
        self._told: set[str] = set()

    def record_if_due(self) -> bool:
        """Take a point at the beginning, at the planned end, and regularly in between; return whether one was taken."""
        if not self._due():
            return False
        self.record()
        return True

    def record(self) -> None:
        """Take a point, unless this generation already has one."""
        strategy, records = self.strategy, self.run.records
        if records and records[-1].generation == strategy.generation:
            return
        begin = time.monotonic()
        record = self._measured()
        records.append(record)
        self._recorded_at = time.monotonic()
        self._seconds = self._recorded_at - begin
        for name, finding in diagnose(strategy.net, record.active, strategy.generation).items():
            if name not in self._told:
                self._told.add(name)
                warn(f"generation {strategy.generation}: {finding}")

    def activity(self) -> list[float]:
        """Active fractions on some training samples."""
        return active_fractions(self.strategy.net, self.strategy.solution, self.data.x_train[:_ACTIVITY_SAMPLES])

    def _due(self) -> bool:
        generation, steps, records = self.strategy.generation, self.strategy.steps, self.run.records
        assert steps is not None
        if not records or generation >= steps:
            return not records or records[-1].generation != generation
        few_steps = generation - records[-1].generation < steps / _RECORDS
        little_time = time.monotonic() - self._recorded_at < self._seconds / RECORDING
        return not (few_steps or little_time)

    def _measured(self) -> Record:
        """The record of the present state."""
        strategy, data = self.strategy, self.data
        last = max(0, strategy.generation - 1)
        valid = None if data.x_valid is None else self._metric(data.x_valid, data.y_valid)
        return Record(
            generation=strategy.generation,
            evaluations=strategy.evaluations,
            seconds=round(self.clock.total, 3),
            loss=None if strategy.fitness is None else -strategy.fitness,
            train=self._metric(data.x_train[:_MEASURED_SAMPLES], data.y_train[:_MEASURED_SAMPLES]),
            test=self._metric(data.x_test, data.y_test),
            learning_rate=strategy.value("learning_rate", last),
            sigma=strategy.value("sigma", last),
            active=tuple(self.activity()),
            norms=tuple(weight_norms(strategy.net, strategy.solution)),
            valid=valid,
        )

    def _metric(self, x: FloatArray, y: Any) -> float:
        return self.loss.measured(self.strategy.net(self.strategy.solution, x), y)
