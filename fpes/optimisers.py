"""Optimisers: steps of theta along the gradient.

An optimiser is a description; its memory is a dictionary of arrays that the caller keeps. An update reads one memory
and returns another, so the old memory survives an interrupt. The arithmetic of these optimisers is in
csrc/cpu/optimiser and runs on the host for every backend, with the same bits everywhere. Fitness is maximised, so steps
go up the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fpes import _checks, _config, _cpu, _settings
from fpes._checks import FloatArray
from fpes._modes import ieee_mode

Memory = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Step:
    """The numbers of one step, for any optimiser.

    Args:
        number: 0 for the first step.
        factor: the gradient is first multiplied by this.
        learning_rate: size of the step.
        spare: a memory that is no longer needed. The new memory may overwrite it, which is faster than new arrays. Its
            use is optional; None: there is none.
    """

    number: int
    factor: float
    learning_rate: float
    spare: Memory | None = None

    def __post_init__(self) -> None:
        _checks.integer("number", self.number, 0, 2**63)


@runtime_checkable
class Optimiser(Protocol):
    """The protocol of an optimiser for ES: any object of a class under `fpes.register` that has these two methods.

    As in optax, `init` creates a memory, and `update` is a function without side effects. Unlike optax, `update`
    returns the new theta, not its change, so that the optimiser determines the rounding.
    """

    def init(self, parameters: int) -> Memory:
        """The memory before the first step: float32 arrays of any shapes. Their names are identifiers."""

    def update(self, gradient: FloatArray, memory: Memory, theta: FloatArray, step: Step) -> tuple[FloatArray, Memory]:
        """Theta, in a new array, and the memory after a step up the gradient.

        Args:
            gradient: float32 [parameters], not yet multiplied by step.factor.
            memory: memory of the previous step; must not be changed.
            theta: float32 [parameters], after weight decay; must not be changed.
            step: the numbers of this step.

        Returns:
            theta, memory: float32, with the same shapes and names.
        """


@_config.register
@dataclass(frozen=True)
class SGD:
    """Gradient ascent with momentum: v = momentum v + g; theta = theta + learning_rate v (Polyak 1964).

    Args:
        momentum: from 0 to below 1.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_fraction("momentum", self.momentum)

    def init(self, parameters: int) -> Memory:
        """As Optimiser.init()."""
        return {"velocity": np.zeros(parameters, np.float32)}

    @ieee_mode()
    def update(self, gradient: FloatArray, memory: Memory, theta: FloatArray, step: Step) -> tuple[FloatArray, Memory]:
        """As Optimiser.update()."""
        velocity = weighted_sum(self.momentum, memory["velocity"], step.factor, gradient, out=_room(step, "velocity"))
        return weighted_sum(1.0, theta, step.learning_rate, velocity), {"velocity": velocity}


@_config.register
@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1). With the decoupled weight decay of ES, it is AdamW.

    Args:
        beta1: factor of the running mean of the gradient, from 0 to below 1.
        beta2: factor of the running mean of the squared gradient, from 0 to below 1.
        epsilon: added to the root of the mean square, above 0.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check_fraction("beta1", self.beta1)
        _check_fraction("beta2", self.beta2)
        _checks.positive("epsilon", self.epsilon)

    def init(self, parameters: int) -> Memory:
        """As Optimiser.init()."""
        return {"mean": np.zeros(parameters, np.float32), "square": np.zeros(parameters, np.float32)}

    @ieee_mode()
    def update(self, gradient: FloatArray, memory: Memory, theta: FloatArray, step: Step) -> tuple[FloatArray, Memory]:
        """As Optimiser.update()."""
        number = step.number + 1
        before = [
            _checks.float_array(name, array, ("parameters",) if name == "theta" else np.shape(theta))
            for name, array in (("theta", theta), ("mean", memory["mean"]), ("square", memory["square"]))
        ]
        shape = before[0].shape
        gradient = _checks.float_array("gradient", gradient, shape)
        new = {name: np.empty(shape, np.float32) for name in memory} if step.spare is None else step.spare
        mean = _checks.result_array("mean", new["mean"], shape, *before, gradient)
        square = _checks.result_array("square", new["square"], shape, *before, gradient, mean)
        new_theta = np.empty_like(before[0])
        _cpu.adam(
            _settings.execution(),
            (
                step.factor,
                1.0 - self.beta1,
                1.0 - self.beta2,
                1.0 / (1.0 - _power(self.beta2, number)),
                step.learning_rate / (1.0 - _power(self.beta1, number)),
                self.epsilon,
            ),
            gradient.ctypes.data,
            (before[0].ctypes.data, before[1].ctypes.data, before[2].ctypes.data),
            new_theta.size,
            (new_theta.ctypes.data, mean.ctypes.data, square.ctypes.data),
        )
        return new_theta, {"mean": mean, "square": square}


@_config.register
@dataclass(frozen=True)
class ClipUp:
    """ClipUp (Toklu, Liskowski & Srivastava 2020, algorithm 1): the length of every step is limited.

    The gradient is scaled to length `learning_rate` before it is added to the velocity, and the velocity is cut to
    length `top_speed`. ClipUp suits tasks where the scale of the parameters and of a step is known, and little else.

    Args:
        momentum: from 0 to below 1.
        top_speed: in multiples of the learning rate, above 0; the paper recommends 2.
    """

    momentum: float = 0.9
    top_speed: float = 2.0

    def __post_init__(self) -> None:
        _check_fraction("momentum", self.momentum)
        _checks.positive("top_speed", self.top_speed)

    def init(self, parameters: int) -> Memory:
        """As Optimiser.init()."""
        return {"velocity": np.zeros(parameters, np.float32)}

    @ieee_mode()
    def update(self, gradient: FloatArray, memory: Memory, theta: FloatArray, step: Step) -> tuple[FloatArray, Memory]:
        """As Optimiser.update()."""
        length = norm(gradient)
        factor = step.learning_rate / length if length > 0.0 else 0.0
        velocity = weighted_sum(self.momentum, memory["velocity"], factor, gradient)
        speed, limit = norm(velocity), self.top_speed * step.learning_rate
        shorter = limit / speed if speed > limit else 1.0
        cut = weighted_sum(shorter, velocity, 0.0, velocity, out=_room(step, "velocity"))
        return weighted_sum(1.0, theta, 1.0, cut), {"velocity": cut}


def _room(step: Step, name: str) -> FloatArray | None:
    """An array that the new memory may overwrite."""
    return None if step.spare is None else step.spare[name]


@ieee_mode()
def weighted_sum(a: float, x: FloatArray, b: float, y: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """a x + b y in float32, each product rounded.

    Args:
        a, x, b, y: numbers, and float32 arrays of one shape.
        out: array for the result, neither x nor y; a new array if not given.

    Raises:
        TypeError: another dtype.
        ValueError: shapes that differ.
    """
    left = _checks.float_array("x", x)
    right = _checks.float_array("y", y, left.shape)
    result = np.empty_like(left) if out is None else _checks.result_array("out", out, left.shape, left, right)
    _cpu.weighted_sum(_settings.execution(), a, left.ctypes.data, b, right.ctypes.data, left.size, result.ctypes.data)
    return result


@ieee_mode()
def norm(x: FloatArray) -> float:
    """The Euclidean length of a float32 array, in float64."""
    array = _checks.float_array("x", x)
    return math.sqrt(_cpu.sum_of_squares(_settings.execution(), array.ctypes.data, array.size))


def _power(base: float, exponent: int) -> float:
    """By squaring: multiplications round the same on every system, pow() doesn't."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= _checks.real(name, value) < 1.0:
        raise ValueError(f"{name} is {value}, expected a number from 0 to below 1")
