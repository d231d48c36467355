"""What a command owes to whoever started it: text that any terminal takes, and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

# Exit statuses of programs that SIGHUP, SIGINT and SIGTERM ended, as a shell has them.
HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143


def give_up_output() -> None:
    """Send what can't be written to nowhere: Python would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare_streams() -> None:
    """Let nothing that is printed fail: what the terminal's encoding lacks is escaped, and a closed stream swallows."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _let_messages_be_lost()


class _Lossy(io.FileIO):
    """A file that takes everything, though its disk is full or its reader gone."""

    def write(self, data: Any) -> int:
        """As much as can be written."""
        with suppress(OSError):
            return super().write(data) or 0
        return memoryview(data).nbytes


def _let_messages_be_lost() -> None:
    """Progress and warnings are worth less than the run that they are about: it doesn't end where they can't go."""
    stream = sys.stderr
    with suppress(OSError):  # a stream without a file
        raw = _Lossy(stream.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=True, write_through=True
        )


def user_errors(run: Callable[[], int]) -> None:
    """Turn what a user can mend into one line and exit status 2, and Ctrl-C into its own status."""
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does: click ends quietly
        raise
    except KeyboardInterrupt:
        click.echo("fpes: interrupted", err=True)
        status = INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        click.echo(f"fpes: {error}", err=True)
        status = 2
    raise SystemExit(status)
