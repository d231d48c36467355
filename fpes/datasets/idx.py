"""Reader of IDX files, the format of the original MNIST files.

An IDX file is a magic number (two zero bytes, a type code, the rank), the dimensions as big-endian 32-bit
integers, and the elements in C order.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

_UNSIGNED_BYTE = 0x08
_MAX_RANK = 32  # what every supported NumPy can hold
_CHUNK_BYTES = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes. A file whose name ends in ``.gz`` is gzipped.

    Returns:
        uint8 array of the rank and dimensions that the file declares; a writable copy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not of this format; the message names the file and the fault.
    """
    path = Path(path)
    try:
        with _open(path) as stream:
            return _read_array(stream)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file; name the folder that holds the data with data_dir (--data-dir on the "
            "command line) or the environment variable FPES_DATA"
        ) from None
    except EOFError:
        raise ValueError(f"{path}: truncated gzip data: it ends before its end-of-stream marker") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not valid gzip data: {error}") from error
    except _IdxError as error:
        raise ValueError(f"{path}: {error}") from None


class _IdxError(Exception):
    """What is wrong with the content, before the name of the file is known."""


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_array(stream: BinaryIO) -> npt.NDArray[np.uint8]:
    shape = _read_shape(stream)
    size = math.prod(shape)
    # One byte more than declared is asked for: it shows trailing data, and it makes gzip reach the end of
    # its stream, where it checks the CRC.
    payload = _read_up_to(stream, size + 1)
    if len(payload) < size:
        raise _IdxError(f"truncated payload: dimensions {shape} need {size} bytes, found {len(payload)}")
    if len(payload) > size:
        raise _IdxError(f"trailing data: dimensions {shape} need {size} bytes, found at least {len(payload)}")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _read_shape(stream: BinaryIO) -> tuple[int, ...]:
    magic = _read_header(stream, 4, "magic number")
    if magic[:2] != b"\0\0":
        raise _IdxError(f"wrong magic number: expected 0000 as its first two bytes, found {magic[:2].hex()}")
    type_code, rank = magic[2], magic[3]
    if type_code != _UNSIGNED_BYTE:
        raise _IdxError(f"unsupported type code: expected 0x08 (unsigned byte), found 0x{type_code:02x}")
    if rank > _MAX_RANK:
        raise _IdxError(f"absurd number of dimensions: expected at most {_MAX_RANK}, found {rank}")
    shape = struct.unpack(f">{rank}I", _read_header(stream, 4 * rank, "list of dimensions"))
    if 0 in shape:
        raise _IdxError(f"absurd dimensions: expected every one to be at least 1, found {shape}")
    return shape


def _read_header(stream: BinaryIO, size: int, what: str) -> bytes:
    header = bytes(_read_up_to(stream, size))
    if len(header) < size:
        raise _IdxError(f"truncated {what}: expected {size} bytes, found {len(header)}")
    return header


def _read_up_to(stream: BinaryIO, limit: int) -> bytearray:
    """Read at most ``limit`` bytes."""
    # In chunks: the limit comes from the file's header, and memory must follow the actual data.
    data = bytearray()
    while chunk := stream.read(min(_CHUNK_BYTES, limit - len(data))):
        data += chunk
    return data
