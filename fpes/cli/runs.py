"""One run of ES against the clock, with a progress bar."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fpes.controls import accuracy
from fpes.datasets import Dataset
from fpes.es import ES
from fpes.network import LinearNetwork

_CURVE_POINTS = 60


@dataclass
class Curve:
    """What a training curve shows, point by point."""

    evaluations: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)


@dataclass
class Run:
    """One training run: settings in, results out."""

    es: ES
    data: Dataset
    batch: int
    learning_rate: float
    seconds: float
    curve: Curve = field(default_factory=Curve)
    evaluations: int = 0
    elapsed: float = 0.0
    interrupted: bool = False

    @property
    def net(self) -> LinearNetwork:
        """The network that is trained."""
        return self.es.net

    def train(self, label: str, quiet: bool) -> None:
        """Train until the time is up; Ctrl-C ends it too, with what was reached so far."""
        started = time.monotonic()
        rng = np.random.default_rng(self.es.seed)
        with _progress(quiet) as progress:
            task = progress.add_task(label, total=1.0, loss=math.nan, test=math.nan, rate=0.0)
            try:
                while (done := (time.monotonic() - started) / self.seconds) < 1.0:
                    loss = self._generation(rng, done)
                    self.elapsed = time.monotonic() - started
                    if done * _CURVE_POINTS >= len(self.curve.loss):
                        self._measure(loss)
                    progress.update(
                        task,
                        completed=done,
                        loss=loss,
                        test=self.curve.test[-1],
                        rate=self.evaluations / max(self.elapsed, 1e-9),
                    )
            except KeyboardInterrupt:
                self.interrupted = True
        if self.curve.loss:
            self._measure(self.curve.loss[-1])

    def _generation(self, rng: np.random.Generator, done: float) -> float:
        """One generation on one minibatch; returns the population's mean loss."""
        rows = rng.choice(len(self.data.x_train), min(self.batch, len(self.data.x_train)), replace=False)
        self.es.learning_rate = self.learning_rate * max(1e-3, 0.5 * (1.0 + math.cos(math.pi * done)))
        fitness = self.es.ask().evaluate(self.data.x_train[rows], self.data.y_train[rows])
        self.es.tell(fitness)
        self.evaluations += self.es.size * len(rows)
        return -float(fitness.mean(dtype=np.float64))

    def _measure(self, loss: float) -> None:
        self.curve.evaluations.append(self.evaluations)
        self.curve.loss.append(loss)
        self.curve.train.append(accuracy(self.net(self.es.theta, self.data.x_train), self.data.y_train))
        self.curve.test.append(accuracy(self.net(self.es.theta, self.data.x_test), self.data.y_test))


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  test {task.fields[test]:.1%}"),
        TextColumn("{task.fields[rate]:.2e} evaluations/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
