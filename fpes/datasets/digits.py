"""The UCI handwritten digits that scikit-learn ships. They need no download."""

from __future__ import annotations

import numpy as np

from fpes import _checks
from fpes._modes import ieee_mode

from .dataset import Dataset

_PIXELS = 8  # along one side of an original image
_MAX_INTENSITY = 16
_SIDES = (2, 4, 8)


@ieee_mode()
def load_digits(side: int = 4, test_fraction: float = 0.4, seed: int = 0) -> Dataset:
    """Load the 1,797 UCI digits, 8x8 pixels, averaged down to ``side`` x ``side``.

    Args:
        side: pixels along one side of an image: 2, 4 or 8. The features are ``side * side``, in [0, 1].
        test_fraction: share of the samples in the test part, in (0, 1).
        seed: seed of the split, which keeps the proportions of the classes; 0 ... 2**64 - 1.

    Returns:
        ``Dataset`` with 10 classes.

    Raises:
        ValueError: ``side``, ``test_fraction`` or ``seed`` is out of its range, or a part is too small for all classes.
        ImportError: scikit-learn is not installed.
    """
    if side not in _SIDES:
        raise ValueError(f"side must be one of {_SIDES}, got {side!r}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1), got {test_fraction!r}")
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError("the digits data set needs scikit-learn: pip install scikit-learn") from error

    images, labels = datasets.load_digits(return_X_y=True)
    block = _PIXELS // side
    pooled = images.reshape(-1, side, block, side, block).mean(axis=(2, 4)) / _MAX_INTENSITY
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        pooled.reshape(-1, side * side).astype(np.float32),
        labels.astype(np.int32),
        test_size=test_fraction,
        random_state=_generator(seed),
        stratify=labels,
    )
    return Dataset("digits", x_train, y_train, x_test, y_test, classes=10)


def _generator(seed: int) -> int | np.random.RandomState:
    """What scikit-learn takes: a number of 32 bits, or a generator."""
    number = _checks.integer("seed", seed, 0, 2**64 - 1)
    return number if number < 2**32 else np.random.RandomState(np.random.MT19937(number))
