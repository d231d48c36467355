"""Regression: a wavy surface, learnt by a network without an activation function.

The targets are one number for each point, and the loss is the mean squared error; what it is worth is told by R², which
is 1 where every number is right and 0 where the mean would do as well. A plane is the best that a linear network gives,
and under flush "never" the trained network is one.

    python examples/surface.py [--output FOLDER]    # half a minute; draws surface-*.png
"""

from __future__ import annotations

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.themes import message, save_both

REACH = 1.5  # of either coordinate
SAMPLES = 3000


def height(points: np.ndarray) -> np.ndarray:
    """Of the surface, [n], over points [n, 2]."""
    return np.sin(2 * points[:, 0]) * np.sin(2 * points[:, 1])


def task() -> fpes.datasets.Dataset:
    """Heights at random points."""
    points = np.random.default_rng(0).uniform(-REACH, REACH, (SAMPLES, 2))
    return fpes.datasets.Dataset.from_arrays(points, height(points), scale_targets="standard", name="surface")


def train(data: fpes.datasets.Dataset, steps: int = 1500) -> fpes.ES:
    """By evolution strategies, every weight perturbed."""
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
    """R² on the points that were held out, in a flush mode."""
    return fpes.metric(es.net.with_flush(flush), es.solution, data.x_test, data.y_test, "squared_error")


def draw(figure, theme, es: fpes.ES, data: fpes.datasets.Dataset) -> None:
    """The surface, and what the network makes of it in two modes, side by side."""
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
    """Train, print what it is worth in each mode, and draw."""
    folder = folder_of_the_command_line(__doc__)
    data = task()
    es = train(data)
    for flush in ("boundary", "never"):
        print(f"{flush:9} R² {worth(es, data, flush):6.3f}")
    for path in save_both(lambda f, t: draw(f, t, es, data), (13, 5), folder, "surface"):
        print(path)


if __name__ == "__main__":
    main()
