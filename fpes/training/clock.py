"""The time of a run, and the number of generations that fit into it.

The clock decides when a run stops and when it is saved, never what it computes. Plan.settle(), before the first
generation, is the one exception; its result is saved with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from fpes.strategy import Strategy
from fpes.training.run import Run
from fpes.training.settings import MOST_STEPS

RECORDING = 0.05  # of the time at most goes into points of the curves
_CALIBRATION_SECONDS, _CALIBRATION_FRACTION = 2.0, 0.05
_RESERVE = 0.01  # of the time
_TOLERANCE = 0.02  # by which the plan may be off before it is changed


class Clock:
    """Seconds of this session and of the run, and the limit.

    Args:
        started: time.monotonic() at the beginning of the session.
        before: seconds of earlier sessions.
        limit: seconds of this session, if there is a limit.
    """

    def __init__(self, started: float, before: float, limit: float | None) -> None:
        self.started = started
        self.before = before
        self.limit = limit

    @property
    def elapsed(self) -> float:
        """Seconds of this session."""
        return time.monotonic() - self.started

    @property
    def total(self) -> float:
        """Seconds of all sessions."""
        return self.before + self.elapsed

    @property
    def left(self) -> float:
        """Seconds to plan with."""
        assert self.limit is not None
        return self.limit * (1.0 - _RESERVE) - self.elapsed

    @property
    def run_out(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.elapsed >= self.limit


class Plan:
    """The planned number of generations.

    Args:
        strategy, run: the strategy and the run that have the plan.
        clock: its time.
        rehearse: computes a generation without changing anything.
    """

    def __init__(self, strategy: Strategy, run: Run, clock: Clock, rehearse: Callable[[], object]) -> None:
        self.strategy = strategy
        self.run = run
        self.clock = clock
        self.rehearse = rehearse
        self._most: int | None = None  # where the plan follows the clock, the most steps that it may have
        self._first, self._first_at = 0, 0.0  # the generation that the pace is measured from

    def settle(self, wanted: int | None) -> None:
        """Set the plan before the first generation of a session: as many as wanted, or as fit into the time."""
        strategy = self.strategy
        unplanned = strategy.generation == 0 or (wanted is None and strategy.steps is None)
        if self.clock.limit is not None and unplanned:
            self._calibrate(wanted or strategy.steps or MOST_STEPS)
        elif wanted is not None and wanted != strategy.steps:
            self._set(wanted)

    def follow_clock(self) -> bool:
        """Fit the plan to the time again if generations are faster or slower; return whether the plan has changed."""
        strategy = self.strategy
        if self._most is None or strategy.generation == self._first or strategy.steps is None:
            return False
        pace = (self.clock.elapsed - self._first_at) / (strategy.generation - self._first)
        steps = min(self._most, strategy.generation + max(1, int(self.clock.left / pace)))
        if abs(steps - strategy.steps) <= _TOLERANCE * strategy.steps:
            return False
        self._set(steps)
        return True

    def end(self) -> None:
        """End a plan that followed the clock at the present generation: the run is then finished."""
        strategy = self.strategy
        if self._most is not None and strategy.steps is not None and strategy.generation < strategy.steps:
            self._set(max(1, strategy.generation))

    def _set(self, steps: int) -> None:
        self.strategy.steps = steps
        self.run.plan.append((self.strategy.generation, steps))

    def _calibrate(self, most: int) -> None:
        """Plan as many generations as fit into the time, at most `most`: time a few generations and discard them."""
        strategy, clock, before = self.strategy, self.clock, self.strategy.steps
        strategy.steps = most
        try:
            self.rehearse()  # the first one finds cold caches
            times: list[float] = []
            budget = min(_CALIBRATION_SECONDS, _CALIBRATION_FRACTION * clock.left)
            begin = time.monotonic()
            while not times or time.monotonic() - begin < budget:
                times.append(_seconds(self.rehearse))
        except BaseException:
            strategy.steps = before
            raise
        left = clock.left * (1.0 - RECORDING)
        self._set(max(1, min(most, strategy.generation + int(left / float(np.mean(times))))))
        self._most = most
        self._first, self._first_at = strategy.generation, clock.elapsed


def _seconds(call: Callable[[], object]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin
