"""Errors between processes."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """A worker raised an error; the message has the worker's name and traceback."""


class VersionError(RuntimeError):
    """A worker has another version of the package, which may give other bits."""


class DigestError(RuntimeError):
    """Two processes have different numbers that must be equal."""
