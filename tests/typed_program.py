"""A program as users write it, with types of its own: `mypy --strict` has nothing to say about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import fpes


def watch(es: fpes.ES) -> None:
    """A callback."""
    last = es.last
    if last is not None and last.gradient_norm + last.step_norm > 1e6:
        raise fpes.StopTraining
    best: int = 0 if last is None else last.best
    print(es.generation, es.fitness, best)


def rightness(outputs: npt.NDArray[np.float32], y: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """A fitness of one's own."""
    return np.asarray((outputs.argmax(axis=-1) == y).mean(axis=-1), np.float32)


def train(path: Path) -> npt.NDArray[np.float32]:
    """A run, from data to parameters."""
    data = fpes.datasets.load("digits").with_validation(0.1)
    net = fpes.LinearNetwork([data.features, 16, data.outputs])
    es = fpes.ES(
        net,
        net.init(seed=0),
        size=16,
        sigma=fpes.Exponential(0.05, 0.02),
        perturbation=fpes.LowRank(2),
        optimiser=fpes.Adam(),
        learning_rate=fpes.WarmUp(fpes.Cosine(0.02)),
    )
    records = es.fit(data, steps=3, checkpoint=path, after_step=[watch, fpes.EarlyStopping(patience=100)])
    valid: float | None = records[-1].valid
    assert valid is not None
    es.fit(data, steps=4, fitness=rightness)
    population = es.ask()
    evaluation = population.evaluate(data.x_train, data.y_train)
    es.tell(evaluation - np.float32(1.0))
    accuracy: float = fpes.metric(net, es.solution, data.x_test, data.y_test)
    print(f"{accuracy:.1%}", fpes.ES.load(path).generation)
    return es.solution


if __name__ == "__main__":
    import sys

    train(Path(sys.argv[1]))
