"""MNIST from its four original files, in a folder, or downloaded once into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpes._modes import ieee_mode
from fpes.files import written_whole

from .dataset import Dataset
from .idx import read_idx

_LOGGER = logging.getLogger(__name__)

_CLASSES = 10
_PIXELS = 28  # along one side of an original image
_SIDES = (7, 14, 28)

_PIECE = 1 << 13  # bytes of a download that are taken at a time
_LARGEST = 1 << 24  # bytes of a download; the largest original has 9,912,422
_PATIENCE = 20.0  # seconds in which at least so many bytes must come
_LEAST = 20 * _PIECE


@dataclass(frozen=True)
class _Original:
    """One original file: the shape of its content, and the SHA-256 of the ``.gz`` file on the mirrors.

    A recompressed file has the same content but another hash, so only downloads must match the hash.
    """

    shape: tuple[int, ...]
    sha256: str


_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_ORIGINALS = {
    "train-images-idx3-ubyte": _Original(
        (60000, 28, 28), "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte": _Original((60000,), "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte": _Original(
        (10000, 28, 28), "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte": _Original((10000,), "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
_BY_HAND = (
    f"To get them by hand, put the four files {', '.join(f'{name}.gz' for name in _ORIGINALS)} into a folder "
    "and name it with data_dir (--data-dir on the command line) or the environment variable FPES_DATA."
)


@ieee_mode()
def load_mnist(data_dir: str | os.PathLike[str] | None = None, download: bool = True, side: int = 28) -> Dataset:
    """Load MNIST: 60,000 training and 10,000 test images of 28x28 pixels, or averaged down to ``side`` x ``side``.

    The function looks for the four original files, gzipped or not, in ``data_dir``, or else in the folder that the
    environment variable ``FPES_DATA`` names, and in the subfolder ``mnist`` of either. If ``FPES_DATA`` is not set or
    the folder lacks files, the function uses ``mnist`` in the user's cache (``pooch.os_cache("fpes")``) and downloads
    missing files there. If ``data_dir`` is given and lacks files, nothing is downloaded.

    Args:
        data_dir: folder that holds the files, or the subfolder ``mnist``.
        download: whether missing files of the cache may be downloaded.
        side: pixels along one side of an image: 7, 14 or 28.

    Returns:
        ``Dataset`` with ``side * side`` features, pixels in [0, 1], and 10 classes.

    Raises:
        FileNotFoundError: files are missing in ``data_dir``, or everywhere if ``download`` is False.
        ValueError: a file is damaged, or its content lacks the shape or the labels of MNIST; another ``side``.
        ConnectionError: no mirror could serve the files; the message has the reason for each.
        ImportError: the cache is needed, but pooch is not installed.
    """
    if side not in _SIDES:
        raise ValueError(f"side must be one of {_SIDES}, got {side!r}")
    folder = _find_folder(data_dir, download)
    x_train, y_train = _read_part(folder, "train", side)
    x_test, y_test = _read_part(folder, "t10k", side)
    name = "mnist" if side == _PIXELS else f"mnist-{side}x{side}"
    return Dataset(name, x_train, y_train, x_test, y_test, _CLASSES)


def _find_folder(data_dir: str | os.PathLike[str] | None, download: bool) -> Path:
    if data_dir is not None:
        candidates = _candidates(data_dir)
        folder = _first_complete(candidates)
        if folder is None:
            raise FileNotFoundError(_describe_missing(candidates))
        return folder

    from_environment = os.environ.get("FPES_DATA")
    candidates = _candidates(from_environment) if from_environment else []
    folder = _first_complete(candidates)
    if folder is not None:
        return folder

    cache = _cache_folder()
    if download:
        _download(cache)
    elif _missing(cache):
        raise FileNotFoundError(_describe_missing([*candidates, cache]))
    return cache


def _candidates(base: str | os.PathLike[str]) -> list[Path]:
    folder = Path(base).expanduser()
    return [folder, folder / "mnist"]


def _first_complete(candidates: list[Path]) -> Path | None:
    return next((folder for folder in candidates if not _missing(folder)), None)


def _find_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _missing(folder: Path) -> list[str]:
    return [name for name in _ORIGINALS if _find_file(folder, name) is None]


def _describe_missing(candidates: list[Path]) -> str:
    lists = "; ".join(f"{folder} lacks {', '.join(_missing(folder))}" for folder in candidates)
    return f"MNIST files are missing (each with or without .gz): {lists}. {_BY_HAND}"


def _cache_folder() -> Path:
    try:
        import pooch
    except ImportError as error:
        raise ImportError(f"the download and the cache of MNIST need pooch: pip install pooch. {_BY_HAND}") from error
    return Path(pooch.os_cache("fpes")) / "mnist"


def _download(cache: Path) -> None:
    """Fill ``cache`` from the first mirror that serves what is still missing or damaged there."""
    from requests import RequestException

    cache.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in _MIRRORS:
        try:
            _download_from(mirror, cache)
        # What a mirror can get wrong: not answering, too slowly, and (ValueError) serving another file. A full disk
        # or a read-only cache is not the mirror's fault and passes through.
        except (RequestException, TimeoutError, ValueError) as error:
            _LOGGER.warning("MNIST mirror %s failed: %s", mirror, error)
            failures.append(f"  {mirror}: {error}")
        else:
            return
    raise ConnectionError("\n".join(["no mirror could serve the MNIST files:", *failures, _BY_HAND]))


def _download_from(mirror: str, cache: Path) -> None:
    import pooch

    for name, original in _ORIGINALS.items():
        path, url = cache / f"{name}.gz", f"{mirror}{name}.gz"
        if path.is_file() and _sha256(path.read_bytes()) == original.sha256:
            continue
        pooch.get_logger().info("Downloading %s to %s", url, path)
        content = _Download(url).wait()
        if _sha256(content) != original.sha256:
            raise ValueError(f"{url}: SHA-256 hash is {_sha256(content)}, expected {original.sha256}")
        with written_whole(path) as aside:
            aside.write_bytes(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Download(threading.Thread):
    """A download of an address in its own thread, which can be given up.

    A server may send a byte now and then, or a header that never ends. A socket's timeout doesn't notice this, because
    it starts again with each byte.
    """

    def __init__(self, url: str) -> None:
        super().__init__(name=f"download {url}", daemon=True)
        self.url = url
        self.pieces: list[bytes] = []
        self.size = 0
        self.error: Exception | None = None
        self.given_up = False

    def run(self) -> None:
        """Receive the content, unless the download is given up."""
        import requests

        try:
            with requests.get(self.url, stream=True, timeout=_PATIENCE) as response:
                response.raise_for_status()
                for piece in response.iter_content(_PIECE):
                    self.pieces.append(piece)
                    self.size += len(piece)
                    if self.given_up or self.size > _LARGEST:
                        break
        except Exception as error:
            self.error = error

    def wait(self) -> bytes:
        """Wait for the content.

        Raises:
            requests.RequestException: the server can't be reached, or returns an error.
            TimeoutError: the server sends too little.
            ValueError: the server sends too much.
        """
        self.start()
        try:
            before, begin = 0, time.monotonic()
            while self.is_alive():
                self.join(0.1)
                if time.monotonic() - begin >= _PATIENCE and self.is_alive():
                    if self.size - before < _LEAST:
                        raise TimeoutError(f"{self.url}: {self.size - before} bytes in {_PATIENCE:g} s are too few")
                    before, begin = self.size, time.monotonic()
        finally:
            self.given_up = True
        if self.error is not None:
            raise self.error
        if self.size > _LARGEST:
            raise ValueError(f"{self.url}: more than {_LARGEST} bytes came, and no file of MNIST has so many")
        return b"".join(self.pieces)


def _read_part(folder: Path, part: str, side: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    images = _read_original(folder, f"{part}-images-idx3-ubyte")
    labels = _read_original(folder, f"{part}-labels-idx1-ubyte")
    block = _PIXELS // side
    # Sums of up to 16 bytes are exact in float32; a division rounds once.
    sums = images.reshape(-1, side, block, side, block).sum(axis=(2, 4), dtype=np.uint32)
    x = sums.reshape(len(images), -1).astype(np.float32) / np.float32(255 * block * block)
    return x, labels.astype(np.int32)


def _read_original(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    # A file that vanished since the folder was searched is reported by the reader.
    path = _find_file(folder, name) or folder / name
    array = read_idx(path)
    expected = _ORIGINALS[name].shape
    if array.shape != expected:
        raise ValueError(f"{path}: expected an array of shape {expected}, found {array.shape}")
    if len(expected) == 1 and array.max() >= _CLASSES:
        raise ValueError(f"{path}: expected labels in [0, {_CLASSES}), found {array.max()}")
    return array
