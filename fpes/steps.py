"""One step of theta: weight decay, clipping, the optimiser, the running mean, and the check of the result."""

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
    """Details of the last step of an ES.

    Args:
        population: the evaluated population.
        fitness: the fitness given to tell(): float [size], or [size, batch] for node perturbation, on the host.
        gradient: float32 [parameters]. The optimiser receives gradient x factor.
        factor: a number from shaping and clipping.
        before: theta before the step.
        after: theta after the step.
        evaluation: of the population; None if fitness was an array.
        all_equal: whether all members of each group have equal fitness.
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
        """The index of the fittest member; the first of several."""
        with ieee_mode():
            each = self.fitness if self.fitness.ndim == 1 else self.fitness.mean(axis=1, dtype=np.float64)
            return int(np.argmax(each))

    def best_member(self) -> Any:
        """The parameters of the fittest member, float32 [parameters], on the population's device.

        Raises:
            ValueError: for node perturbation, whose members don't have their own parameters.
        """
        return self.population.member(self.best, self.evaluation)

    @cached_property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient that the optimiser received, after clipping."""
        with ieee_mode():
            return self.factor * norm(self.gradient)

    @cached_property
    def step_norm(self) -> float:
        """Euclidean norm of the change of theta, with weight decay."""
        return norm(weighted_sum(1.0, self.after, -1.0, self.before))


@dataclass(frozen=True, eq=False)
class State:
    """Everything that a generation changes. It is replaced as a whole, so an interrupt leaves the old or the new state.

    Args:
        generation: number of completed generations.
        theta: the centre of the population, float32 [parameters].
        memory: the optimiser's.
        average: the running mean of theta, if there is one.
        spare: the memory of the previous generation, which is no longer needed.
        evaluations: number of evaluations so far, each of one member on one sample.
        fitness: mean over the last population.
        last: details of the step that led to this state; None at the beginning and after loading.
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
    """The factor, lowered if factor x gradient would be longer than `clip`."""
    if clip is None:
        return factor
    length = factor * norm(gradient)
    return factor * min(1.0, clip / length) if length > 0.0 else factor


def decayed(net: LinearNetwork, theta: FloatArray, keep: float, scratch: FloatArray) -> FloatArray:
    """Theta after weight decay. Biases don't decay: a bias below the boundary has no effect anyway."""
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
    """Theta and the optimiser's memory after a step: checked, with theta in a new array."""
    read_only = start.view()
    read_only.flags.writeable = False  # it is, or may be, the present theta
    theta, after = optimiser.update(gradient, memory, read_only, step)
    what = f"{type(optimiser).__name__}.update()"
    theta = _checks.float_array(f"theta that {what} gives", theta, start.shape)
    if np.may_share_memory(theta, start):
        theta = theta.copy()
    return theta, checked_memory(after, what, memory)


def averaged(average: FloatArray | None, theta: FloatArray, averaging: float, generation: int) -> FloatArray | None:
    """The running mean after a generation. It is shorter at first, so that the initial weights soon lose influence."""
    if average is None:
        return None
    factor = min(averaging, (generation + 1) / (generation + 10))
    return weighted_sum(factor, average, 1.0 - factor, theta)


def check_step(generation: int, theta: FloatArray, average: FloatArray | None, memory: Memory) -> None:
    """Refuse a step that leads to infinity or NaN: later steps couldn't correct it.

    Raises:
        DivergedError: theta, its running mean or the optimiser's memory has infinity or NaN.
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
    """An optimiser's memory as `what` returned it, checked: with the same names and shapes as before."""
    if not isinstance(memory, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in memory):
        raise TypeError(f"the memory that {what} gives is {memory!r}, expected a dictionary of arrays by identifiers")
    if before is not None and memory.keys() != before.keys():
        raise ValueError(f"the memory that {what} gives has {list(memory)}, expected {list(before)}")
    shapes = {name: None if before is None else before[name].shape for name in memory}
    return {
        name: _checks.float_array(f"memory[{name!r}] that {what} gives", array, shapes[name])
        for name, array in memory.items()
    }
