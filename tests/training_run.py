"""Small training runs, for this process and for others: as a program one trains until it is done, or killed.

python training_run.py CHECKPOINT [mnist-es]
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import fpes
from fpes.presets import PRESETS

STEPS = 200
SETTINGS = {
    "batch": 64,
    "groups": 2,
    "augmentation": fpes.datasets.Augmentation(4, 4, shift=0.5, fade=0.8),
    "importance": fpes.datasets.ImportanceSampling(),
}


def dataset() -> fpes.datasets.Dataset:
    """Which half is brighter? Drawn, so that nothing needs to be loaded."""
    x = np.random.default_rng(0).random((300, 16), dtype=np.float32)
    y = (x[:, :8].sum(axis=1) > x[:, 8:].sum(axis=1)).astype(np.int32)
    return fpes.datasets.Dataset("sides", x, y, x[:50].copy(), y[:50].copy(), 2)


def beginning() -> fpes.ES:
    """With everything that a checkpoint must remember."""
    net = fpes.LinearNetwork([16, 40, 2])
    return fpes.ES(
        net,
        net.init(0),
        size=16,
        sigma=fpes.Exponential(0.2, 0.1),
        perturbation=fpes.NodePerturbation(allocation=fpes.OneLayer(units=(16, None), pairs=(3, 1))),
        learning_rate=fpes.WarmUp(fpes.Cosine(3e-3)),
        weight_decay=0.1,
        averaging=0.9,
        steps=STEPS,
    )


# The preset mnist-es, with fewer minibatches and generations.
_MNIST_ES = PRESETS["mnist-es"]
_TRAINING = _MNIST_ES.training
MNIST_ES_STEPS = 24
MNIST_ES_SETTINGS = {"batch": _TRAINING.batch, "groups": 2, "importance": _TRAINING.importance}


def images() -> fpes.datasets.Dataset:
    """Of MNIST's shape, and drawn."""
    rng = np.random.default_rng(0)
    y = np.arange(500, dtype=np.int32) % 10
    x = (rng.random((500, 784)) < 0.1 + 0.02 * y[:, None]).astype(np.float32)
    return fpes.datasets.Dataset("images", x, y, x[:50].copy(), y[:50].copy(), 10)


def mnist_es() -> fpes.ES:
    size = _MNIST_ES.size // _TRAINING.groups * MNIST_ES_SETTINGS["groups"]
    return replace(_MNIST_ES, size=size, steps=MNIST_ES_STEPS).es(seed=0)


def main(path: Path, of_mnist_es: bool) -> None:
    data, start, settings = (images, mnist_es, MNIST_ES_SETTINGS) if of_mnist_es else (dataset, beginning, SETTINGS)
    es = fpes.ES.load(path) if path.exists() else start()
    print("running", flush=True)
    es.fit(data(), **settings, checkpoint=path, checkpoint_seconds=0.0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits it ignored
    main(Path(sys.argv[1]), of_mnist_es="mnist-es" in sys.argv[2:])
