"""One step of theta: weight decay, clipping, the optimiser, the running mean, and what no step may lead to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fpes import _checks
from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes.evaluation import Evaluation
from fpes.health import DivergedError
from fpes.network import LinearNetwork
from fpes.optimisers import Memory, Optimiser, Step, norm, weighted_sum
from fpes.population import Population

ADVICE = "lower the learning rate or sigma, or go on from an earlier checkpoint"


@dataclass(frozen=True, eq=False)
class Generation:
    """What the last step of an ES went by, and how far it went.

    Args:
        population: that was evaluated.
        fitness: as it was told: float [size], or [size, batch] for node perturbation, on the host.
        gradient: float32 [parameters], times
        factor: a number that shaping and clipping have decided about.
        before: theta before the step.
        after: theta after it.
        evaluation: of the population; None where fitness came as an array.
        all_equal: whether no member differed from another of its group in fitness.
    """

    population: Population
    fitness: FloatArray
    gradient: FloatArray
    factor: float
    before: FloatArray
    after: FloatArray
    evaluation: Evaluation | None
    all_equal: bool

    @cached_property
    def best(self) -> int:
        """The number of the fittest member, the first of several."""
        with ieee_mode():
            each = self.fitness if self.fitness.ndim == 1 else self.fitness.mean(axis=1, dtype=np.float64)
            return int(np.argmax(each))

    def best_member(self) -> Any:
        """The parameters of the fittest member, float32 [parameters], where the population is.

        Raises:
            ValueError: node perturbation, whose members have no parameters of their own.
        """
        return self.population.member(self.best, self.evaluation)

    @cached_property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient that the optimiser was given, clipped where that was asked for."""
        with ieee_mode():
            return self.factor * norm(self.gradient)

    @cached_property
    def step_norm(self) -> float:
        """Euclidean norm of what was added to theta, weight decay included."""
        return norm(weighted_sum(1.0, self.after, -1.0, self.before))


@dataclass(frozen=True, eq=False)
class State:
    """All that a generation changes. It is replaced as a whole, so an interrupt finds either the old or the new one.

    Args:
        generation: how many lie behind.
        theta: the centre of the population, float32 [parameters].
        memory: the optimiser's.
        average: the running mean of theta, where there is one.
        spare: the memory of the generation before, of no more use.
        evaluations: of one member on one sample, so far.
        fitness: mean over the last population.
        last: how the state came about; None at the beginning and after loading.
    """

    generation: int
    theta: FloatArray
    memory: Memory
    average: FloatArray | None = None
    spare: Memory | None = None
    evaluations: int = 0
    fitness: float | None = None
    last: Generation | None = None


def clipped(gradient: FloatArray, factor: float, clip: float | None) -> float:
    """The factor, lowered where the gradient times it would be longer than it may be."""
    if clip is None:
        return factor
    length = factor * norm(gradient)
    return factor * min(1.0, clip / length) if length > 0.0 else factor


def decayed(net: LinearNetwork, theta: FloatArray, keep: float, scratch: FloatArray) -> FloatArray:
    """Theta after weight decay, which is for weights: a bias below the boundary does nothing as it is."""
    if keep == 1.0:
        return theta
    layers = zip(net.unpack(theta), net.unpack(scratch), strict=True)
    for (weight, bias), (shrunk, kept) in layers:
        weighted_sum(keep, weight, 0.0, weight, out=shrunk)
        kept[...] = bias
    return scratch


def updated(
    optimiser: Optimiser, gradient: FloatArray, memory: Memory, start: FloatArray, step: Step
) -> tuple[FloatArray, Memory]:
    """Theta and the optimiser's memory after a step, as it gives them: checked, and theta in an array of its own."""
    read_only = start.view()
    read_only.flags.writeable = False  # it is, or may be, the present theta
    theta, after = optimiser.update(gradient, memory, read_only, step)
    what = f"{type(optimiser).__name__}.update()"
    theta = _checks.float_array(f"theta that {what} gives", theta, start.shape)
    if np.may_share_memory(theta, start):
        theta = theta.copy()
    return theta, checked_memory(after, what, memory)


def averaged(average: FloatArray | None, theta: FloatArray, averaging: float, generation: int) -> FloatArray | None:
    """The running mean after a generation. It is shorter at first, so that initial weights are soon forgotten."""
    if average is None:
        return None
    factor = min(averaging, (generation + 1) / (generation + 10))
    return weighted_sum(factor, average, 1.0 - factor, theta)


def check_step(generation: int, theta: FloatArray, average: FloatArray | None, memory: Memory) -> None:
    """Refuse a step that leads to infinity or NaN anywhere: no later one would lead back.

    Raises:
        DivergedError: it does.
    """
    results: dict[str, FloatArray | None] = {"parameters": theta, "means of parameters": average}
    results |= {f"numbers that the optimiser remembers ({name})": array for name, array in memory.items()}
    for what, array in results.items():
        if array is not None and not math.isfinite(norm(array)):
            raise DivergedError(
                f"the step of generation {generation} leads to infinity or NaN in "
                f"{np.count_nonzero(~np.isfinite(array))} of {array.size} {what}, and was not taken: {ADVICE}"
            )


def checked_memory(memory: Any, what: str, before: Memory | None = None) -> Memory:
    """What an optimiser is to remember, as `what` gave it: named and shaped as before."""
    if not isinstance(memory, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in memory):
        raise TypeError(f"the memory that {what} gives is {memory!r}, expected a dictionary of arrays by identifiers")
    if before is not None and memory.keys() != before.keys():
        raise ValueError(f"the memory that {what} gives has {list(memory)}, expected {list(before)}")
    shapes = {name: None if before is None else before[name].shape for name in memory}
    return {
        name: _checks.float_array(f"memory[{name!r}] that {what} gives", array, shapes[name])
        for name, array in memory.items()
    }
