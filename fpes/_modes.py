"""Arithmetic in Python that doesn't depend on the caller's floating-point mode.

Some libraries switch flush-to-zero or another rounding mode on in their callers' threads, and leave it on. NumPy then
computes in this mode: subnormal numbers compare equal to zero and to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fpes import _cpu


@contextmanager
def ieee_mode() -> Iterator[None]:
    """IEEE 754, rounding to nearest, in this thread. Restores the caller's mode at the end. Also a decorator."""
    before = _cpu.exchange_mode_for_ieee()
    try:
        yield
    finally:
        _cpu.put_back_mode(before)
