"""Regression: a network without an activation function learns a wavy surface.

The target is one number for each point, and the loss is the mean squared error. R² measures the result: it is 1 if
every number is right, and 0 if the mean of the targets would be as good. A linear network can only fit a plane. Under
flush "never" the trained network is a plane.

    python examples/surface.py [--output FOLDER]    # half a minute; draws surface-*.png
"""

from __future__ import annotations

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.themes import message, save_both

REACH = 1.5  # largest magnitude of both coordinates
SAMPLES = 3000


def height(points: np.ndarray) -> np.ndarray:
    """Height of the surface [n] at points [n, 2]."""
    return np.sin(2 * points[:, 0]) * np.sin(2 * points[:, 1])


def task() -> fpes.datasets.Dataset:
    """Heights at random points."""
    points = np.random.default_rng(0).uniform(-REACH, REACH, (SAMPLES, 2))
    return fpes.datasets.Dataset.from_arrays(points, height(points), scale_targets="standard", name="surface")


def train(data: fpes.datasets.Dataset, steps: int = 1500) -> fpes.ES:
    """Train by evolution strategies that perturb every weight."""
    net = fpes.LinearNetwork([data.features, 64, 64, data.outputs])
    es = fpes.ES(
        net,
        net.init(seed=0),
        size=512,
        sigma=0.03,
        learning_rate=fpes.Cosine(0.02),
        weight_decay=0.05,
        averaging=0.9,
    )
    es.fit(data, steps=steps, batch=256, loss="squared_error")
    return es


def worth(es: fpes.ES, data: fpes.datasets.Dataset, flush: str) -> float:
    """R² on the held-out points in a flush mode."""
    return fpes.metric(es.net.with_flush(flush), es.solution, data.x_test, data.y_test, "squared_error")


def draw(figure, theme, es: fpes.ES, data: fpes.datasets.Dataset) -> None:
    """The surface, and the outputs of the network in two modes, side by side."""
    side = np.linspace(-REACH, REACH, 121, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)

    def heights(flush: str) -> np.ndarray:
        return data.y_scaling.undo(es.net.with_flush(flush)(es.solution, grid))

    panels = {
        "the surface": height(grid),
        f'ES, flush "boundary": R² {worth(es, data, "boundary"):.2f}': heights("boundary"),
        'the same weights, "never"': heights("never"),
    }
    for axes, (title, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(values.reshape(side.size, -1), cmap="RdBu", vmin=-1, vmax=1, origin="lower")
        axes.set(title=title, xticks=[], yticks=[])
    message(figure, "Numbers, too: a surface that no plane follows")


def main() -> None:
    """Train, print R² in each mode, and draw."""
    folder = folder_of_the_command_line(__doc__)
    data = task()
    es = train(data)
    for flush in ("boundary", "never"):
        print(f"{flush:9} R² {worth(es, data, flush):6.3f}")
    for path in save_both(lambda f, t: draw(f, t, es, data), (13, 5), folder, "surface"):
        print(path)


if __name__ == "__main__":
    main()
