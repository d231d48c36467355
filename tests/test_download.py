"""Where MNIST is found and how it is downloaded, with tiny stand-ins and mirrors on 127.0.0.1."""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import http.client
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest

from fpes.datasets import Dataset, load_mnist, mnist

RNG = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (6, 28, 28), np.uint8),
    "train-labels-idx1-ubyte": RNG.integers(0, 10, 6, np.uint8),
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (4, 28, 28), np.uint8),
    "t10k-labels-idx1-ubyte": RNG.integers(0, 10, 4, np.uint8),
}


def encode_idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


FILES = {f"{name}.gz": gzip.compress(encode_idx(array)) for name, array in ARRAYS.items()}


def write_files(folder: Path, *, gzipped: bool = True, without: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        if name != without:
            path = folder / (name if gzipped else name.removesuffix(".gz"))
            path.write_bytes(content if gzipped else gzip.decompress(content))
    return folder


def check_loaded(dataset: Dataset) -> None:
    for part, prefix in (("train", "train"), ("test", "t10k")):
        x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
        images = ARRAYS[f"{prefix}-images-idx3-ubyte"]
        np.testing.assert_array_equal(x, (images.reshape(-1, 784) / 255).astype(np.float32), strict=True)
        np.testing.assert_array_equal(y, ARRAYS[f"{prefix}-labels-idx1-ubyte"])


class Handler(BaseHTTPRequestHandler):
    """Each folder of the server is a mirror with its own behaviour."""

    requested: list[str]

    def do_GET(self) -> None:
        self.requested.append(self.path)
        mirror, name = self.path.strip("/").split("/")
        content = FILES[name]
        if mirror in ("dripping", "dripping-header", "endless"):
            self.never_end(mirror)
            return
        if mirror == "gone" or (mirror == "images-only" and "labels" in name):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        body = {"corrupt": content[:-1] + bytes([content[-1] ^ 1]), "truncated": content[: len(content) // 2]}
        self.wfile.write(body.get(mirror, content))

    def never_end(self, mirror: str) -> None:
        """Send, until nobody listens any more."""
        with contextlib.suppress(OSError):
            if mirror != "dripping-header":
                self.send_response(200)
                self.end_headers()
            while True:
                piece = {"dripping": b"x", "dripping-header": b"HTTP/1.1 200 OK\r\n"[:1], "endless": bytes(1 << 16)}
                self.wfile.write(piece[mirror])
                if mirror != "endless":
                    time.sleep(0.05)
                if self.server.shutting_down:
                    return

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the server was asked for."""
    paths: list[str] = []
    monkeypatch.setattr(Handler, "requested", paths, raising=False)
    return paths


@pytest.fixture
def server(requested: list[str]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.shutting_down = False
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutting_down = True
        http.shutdown()
        thread.join()


@pytest.fixture
def dead() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the four files, with a cache of their own; the user's cache and environment stay out."""
    originals = {
        name: mnist._Original(array.shape, hashlib.sha256(FILES[f"{name}.gz"]).hexdigest())
        for name, array in ARRAYS.items()
    }
    monkeypatch.setattr(mnist, "_ORIGINALS", originals)
    monkeypatch.setattr(mnist, "_MIRRORS", ())
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("FPES_DATA", raising=False)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    return tmp_path / "cache" / "fpes" / "mnist"


def use_mirrors(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    monkeypatch.setattr(mnist, "_MIRRORS", tuple(f"{mirror}/" for mirror in mirrors))


def files_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


# --- files that are there already ---


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("subfolder", [".", "mnist"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gzipped: bool, subfolder: str, by: str
) -> None:
    base = tmp_path / "data"
    write_files(base / subfolder, gzipped=gzipped)
    if by == "argument":
        check_loaded(load_mnist(str(base)))
    else:
        monkeypatch.setenv("FPES_DATA", str(base))
        check_loaded(load_mnist())


def test_the_argument_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPES_DATA", str(tmp_path / "nowhere"))
    check_loaded(load_mnist(write_files(tmp_path / "data")))


def test_a_folder_without_all_files_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, requested: list[str], cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    base = write_files(tmp_path / "data", without="t10k-labels-idx1-ubyte.gz")
    before = files_below(base)
    with pytest.raises(FileNotFoundError, match=r"data lacks t10k-labels-idx1-ubyte;.*by hand.*--data-dir"):
        load_mnist(base)
    assert files_below(base) == before
    assert requested == []
    assert not cache.exists()


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte, train-labels-idx1-ubyte"):
        load_mnist(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_without_leave_to_download_every_place_searched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, requested: list[str], cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    monkeypatch.setenv("FPES_DATA", str(tmp_path / "ambient"))
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(download=False)
    for place in (tmp_path / "ambient", tmp_path / "ambient" / "mnist", cache):
        assert f"{place} lacks " in str(caught.value)
    assert requested == []


def test_without_leave_to_download_the_cache_serves(cache: Path) -> None:
    write_files(cache)
    check_loaded(load_mnist(download=False))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(5, np.uint8), r"shape \(6,\), found \(5,\)"),
        ("t10k-images-idx3-ubyte", np.zeros((4, 28, 27), np.uint8), r"\(4, 28, 28\), found \(4, 28, 27\)"),
        ("t10k-images-idx3-ubyte", np.zeros(4, np.uint8), r"\(4, 28, 28\), found \(4,\)"),
        ("t10k-labels-idx1-ubyte", np.array([1, 2, 10, 3], np.uint8), r"labels in \[0, 10\), found 10"),
    ],
)
def test_content_that_is_not_mnist_is_refused(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    base = write_files(tmp_path / "data")
    (base / f"{name}.gz").write_bytes(gzip.compress(encode_idx(array)))
    with pytest.raises(ValueError, match=rf"{name}\.gz: expected .*{message}"):
        load_mnist(base)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    base = write_files(tmp_path / "data")
    (base / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: not valid gzip data"):
        load_mnist(base)


# --- downloads ---


def test_download_fills_the_cache_once(
    monkeypatch: pytest.MonkeyPatch, server: str, requested: list[str], cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    check_loaded(load_mnist())
    assert files_below(cache) == set(FILES)
    assert sorted(requested) == sorted(f"/good/{name}" for name in FILES)
    check_loaded(load_mnist())
    assert len(requested) == len(FILES)


def test_an_environment_folder_without_all_files_is_left_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    base = write_files(tmp_path / "ambient", without="train-images-idx3-ubyte.gz")
    monkeypatch.setenv("FPES_DATA", str(base))
    check_loaded(load_mnist())
    assert files_below(cache) == set(FILES)
    assert len(files_below(base)) == 3


REASONS = {
    "dead": "refused",
    "gone": "404",
    "corrupt": "hash",
    "truncated": "IncompleteRead",
    "dripping": "bytes in 0.5 s are too few",
    "dripping-header": "0 bytes in 0.5 s are too few",
    "endless": "more than 100000 bytes came",
}


@pytest.mark.parametrize("kind", REASONS)
class TestBadMirror:
    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mnist, "_PATIENCE", 0.5)
        monkeypatch.setattr(mnist, "_LARGEST", 100_000)

    @pytest.fixture
    def mirror(self, kind: str, server: str, dead: str) -> str:
        return dead if kind == "dead" else f"{server}/{kind}"

    def test_is_reported_and_the_next_is_tried(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        server: str,
        cache: Path,
        mirror: str,
    ) -> None:
        use_mirrors(monkeypatch, mirror, f"{server}/good")
        with caplog.at_level(logging.WARNING, logger="fpes"):
            check_loaded(load_mnist())
        [record] = [record for record in caplog.records if record.name.startswith("fpes")]
        assert f"MNIST mirror {mirror}/ failed: " in record.getMessage()
        assert files_below(cache) == set(FILES)

    def test_alone_gives_one_error_and_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch, cache: Path, mirror: str, kind: str
    ) -> None:
        use_mirrors(monkeypatch, mirror)
        with pytest.raises(ConnectionError, match=rf"(?is){mirror}/: .*{REASONS[kind]}.*by hand.*--data-dir"):
            load_mnist()
        assert files_below(cache) == set()


def test_a_failure_leaves_no_connection_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: str, dead: str
) -> None:
    use_mirrors(monkeypatch, dead, f"{server}/gone", f"{server}/corrupt", f"{server}/truncated", f"{server}/endless")
    monkeypatch.setattr(mnist, "_LARGEST", 100_000)
    with pytest.raises(ConnectionError):
        load_mnist()
    # The logged errors keep the frames of the failures alive, so nothing was closed by garbage collection.
    assert f"{server}/endless" in caplog.text
    responses = [o for o in gc.get_objects() if type(o) is http.client.HTTPResponse]
    assert all(response.isclosed() for response in responses)


def test_what_a_killed_download_left_behind_goes_with_the_next(
    monkeypatch: pytest.MonkeyPatch, server: str, cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    cache.mkdir(parents=True)
    name = next(iter(FILES))
    (cache / f".{name}.0123456789abcdef.part").write_bytes(b"half")
    check_loaded(load_mnist())
    assert files_below(cache) == set(FILES)


def test_when_every_mirror_fails_each_is_named(
    monkeypatch: pytest.MonkeyPatch, server: str, dead: str, cache: Path
) -> None:
    mirrors = [dead, f"{server}/gone", f"{server}/corrupt", f"{server}/truncated"]
    use_mirrors(monkeypatch, *mirrors)
    with pytest.raises(ConnectionError) as caught:
        load_mnist()
    for mirror in mirrors:
        assert f"\n  {mirror}/: " in str(caught.value)
    assert files_below(cache) == set()


def test_the_next_mirror_is_asked_only_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, server: str, requested: list[str]
) -> None:
    use_mirrors(monkeypatch, f"{server}/images-only", f"{server}/good")
    check_loaded(load_mnist())
    assert "/good/train-images-idx3-ubyte.gz" not in requested
    assert "/good/train-labels-idx1-ubyte.gz" in requested


def test_a_damaged_file_in_the_cache_is_downloaded_anew(
    monkeypatch: pytest.MonkeyPatch, server: str, requested: list[str], cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    write_files(cache)
    (cache / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half")
    check_loaded(load_mnist())
    assert requested == ["/good/t10k-labels-idx1-ubyte.gz"]


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_mirrors(
    monkeypatch: pytest.MonkeyPatch, server: str, requested: list[str], cache: Path
) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="fpes") as caught:
        load_mnist()
    assert not isinstance(caught.value, ConnectionError)
    assert requested == []


def test_without_pooch_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install pooch.*by hand"):
        load_mnist()
