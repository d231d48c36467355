"""Signals that end a program: made to wait where something must be whole, and to raise where something can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MOST_WAITING = 2  # signals that wait; whoever sends more doesn't want to


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came. Exit status 143 or 129, as a shell reports it."""


@contextmanager
def terminating_raises() -> Iterator[None]:
    """SIGTERM and SIGHUP become exceptions, so that there is a last checkpoint; unless the program handles them.

    Copies of the process, such as the workers of a pool that forks, have nothing to save: the signals end them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]

    process = os.getpid()

    def terminate(number: int, frame: object) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise Terminated(128 + number)

    for number in ours:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Handlers of signals, which may raise, run at the end of the block and not in its midst.

    A file, an archive and whatever else has a state of its own are then closed by whoever opened them, and Ctrl-C stays
    Ctrl-C. In other threads than the main one no handler runs anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = ((int(number), signal.getsignal(number)) for number in signal.valid_signals())
    handlers: dict[int, Any] = {number: handler for number, handler in found if callable(handler)}
    waiting: list[int] = []

    def wait(number: int, frame: object) -> None:
        waiting.append(number)
        if len(waiting) > _MOST_WAITING:
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, wait)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)
