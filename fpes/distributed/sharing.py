"""Several processes on one machine divide its processors, and its GPUs, between them."""

from __future__ import annotations

import os
import socket

from fpes import _settings


def process_name() -> str:
    """Of this process, for people: machine and number."""
    return f"{socket.gethostname()}:{os.getpid()}"


def processors() -> list[int]:
    """Those that this process may use, by number where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_processors(sharing: int, place: int = 0) -> int:
    """Use this process's share of the processors that `sharing` processes may use; `place` is its number among them.

    What FPES_THREADS or set_threads() has said stands.

    Returns:
        how many threads a call uses now.
    """
    _settings.share_threads(max(1, (len(processors()) + sharing - 1 - place) // sharing))
    return _settings.get_threads()


def shared_device(device: str, place: int) -> str:
    """The GPU of the process `place` of a machine, where `device` leaves the choice; any other device as it is."""
    if device != "cuda":
        return device
    from fpes._backends.cuda_arrays import import_cupy

    return f"cuda:{place % int(import_cupy().cuda.runtime.getDeviceCount())}"
