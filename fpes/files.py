"""Files that are written as a whole, by one writer at a time.

A temporary file is written, synced, then renamed. Locks of the operating system (flock) exclude other writers, in other
containers too. A lock ends with its process, however the process ends. A file system without locks (some network file
systems) has no such protection, and a warning says so.
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
_POLLING = 0.01  # longest time between two tries for a lock, seconds
_ATTEMPTS = 10

_held: set[IO[Any]] = set()  # files whose locks this process has


def writable_folder(folder: Path) -> Path:
    """Create `folder` if necessary, and check that files can be written to it.

    Raises:
        OSError: it can't be created or written to.
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
    """A temporary path to write to. At the end its file replaces `path`; after an exception it is removed.

    A symbolic link stays, and its target is replaced. Permissions stay. If several processes write the same file, the
    last one wins. The temporary file of a killed process is removed by the next writer; a lock protects those in use.

    Raises:
        OSError: the disk is full, the folder doesn't exist, `path` is read-only or isn't a regular file. The message
            has the name of the file and the reason.
    """
    target = resolved(path)
    # Set before the file exists, so an interrupt (Ctrl-C, SIGTERM) never leaves a file behind.
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
    """Hold the exclusive right to write `path`, until the end of the block or of the process.

    Threads of one process exclude each other too. A lock file beside `path` names the owner. It is removed at the end.
    The lock file of a killed process has no effect.

    Args:
        path: the file or folder, which needn't exist.
        wait: seconds to wait for another owner.

    Raises:
        BlockingIOError: another owner still holds the lock; the message names it.
        OSError: the lock file can't be created.
    """
    target = resolved(path)
    lock = target / ".lock" if target.is_dir() else target.with_name(f".{target.name}.lock")
    stream, process = _acquired(path, lock, time.monotonic() + wait), os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # and not a forked child that ends inside the block
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
    """The permissions of the file that will be replaced; None if there is none."""
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
    """Remove temporary files for `target` of processes that no longer exist."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with suppress(OSError), leftover.open("r+b") as stream:  # it may belong to another user, or be gone already
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def _begun(aside: Path) -> IO[Any]:
    """A new file, open, and locked if the file system has locks. Without locks no process removes leftovers."""
    for _ in range(_ATTEMPTS):
        stream = aside.open("xb")
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        if _names(aside, stream):
            break
        stream.close()  # another process removed it before it was locked
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
    with suppress(OSError):  # only for the message
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
    """Close the lock files in a forked child. An open one would hold the lock even after the parent's death."""
    for stream in _held:
        with suppress(OSError):
            stream.close()
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
