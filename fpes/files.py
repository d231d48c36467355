"""Files that are either whole or not there: written aside, synced, then renamed."""

from __future__ import annotations

import glob
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    The path has this thread's number in its name, so that several may write the same file, the last of them for good.
    It names no file yet, so there is no moment where an interrupt (Ctrl-C, SIGTERM) finds one that nobody removes. What
    a killed process has left behind is removed by the next that comes.
    """
    _remove_leftovers(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part{path.suffix}")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that are no more have written aside for `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        process = leftover.name.removeprefix(f".{path.stem}.").partition("-")[0]
        if process.isdecimal() and not _alive(int(process)):
            with suppress(OSError):  # another's, or removed by another
                leftover.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # there, but not ours
        pass
    return True
