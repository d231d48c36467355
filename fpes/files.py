"""Files that are either whole or not there: written aside, synced, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def writable_folder(folder: Path) -> Path:
    """Make `folder` if need be, and make sure that it takes files.

    Raises:
        OSError: it can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
    except OSError as error:
        raise OSError(
            f"can't write to folder {folder}: {error.strerror or error}; choose another with --output"
        ) from error
    return folder


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; what was written takes the place of `path` at the end, or vanishes with an exception.

    The name is always the same, so what a killed process has left behind is overwritten by the next; and nothing is at
    that name yet on entry, so there is no moment where an interrupt (Ctrl-C, SIGTERM) finds a file that nobody removes.
    """
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
