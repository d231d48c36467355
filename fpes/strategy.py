"""The strategy: ask() returns a population, tell() takes its fitness and moves the centre. No data, files or clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fpes import _checks, _config
from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes._scheduled import Scheduled
from fpes._turns import in_turn
from fpes.devices import checked_device, to_device, to_host
from fpes.evaluation import Evaluation, plain
from fpes.health import DivergedError, warn
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_SEED, LARGEST_WORD
from fpes.optimisers import Adam, Optimiser, Step
from fpes.perturbations import FullRank, Perturbation, checked_perturbation
from fpes.population import Population
from fpes.schedules import Constant, Schedule
from fpes.shaping import SHAPINGS, Shaping, all_equal, shaped
from fpes.steps import (
    ADVICE,
    Generation,
    State,
    averaged,
    check_step,
    checked_memory,
    clipped,
    decayed,
    updated,
)

# The settings of a strategy, besides the network and theta.
SETTINGS = (
    "size",
    "sigma",
    "perturbation",
    "optimiser",
    "learning_rate",
    "weight_decay",
    "clip",
    "shaping",
    "averaging",
    "steps",
    "seed",
)

# A function that computes a gradient: this process, or several that share the work (engine.py). Its arguments are the
# population, its fitness on the host, the utilities (the shaped fitness), and the evaluation, if there is one.
Gradient = Callable[[Population, FloatArray, Any, Evaluation | None], FloatArray]


def local_gradient(population: Population, utilities: Any, evaluation: Evaluation | None, device: str) -> FloatArray:
    """The gradient, on the host, by this process on a device."""
    gradient: FloatArray = to_host(population.gradient(to_device(utilities, device), evaluation))
    return gradient


class Strategy:
    """ask(), tell() and their state: fpes.ES without data sets, files and a clock. Arguments as for fpes.ES."""

    sigma = Scheduled(_checks.positive)
    learning_rate = Scheduled(_checks.not_negative)
    weight_decay = Scheduled(_checks.not_negative)

    def __init__(
        self,
        net: LinearNetwork,
        theta: FloatArray,
        *,
        size: int,
        sigma: float | Schedule,
        perturbation: Perturbation | None = None,
        optimiser: Optimiser | None = None,
        learning_rate: float | Schedule = 0.01,
        weight_decay: float | Schedule = 0.0,
        clip: float | None = None,
        shaping: str | Shaping | None = None,
        averaging: float = 0.0,
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.net = net
        self.size = _checks.integer("size", size, 2, 2 * LARGEST_WORD)
        self.sigma = sigma
        self.perturbation = FullRank() if perturbation is None else checked_perturbation(_config.plain(perturbation))
        words = "an Adam, SGD, ClipUp, or an object with init() and update()"
        self.optimiser: Optimiser = _config.setting(
            "optimiser", Adam() if optimiser is None else optimiser, Optimiser, words
        )
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip = None if clip is None else _checks.positive("clip", clip)
        self.shaping = _checked_shaping(shaping, self.perturbation)
        self.averaging = _checks.real("averaging", averaging)
        self.steps = None if steps is None else _checks.integer("steps", steps, 1, _checks.LARGEST_INDEX)
        self.seed = _checks.integer("seed", seed, 0, LARGEST_SEED)
        self.device = checked_device(device)
        copy = np.array(theta)
        self._scratch = np.empty_like(copy)
        memory = checked_memory(self.optimiser.init(copy.size), f"{type(self.optimiser).__name__}.init()")
        self._state = State(0, copy, memory, copy if self.averaging else None)
        self._population: Population | None = None
        self._warned = False
        self._check()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in SETTINGS)
        return f"{type(self).__name__}({self.net!r}, {settings}; generation {self.generation})"

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy: without the last step's large arrays and values that can be computed again.

        The copy has its own optimiser's memory, because steps overwrite the memory of two generations ago.
        """
        memory = {name: array.copy() for name, array in self._state.memory.items()}
        state = replace(self._state, memory=memory, spare=None, last=None)
        return {**vars(self), "_population": None, "_scratch": np.empty_like(self._scratch), "_state": state}

    @property
    def state(self) -> State:
        """All that a generation changes."""
        return self._state

    @property
    def theta(self) -> FloatArray:
        """The centre of the population, float32 [net.parameters]. Every generation makes a new array."""
        return self._state.theta

    @property
    def generation(self) -> int:
        """The number of completed generations."""
        return self._state.generation

    @property
    def evaluations(self) -> int:
        """Evaluations so far, each of one member on one sample. Only an Evaluation given to tell() counts."""
        return self._state.evaluations

    @property
    def fitness(self) -> float | None:
        """Mean fitness of the last population; None before the first."""
        return self._state.fitness

    @property
    def last(self) -> Generation | None:
        """Details of the last step: population, fitness, best member, norms.

        None before the first step and in copies.
        """
        return self._state.last

    @property
    def solution(self) -> FloatArray:
        """The parameters to use: the running mean if there is one, else theta."""
        return self.theta if self._state.average is None else self._state.average

    @ieee_mode()
    def value(self, name: str, generation: int) -> float:
        """The value of "sigma", "learning_rate" or "weight_decay" in a generation, with schedules applied."""
        value = getattr(self, name)
        if self.steps is None and isinstance(value, Schedule) and not isinstance(value, Constant):
            raise ValueError(
                f"{name} is {value!r}, which needs to know how many generations there will be: give ES or fit() the "
                "argument steps"
            )
        number: float = vars(Strategy)[name].at(self, generation, self.steps or 1)
        return number

    @in_turn
    def ask(self) -> Population:
        """The population of the current generation. Another ask() returns the same population."""
        sigma, population = self.value("sigma", self.generation), self._population
        if population is None or (population.generation, population.sigma) != (self.generation, sigma):
            self._population = population = self._population_at(sigma)
        return population

    @in_turn
    def tell(self, fitness: Any) -> None:
        """Move theta towards the fitter members, and advance to the next generation.

        Args:
            fitness: the result of ask().evaluate(); higher is better; [size], or [size, batch] for node perturbation
                only. If each group of members has its own minibatch, each group is shaped separately. An array, float32
                or float64 [size], is also accepted and counts as one group, but not for node perturbation, whose
                gradient needs the batch.

        Raises:
            TypeError: fitness is no array of this kind.
            ValueError: wrong shape, the evaluation of another population, an array for node perturbation.
            DivergedError: NaN in fitness, or a step that leads to infinity or NaN. The state is unchanged.
        """
        state = self.proposed(fitness)
        self.warn_if_equal(state)
        self.accept(state)

    @in_turn
    def proposed(self, fitness: Any, gradient: Gradient | None = None) -> State:
        """The state after tell(); this ES doesn't change.

        Args:
            fitness: as for tell().
            gradient: function that computes the gradient; this process if not given.

        Raises:
            TypeError, ValueError, DivergedError: as for tell().
        """
        with ieee_mode():
            return self._proposed(fitness, gradient or self._gradient)

    def warn_if_equal(self, state: State) -> None:
        """Warn once if all members that led to this state have equal fitness."""
        if self._warned or state.last is None or not state.last.all_equal:
            return
        self._warned = True
        warn(
            f"all members of generation {self.generation} have the same fitness, so nothing can be learnt from "
            "them: the network may be dead (see fpes.health.active_fractions), sigma too small, or the fitness "
            "too coarse"
        )

    @in_turn
    def accept(self, state: State) -> None:
        """Continue with a state: a proposed state, or a state of an earlier run."""
        self._state = state

    def _population_at(self, sigma: float) -> Population:
        """The population of the current generation, with this standard deviation."""
        return Population(
            self.net,
            to_device(self.theta, self.device),
            size=self.size,
            sigma=sigma,
            perturbation=self.perturbation,
            seed=self.seed,
            generation=self.generation,
        )

    def _check(self) -> None:
        """Check everything that could fail later."""
        if not 0.0 <= self.averaging < 1.0:
            raise ValueError(f"averaging is {self.averaging}, expected a number from 0 to below 1")
        # Checks theta, size and the rest. The number of steps may not be known yet, but the first step is.
        self._population_at(self.sigma.at(0, 1) if isinstance(self.sigma, Schedule) else self.sigma)

    def _proposed(self, fitness: Any, gradient_of: Gradient) -> State:
        population, state = self.ask(), self._state
        evaluation = self._checked_evaluation(fitness, population)
        groups = 1 if evaluation is None else evaluation.groups
        values = self._checked_fitness(to_host(plain(fitness)))
        weights = shaped(self.shaping, values, groups)
        utilities = weights.values
        if utilities.dtype == np.float64 or self.perturbation.per_sample:
            utilities = utilities.astype(np.float32, copy=False)
        gradient = gradient_of(population, values, utilities, evaluation)

        factor = clipped(gradient, weights.factor, self.clip)
        rate = self.value("learning_rate", state.generation)
        keep = 1.0 - rate * self.value("weight_decay", state.generation)
        start = decayed(self.net, state.theta, keep, self._scratch)
        step = Step(state.generation, factor, rate, state.spare)
        theta, memory = updated(self.optimiser, gradient, state.memory, start, step)
        average = averaged(state.average, theta, self.averaging, state.generation)
        check_step(state.generation, theta, average, memory)

        with np.errstate(invalid="ignore"):  # infinity of either sign has no mean
            mean = float(values.mean(dtype=np.float64))
        return State(
            state.generation + 1,
            theta,
            memory,
            average,
            spare=state.memory,
            evaluations=state.evaluations + (0 if evaluation is None else self.size * evaluation.samples),
            fitness=mean,
            last=Generation(
                population, values, gradient, factor, state.theta, theta, evaluation, all_equal(values, groups)
            ),
        )

    def _gradient(
        self, population: Population, fitness: FloatArray, utilities: Any, evaluation: Evaluation | None
    ) -> FloatArray:
        """The gradient, by this process."""
        return local_gradient(population, utilities, evaluation, self.device)

    def _checked_evaluation(self, fitness: Any, population: Population) -> Evaluation | None:
        """The Evaluation, if the fitness is one; None for an array."""
        if isinstance(fitness, Evaluation):
            fitness.check_belongs_to(population.origin)
            fitness.check_covers((0, self.size // 2))
            return fitness
        if self.perturbation.needs_batch:
            raise ValueError(
                f"fitness is an array, and the gradient of {self.perturbation!r} needs the batch it belongs to: "
                "expected what ask().evaluate() gave, or its with_fitness(array)"
            )
        return None

    def _checked_fitness(self, fitness: Any) -> FloatArray:
        per_sample = np.ndim(fitness) == 2
        if per_sample and not self.perturbation.per_sample:
            raise ValueError(
                f"fitness has shape {np.shape(fitness)}, expected [{self.size}]: only node perturbation uses a fitness "
                "for each sample; take its mean over the batch"
            )
        values = _checks.numpy_array("fitness", fitness)
        _checks.check_fitness("fitness", values, self.size, values.shape[1] if per_sample else None)
        bad = np.flatnonzero(np.isnan(values).reshape(self.size, -1).any(axis=1))
        if bad.size:
            raise DivergedError(
                f"the fitness of generation {self.generation} is NaN for {bad.size} of {self.size} members, the first "
                f"{int(bad[0])}: {ADVICE}"
            )
        return values


def _checked_shaping(shaping: str | Shaping | None, perturbation: Perturbation) -> str | Shaping:
    if shaping is None:
        return perturbation.default_shaping
    if not isinstance(shaping, str):
        words = f"one of {', '.join(map(repr, SHAPINGS))}, or an object with weights(fitness, groups)"
        checked: Shaping = _config.setting("shaping", shaping, Shaping, words)
        return checked
    if shaping not in SHAPINGS:
        raise ValueError(f"shaping is {shaping!r}, expected one of {', '.join(map(repr, SHAPINGS))}")
    return shaping
