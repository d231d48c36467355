"""Arithmetic in Python that doesn't depend on the caller's floating-point mode.

Libraries leave flush-to-zero, or another rounding, switched on in the threads of their callers. NumPy computes in that
mode then: subnormal numbers are equal to zero, and to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fpes import _cpu


@contextmanager
def ieee_mode() -> Iterator[None]:
    """IEEE 754, rounding to nearest, in this thread; afterwards the mode is the caller's again. Also a decorator."""
    before = _cpu.exchange_mode_for_ieee()
    try:
        yield
    finally:
        _cpu.put_back_mode(before)
