"""The container, the IDX reader, and the data sets that need no download."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpes.datasets import Dataset, load, load_digits, load_mnist, two_spirals
from fpes.datasets.idx import read_idx


def encode_idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def real_data() -> Path:
    """The folder with the real MNIST files, or its parent."""
    folder = Path(os.environ.get("FPES_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not any((folder / sub / "train-images-idx3-ubyte.gz").is_file() for sub in (".", "mnist")):
        pytest.skip(f"no MNIST files in {folder}: name their folder with FPES_DATA")
    return folder


# --- Dataset ---


def make_dataset(**changes: object) -> Dataset:
    x = np.zeros((3, 2), np.float32)
    y = np.array([0, 1, 1], np.int32)
    fields: dict[str, Any] = {
        "name": "toy",
        "x_train": x,
        "y_train": y,
        "x_test": x,
        "y_test": y,
        "classes": 2,
    }
    return Dataset(**{**fields, **changes})


def test_dataset_keeps_its_arrays_and_counts_features() -> None:
    x = np.ones((3, 5), np.float32)
    dataset = make_dataset(x_train=x, x_test=x)
    assert dataset.x_train is x
    assert dataset.features == 5


def test_dataset_is_frozen() -> None:
    with pytest.raises(AttributeError):
        make_dataset().classes = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("x_train", [[0.0, 1.0]], TypeError, "x_train must be a NumPy array, got list"),
        ("x_test", np.zeros((3, 2)), TypeError, "x_test must have dtype float32, got float64"),
        ("y_train", np.zeros(3), TypeError, "y_train must have an integer dtype, got float64"),
        ("x_train", np.zeros(3, np.float32), ValueError, r"2 dimension\(s\), got shape \(3,\)"),
        ("y_test", np.zeros((3, 1), np.int32), ValueError, r"1 dimension\(s\), got shape \(3, 1\)"),
        ("x_test", np.zeros((0, 2), np.float32), ValueError, r"not be empty, got shape \(0, 2\)"),
        ("x_test", np.zeros((3, 4), np.float32)[:, ::2], ValueError, r"C-contiguous, got strides \(16, 8\)"),
        ("x_test", np.zeros((3, 7), np.float32), ValueError, "x_train has 2 features, but x_test has 7"),
        ("y_train", np.zeros(4, np.int32), ValueError, "x_train has 3 samples, but y_train has 4 labels"),
        ("y_train", np.array([0, 1, 2], np.int32), ValueError, r"in \[0, 2\), got 2 at \[2\]"),
        ("y_test", np.array([0, -1, 1], np.int32), ValueError, r"in \[0, 2\), got -1 at \[1\]"),
        ("classes", 0, ValueError, "at least 1, got 0"),
        ("classes", 2.0, TypeError, "must be an integer, got 2.0"),
        ("classes", True, TypeError, "must be an integer, got True"),
    ],
)
def test_dataset_refuses(field: str, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_dataset(**{field: value})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_dataset_refuses_values_that_are_not_finite(value: float) -> None:
    x = np.zeros((3, 2), np.float32)
    x[2, 1] = value
    with pytest.raises(ValueError, match=rf"x_train must be finite, got {value} at \[2, 1\]"):
        make_dataset(x_train=x)


# --- read_idx ---

ARRAY = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)


@given(
    shape=st.lists(st.integers(1, 5), max_size=5),
    seed=st.integers(0, 2**32 - 1),
    suffix=st.sampled_from(["", ".gz"]),
)
@settings(deadline=None)
def test_idx_round_trip(shape: list[int], seed: int, suffix: str) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    content = encode_idx(array)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"array{suffix}"
        path.write_bytes(gzip.compress(content) if suffix else content)
        read = read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array, strict=True)


def test_idx_reads_arrays_larger_than_its_chunks(tmp_path: Path) -> None:
    array = np.arange(3_000_017, dtype=np.uint32).astype(np.uint8)
    (tmp_path / "large.gz").write_bytes(gzip.compress(encode_idx(array), 1))
    np.testing.assert_array_equal(read_idx(str(tmp_path / "large.gz")), array, strict=True)


GZIPPED = gzip.compress(encode_idx(ARRAY), mtime=0)
# An edit replaces a slice of the file; a slice may be empty, and so may its replacement.
EDITS = st.lists(
    st.tuples(st.integers(0, len(GZIPPED)), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4
)


def edit(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for start, length, replacement in edits:
        content = content[:start] + replacement + content[start + length :]
    return content


@given(edits=EDITS)
@settings(deadline=None, max_examples=400)
def test_a_damaged_gzipped_file_is_refused_or_read_right(edits: list[tuple[int, int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.gz"
        path.write_bytes(edit(GZIPPED, edits))
        try:
            read = read_idx(path)
        except ValueError as error:
            assert "damaged.gz: " in str(error)  # noqa: PT017 - a refusal is one of two right outcomes
        else:
            np.testing.assert_array_equal(read, ARRAY, strict=True)


@given(content=st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: b"\0\0\x08" + tail))
@settings(deadline=None, max_examples=400)
def test_any_plain_file_is_refused_or_accounted_for_to_the_byte(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain"
        path.write_bytes(content)
        try:
            read = read_idx(path)
        except ValueError as error:
            assert "plain: " in str(error)  # noqa: PT017 - a refusal is one of two right outcomes
        else:
            assert encode_idx(read) == content


PLAIN = encode_idx(ARRAY)
HUGE = b"\0\0\x08\x03" + b"\xff" * 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated magic number: expected 4 bytes, found 0"),
        (PLAIN[:3], "truncated magic number: expected 4 bytes, found 3"),
        (b"<html>", "wrong magic number: expected 0000 as its first two bytes, found 3c68"),
        (GZIPPED, "wrong magic number: expected 0000 as its first two bytes, found 1f8b"),
        (b"\0\0\x0d\x01", r"unsupported type code: expected 0x08 \(unsigned byte\), found 0x0d"),
        (b"\0\0\x08\xff", "absurd number of dimensions: expected at most 32, found 255"),
        (PLAIN[:9], "truncated list of dimensions: expected 12 bytes, found 5"),
        (b"\0\0\x08\x02\0\0\0\x05\0\0\0\0", r"at least 1, found \(5, 0\)"),
        (HUGE + b"abc", f"truncated payload: .* need {(2**32 - 1) ** 3} bytes, found 3"),
        (PLAIN[:-1], r"truncated payload: dimensions \(2, 3, 5\) need 30 bytes, found 29"),
        (PLAIN + b"\0", r"trailing data: dimensions \(2, 3, 5\) need 30 bytes, found at least 31"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_says_what_is_wrong(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=f"broken{suffix}: .*{message}"):
        read_idx(path)


WRONG_CRC = GZIPPED[:-8] + struct.pack("<II", zlib.crc32(PLAIN) ^ 1, len(PLAIN))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN, "not valid gzip data: Not a gzipped file"),
        (b"<html>not found</html>", "not valid gzip data: Not a gzipped file .*<h"),
        (GZIPPED[: len(GZIPPED) // 2], "truncated gzip data"),
        (GZIPPED[:-1], "truncated gzip data"),
        (WRONG_CRC, "not valid gzip data: CRC check failed"),
        (GZIPPED[:10] + b"\xff" * 20 + GZIPPED[30:], "not valid gzip data: Error -3 while decompressing"),
        (GZIPPED + gzip.compress(b"more", mtime=0), "trailing data"),
        (GZIPPED + b"garbage", "not valid gzip data"),
    ],
)
def test_idx_says_what_is_wrong_with_gzip(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.gz: {message}"):
        read_idx(path)


def test_idx_advises_when_the_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gz: no such file; .*--data-dir.*FPES_DATA"):
        read_idx(tmp_path / "nowhere.gz")


# --- digits ---


@pytest.mark.parametrize("side", [2, 4, 8])
def test_digits_shapes_and_ranges(side: int) -> None:
    digits = load_digits(side=side)
    assert digits.name == "digits"
    assert digits.classes == 10
    assert digits.x_train.shape == (1078, side * side)
    assert digits.x_test.shape == (719, side * side)
    for x in (digits.x_train, digits.x_test):
        assert x.min() >= 0
        assert 0.5 < x.max() <= 1


def test_digits_are_block_means() -> None:
    fine, coarse = load_digits(side=8), load_digits(side=4)
    np.testing.assert_array_equal(fine.y_train, coarse.y_train)
    blocks = fine.x_train.reshape(-1, 4, 2, 4, 2)
    corners = np.stack([blocks[:, :, i, :, j] for i in (0, 1) for j in (0, 1)])
    # Sixteenths are exact in float32, and so are their means over four.
    np.testing.assert_array_equal(coarse.x_train, corners.mean(axis=0).reshape(-1, 16))


def test_digits_split_is_stratified_and_follows_the_seed() -> None:
    first, again, other = load_digits(seed=0), load_digits(seed=0), load_digits(seed=1)
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert not np.array_equal(first.y_train, other.y_train)
    train, test = np.bincount(first.y_train), np.bincount(first.y_test)
    np.testing.assert_allclose(test / (train + test), 0.4, atol=0.01)
    assert (train + test).sum() == 1797


@pytest.mark.parametrize("side", [0, 1, 3, 16])
def test_digits_refuses_a_side(side: int) -> None:
    with pytest.raises(ValueError, match=rf"side must be one of \(2, 4, 8\), got {side}"):
        load_digits(side=side)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 5, float("nan")])
def test_digits_refuses_a_test_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"test_fraction must be in \(0, 1\), got {fraction}"):
        load_digits(test_fraction=fraction)


def test_digits_without_scikit_learn_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_digits()


# --- spirals ---


def test_spirals_shapes_and_ranges() -> None:
    spirals = two_spirals(samples=501)
    assert spirals.x_train.shape == spirals.x_test.shape == (501, 2)
    assert spirals.classes == 2
    for y in (spirals.y_train, spirals.y_test):
        np.testing.assert_array_equal(np.bincount(y), [251, 250])
    assert np.abs([spirals.x_train, spirals.x_test]).max() <= 1


def test_spirals_without_noise_lie_on_two_opposite_arms() -> None:
    turns = 2.0
    spirals = two_spirals(turns=turns, noise=0.0)
    x, y = spirals.x_train[:, 0], spirals.x_train[:, 1]
    phase = np.arctan2(y, x) - 2 * np.pi * turns * np.hypot(x, y) - np.pi * spirals.y_train
    np.testing.assert_allclose(np.cos(phase), 1, atol=1e-4)


def test_spirals_stay_in_the_square_under_strong_noise() -> None:
    assert np.abs(two_spirals(samples=10_000, noise=5.0).x_train).max() <= 1


def test_spirals_follow_the_seed_and_their_parts_differ() -> None:
    first, again, other = two_spirals(seed=0), two_spirals(seed=0), two_spirals(seed=1)
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert not np.isin(first.x_train[:, 0], first.x_test[:, 0]).any()
    assert not np.isin(first.x_train[:, 0], other.x_train[:, 0]).any()


def test_longer_spirals_keep_the_points_of_shorter_streams_apart() -> None:
    # The parts have streams of their own, so drawing more for training leaves the test part as it was.
    radius = np.hypot(*two_spirals(samples=100, noise=0.0).x_test.T)
    longer = np.hypot(*two_spirals(samples=200, noise=0.0).x_test[:100].T)
    np.testing.assert_allclose(radius, longer, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"turns": 0.0}, "turns must be positive and finite, got 0.0"),
        ({"turns": float("inf")}, "turns must be positive and finite, got inf"),
        ({"noise": -0.1}, "noise must be at least 0 and finite, got -0.1"),
        ({"noise": float("nan")}, "noise must be at least 0 and finite, got nan"),
    ],
)
def test_spirals_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_spirals(**arguments)


# --- MNIST, the real files ---


def test_real_mnist(real_data: Path) -> None:
    mnist = load_mnist(real_data)
    assert (mnist.name, mnist.features, mnist.classes) == ("mnist", 784, 10)
    assert mnist.x_train.shape == (60000, 784)
    assert mnist.x_test.shape == (10000, 784)
    np.testing.assert_array_equal(
        np.bincount(mnist.y_train), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    np.testing.assert_array_equal(np.bincount(mnist.y_test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert (mnist.x_train.min(), mnist.x_train.max()) == (0, 1)
    assert mnist.x_train.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)


# --- load ---


def test_load_gives_what_the_functions_give() -> None:
    np.testing.assert_array_equal(load("digits", seed=3).x_test, load_digits(seed=3).x_test)
    np.testing.assert_array_equal(load("spirals", seed=3).x_test, two_spirals(seed=3).x_test)


def test_load_hands_the_folder_to_mnist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        load("mnist", data_dir=tmp_path)


def test_load_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown data set 'cifar': choose one of digits, mnist, mnist-14x14, spirals"):
        load("cifar")
