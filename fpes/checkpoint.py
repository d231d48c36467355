"""Checkpoint files: arrays and a description in one .npz. Files are written as a whole, and checked on reading.

A checkpoint is an ordinary NumPy archive, without pickles: `numpy.load(path)["theta"]` reads the parameters without
fpes. The entry `description` is JSON text; `sha256` is the digest of that text and of all other arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpes._modes import ieee_mode
from fpes._signals import signals_wait
from fpes.files import written_whole

FORMAT = "fpes checkpoint"
VERSION = 1  # version of the format; it rises when an older fpes can't read newer files

_TEXTS = ("description", "sha256")
_MOST_ENTRIES = 1000  # a checkpoint has about six

Arrays = dict[str, npt.NDArray[Any]]


class CheckpointError(ValueError):
    """A file isn't a checkpoint, or is damaged or truncated."""


@ieee_mode()  # another rounding mode would write and read different numbers
def write(path: Path, description: dict[str, Any], arrays: Arrays) -> None:
    """Write a checkpoint to a temporary file, and then move it to `path`.

    An interrupt (Ctrl-C, SIGTERM) during the writing is raised when the file is complete.

    Raises:
        OSError: it can't be written: the disk is full, or the folder doesn't exist. The old file at `path` remains.
    """
    text = json.dumps({"format": FORMAT, "format_version": VERSION, **description}, allow_nan=False)
    entries = {"description": np.array(text), "sha256": np.array(_digest(text, arrays)), **arrays}
    with signals_wait(), written_whole(path) as aside, aside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **entries)


@ieee_mode()
def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The description and the arrays of a checkpoint; arrays are float32 and finite.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        CheckpointError: it is damaged, truncated, or isn't a checkpoint; the message says which.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise CheckpointError(f"{path} is a folder, expected a checkpoint file in it")
        if not stat.S_ISREG(kind):  # reading a pipe would wait for somebody to write
            raise CheckpointError(f"{path} is no regular file, so no checkpoint of fpes")
        stream = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such checkpoint") from None
    with stream:
        try:
            entries = _entries(stream)
            return _checked(entries)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from error
        # zipfile, zlib, NumPy and json raise many kinds of errors for damaged content.
        except Exception as error:
            raise CheckpointError(f"{path} is damaged, or no checkpoint of fpes: {error!r}") from error


def check_finite(arrays: Arrays) -> None:
    """Refuse a state from which no run can continue, before it replaces a good one.

    Raises:
        ValueError: an array has NaN or infinity.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"the state is not saved, because {name} has numbers that are NaN or infinite")


def check_replaceable(path: Path, run: str, generation: int) -> None:
    """Check that this run may replace the file at `path` with its state of this generation.

    It may replace an earlier state of the same run, and a checkpoint of generation 0.

    Raises:
        FileExistsError: the file holds something else. The message says what it is, and what the user can do.
    """
    advice = f"Go on with it by fpes.ES.load({str(path)!r}), save to another path, or move it away"
    try:
        if path.stat().st_size == 0:
            return
        description, _ = read(path)
        owner, there = description["run"].get("id"), description["generation"]
    except FileNotFoundError:
        return
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        raise FileExistsError(
            f"{path} is not replaced, because it exists already and isn't this run's: {error}. Save to another path, "
            "or move it away"
        ) from error
    if there == 0 or (owner == run and there <= generation):
        return
    if owner != run:
        raise FileExistsError(f"{path} is not replaced, because it holds generation {there} of another run. {advice}")
    raise FileExistsError(
        f"{path} is not replaced by generation {generation}, because it holds generation {there} of the same run. "
        f"{advice}"
    )


def _entries(stream: Any) -> Arrays:
    """The arrays of an archive. None is larger than the file."""
    start = stream.read(6)
    if start == b"\x93NUMPY":
        raise CheckpointError("is no checkpoint of fpes: it is one NumPy array")
    size = stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
        names = [info.filename.removesuffix(".npy") for info in infos]
        missing = [name for name in _TEXTS if name not in names]
        if missing:
            raise CheckpointError(f"is no checkpoint of fpes: it lacks the entry {' and '.join(missing)}")
        if len(infos) > _MOST_ENTRIES or len(set(names)) < len(names):
            raise CheckpointError(f"is damaged: it has {len(infos)} entries, {len(set(names))} of them different")
        # Entries aren't compressed. An archive that unpacks to much more than its size isn't a checkpoint.
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(i.file_size for i in infos) > size:
            raise CheckpointError("is damaged, or no checkpoint of fpes: its entries are compressed, or larger than it")
        return {name: _array(name, archive.read(info)) for name, info in zip(names, infos, strict=True)}


def _array(name: str, content: bytes) -> npt.NDArray[Any]:
    """Read an entry in NumPy's format: text, or finite float32 numbers."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise CheckpointError(f"is damaged: entry {name} has format {version}, expected (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    data = content[stream.tell() :]
    expected = dtype.kind == "U" and shape == () if name in _TEXTS else dtype == np.dtype("<f4") and not fortran
    if not expected or math.prod(shape) * dtype.itemsize != len(data) or min(shape, default=0) < 0:
        raise CheckpointError(
            f"is damaged: entry {name} has dtype {dtype}, shape {shape} and {len(data)} bytes of data, expected "
            + ("a text" if name in _TEXTS else "float32 numbers in C order")
        )
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, data).copy()
    if name not in _TEXTS and not np.isfinite(array).all():
        raise CheckpointError(f"is damaged: entry {name} has numbers that are NaN or infinite")
    return array


def _checked(entries: Arrays) -> tuple[dict[str, Any], Arrays]:
    text, expected = str(entries.pop("description")), str(entries.pop("sha256"))
    found = _digest(text, entries)
    if found != expected:
        raise CheckpointError(f"is damaged: its contents have SHA-256 {found[:12]}..., expected {expected[:12]}...")
    description = json.loads(text)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError("is no checkpoint of fpes: its description says something else")
    version = description.get("format_version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"has format version {version}, and this fpes knows versions up to {VERSION}: it was written by fpes "
            f"{description.get('version')}"
        )
    return description, entries


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
