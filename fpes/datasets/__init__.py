"""Data sets as plain NumPy arrays: your own, MNIST, the UCI digits and two spirals."""

from __future__ import annotations

import os

from .augmentation import Augmentation
from .dataset import Dataset
from .digits import load_digits
from .importance import ImportanceSampling
from .minibatches import Minibatches
from .mnist import load_mnist
from .scaling import Scaling
from .spirals import two_spirals

__all__ = [
    "Augmentation",
    "Dataset",
    "ImportanceSampling",
    "Minibatches",
    "Scaling",
    "load",
    "load_digits",
    "load_mnist",
    "two_spirals",
]


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> Dataset:
    """Load a data set by its name, with the defaults of its loader.

    Args:
        name: ``"digits"``, ``"mnist"``, ``"mnist-14x14"`` (averaged down) or ``"spirals"``.
        data_dir: folder of the MNIST files; the others need no files.
        seed: seed of the split of the digits and of the points of the spirals; the split of MNIST is fixed.

    Raises:
        ValueError: the name is not one of these.
    """
    loaders = {
        "digits": lambda: load_digits(seed=seed),
        "mnist": lambda: load_mnist(data_dir),
        "mnist-14x14": lambda: load_mnist(data_dir, side=14),
        "spirals": lambda: two_spirals(seed=seed),
    }
    if name not in loaders:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(sorted(loaders))}")
    return loaders[name]()
