"""Checkpoint files: arrays and a description in one .npz, whole or not there, and checked when they are read.

A checkpoint is an ordinary NumPy archive, without pickles: `numpy.load(path)["theta"]` reads the parameters without
fpes. The entry `description` is JSON text; `sha256` is the digest of that text and of all other arrays.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpes.files import written_whole

FORMAT = "fpes checkpoint"
VERSION = 1  # of the format: raised when an older fpes couldn't make sense of a newer file

Arrays = dict[str, npt.NDArray[Any]]


class CheckpointError(ValueError):
    """A file that isn't a checkpoint, or isn't whole."""


def write(path: Path, description: dict[str, Any], arrays: Arrays) -> None:
    """Write a checkpoint aside, and then put it in the place of `path`.

    Raises:
        OSError: it can't be written: the disk is full, the folder isn't there. What was at `path` is there still.
    """
    text = json.dumps({"format": FORMAT, "format_version": VERSION, **description}, allow_nan=False)
    entries = {"description": np.array(text), "sha256": np.array(_digest(text, arrays)), **arrays}
    try:
        with written_whole(path) as aside, aside.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **entries)
    except OSError as error:
        raise OSError(error.errno, f"can't write checkpoint {path}: {error.strerror or error}") from error


def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The description and the arrays of a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, truncated, or no checkpoint; the message says which.
    """
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CheckpointError(f"{path} is no checkpoint of fpes: it is one NumPy array")
            with archive:
                entries = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such checkpoint") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file in it") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged, or no checkpoint of fpes: {error}") from error
    return _checked(path, entries)


def _checked(path: Path, entries: Arrays) -> tuple[dict[str, Any], Arrays]:
    missing = [name for name in ("description", "sha256") if name not in entries]
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of fpes: it lacks the entry {' and '.join(missing)}")
    text, expected = str(entries.pop("description")), str(entries.pop("sha256"))
    found = _digest(text, entries)
    if found != expected:
        raise CheckpointError(
            f"{path} is damaged: its contents have SHA-256 {found[:12]}..., expected {expected[:12]}..."
        )
    description = json.loads(text)
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of fpes: it says that it is {description.get('format')!r}")
    if description["format_version"] > VERSION:
        raise CheckpointError(
            f"{path} has format version {description['format_version']}, and this fpes knows versions up to {VERSION}: "
            f"it was written by fpes {description.get('version')}"
        )
    return description, entries


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
