"""What can go wrong between processes, by name."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """A worker came to an error of its own; the message has its name and its traceback."""


class VersionError(RuntimeError):
    """A worker has another version of the package, whose bits may differ."""


class DigestError(RuntimeError):
    """Two processes that ought to have the same numbers don't."""
