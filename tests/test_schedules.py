"""Schedules against their formulas, and the steps at both ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpes import Constant, Cosine, Exponential, WarmUp
from fpes.schedules import with_start

numbers = st.floats(1e-6, 1e3)


@given(numbers, numbers, st.integers(1, 10**6), st.data())
def test_the_formulas(start, end, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    done = step / steps
    assert Constant(start).at(step, steps) == start
    cosine = end + (start - end) * (1 + math.cos(math.pi * done)) / 2
    assert Cosine(start, end).at(step, steps) == pytest.approx(cosine, rel=1e-14, abs=1e-15 * (start + end))
    assert Exponential(start, end).at(step, steps) == pytest.approx(start * (end / start) ** done, rel=1e-13)


def test_the_ends():
    for schedule in (Cosine(0.5, 0.1), Exponential(0.5, 0.1)):
        assert schedule.at(0, 10) == 0.5
        assert schedule.at(9, 10) > 0.1
        assert schedule.at(10, 10) == pytest.approx(0.1, rel=1e-15)
        assert schedule.at(25, 10) == schedule.at(10, 10)
    assert Cosine(1.0).at(10, 10) == 0.0


def test_warm_up_rises_to_the_schedule_in_a_line():
    warm, plain = WarmUp(Cosine(1.0), fraction=0.1), Cosine(1.0)
    for step in range(10):
        assert warm.at(step, 100) == pytest.approx(plain.at(step, 100) * (step + 1) / 10)
    for step in range(10, 100):
        assert warm.at(step, 100) == plain.at(step, 100)


def test_another_start():
    assert with_start(0.3, 0.1) == 0.1
    assert with_start(Cosine(0.3, 0.01), 0.1) == Cosine(0.1, 0.01)
    assert with_start(WarmUp(Exponential(0.3, 0.01), 0.2), 0.1) == WarmUp(Exponential(0.1, 0.01), 0.2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Cosine(-1.0), ValueError, "start is -1.0, expected 0 or above"),
        (lambda: Cosine(1.0, math.nan), ValueError, "end is nan"),
        (lambda: Exponential(1.0, 0.0), ValueError, "end is 0.0, expected a number above 0"),
        (lambda: Constant("fast"), TypeError, "start is 'fast', expected a number"),
        (lambda: WarmUp(Cosine(1.0), 1.0), ValueError, "fraction is 1.0, expected a number between 0 and 1"),
        (lambda: WarmUp(0.1), TypeError, "then is 0.1, expected a schedule: a Cosine or another object with at"),
    ],
)
def test_what_is_no_schedule(make, error, words):
    with pytest.raises(error, match=words):
        make()
