"""Optimisers: how far theta goes along the gradient.

An optimiser is a description; its memory is a dictionary of arrays that the caller keeps. A step reads one memory and
writes another, so whoever is interrupted still has the old one. The arithmetic is in csrc/cpu/optimiser, on the host
for every backend: the same bits everywhere. Fitness is maximised, so steps go up the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fpes import _checks, _cpu, _settings
from fpes._checks import FloatArray

Memory = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Step:
    """The numbers of one step, whatever the optimiser.

    Args:
        number: 0 for the first step.
        factor: what the gradient is multiplied by first.
        learning_rate: how far to go.
    """

    number: int
    factor: float
    learning_rate: float

    def __post_init__(self) -> None:
        _checks.integer("number", self.number, 0, 2**63)


@dataclass(frozen=True)
class SGD:
    """Gradient ascent with momentum: v = momentum v + g; theta = theta + learning_rate v (Polyak 1964).

    Args:
        momentum: from 0 to below 1.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_fraction("momentum", self.momentum)

    def memory(self, parameters: int) -> dict[str, FloatArray]:
        """Before the first step."""
        return {"velocity": np.zeros(parameters, np.float32)}

    def step(
        self, theta: FloatArray, memory: Memory, gradient: FloatArray, step: Step, new_memory: Memory
    ) -> FloatArray:
        """Theta after one step; what the memory is then is written to new_memory."""
        velocity = new_memory["velocity"]
        weighted_sum(self.momentum, memory["velocity"], step.factor, gradient, out=velocity)
        return weighted_sum(1.0, theta, step.learning_rate, velocity)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1); with ES's weight decay, which is decoupled, it is AdamW.

    Args:
        beta1: of the running mean of the gradient, from 0 to below 1.
        beta2: of the running mean of its square, from 0 to below 1.
        epsilon: added to the root of the latter, above 0.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check_fraction("beta1", self.beta1)
        _check_fraction("beta2", self.beta2)
        _checks.positive("epsilon", self.epsilon)

    def memory(self, parameters: int) -> dict[str, FloatArray]:
        """Before the first step."""
        return {"mean": np.zeros(parameters, np.float32), "square": np.zeros(parameters, np.float32)}

    def step(
        self, theta: FloatArray, memory: Memory, gradient: FloatArray, step: Step, new_memory: Memory
    ) -> FloatArray:
        """Theta after one step; what the memory is then is written to new_memory."""
        number = step.number + 1
        before = [
            _checks.float_array(name, array, ("parameters",) if name == "theta" else np.shape(theta))
            for name, array in (("theta", theta), ("mean", memory["mean"]), ("square", memory["square"]))
        ]
        shape = before[0].shape
        gradient = _checks.float_array("gradient", gradient, shape)
        mean = _checks.result_array("mean", new_memory["mean"], shape, *before, gradient)
        square = _checks.result_array("square", new_memory["square"], shape, *before, gradient, mean)
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
        return new_theta


@dataclass(frozen=True)
class ClipUp:
    """ClipUp (Toklu, Liskowski & Srivastava 2020, algorithm 1): every step's length is known beforehand.

    The gradient is brought to length `learning_rate` before it joins the velocity, and the velocity is cut to length
    `top_speed`. For parameters and learning rates of which one knows the size, and not much else.

    Args:
        momentum: from 0 to below 1.
        top_speed: in multiples of the learning rate, above 0; the paper's advice is 2.
    """

    momentum: float = 0.9
    top_speed: float = 2.0

    def __post_init__(self) -> None:
        _check_fraction("momentum", self.momentum)
        _checks.positive("top_speed", self.top_speed)

    def memory(self, parameters: int) -> dict[str, FloatArray]:
        """Before the first step."""
        return {"velocity": np.zeros(parameters, np.float32)}

    def step(
        self, theta: FloatArray, memory: Memory, gradient: FloatArray, step: Step, new_memory: Memory
    ) -> FloatArray:
        """Theta after one step; what the memory is then is written to new_memory."""
        length = norm(gradient)
        factor = step.learning_rate / length if length > 0.0 else 0.0
        velocity = weighted_sum(self.momentum, memory["velocity"], factor, gradient)
        speed, limit = norm(velocity), self.top_speed * step.learning_rate
        shorter = limit / speed if speed > limit else 1.0
        weighted_sum(shorter, velocity, 0.0, velocity, out=new_memory["velocity"])
        return weighted_sum(1.0, theta, 1.0, new_memory["velocity"])


Optimiser = SGD | Adam | ClipUp


def weighted_sum(a: float, x: FloatArray, b: float, y: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """a x + b y in float32, each product rounded.

    Args:
        a, x, b, y: numbers, and float32 arrays of one shape.
        out: where the result goes, if not into a new array; neither x nor y.

    Raises:
        TypeError: another dtype.
        ValueError: shapes that differ.
    """
    left = _checks.float_array("x", x)
    right = _checks.float_array("y", y, left.shape)
    result = np.empty_like(left) if out is None else _checks.result_array("out", out, left.shape, left, right)
    _cpu.weighted_sum(_settings.execution(), a, left.ctypes.data, b, right.ctypes.data, left.size, result.ctypes.data)
    return result


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
