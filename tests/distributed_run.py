"""Small training runs that the tests of several processes share; importable by workers."""

from __future__ import annotations

import os
import time

import numpy as np

import fpes
from fpes.datasets import Augmentation, Dataset, ImportanceSampling

SIZES = (16, 11, 7, 4)


def of_groups(outputs, labels):
    """Minus the squared error of members that are divided evenly among minibatches, labels [groups, batch]."""
    wanted = np.eye(SIZES[-1], dtype=np.float32)[labels].repeat(len(outputs) // len(labels), axis=0)
    return -np.square(outputs - wanted).mean(axis=(1, 2))


# name: (perturbation, members, what else fit() is given)
RUNS = {
    "full": (fpes.FullRank(), 34, {}),
    "low": (fpes.LowRank(rank=3), 34, {"groups": 17}),
    "low-one-layer": (fpes.LowRank(allocation=fpes.OneLayer(units=3, pairs=(1, 2, 1))), 40, {"groups": 5}),
    "node": (fpes.NodePerturbation(), 34, {}),
    "node-one-layer": (fpes.NodePerturbation(allocation=fpes.OneLayer(units=3, pairs=(1, 2, 1))), 40, {"groups": 5}),
    "one-unit": (fpes.OneUnit(draws=(1, 1, 1)), 88, {"groups": 2}),
    "one-unit-white": (
        fpes.OneUnit(draws=(1, 1, 1), directions="white"),
        88,
        {"groups": 2, "importance": ImportanceSampling()},
    ),
    "one-unit, squared error": (fpes.OneUnit(draws=(1, 1, 1)), 88, {"groups": 2, "loss": "squared_error"}),
    "binary cross-entropy": (fpes.FullRank(), 34, {"groups": 17, "loss": "binary_cross_entropy"}),
    "importance": (fpes.NodePerturbation(), 34, {"importance": ImportanceSampling()}),
    "function of groups": (fpes.FullRank(), 40, {"groups": 5, "fitness": of_groups}),
    "augmented": (fpes.FullRank(), 34, {"augmentation": Augmentation(4, 4, shift=1.0)}),
}
STEPS = 50


def data(loss: str = "cross_entropy") -> Dataset:
    """Which of four features is larger, as labels, or as one column of zeros and ones for each."""
    rng = np.random.default_rng(5)
    x, y = rng.random((96, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], 96).astype(np.int32)
    x[np.arange(96), y] += 1.0
    if loss == "cross_entropy":
        return Dataset("made up", x[:64], y[:64], x[64:], y[64:], SIZES[-1])
    columns = np.eye(SIZES[-1], dtype=np.float32)[y]
    return Dataset("made up", x[:64], columns[:64], x[64:], columns[64:])


def beginning(name: str) -> fpes.ES:
    perturbation, size, _ = RUNS[name]
    net = fpes.LinearNetwork(SIZES)
    return fpes.ES(net, net.init(0), size=size, sigma=0.1, perturbation=perturbation, learning_rate=0.03, seed=11)


def train(name: str, steps: int = STEPS, es: fpes.ES | None = None, **options) -> fpes.ES:
    es = beginning(name) if es is None else es
    options = {**RUNS[name][2], **options}
    es.fit(data(options.get("loss", "cross_entropy")), steps=steps, batch=8, **options)
    return es


# --- Fitness that makes trouble --------------------------------------------------------------------------------------


def mean_output(outputs, labels):
    return outputs[:, np.arange(len(labels)), labels].mean(axis=1)


def raises(outputs, labels):
    raise KeyError("nothing of this name")


def sleeps_once(outputs, labels):
    """Whoever comes first to the file named by FPES_TEST_SLEEP sleeps longer than is allowed."""
    try:
        os.unlink(os.environ["FPES_TEST_SLEEP"])
    except FileNotFoundError:
        pass
    else:
        time.sleep(1.5)
    return mean_output(outputs, labels)


def first_output(outputs, labels):
    return outputs[:, :, 0]
