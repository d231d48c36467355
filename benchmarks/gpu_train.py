"""Training on a GPU, for gpu_check.py: the CPU's bits after a few generations, and what full-rank ES makes of its rate.

    python benchmarks/gpu_train.py OUT.json SECONDS

Needs the data sets of the presets, at FPES_DATA or fetched (`fpes train` says how). What isn't there is named.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import fpes
from fpes.losses import accuracy
from fpes.presets import PRESETS
from fpes.schedules import Cosine

GENERATIONS = {"digits": 20, "mnist-node": 10, "mnist-es-14x14": 4, "mnist-es": 2}
MNIST = (784, 512, 512, 10)
SIZE, BATCH, SIGMA, LEARNING_RATE, STEPS = 1024, 256, 0.02, 2e-3, 100_000


class _Enough(Exception):  # noqa: N818 - not an error
    """Ends a run."""


def main() -> None:
    """Write what was found, piece by piece."""
    out, seconds = Path(sys.argv[1]), float(sys.argv[2])
    found: dict[str, Any] = {"bits": {}}
    for name, generations in GENERATIONS.items():
        found["bits"][name] = _said(lambda name=name, generations=generations: same_bits(name, generations))
        print(name, found["bits"][name], flush=True)
        out.write_text(json.dumps(found))
    found["full rank"] = _said(lambda: full_rank(seconds))
    print(found["full rank"], flush=True)
    out.write_text(json.dumps(found))


def _said(call: Any) -> dict[str, Any]:
    """What a call finds, or why it finds nothing."""
    try:
        return dict(call())
    except Exception as error:  # a data set that isn't there, a family that has no kernel: the page says so
        return {"not run": f"{type(error).__name__}: {error}"}


def same_bits(name: str, generations: int) -> dict[str, Any]:
    """A preset's first generations on the GPU and on the CPU: how many parameters differ, and seconds a generation."""
    preset = PRESETS[name]
    data = fpes.datasets.load(preset.dataset)
    theta, seconds = {}, {}
    for device in ("cuda", "cpu"):
        es = preset.es(0, device)
        stamps: list[float] = []

        def after(es: fpes.ES, stamps: list[float] = stamps) -> None:
            stamps.append(time.perf_counter())
            if es.generation >= generations:
                raise _Enough

        with suppress(_Enough):
            es.fit(
                data,
                steps=preset.steps or 2_000,
                batch=preset.training.batch,
                groups=preset.training.groups,
                augmentation=preset.training.augmentation,
                importance=preset.training.importance,
                after_step=after,
            )
        theta[device] = es.theta.view(np.uint32).copy()
        seconds[device] = statistics.median(np.diff(stamps))
    different = int((theta["cpu"] != theta["cuda"]).sum())
    return {"generations": generations, "different": different, "parameters": theta["cpu"].size, "seconds": seconds}


def full_rank(seconds: float) -> dict[str, Any]:
    """The full network by full-rank ES, for so long: its rate and its accuracy."""
    data = fpes.datasets.load("mnist")
    net = fpes.LinearNetwork(MNIST)
    es = fpes.ES(
        net,
        net.init(0),
        size=SIZE,
        sigma=SIGMA,
        perturbation=fpes.FullRank(),
        learning_rate=Cosine(LEARNING_RATE),
        weight_decay=1.0,
        steps=STEPS,
        seed=0,
        device="cuda",
    )
    began, stamps = time.perf_counter(), []

    def after(es: fpes.ES) -> None:
        stamps.append(time.perf_counter())
        if stamps[-1] - began > seconds:
            raise _Enough

    with suppress(_Enough):
        es.fit(data, steps=STEPS, batch=BATCH, after_step=after)
    step = statistics.median(np.diff(stamps))
    return {
        "seconds": time.perf_counter() - began,
        "generations": es.generation,
        "milliseconds a generation": 1e3 * step,
        "member-samples a second": SIZE * BATCH / step,
        "train": accuracy(net(es.theta, data.x_train), data.y_train),
        "test": accuracy(net(es.theta, data.x_test), data.y_test),
    }


if __name__ == "__main__":
    main()
