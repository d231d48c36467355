"""The checkpoint file of a current run: its owner, the times of writing, and failures of writing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fpes import checkpoint
from fpes.files import owned, resolved
from fpes.health import warn
from fpes.strategy import Strategy
from fpes.training.run import Run
from fpes.training.snapshot import described

_RETRY_SECONDS = 5.0  # at most, from a checkpoint that failed to the next try


class NotSavedError(OSError):
    """Training is done, but its last state could not be saved: only the ES in memory has it."""


class Saver:
    """Saves a run at intervals.

    Args:
        strategy, run: the strategy and the run to save.
        path: the file; None: nothing is saved.
        seconds: time between checkpoints.
    """

    def __init__(self, strategy: Strategy, run: Run, path: Path | None, seconds: float) -> None:
        self.strategy = strategy
        self.run = run
        self.path = path
        self.seconds = seconds
        self.due_at = 0.0
        self.failing = False
        self._file = None if path is None else resolved(path)
        self._seen: tuple[int, ...] | None = None  # the file as it was when it was known to be ours

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Own the file while the block runs: no other run writes to it.

        Raises:
            BlockingIOError: another run or save() is writing it.
            FileExistsError: it holds something else than an earlier state of this run.
        """
        if self._file is None:
            yield
            return
        with owned(self._file):
            self._check_ours(self._file)
            self.run.file = self._file
            try:
                yield
            finally:
                self.run.file = None

    def save(self) -> None:
        """Write a checkpoint, if there is a file for it.

        Raises:
            OSError: it can't be written, or the file no longer belongs to this run.
        """
        self.due_at = time.monotonic() + min(self.seconds, _RETRY_SECONDS)
        if self._file is not None:
            self._check_ours(self._file)
            checkpoint.write(self._file, *described(self.strategy, self.run))
            self._seen = _identity(self._file)
        self.due_at = time.monotonic() + self.seconds
        self.failing = False

    def save_if_due(self) -> None:
        """Write a checkpoint if its time has come."""
        if time.monotonic() >= self.due_at:
            self.try_to_save()

    def try_to_save(self) -> None:
        """Write a checkpoint.

        After a failure training goes on: the last checkpoint is kept, and the next may succeed.
        """
        try:
            self.save()
        except OSError as error:
            if not self.failing:  # said once, until it works again
                warn(f"{error}; training goes on, the last checkpoint is kept, and the next is tried soon")
            self.failing = True

    def save_after(self, end: BaseException) -> None:
        """Write a last checkpoint before an exception is raised again.

        A failure here doesn't replace that exception.
        """
        try:
            self.save()
        except Exception as error:
            message = f"the last checkpoint was not saved: {error}"
            if hasattr(end, "add_note"):  # Python 3.11
                end.add_note(message)
            with suppress(Warning):  # where warnings are errors
                warn(message)

    def save_at_the_end(self) -> None:
        """Write the last checkpoint.

        Raises:
            NotSavedError: it can't be written.
        """
        try:
            self.save()
        except OSError as error:
            raise NotSavedError(
                f"{error}; training is done, and its result is in memory only: make room, and call save() again"
            ) from error

    def _check_ours(self, file: Path) -> None:
        """Check the file again if it has changed since the last check."""
        found = _identity(file)
        if found is None or found != self._seen:
            checkpoint.check_replaceable(file, self.run.id, self.strategy.generation)
            self._seen = found


def _identity(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
