"""Signals that end a program. They wait during critical work, and raise exceptions where state can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MOST_WAITING = 2  # number of signals that wait; a user who sends more is impatient


class Terminated(SystemExit):
    """Raised by SIGTERM or SIGHUP. Exit status 143 or 129, as a shell reports it."""


@contextmanager
def terminating_raises() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into exceptions, so that a last checkpoint is saved, unless the program handles them.

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
    """Delay the handlers of signals, which may raise, to the end of the block.

    So the code that opened a file or an archive also closes it, and Ctrl-C remains a KeyboardInterrupt. Handlers run in
    the main thread only.
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
