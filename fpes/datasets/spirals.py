"""Two intertwined spirals: a task with two features, so that the decision regions can be drawn."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fpes._modes import ieee_mode

from .dataset import Dataset


@ieee_mode()
def two_spirals(samples: int = 1000, turns: float = 1.5, noise: float = 0.02, seed: int = 0) -> Dataset:
    """Draw points from two spirals that wind around each other, one for each class.

    Args:
        samples: points in the training part, and as many in the test part; the classes alternate.
        turns: revolutions of each spiral from the centre to its end.
        noise: standard deviation of the normal noise on each coordinate; a spiral's radius is 1.
        seed: seed of the points; the two parts come from independent streams.

    Returns:
        ``Dataset`` with 2 features, coordinates in [-1, 1], and 2 classes.

    Raises:
        ValueError: ``samples`` is below 2, ``turns`` is not positive, or ``noise`` is negative or not finite.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    if not (turns > 0 and math.isfinite(turns)):
        raise ValueError(f"turns must be positive and finite, got {turns}")
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")
    labels = np.arange(samples, dtype=np.int32) % 2
    x_train, x_test = (
        _points(labels, turns, noise, np.random.default_rng(stream)) for stream in np.random.SeedSequence(seed).spawn(2)
    )
    return Dataset("spirals", x_train, labels, x_test, labels.copy(), classes=2)


def _points(
    labels: npt.NDArray[np.int32], turns: float, noise: float, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    # The length of an Archimedean spiral grows about as the square of its radius, so the square root of a
    # uniform number spreads the points evenly along it.
    radius = np.sqrt(generator.random(len(labels)))
    angle = 2 * np.pi * turns * radius + np.pi * labels
    spiral = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noisy = spiral + noise * generator.standard_normal(spiral.shape)
    # Room for four standard deviations outside the spiral; only the rare point beyond is clipped.
    points: npt.NDArray[np.float64] = np.clip(noisy / (1 + 4 * noise), -1, 1)
    return points.astype(np.float32)
