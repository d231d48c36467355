"""Engines: this process, or several processes that share the evaluation of a population and its gradient.

An engine decides where results are computed and never changes them: fitness is placed by index, and a gradient is
computed in parts only if the parts are exact sums. So the bits of a run are the same for every engine.
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
    """The samples of a generation, by number. Every process that has the data creates the same arrays from them.

    Args:
        rows: samples of the training part, int64 [groups * batch].
        step: the generation, on which the augmentation depends.
        strength: strength of the augmentation.
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
    """The kind of evaluation.

    Args:
        loss: as for Population.evaluate(); None if every process has its own fitness function.
        per_sample: as for Population.evaluate().
        sample_weights: as for Population.evaluate(), on the host.
        chunk: as for Population.evaluate().
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
    """The work of the generations of a fit()."""

    def evaluate(self, population: Population, samples: Samples, measure: Measure) -> Evaluation:
        """The population on its minibatch."""

    def gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """The gradient for these utilities (the shaped fitness), on the host: a strategy.Gradient."""


class Helpers(Protocol):
    """A group of processes that share the work of a fit()."""

    def serve(self, strategy: Strategy, loss: Callable[[Any, Any], Any] | None) -> bool:
        """Whether this process only follows another process, whose fit() has ended."""

    def leading(self) -> AbstractContextManager[None]:
        """Around all of a fit() that doesn't follow: those who wait for it learn of its end, however early it comes."""

    def training(self, strategy: Strategy, minibatches: Minibatches, run: str) -> AbstractContextManager[Engine]:
        """A context around the generations of a run, which prepares for them and cleans up."""


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
        """The gradient, by the population."""
        return local_gradient(population, utilities, evaluation, self._device)


class Local:
    """This process does all the work."""

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
    """The pairs of the population, divided into ranges of nearly equal size; fewer if there are fewer pairs."""
    pairs = population.size // 2
    count = max(1, min(parts, pairs))
    edges = [pairs * part // count for part in range(count + 1)]
    return list(pairwise(edges))


# An integer sum has 8 bytes for each parameter. Its transfer takes about as long as drawing the noise of this number of
# pairs (docs/machines.md).
_PAIRS_WORTH_A_SUM = 32


def parts_pay(population: Population, weights: Any, workers: int) -> bool:
    """Whether it is faster to compute the gradient in parts. It must be an integer sum, and long enough.

    The answer depends only on sizes, so it is the same in every process.
    """
    if workers < 2 or not population.sums_exactly(weights):
        return False
    work = population.size // 2 * population.perturbation.gradient_work
    return work * (1.0 - 1.0 / workers) > _PAIRS_WORTH_A_SUM
