"""The loop of ES.fit(): minibatch, population, fitness and step, with curves, checkpoints and a time limit.

Only the settings affect bits: the samples of a generation depend on the seed and its number.
"""

from __future__ import annotations

import time
from typing import Any

from fpes._signals import terminating_raises
from fpes._turns import turn_of
from fpes.datasets import Dataset
from fpes.distributed import Ranks, Workers
from fpes.engine import Engine, Helpers, Local
from fpes.health import DivergedError, warn
from fpes.steps import State
from fpes.strategy import Strategy
from fpes.training.callbacks import StopTraining
from fpes.training.clock import Clock, Plan
from fpes.training.curves import Curves
from fpes.training.preparation import Prepared, prepare
from fpes.training.run import Run
from fpes.training.sampling import Sampling
from fpes.training.saver import Saver
from fpes.training.settings import Session, TrainingSettings

_EQUAL_GENERATIONS = 20  # in a row, after which a run without any difference in fitness is given up


class Trainer:
    """Trains a strategy on a data set: one session of a run.

    Args:
        strategy: the strategy to train.
        run: the part of a checkpoint besides the strategy.
        data: the data set.
        settings: settings of the run.
        session: the other arguments of fit().
    """

    def __init__(
        self, strategy: Strategy, run: Run, data: Dataset, settings: TrainingSettings, session: Session
    ) -> None:
        self.strategy = strategy
        self.run = run
        self.data = data
        self.settings = settings
        self.session = session

    def train(self) -> None:
        """See ES.fit()."""
        started = time.monotonic()
        session = self.session
        helpers = helpers_of(session.executor)
        if helpers.serve(self.strategy, session.fitness):
            return
        with helpers.leading():
            prepared = prepare(self.strategy, self.run, self.data, self.settings, session)
            saver = Saver(self.strategy, self.run, session.checkpoint, session.checkpoint_seconds)
            with terminating_raises(), saver.owning():
                prepared.adopt(self.run, self.strategy.generation)
                with helpers.training(self.strategy, prepared.minibatches, self.run.id) as engine:
                    clock = Clock(started, self.run.seconds, session.max_seconds)
                    _Loop(self, prepared, engine, clock, saver).train()


def helpers_of(executor: Any) -> Helpers:
    """The helpers that share the work of a fit().

    Raises:
        TypeError, ValueError: as fpes.distributed.Workers().
    """
    if executor is None:
        return Local()
    return executor if isinstance(executor, Ranks | Workers) else Workers(executor)


class _Loop:
    """Generation after generation."""

    def __init__(self, trainer: Trainer, prepared: Prepared, engine: Engine, clock: Clock, saver: Saver) -> None:
        self.strategy = trainer.strategy
        self.run = trainer.run
        self.session = trainer.session
        self.engine = engine
        self.clock = clock
        self.saver = saver
        self.sampling = Sampling(self.strategy, self.run, engine, prepared, self.session)
        self.curves = Curves(self.strategy, self.run, trainer.data, prepared.loss, clock)
        self.plan = Plan(self.strategy, self.run, clock, self.rehearse)
        self.equal_generations = 0

    def train(self) -> None:
        """Train until the end of the plan or the time, or until a callback stops it."""
        strategy = self.strategy
        self.plan.settle(self.session.steps)
        self.keep_time()
        self.saver.save()
        assert strategy.steps is not None
        if strategy.generation >= strategy.steps:
            warn(
                f"generation {strategy.generation} of {strategy.steps}: the planned end is reached, so there is "
                "nothing to train; fit() with a larger number of steps goes on"
            )
        try:
            self.generations()
        except DivergedError:
            raise  # its state leads nowhere: the last checkpoint may be from before it went astray
        except BaseException as end:
            self.keep_time()
            self.saver.save_after(end)
            raise
        self.saver.save_at_the_end()

    def generations(self) -> None:
        """Run all remaining generations."""
        strategy = self.strategy
        try:
            self.record_if_due()
            # A limit that the calibration alone takes leaves one generation: a run that ends has begun.
            while strategy.generation < (strategy.steps or 0) and not (strategy.generation and self.clock.run_out):
                self.generation()
        except StopTraining:
            self.curves.record()
            self.keep_time()
            return
        self.plan.end()
        self.record_if_due()

    def generation(self) -> None:
        """Take one step, then record, call callbacks and save."""
        evaluation, residuals = self.sampling.evaluate()
        with turn_of(self.strategy):
            state = self.strategy.proposed(evaluation, self.engine.gradient)
            self.watch(state)
            self.strategy.warn_if_equal(state)
            self.run.remember(state.generation, residuals)
            self.strategy.accept(state)
        self.record_if_due()
        for callback in self.session.callbacks:
            callback(self.strategy)
        self.keep_time()
        self.saver.save_if_due()

    def rehearse(self) -> None:
        """Compute a generation without changing anything."""
        evaluation, _ = self.sampling.evaluate()
        self.strategy.proposed(evaluation, self.engine.gradient)

    def watch(self, state: State) -> None:
        """Give up when all members have had equal fitness for too long."""
        assert state.last is not None
        self.equal_generations = self.equal_generations + 1 if state.last.all_equal else 0
        if self.equal_generations >= _EQUAL_GENERATIONS:
            fractions = ", ".join(f"{fraction:.1%}" for fraction in self.curves.activity())
            raise DivergedError(
                f"for {self.equal_generations} generations all members have had equal fitness, so nothing is learnt; "
                f"active units, layer by layer: {fractions}. If a layer has none, start from larger weights or lower "
                "the weight decay; otherwise raise sigma"
            )

    def record_if_due(self) -> None:
        """Take a point of the curves if it is due. It takes time, so the plan may change."""
        if not self.curves.record_if_due() or self.strategy.generation >= (self.strategy.steps or 0):
            return
        if self.plan.follow_clock():
            self.keep_time()
            self.saver.try_to_save()

    def keep_time(self) -> None:
        """Store the run's time so far."""
        self.run.seconds = self.clock.total
