"""The order and the augmentation of data: the same for every call, fair to every sample, and right to the pixel."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import fpes
from fpes.datasets import Augmentation, Dataset, ImportanceSampling, Minibatches
from fpes.datasets.streams import Stream, permutation, uniform


def numbered(samples: int, features: int = 3, classes: int = 4) -> Dataset:
    """A data set whose samples can be told apart."""
    x = np.arange(samples * features, dtype=np.float32).reshape(samples, features)
    y = np.arange(samples, dtype=np.int32) % classes
    return Dataset("numbered", x, y, x[:1].copy(), y[:1].copy(), classes)


def test_every_epoch_has_every_sample_once():
    minibatches = Minibatches(numbered(103), 10, seed=1)
    rows = np.concatenate([minibatches.rows(step) for step in range(103)])  # ten epochs
    for epoch in range(10):
        np.testing.assert_array_equal(np.sort(rows[103 * epoch : 103 * (epoch + 1)]), np.arange(103))
    assert (rows[:103] != rows[103:206]).any()


def test_a_step_depends_on_seed_and_number_alone():
    data = numbered(50)
    forwards, backwards = Minibatches(data, 16, seed=7), Minibatches(data, 16, seed=7)
    there = [forwards.rows(step) for step in range(9)]
    for step in reversed(range(9)):
        np.testing.assert_array_equal(backwards.rows(step), there[step])
    assert (Minibatches(data, 16, seed=8).rows(0) != there[0]).any()


def test_samples_keep_their_labels_in_groups():
    data = numbered(40)
    x, y = Minibatches(data, 6, groups=3).at(5)
    assert x.shape == (3, 6, 3)
    assert y.shape == (3, 6)
    np.testing.assert_array_equal(x[..., 0] // 3 % 4, y)
    flat, _ = Minibatches(data, 18).at(5)
    np.testing.assert_array_equal(x.reshape(18, 3), flat)


def test_known_numbers():
    """Whoever resumes a run with another version of NumPy, or of fpes, gets the same minibatches."""
    np.testing.assert_array_equal(permutation(Stream.ORDER, 3, 4, 8), [6, 0, 7, 4, 5, 3, 2, 1])
    hexadecimal = ["0x1.5e65800000000p-2", "0x1.bb80e00000000p-1", "0x1.85d9b00000000p-2"]
    assert [float(number).hex() for number in uniform(Stream.AUGMENTATION, 3, 4, 3)] == hexadecimal


def test_uniform_numbers_are_uniform():
    numbers = uniform(Stream.AUGMENTATION, 0, 0, 20001)
    assert numbers.size == 20001
    assert -1 <= numbers.min() < -0.999
    assert 0.999 < numbers.max() <= 1
    counts = np.histogram(numbers, 20, (-1, 1))[0]
    assert abs(counts - 1000).max() < 150


def warped(images: np.ndarray, displacements: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel, in float64: images [n, h, w], displacements [n, points, points, 2]."""
    n, height, width = images.shape
    points = displacements.shape[1]
    result = np.zeros(images.shape)

    def pixel(i, y, x):
        return float(images[i, y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    def control(i, y, x):
        u, v = y * (points - 1) / max(1, height - 1), x * (points - 1) / max(1, width - 1)
        a, b = min(int(u), points - 2), min(int(v), points - 2)
        u, v = u - a, v - b
        d = displacements[i].astype(np.float64)
        above, below = d[a, b] * (1 - v) + d[a, b + 1] * v, d[a + 1, b] * (1 - v) + d[a + 1, b + 1] * v
        return above * (1 - u) + below * u

    for i in range(n):
        for y in range(height):
            for x in range(width):
                down, right = control(i, y, x)
                at_y, at_x = y + down, x + right
                top, left = int(np.floor(at_y)), int(np.floor(at_x))
                f, g = at_y - top, at_x - left
                upper = pixel(i, top, left) * (1 - g) + pixel(i, top, left + 1) * g
                lower = pixel(i, top + 1, left) * (1 - g) + pixel(i, top + 1, left + 1) * g
                result[i, y, x] = upper * (1 - f) + lower * f
    return result


@pytest.mark.parametrize(
    ("height", "width", "points"), [(28, 28, 5), (5, 9, 2), (1, 7, 3), (6, 1, 2), (16, 17, 16), (3, 33, 4)]
)
def test_deformed_images_are_those_of_the_definition(height, width, points):
    images = np.random.default_rng(0).random((21, height * width), dtype=np.float32)
    augmentation = Augmentation(height, width, shift=2.5, linear=0.3, elastic=1.5, points=points)
    chosen = np.array([20, 3, 3, 0, *range(19)])
    result = augmentation.apply(images, chosen, seed=1, step=2)
    displacements = augmentation.displacements(chosen.size, 1, 2)
    expected = warped(images[chosen].reshape(-1, height, width), displacements)
    # A rounding of the coordinates may move a pixel by as much as float32 resolves there.
    np.testing.assert_allclose(result.reshape(expected.shape), expected, atol=2e-5)
    assert (result != images[chosen]).any()


def test_far_displacements_show_nothing():
    images = np.ones((1, 16), np.float32)
    for shift in (5.0, 1e4, 2.0**24):
        moved = Augmentation(4, 4, shift=shift)
        chosen = np.zeros(200, np.int64)
        displacements = moved.displacements(200, 0, 0)[:, 0, 0]
        outside = (np.abs(displacements) >= 5).any(axis=1)
        assert outside.any() == (shift > 5)
        result = moved.apply(images, chosen, 0, 0)
        assert (result[outside] == 0).all()
        assert (result >= 0).all()


def test_without_deformation_images_stay_what_they_are():
    images = np.random.default_rng(0).random((5, 30), dtype=np.float32)
    oracle.assert_bitwise_equal(Augmentation(5, 6).apply(images, np.arange(5), 0, 0), images)


def test_deformations_have_the_size_that_one_says():
    displacements = Augmentation(28, 28, shift=2.0).displacements(4000, 0, 0)
    assert np.abs(displacements).max() == pytest.approx(2.0, abs=0.01)
    assert (displacements == displacements[:, :1, :1]).all()
    linear = Augmentation(29, 29, linear=0.1, points=3).displacements(4000, 0, 0)
    assert (linear[:, 1, 1] == 0).all()  # the centre stays
    assert np.abs(linear[:, 0, 0]).max() == pytest.approx(2 * 0.1 * 14, rel=0.05)
    np.testing.assert_allclose(linear[:, 0, 0], -linear[:, 2, 2], atol=1e-6)
    elastic = Augmentation(28, 28, elastic=1.5).displacements(4000, 0, 0)
    assert np.abs(elastic).max() == pytest.approx(1.5, abs=0.01)
    assert np.abs(np.corrcoef(elastic.reshape(4000, -1).T) - np.eye(50)).max() < 0.1


def test_deformations_fade():
    fading = Augmentation(5, 6, shift=2.0, fade=0.5)
    assert [fading.strength(step, 100) for step in (0, 25, 50, 99)] == [1.0, 0.5, 0.0, 0.0]
    assert Augmentation(5, 6, shift=2.0).strength(99, 100) == 1.0
    images, chosen = np.random.default_rng(0).random((3, 30), dtype=np.float32), np.arange(3)
    half_as_far = Augmentation(5, 6, shift=1.0).apply(images, chosen, 0, 7)
    oracle.assert_bitwise_equal(fading.apply(images, chosen, 0, 7, strength=0.5), half_as_far)
    oracle.assert_bitwise_equal(fading.apply(images, chosen, 0, 7, strength=0.0), images)


def test_deformations_do_not_depend_on_threads_and_differ_by_step_and_seed(threads):
    images = np.random.default_rng(0).random((99, 784), dtype=np.float32)
    augmentation, chosen = Augmentation(28, 28, shift=1.0, elastic=1.0), np.arange(99)
    result = augmentation.apply(images, chosen, 1, 2)
    fpes.set_threads(1)
    oracle.assert_bitwise_equal(result, augmentation.apply(images, chosen, 1, 2), f"{threads} threads")
    assert (result != augmentation.apply(images, chosen, 1, 3)).any()
    assert (result != augmentation.apply(images, chosen, 2, 2)).any()


class TestImportance:
    def test_the_definition(self):
        residuals = np.random.default_rng(0).uniform(1e-4, 1, 500).astype(np.float32)
        rows, weights = ImportanceSampling(0.7, 0.2).draw(residuals, 64, seed=1, step=2)
        powers = residuals.astype(np.float64) ** 0.7
        share = 0.8 * powers / powers.sum() + 0.2 / 500
        np.testing.assert_allclose(weights, 1 / (500 * share[rows]), rtol=1e-5)
        line, places = np.cumsum(share), np.sort(rows)
        # Points at equal distances: the n-th lies in the stretch of the n-th row.
        begin, end = line[places] - share[places], line[places]
        shift = np.arange(64) / 64
        assert (begin - shift).max() < (end - shift).min()

    def test_weighted_sums_are_unbiased(self):
        rng = np.random.default_rng(1)
        residuals, values = rng.uniform(1e-3, 1, 200).astype(np.float32), rng.standard_normal(200)
        sampling = ImportanceSampling(1.0, 0.1)
        means = []
        for step in range(4000):
            rows, weights = sampling.draw(residuals, 10, 0, step)
            means.append(np.mean(values[rows] * weights))
        error = np.std(means) / np.sqrt(len(means))
        assert np.mean(means) == pytest.approx(values.mean(), abs=4 * error)
        assert error < 0.01

    def test_the_ends(self):
        residuals = np.array([1e-4, 0.5, 0.25, 1.0], np.float32)
        rows, weights = ImportanceSampling(0.0, 0.5).draw(residuals, 4, 0, 0)
        np.testing.assert_array_equal(np.sort(rows), np.arange(4))
        np.testing.assert_allclose(weights, 1.0, rtol=1e-6)
        rows, weights = ImportanceSampling(1.0, 1.0).draw(residuals, 4, 0, 0)
        np.testing.assert_array_equal(np.sort(rows), np.arange(4))
        assert ImportanceSampling(1.0, 0.25).draw(residuals, 1000, 0, 0)[1].max() <= 4.0 + 1e-6

    def test_residuals_are_one_minus_the_labels_probability(self):
        sampling = ImportanceSampling()
        before = sampling.start(6)
        losses = np.array([0.0, 1e-6, 0.7, 50.0], np.float32)
        after = sampling.updated(before, np.array([5, 0, 3, 1]), losses)
        np.testing.assert_allclose(after, [1e-4, 1, 0.9, 1 - np.exp(-0.7), 0.9, 1e-4], rtol=2e-3)
        assert (before == np.float32(0.9)).all()

    def test_every_instruction_set_draws_the_same(self, isa):
        residuals = np.random.default_rng(0).uniform(1e-4, 1, 1003).astype(np.float32)
        sampling = ImportanceSampling()
        drawn = (*sampling.draw(residuals, 300, 0, 0), sampling.updated(residuals, np.arange(9), residuals[:9]))
        fpes.set_isa("baseline")
        again = (*sampling.draw(residuals, 300, 0, 0), sampling.updated(residuals, np.arange(9), residuals[:9]))
        for one, other in zip(drawn, again, strict=True):
            oracle.assert_bitwise_equal(one, other, isa)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Minibatches(numbered(5), 6), ValueError, "batch is 6, expected 1 to 5"),
        (lambda: Minibatches(numbered(5), 2, groups=0), ValueError, "groups is 0"),
        (lambda: Minibatches("digits", 2), TypeError, "data is a str, expected a fpes.datasets.Dataset"),
        (
            lambda: Minibatches(numbered(5), 2, augmentation=Augmentation(2, 2)),
            ValueError,
            "images of 2 x 2 pixels, and a sample has 3 features",
        ),
        (
            lambda: Minibatches(numbered(5), 2, groups=2**31 - 1),
            ValueError,
            "which make 4294967294 samples for each step",
        ),
        (lambda: Minibatches(numbered(5), 2).at(-1), ValueError, "step is -1, expected 0"),
        (lambda: ImportanceSampling(exponent=-1.0), ValueError, "exponent is -1.0, expected 0 or above"),
        (lambda: ImportanceSampling(uniform=0.0), ValueError, "uniform is 0.0, expected a number above 0 and up to 1"),
        (lambda: Augmentation(28, 28, shift=-1.0), ValueError, "shift is -1.0, expected 0 or above"),
        (lambda: Augmentation(28, 28, shift=1e39), ValueError, r"shift is 1e\+39, expected at most 16777216"),
        (lambda: Augmentation(28, 28, elastic=3e38), ValueError, r"elastic is 3e\+38, expected at most"),
        (lambda: Augmentation(28, 28, linear=1e308), ValueError, r"linear is 1e\+308, expected at most"),
        (lambda: Augmentation(28, 28, points=1), ValueError, "points is 1, expected 2 to 64"),
        (lambda: Augmentation(28, 28, fade=1.5), ValueError, "fade is 1.5, expected a fraction from 0 to 1"),
        (lambda: Augmentation(28.0, 28), TypeError, "height is 28.0, expected an integer"),
    ],
)
def test_what_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


class TestArrays:
    """What is handed to C++ is what it is taken for, or refused."""

    images = np.random.default_rng(0).random((50, 16), dtype=np.float32)
    chosen = np.arange(8)
    residuals = np.linspace(0.1, 0.9, 20).astype(np.float32)

    def apply(self, **changes):
        arguments = {"images": self.images, "chosen": self.chosen, "seed": 2**64 - 1, "step": 0, **changes}
        return Augmentation(4, 4, shift=0.5, linear=0.1, elastic=0.2).apply(**arguments)

    def test_other_layouts_are_copied(self):
        want = self.apply()
        wide = np.repeat(self.images, 2, axis=1)[:, ::2]
        for images in (np.asfortranarray(self.images), wide, self.images.copy().reshape(50, 16)):
            oracle.assert_bitwise_equal(self.apply(images=images), want)
        for chosen in (
            self.chosen.astype(np.int32),
            self.chosen.astype(np.uint8),
            list(range(8)),
            np.arange(16)[::2] // 2,
        ):
            oracle.assert_bitwise_equal(self.apply(chosen=chosen), want)

    @pytest.mark.parametrize(
        ("changes", "error", "words"),
        [
            ({"images": np.ones((50, 16))}, TypeError, "images has dtype float64"),
            ({"images": np.ones((50, 9), np.float32)}, ValueError, r"images has shape \(50, 9\), expected \[n, 16\]"),
            ({"chosen": np.array([0, -1])}, ValueError, "chosen has integers from -1 to 0, expected 0 to 49"),
            ({"chosen": np.array([50])}, ValueError, "chosen has integers from 50 to 50, expected 0 to 49"),
            ({"chosen": np.array([10**9])}, ValueError, "expected 0 to 49"),
            ({"chosen": np.array([2**64 - 1], np.uint64)}, ValueError, "expected 0 to 49"),
            ({"chosen": np.array([0.0])}, TypeError, "chosen has dtype float64, expected integers"),
            ({"strength": float("nan")}, ValueError, "strength is nan"),
            ({"strength": 1e30}, ValueError, r"strength is 1e\+30, expected at most"),
            ({"seed": 2**64}, ValueError, "seed is 18446744073709551616"),
            ({"step": -1}, ValueError, "step is -1"),
        ],
    )
    def test_augmentation_refuses(self, changes, error, words):
        with pytest.raises(error, match=words):
            self.apply(**changes)

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda s, r: s.draw(r.astype(float), 10, 0, 1), TypeError, "residuals has dtype float64"),
            (lambda s, r: s.draw(r, 0, 0, 1), ValueError, "count is 0"),
            (lambda s, r: s.draw(r * np.float32(np.nan), 10, 0, 1), ValueError, "residuals has 20 values that are NaN"),
            (lambda s, r: s.draw(-r, 10, 0, 1), ValueError, "residuals go down to"),
            (lambda s, r: s.updated(r, np.array([20]), r[:1]), ValueError, "rows has integers from 20 to 20"),
            (lambda s, r: s.updated(r, np.array([1]), r[:2]), ValueError, r"losses has shape \(2,\), expected \[1\]"),
            (lambda s, r: s.updated(r, np.array([1]), r[:1].astype(float)), TypeError, "losses has dtype float64"),
        ],
    )
    def test_importance_refuses(self, call, error, words):
        with pytest.raises(error, match=words):
            call(ImportanceSampling(), self.residuals)

    def test_gaps_in_residuals(self):
        sampling, wide = ImportanceSampling(), np.repeat(self.residuals, 2)[::2]
        for got, want in zip(sampling.draw(wide, 10, 0, 1), sampling.draw(self.residuals, 10, 0, 1), strict=True):
            oracle.assert_bitwise_equal(got, want)
