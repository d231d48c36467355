"""A small training run, for this process and for others: as a program it trains until it is done, or killed.

python training_run.py CHECKPOINT
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np

import fpes

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
        perturbation=fpes.NodePerturbation(units=(16, None), draws=(3, 1)),
        learning_rate=fpes.WarmUp(fpes.Cosine(3e-3)),
        weight_decay=0.1,
        averaging=0.9,
        steps=STEPS,
    )


def main(path: Path) -> None:
    es = fpes.ES.load(path) if path.exists() else beginning()
    print("running", flush=True)
    es.fit(dataset(), **SETTINGS, checkpoint=path, checkpoint_seconds=0.0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits it ignored
    main(Path(sys.argv[1]))
