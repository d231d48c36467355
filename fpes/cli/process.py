"""The behaviour of a command as a process: text that any terminal can show, and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

# Exit statuses that shells give to programs ended by SIGHUP, SIGINT and SIGTERM.
HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143


def give_up_output() -> None:
    """Discard output that can't be written. Otherwise Python would try again at its exit, and print an error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_streams() -> None:
    """Make printing safe: characters that the encoding lacks are escaped, and closed streams discard output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _let_messages_be_lost()


class _Lossy(io.FileIO):
    """A file whose writes never fail, even if the disk is full or the reader is gone."""

    def write(self, data: Any) -> int:
        """Write as much as possible."""
        with suppress(OSError):
            return super().write(data) or 0
        return memoryview(data).nbytes


def _let_messages_be_lost() -> None:
    """Let a run continue if its progress and warnings can't be written."""
    stream = sys.stderr
    with suppress(OSError):  # a stream without a file
        raw = _Lossy(stream.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=True, write_through=True
        )


def user_errors(run: Callable[[], int]) -> None:
    """Turn errors that a user can fix into one line and exit status 2, and Ctrl-C into its own exit status."""
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, for example `head`: click ends quietly
        raise
    except KeyboardInterrupt:
        click.echo("fpes: interrupted", err=True)
        status = INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        click.echo(f"fpes: {error}", err=True)
        status = 2
    raise SystemExit(status)
