"""Methods that threads call one after the other on the same object, so that each finds a complete state."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

_Method = TypeVar("_Method", bound=Callable[..., Any])

# Outside the objects, so that they can be copied and pickled.
_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def in_turn(method: _Method) -> _Method:
    """Decorator of methods. While a thread is in one of them, other threads wait before any of the same object."""

    @functools.wraps(method)
    def waiting(self: Any, *arguments: Any, **named: Any) -> Any:
        with turn_of(self):
            return method(self, *arguments, **named)

    return waiting  # type: ignore[return-value]


def turn_of(owner: Any) -> Any:
    """A context for several calls. Other threads wait before any decorated method of the object."""
    with _making:
        return _locks.setdefault(owner, threading.RLock())


def _after_fork() -> None:
    """Replace the locks in a forked child: the threads that may hold them don't exist there."""
    global _making  # noqa: PLW0603 - it may be held as well
    _making = threading.Lock()
    _locks.clear()


os.register_at_fork(after_in_child=_after_fork)
