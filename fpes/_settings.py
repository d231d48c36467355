"""Settings of the CPU backend: instruction set and threads. Results never depend on them."""

from __future__ import annotations

import os

from fpes import _cpu

_MOST_THREADS = 1024


def supported_isas() -> list[str]:
    """Instruction sets that this machine can run, slowest first: "baseline", "avx2", "avx512", "avx512vnni"."""
    return list(_cpu.supported_isas())


def set_isa(name: str | None) -> None:
    """Use one of the instruction sets of `supported_isas()`; ``None``: the best. The variable FPES_ISA sets it too.

    Raises:
        ValueError: the machine doesn't run it.
    """
    global _isa  # noqa: PLW0603 - the one place where this process-wide choice lives
    _isa = _checked_isa(name, "isa")


def get_isa() -> str:
    """The instruction set in use."""
    global _isa  # noqa: PLW0603 - as above
    if _isa is None:
        _isa = _checked_isa(os.environ.get("FPES_ISA") or None, "environment variable FPES_ISA")
    return _isa


def set_threads(count: int | None) -> None:
    """Use `count` threads in each call; ``None``: one for each usable CPU. The variable FPES_THREADS sets it too.

    Raises:
        ValueError: not in 1 ... 1024.
    """
    global _threads, _threads_chosen
    _threads, _threads_chosen = _checked_threads(count, "count"), count is not None


def share_threads(count: int) -> None:
    """Use `count` threads, this process's share of the machine, unless the user has chosen a number."""
    global _threads  # noqa: PLW0603 - the one place where this process-wide choice lives
    if not _threads_chosen:
        _threads = _checked_threads(count, "count")


def threads_chosen() -> bool:
    """Whether set_threads() or FPES_THREADS has chosen the number."""
    return _threads_chosen


def get_threads() -> int:
    """The number of threads in use."""
    global _threads  # noqa: PLW0603 - as above
    if _threads is None:
        _threads = _checked_threads(os.environ.get("FPES_THREADS") or None, "environment variable FPES_THREADS")
    return _threads


def execution() -> _cpu.Execution:
    """The present choice, as the C++ module takes it."""
    return _cpu.Execution(get_isa(), get_threads())


def _checked_isa(name: str | None, source: str) -> str:
    choices = supported_isas()
    if name is None:
        return choices[-1]
    if name not in choices:
        raise ValueError(f"{source} is {name!r}, expected one that this machine runs: {', '.join(choices)}")
    return name


def _checked_threads(count: int | str | None, source: str) -> int:
    if count is None:
        return _available_cpus()
    try:
        number = int(count)
    except ValueError:
        number = 0
    if isinstance(count, float) or not 1 <= number <= _MOST_THREADS:
        raise ValueError(f"{source} is {count!r}, expected a whole number from 1 to {_MOST_THREADS}")
    return number


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    return min(os.cpu_count() or 1, _MOST_THREADS)


# None: the environment decides, when it is first asked; so a command says what is wrong with it, and not an import.
_isa: str | None = None
_threads: int | None = None
_threads_chosen = bool(os.environ.get("FPES_THREADS"))
