"""Data sets from arrays: what is a label, the split, scaling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpes
from fpes.datasets import Dataset, Minibatches, Scaling

X = np.arange(40.0).reshape(20, 2)
LABELS = np.arange(20) % 3


def test_labels():
    data = Dataset.from_arrays(X, LABELS)
    assert (data.classes, data.outputs, data.features, data.name) == (3, 3, 2, "arrays")
    assert (data.x_train.dtype, data.y_train.dtype, data.y_train.shape) == (np.float32, np.int32, (16,))
    assert len(data.x_test) == 4
    assert (data.x_scaling, data.y_scaling) == (None, None)


@pytest.mark.parametrize(
    ("y", "outputs"),
    [
        (np.arange(20.0), 1),
        (np.arange(20, dtype=np.float16), 1),
        (np.arange(60).reshape(20, 3), 3),
        (np.arange(40).reshape(20, 2) % 2 == 0, 2),
        (np.arange(20) % 2 == 0, 1),
    ],
)
def test_numbers(y, outputs):
    data = Dataset.from_arrays(X, y)
    assert (data.classes, data.outputs) == (None, outputs)
    assert (data.y_train.dtype, data.y_train.shape, data.y_test.shape) == (np.float32, (16, outputs), (4, outputs))


def test_samples_keep_their_targets():
    data = Dataset.from_arrays(X, X[:, 0] + 0.5, test=0.3, seed=7)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        np.testing.assert_array_equal(y[:, 0], x[:, 0] + 0.5)
    everything = np.concatenate([data.x_train, data.x_test])
    np.testing.assert_array_equal(np.sort(everything[:, 0]), X[:, 0])
    assert len(data.x_test) == 6


SPLITS = [[2, 15, 12, 11], [7, 17, 10, 14], [11, 5, 8, 17]]


def test_the_split_is_the_same_on_every_machine_and_follows_the_seed():
    tests = {seed: Dataset.from_arrays(X, LABELS, seed=seed).x_test[:, 0] / 2 for seed in (0, 1, 2**64 - 1)}
    assert [t.astype(int).tolist() for t in tests.values()] == SPLITS


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**64 - 1))
def test_any_split(samples, test, seed):
    x = np.arange(samples, dtype=np.float32)[:, None]
    count = round(test * samples)
    if not 0 < count < samples:
        with pytest.raises(ValueError, match="expected a fraction above 0 and below 1"):
            Dataset.from_arrays(x, x, test=test, seed=seed)
        return
    data = Dataset.from_arrays(x, x, test=test, seed=seed)
    assert len(data.x_test) == count
    assert sorted(np.concatenate([data.x_train, data.x_test])[:, 0]) == list(range(samples))


def test_scaling_is_by_what_the_training_part_is():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 3)) * [1e-3, 1.0, 1e4] + [5.0, -2.0, 1e5]).astype(np.float32)
    y = (rng.random((300, 2)) * 100).astype(np.float32)
    plain = Dataset.from_arrays(x, y)
    data = Dataset.from_arrays(x, y, scale="standard", scale_targets="range")
    np.testing.assert_allclose(data.x_train.mean(axis=0, dtype=float), 0.0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(axis=0, dtype=float), 1.0, rtol=1e-5)
    assert (data.y_train.min(axis=0).tolist(), data.y_train.max(axis=0).tolist()) == ([0, 0], [1, 1])
    wide = plain.x_train.astype(float)
    np.testing.assert_allclose(data.x_test, (plain.x_test - wide.mean(axis=0)) / wide.std(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        data.x_scaling.apply(x), (x - wide.mean(axis=0)) / wide.std(axis=0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(data.y_scaling.undo(data.y_test), plain.y_test, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "range"])
def test_a_column_of_equal_numbers_becomes_zero(kind):
    x = np.float32([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0], [0.1, 4.0]])
    data = Dataset.from_arrays(x, x, scale=kind, test=0.25)
    assert not data.x_train[:, 0].any()
    assert not data.x_test[:, 0].any()
    np.testing.assert_allclose(data.x_scaling.undo(data.x_train)[:, 0], 0.1)


def test_minibatches_of_columns():
    data = Dataset.from_arrays(X, X[:, :1] + np.arange(3))
    x, y = Minibatches(data, batch=5, groups=2).at(1)
    assert (x.shape, y.shape) == ((2, 5, 2), (2, 5, 3))
    np.testing.assert_array_equal(y, x[..., :1] + np.arange(3))


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X.astype(str), LABELS, {}, TypeError, "x has dtype <U32, expected numbers"),
        (X, LABELS.astype(complex), {}, TypeError, "y has dtype complex128, expected numbers"),
        (X.tolist(), LABELS, {}, TypeError, "x is a list, expected a NumPy array"),
        (X[:, 0], LABELS, {}, ValueError, r"x has shape \(20,\), expected \[samples, features\]"),
        (X, LABELS[:19], {}, ValueError, r"y has shape \(19,\), expected \[20\]"),
        (X, X[:19], {}, ValueError, r"y has shape \(19, 2\), expected \[20, outputs\]"),
        (X, LABELS - 1, {}, ValueError, "y has labels from -1 to 1, expected 0 to"),
        (np.where(X == 6, np.nan, X), LABELS, {}, ValueError, "must be finite, got nan"),
        (X, np.where(X == 6, 1e39, X), {}, ValueError, "must be finite, got inf"),
        (X, LABELS, {"test": 0.0}, ValueError, "test is 0.0, which leaves 20 of 20 samples for training and 0"),
        (X, LABELS, {"test": 0.99}, ValueError, "test is 0.99, which leaves 0 of 20"),
        (X, LABELS, {"test": -1}, ValueError, "test is -1.0, which leaves"),
        (X, LABELS, {"seed": -1}, ValueError, "seed is -1, expected 0 to"),
        (X, LABELS, {"scale": "minmax"}, ValueError, "scale is 'minmax', expected 'standard', 'range' or None"),
        (X, X, {"scale_targets": True}, ValueError, "scale_targets is True, expected 'standard', 'range' or None"),
        (X, LABELS, {"scale_targets": "range"}, ValueError, "scale_targets is 'range', and y holds labels"),
    ],
)
def test_arrays_that_are_refused(x, y, options, error, message):
    with pytest.raises(error, match=message):
        Dataset.from_arrays(x, y, **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"y_test": np.zeros((2, 3), np.float32)}, ValueError, "y_train has 2 columns, but y_test has 3"),
        ({"y_train": np.zeros((4, 2), np.float32)}, ValueError, "x_train has 3 samples, but y_train has 4 targets"),
        ({"y_train": np.zeros((3, 2))}, TypeError, "y_train must have dtype float32, got float64"),
        ({"y_train": np.zeros(3, np.float32)}, ValueError, r"y_train must have 2 dimension\(s\), got shape \(3,\)"),
        ({"y_train": np.zeros(3, np.int32)}, ValueError, r"y_train must have 2 dimension\(s\)"),
        ({"y_test": np.full((2, 2), np.nan, np.float32)}, ValueError, r"y_test must be finite, got nan at \[0, 0\]"),
    ],
)
def test_targets_that_are_refused(changes, error, message):
    parts = {"x_train": (3, 4), "y_train": (3, 2), "x_test": (2, 4), "y_test": (2, 2)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parts.items()}
    Dataset("made up", **arrays)
    with pytest.raises(error, match=message):
        Dataset("made up", **arrays | changes)


def test_scalings_that_are_refused():
    with pytest.raises(ValueError, match=r"factor goes down to 0\.0, expected numbers above 0"):
        Scaling(np.zeros(2), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"factor has shape \(3,\), expected \[2\]"):
        Scaling(np.zeros(2), np.ones(3))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\), expected \[n, 2\]"):
        Scaling(np.zeros(2), np.ones(2)).apply(np.zeros((5, 3), np.float32))


def test_scaling_is_in_the_callers_mode_and_in_no_other():
    """Subnormal numbers survive, whatever the caller's mode."""
    x = np.float32([[2.0**-130], [2.0**-131], [3.0 * 2.0**-131], [2.0**-129]])
    want = Dataset.from_arrays(x, x, scale="range", test=0.25).x_train
    fpes._cpu.set_flush_bits(True)
    try:
        got = Dataset.from_arrays(x, x, scale="range", test=0.25).x_train
    finally:
        fpes._cpu.set_flush_bits(False)
    np.testing.assert_array_equal(got, want)
    assert 0.0 < want.max() == 1.0
