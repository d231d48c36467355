"""Schedules: numbers that change over a run, such as the learning rate.

A schedule depends on the step and on the planned number of steps, never on the clock. So a run that is stopped and
resumed gives the same result. A schedule is computed without functions of the C library, because their last bit differs
between systems.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import Protocol, runtime_checkable

from fpes import _checks, _config

_PI = 3.141592653589793
_SINE_TERMS = 11  # of the Taylor series, which at pi / 2 is then exact to the last bit or two


@runtime_checkable
class Schedule(Protocol):
    """The protocol of a schedule for ES: any object of a class under `fpes.register` that has this method."""

    def at(self, step: int, steps: int) -> float:
        """The number for step 0 ... steps - 1 of a run with `steps` planned steps.

        It must depend only on its arguments; otherwise a resumed run ends with other bits. A run may continue after its
        planned end: then step is `steps` or more.
        """


@_config.register
@dataclass(frozen=True)
class Constant:
    """The same number at every step.

    Args:
        start: the number.
    """

    start: float

    def __post_init__(self) -> None:
        _checks.not_negative("start", self.start)

    def at(self, step: int, steps: int) -> float:
        """The number for step 0 ... steps - 1."""
        return self.start


@_config.register
@dataclass(frozen=True)
class Cosine:
    """Half a cosine wave from `start` to `end` (Loshchilov & Hutter 2017, "SGDR", equation 5, without restarts).

    Args:
        start: the number at the first step.
        end: the limit that the last step approaches.
    """

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        _checks.not_negative("start", self.start)
        _checks.not_negative("end", self.end)

    def at(self, step: int, steps: int) -> float:
        """The number for step 0 ... steps - 1."""
        return self.end + (self.start - self.end) * 0.5 * (1.0 + _sine(_PI * (0.5 - _done(step, steps))))


@_config.register
@dataclass(frozen=True)
class Exponential:
    """From `start` to `end` with the same factor at every step.

    Args:
        start: the number at the first step, above 0.
        end: the limit that the last step approaches, above 0.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        _checks.positive("start", self.start)
        _checks.positive("end", self.end)

    def at(self, step: int, steps: int) -> float:
        """The number for step 0 ... steps - 1."""
        context = Context(prec=30)  # decimal arithmetic gives the same digits everywhere
        factor = context.power(context.divide(Decimal(self.end), Decimal(self.start)), Decimal(_done(step, steps)))
        return self.start * float(factor)


@_config.register
@dataclass(frozen=True)
class WarmUp:
    """Another schedule, after a linear rise from 0 over the first part of the run (Goyal et al. 2017, section 2.2).

    Args:
        then: the other schedule, which also counts its steps from the beginning of the run.
        fraction: fraction of the run for the rise, between 0 and 1.
    """

    then: Schedule
    fraction: float = 0.05

    def __post_init__(self) -> None:
        _config.setting("then", self.then, Schedule, "a schedule: a Cosine or another object with at(step, steps)")
        if not 0.0 < _checks.real("fraction", self.fraction) < 1.0:
            raise ValueError(f"fraction is {self.fraction}, expected a number between 0 and 1")

    def at(self, step: int, steps: int) -> float:
        """The number for step 0 ... steps - 1."""
        return self.then.at(step, steps) * min(1.0, (step + 1) / (self.fraction * steps))


def _done(step: int, steps: int) -> float:
    """The completed fraction of the run: 0 at the first step, and 1 from the planned end on."""
    return min(step, steps) / steps


def _sine(x: float) -> float:
    """The sine for abs(x) up to pi / 2, by its Taylor series."""
    term = total = x
    for k in range(1, _SINE_TERMS):
        term *= -x * x / ((2 * k) * (2 * k + 1))
        total += term
    return max(-1.0, min(total, 1.0))


def with_start(value: float | Schedule, start: float) -> float | Schedule:
    """The same schedule with another start; its end doesn't change."""
    if isinstance(value, WarmUp):
        then = with_start(value.then, start)
        return replace(value, then=then if isinstance(then, Schedule) else Constant(then))
    return replace(value, start=start) if isinstance(value, Constant | Cosine | Exponential) else start
