"""Who evaluates a population and who makes its gradient: this process, or several that share the work.

An engine decides where the arithmetic is done and never what comes out: fitness is placed by index, and a gradient is
computed in parts only where its parts are exact sums. So the bits of a run are the same for every engine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fpes._checks import FloatArray
from fpes.datasets import Minibatches
from fpes.devices import to_device
from fpes.evaluation import Evaluation
from fpes.population import Population
from fpes.strategy import Strategy, local_gradient


@dataclass(frozen=True)
class Samples:
    """What a generation sees, by number: any process that has the data makes the same arrays of it.

    Args:
        rows: samples of the training part, int64 [groups * batch].
        step: the generation, which the augmentation depends on.
        strength: of the augmentation.
    """

    rows: npt.NDArray[np.int64]
    step: int
    strength: float

    def arrays(self, minibatches: Minibatches, device: str) -> tuple[Any, Any]:
        """x and y, on a device."""
        x, y = minibatches.samples(self.rows, self.step, self.strength)
        return to_device(x, device), to_device(y, device)


@dataclass(frozen=True)
class Measure:
    """What is wanted of each member.

    Args:
        loss: as for Population.evaluate(); None for a function that every process has of its own.
        per_sample: likewise.
        sample_weights: likewise, on the host.
        chunk: likewise.
    """

    loss: str | Callable[[Any, Any], Any] | None = "cross_entropy"
    per_sample: bool = False
    sample_weights: FloatArray | None = None
    chunk: int | None = None

    def of(
        self, population: Population, x: Any, y: Any, device: str, pairs: tuple[int, int] | None = None
    ) -> Evaluation:
        """The evaluation of a population, or of some of its pairs."""
        assert self.loss is not None
        weights = None if self.sample_weights is None else to_device(self.sample_weights, device)
        return population.evaluate(
            x,
            y,
            self.loss,
            per_sample=self.per_sample and not callable(self.loss),
            sample_weights=weights,
            pairs=pairs,
            chunk=self.chunk,
        )


class Engine(Protocol):
    """What the generations of a fit() need to have done."""

    def evaluate(self, population: Population, samples: Samples, measure: Measure) -> Evaluation:
        """The population on its minibatch."""

    def gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """The gradient of these utilities, which are the shaped fitness, on the host: a strategy.Gradient."""


class Helpers(Protocol):
    """Who shares the work of a fit()."""

    def serve(self, strategy: Strategy, loss: Callable[[Any, Any], Any] | None) -> bool:
        """Whether this process is one that only follows another, whose fit() is over now."""

    def leading(self) -> AbstractContextManager[None]:
        """Around all of a fit() that doesn't follow: those who wait for it learn of its end, however early it comes."""

    def training(self, strategy: Strategy, minibatches: Minibatches, run: str) -> AbstractContextManager[Engine]:
        """Around the generations of a run: whatever has to be prepared for them, and put away."""


class LocalEngine:
    """This process, on the strategy's device."""

    def __init__(self, strategy: Strategy, minibatches: Minibatches) -> None:
        self._device = strategy.device
        self._minibatches = minibatches

    def evaluate(self, population: Population, samples: Samples, measure: Measure) -> Evaluation:
        """The population on its minibatch."""
        x, y = samples.arrays(self._minibatches, self._device)
        return measure.of(population, x, y, self._device)

    def gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """As the population gives it."""
        return local_gradient(population, utilities, evaluation, self._device)


class Local:
    """Nobody shares the work: this process does it all."""

    def serve(self, strategy: Strategy, loss: Callable[[Any, Any], Any] | None) -> bool:
        """No."""
        return False

    def leading(self) -> AbstractContextManager[None]:
        """Nobody waits."""
        return nullcontext()

    def training(self, strategy: Strategy, minibatches: Minibatches, run: str) -> AbstractContextManager[Engine]:
        """Nothing has to be prepared."""
        return nullcontext(LocalEngine(strategy, minibatches))


def ranges(population: Population, parts: int) -> list[tuple[int, int]]:
    """The population's pairs in so many ranges, as even as can be, fewer where there are fewer pairs."""
    pairs = population.size // 2
    count = max(1, min(parts, pairs))
    edges = [pairs * part // count for part in range(count + 1)]
    return list(pairwise(edges))


# A sum of integers of 8 bytes for each parameter travels in about the time that it takes to draw the noise of so many
# pairs (docs/machines.md).
_PAIRS_WORTH_A_SUM = 32


def parts_pay(population: Population, weights: Any, workers: int) -> bool:
    """Whether the gradient is worth computing in parts: it is a sum of integers, and long enough.

    The answer depends on sizes alone, so every process gives the same one.
    """
    if workers < 2 or not population.sums_exactly(weights):
        return False
    work = population.size // 2 * population.perturbation.gradient_work
    return work * (1.0 - 1.0 / workers) > _PAIRS_WORTH_A_SUM
