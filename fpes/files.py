"""Files that are either whole or not there, and have one writer at a time.

A file is written aside, synced, then renamed. Who writes is known by locks of the operating system (flock), which end
with the process that holds them, however it ends, and which processes of other containers see as well. A file system
without locks (some network file systems) has no such protection; a warning says so.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import random
import secrets
import socket
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_POLLING = 0.01  # seconds, at most, between two looks at a lock
_ATTEMPTS = 10

_held: set[IO[Any]] = set()  # files whose locks this process has


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

    A symbolic link stays one, and the file that it names is replaced; a file's permissions stay as they are. Several
    may write the same file, the last of them for good. What a killed process has left behind is removed by the next
    that comes: while it lives, its lock says that the file isn't left.

    Raises:
        OSError: the disk is full, the folder isn't there, `path` is read-only or no regular file. The message has the
            name of the file and the reason.
    """
    target = resolved(path)
    # It names no file yet, so there is no moment where an interrupt (Ctrl-C, SIGTERM) finds one that nobody removes.
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        mode = _mode(target)
        _remove_leftovers(target)
        with _begun(aside):
            yield aside
            with aside.open("rb") as written:
                os.fsync(written.fileno())
            if mode is not None:
                aside.chmod(mode)
            aside.replace(target)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named(error, f"can't write {path}") from error
        raise


@contextmanager
def owned(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Be the only one that writes `path`, from now until the end of the block, or of the process.

    Two threads of one process exclude each other too. A lock file beside `path` says who it is; it is removed at the
    end, and one that a killed process left behind is nobody's.

    Args:
        path: the file or folder, which needn't be there.
        wait: for how many seconds to wait for somebody else.

    Raises:
        BlockingIOError: somebody else has it still; the message says who.
        OSError: the lock file can't be made.
    """
    target = resolved(path)
    lock = target / ".lock" if target.is_dir() else target.with_name(f".{target.name}.lock")
    stream, process = _acquired(path, lock, time.monotonic() + wait), os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # and not a child of it, which ends in here
            with suppress(OSError):
                lock.unlink()
            _held.discard(stream)
        stream.close()


def resolved(path: Path) -> Path:
    """The file that `path` names, behind symbolic links."""
    return Path(os.path.realpath(path))


def named(error: OSError, what: str) -> OSError:
    """The same error, with a message that says what failed."""
    result = type(error)(f"{what}: {error.strerror or error}")
    result.errno = error.errno
    return result


def _mode(target: Path) -> int | None:
    """The permissions of the file that is to be replaced; None where there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is there, and is no regular file")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only")
    return stat.S_IMODE(mode)


def _remove_leftovers(target: Path) -> None:
    """Remove what processes that are no more have written aside for `target`."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with suppress(OSError), leftover.open("r+b") as stream:  # it may be another's, or removed by another
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def _begun(aside: Path) -> IO[Any]:
    """A new file, open, and locked where that can be done; where not, nobody takes it for a leftover either."""
    for _ in range(_ATTEMPTS):
        stream = aside.open("xb")
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        if _names(aside, stream):
            break
        stream.close()  # taken for a leftover before it was locked, and removed
    return stream


def _acquired(path: Path, lock: Path, deadline: float) -> IO[Any]:
    """The lock file, open and locked."""
    while True:
        try:
            stream = lock.open("a+")
        except OSError as error:
            raise named(error, f"can't write {path}") from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read(200).strip() or "another process"
            stream.close()
            if time.monotonic() < deadline:
                time.sleep(random.uniform(0.0, _POLLING))
                continue
            raise BlockingIOError(
                f"{path} is in use by {owner}, and has one writer at a time: wait for its end, or choose another place"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                stream.close()
                raise
            warnings.warn(
                f"{path}: this file system has no locks ({error.strerror}), so nothing keeps two runs from writing to "
                "one place",
                stacklevel=4,
            )
        if _names(lock, stream):
            break
        stream.close()  # its owner has just removed it
    _held.add(stream)
    with suppress(OSError):  # whom to name is good to know, and no more
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
        stream.flush()
    return stream


def _names(path: Path, stream: IO[Any]) -> bool:
    """Whether `path` is the file that is open."""
    try:
        there, here = path.stat(), os.fstat(stream.fileno())
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _leave_locks_to_the_parent() -> None:
    """A forked child has the same open files; as long as one is open the lock is held, though the parent be dead."""
    for stream in _held:
        with suppress(OSError):
            stream.close()
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
