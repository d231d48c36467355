"""The samples of a generation, and the fitness of its members: minibatch, augmentation, importance sampling, loss.

They depend only on the seed and the number of the generation, and with importance sampling on the residuals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes.devices import to_host
from fpes.engine import Engine, Measure, Samples
from fpes.evaluation import Evaluation
from fpes.strategy import Strategy
from fpes.training.preparation import Prepared
from fpes.training.run import Run
from fpes.training.settings import Session


class Sampling:
    """Evaluates the present population of a strategy on the minibatch of its generation.

    Args:
        strategy, run: the strategy and its run.
        engine: computes the evaluation.
        prepared: the run's settings.
        session: has the user's fitness function, if there is one, and the number of members evaluated at once.
    """

    def __init__(self, strategy: Strategy, run: Run, engine: Engine, prepared: Prepared, session: Session) -> None:
        self.strategy = strategy
        self.run = run
        self.engine = engine
        self.minibatches = prepared.minibatches
        self.importance = prepared.importance
        self.loss = prepared.loss
        self.fitness = session.fitness
        self.chunk = session.chunk

    def evaluate(self) -> tuple[Evaluation, FloatArray | None]:
        """The fitness of the population, and the residuals afterwards; None without importance sampling."""
        strategy, step = self.strategy, self.strategy.generation
        rows, weights, residuals = self._drawn(step)
        samples = Samples(rows, step, self._strength(step))
        if self.fitness is not None:
            return self._by(samples, Measure(self.fitness, chunk=self.chunk)), None
        if residuals is None:
            measure = Measure(self.loss.name, per_sample=strategy.perturbation.per_sample, chunk=self.chunk)
            return self._by(samples, measure), None
        if strategy.perturbation.weights_samples:
            return self._weighted_inside(samples, weights, residuals)
        return self._weighted_outside(samples, weights, residuals)

    def _by(self, samples: Samples, measure: Measure) -> Evaluation:
        return self.engine.evaluate(self.strategy.ask(), samples, measure)

    def _weighted_inside(
        self, samples: Samples, weights: FloatArray, residuals: FloatArray
    ) -> tuple[Evaluation, FloatArray]:
        """Use an evaluation that weights samples itself; the residuals follow the losses of the centre."""
        assert self.importance is not None
        measure = Measure(self.loss.name, sample_weights=self.minibatches.shaped(weights), chunk=self.chunk)
        evaluation = self._by(samples, measure)
        losses = to_host(evaluation.centre_losses).ravel()
        return evaluation, self.importance.updated(residuals, samples.rows, losses)

    def _weighted_outside(
        self, samples: Samples, weights: FloatArray, residuals: FloatArray
    ) -> tuple[Evaluation, FloatArray]:
        """For all other families: weight the fitness of each sample; the residuals follow its mean over the members."""
        assert self.importance is not None
        evaluation = self._by(samples, Measure(self.loss.name, per_sample=True, chunk=self.chunk))
        groups = to_host(evaluation.values).reshape(evaluation.groups, -1, evaluation.samples)
        residuals = self.importance.updated(residuals, samples.rows, -_mean(groups, axis=1).ravel())
        with ieee_mode():
            weighted = groups * weights.reshape(evaluation.groups, 1, evaluation.samples)
        if self.strategy.perturbation.per_sample:
            return evaluation.with_fitness(weighted.reshape(self.strategy.size, -1)), residuals
        return evaluation.with_fitness(_mean(weighted, axis=2).ravel()), residuals

    def _strength(self, step: int) -> float:
        """The strength of the augmentation."""
        augmentation, steps = self.minibatches.augmentation, self.strategy.steps
        return 1.0 if augmentation is None or steps is None else augmentation.strength(step, steps)

    def _drawn(self, step: int) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray | None]:
        """The samples of a step, their weights, and the residuals that they were drawn by."""
        minibatches, importance = self.minibatches, self.importance
        samples, count = len(minibatches.data.x_train), minibatches.groups * minibatches.batch
        if importance is None:
            return minibatches.rows(step), np.ones(count, np.float32), None
        known = self.run.residuals_at(step)
        residuals = importance.start(samples) if known is None else known
        first = step - self.run.since
        if (first + 1) * count <= samples:  # the first epoch, which sees every sample once
            return minibatches.rows(first), np.ones(count, np.float32), residuals
        rows, weights = importance.draw(residuals, count, self.strategy.seed, step)
        return rows, weights, residuals


@ieee_mode()
def _mean(values: FloatArray, axis: int) -> FloatArray:
    """The mean along an axis, summed in order in float64.

    Along the first axis of a contiguous array, numpy.sum() adds one slice after the other; along the last axis, its
    order depends on the machine.
    """
    slices = np.ascontiguousarray(np.moveaxis(values, axis, 0))
    mean: FloatArray = (slices.sum(axis=0, dtype=np.float64) / len(slices)).astype(np.float32)
    return mean
