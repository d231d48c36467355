"""What one call leaves on a device and a later one uses, perhaps on another stream.

CuPy orders nothing between streams; and when an array is dropped, CuPy's pool gives its memory to later work on the
stream on which it was allocated, though another one may still read it. So whatever the package keeps between two calls
notes moments of the streams that it was made on. A call on another stream waits for them, and when it has been put
there, those streams wait for it in turn. The device does the waiting, never the host; on one stream nobody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

# cudaStreamPerThread: one handle, which is another stream in every thread.
_PER_THREAD = 2


@dataclass(frozen=True, eq=False)
class Moment:
    """When something was there: after all that a stream had been given by then.

    Args:
        stream: CuPy's; kept, for CUDA may use the handle of a stream that is gone again.
        thread: whose stream it is, if every thread has its own behind this handle.
        event: None where the stream was capturing a graph, for nothing was computed then.
    """

    stream: Any
    thread: threading.Thread | None
    event: Any | None

    def is_on(self, stream: Any) -> bool:
        """Whether it is of this stream, seen from the present thread."""
        return bool(self.stream.ptr == stream.ptr) and self.thread is _owner(stream)


Moments = tuple[Moment, ...]


class Streams:
    """CuPy's streams of its current device.

    Args:
        cupy: the module.
        device: its name, for messages.
    """

    def __init__(self, cupy: ModuleType, device: str) -> None:
        self._cupy = cupy
        self._device = device

    def now(self, earlier: Moments = ()) -> Moments:
        """The present moment of the current stream, and one of each other stream that earlier ones are of."""
        here = self._current()
        others = {(moment.stream.ptr, moment.thread): moment for moment in earlier if not moment.is_on(here)}
        event = None if self.is_capturing(here) else self._event(here)
        return *others.values(), Moment(here, _owner(here), event)

    def follow(self, moments: Moments) -> Moments:
        """Let the current stream wait for what isn't its own, and say what that is.

        Raises:
            RuntimeError: it can't.
        """
        here = self._current()
        others = tuple(moment for moment in moments if not moment.is_on(here))
        if others:
            capturing = self.is_capturing(here)
            for moment in others:
                self._wait(here, moment, capturing)
        return others

    @contextmanager
    def using(self, moments: Moments) -> Iterator[None]:
        """Around work that uses what was there at these moments.

        Raises:
            RuntimeError: the work can't wait for them, or their streams not for the work.
        """
        others = self.follow(moments)
        here = self._current()
        # A graph keeps addresses anyway, so whoever captures one keeps the arrays.
        if not others or self.is_capturing(here):
            yield
            return
        for moment in others:
            self._check_waits(moment)
        try:
            yield
        finally:
            used = self._event(here)
            for moment in others:
                moment.stream.wait_event(used)

    def is_capturing(self, stream: Any) -> bool:
        """Whether work for a stream is only recorded, for a graph, or refused because of another such stream."""
        runtime = self._cupy.cuda.runtime
        try:
            return bool(runtime.streamIsCapturing(stream.ptr))
        except runtime.CUDARuntimeError:  # so it answers of the default stream while any other one is captured
            return True

    def _wait(self, here: Any, moment: Moment, capturing: bool) -> None:
        if not capturing:
            if moment.event is None:
                raise RuntimeError(
                    f"{self._device}: an argument was made while its stream captured a graph, so when it is there is "
                    "known on that stream only: use it there"
                )
            here.wait_event(moment.event)
        elif moment.event is not None and not moment.event.done:
            raise RuntimeError(
                f"{self._device}: CuPy's current stream is capturing a graph, and can't wait for an argument that "
                "another stream may still be computing: synchronise that stream before the capture"
            )

    def _check_waits(self, moment: Moment) -> None:
        if moment.thread is not _owner(moment.stream):
            raise RuntimeError(
                f"{self._device}: an argument was made on the per-thread default stream of another thread, which can't "
                "be told to wait until it has been used: make it on a cupy.cuda.Stream()"
            )
        if self.is_capturing(moment.stream):
            raise RuntimeError(
                f"{self._device}: an argument was made on a stream that is capturing a graph now, which can't be told "
                "to wait until it has been used: use it before or after the capture"
            )

    def _current(self) -> Any:
        return self._cupy.cuda.get_current_stream()

    def _event(self, stream: Any) -> Any:
        """An event that happens when the stream has done what it has been given."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        return event


def _owner(stream: Any) -> threading.Thread | None:
    return threading.current_thread() if stream.ptr == _PER_THREAD else None
