"""Methods of one object that threads call in turn: each finds the state that another has left whole."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

_Method = TypeVar("_Method", bound=Callable[..., Any])

# Beside the objects, which can be copied and pickled so.
_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def in_turn(method: _Method) -> _Method:
    """Decorator of methods: while a thread is in one of them, others wait before any of the same object."""

    @functools.wraps(method)
    def waiting(self: Any, *arguments: Any, **named: Any) -> Any:
        with turn_of(self):
            return method(self, *arguments, **named)

    return waiting  # type: ignore[return-value]


def turn_of(owner: Any) -> Any:
    """A context for several calls that belong together: other threads wait before any such method of the object."""
    with _making:
        return _locks.setdefault(owner, threading.RLock())


def _after_fork() -> None:
    """A child has none of the threads that its locks may be held by."""
    global _making  # noqa: PLW0603 - it may be held as well
    _making = threading.Lock()
    _locks.clear()


os.register_at_fork(after_in_child=_after_fork)
