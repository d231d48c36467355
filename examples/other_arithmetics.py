"""The same weights in other arithmetics: a test that underflow is the nonlinearity.

Evolution strategies train a network without an activation function for some seconds, on two spirals, which no line
separates. Then the same weights run in arithmetics with a different underflow or none. If they no longer classify the
spirals, underflow was the nonlinearity.

    python examples/other_arithmetics.py [--output FOLDER]    # some seconds; draws other-arithmetics-*.png
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.export import formula_of
from fpes.themes import message, save_both, superscript

STEPS = 150
SIDE = np.linspace(-1.15, 1.15, 241, dtype=np.float32)

Classifier = Callable[[np.ndarray], np.ndarray]  # x [batch, 2] to logits [batch, 2]


def spirals() -> fpes.datasets.Dataset:
    """Two spirals of one turn."""
    return fpes.datasets.two_spirals(turns=1.0, seed=0)


def train(steps: int = STEPS) -> tuple[fpes.LinearNetwork, np.ndarray]:
    """A network for the spirals, and its weights. The bits are the same on every machine."""
    net = fpes.LinearNetwork([2, 64, 64, 2])
    es = fpes.ES(net, net.init(0), size=256, sigma=0.05, learning_rate=fpes.Cosine(0.03), weight_decay=0.1)
    es.fit(spirals(), steps=steps, batch=500)
    return net, es.solution


def in_float64(net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The outputs in float64, where nothing underflows."""
    h = x.astype(np.float64)
    for weight, bias in net.unpack(theta):
        h = h @ weight.astype(np.float64) + bias
    return h


def arithmetics(net: fpes.LinearNetwork, theta: np.ndarray) -> dict[str, Classifier]:
    """Six ways to compute with the same weights."""
    formula = formula_of(net, theta)
    coarser = fpes.LinearNetwork(net.sizes, scaling=2.0**126)
    return {
        "boundary, as trained": lambda x: net(theta, x),
        "a hard shrink, no underflow": formula,
        "boundary, threshold doubled": lambda x: coarser(theta, x),
        "never: IEEE 754": lambda x: net.with_flush("never")(theta, x),
        "float64": lambda x: in_float64(net, theta, x),
        "always": lambda x: net.with_flush("always")(theta, x),
    }


def accuracies(ways: dict[str, Classifier]) -> dict[str, float]:
    """The fraction of held-out points that each way classifies correctly."""
    data = spirals()
    return {name: float((way(data.x_test).argmax(1) == data.y_test).mean()) for name, way in ways.items()}


def draw(figure, theme, ways: dict[str, Classifier], found: dict[str, float]) -> None:
    """The regions of both classes, with held-out points: a panel for each way."""
    data = spirals()
    grid = np.stack(np.meshgrid(SIDE, SIDE), axis=-1).reshape(-1, 2)
    colours = (theme.series[0], theme.series[1])
    for axes, (name, way) in zip(figure.subplots(2, 3).flat, ways.items(), strict=True):
        regions = way(grid).argmax(1).reshape(SIDE.size, SIDE.size)
        axes.contourf(SIDE, SIDE, regions, levels=[-0.5, 0.5, 1.5], colors=colours, alpha=0.35)
        for label, (colour, marker) in enumerate(zip(colours, "o^", strict=True)):
            points = data.x_test[data.y_test == label][:120]
            axes.scatter(points[:, 0], points[:, 1], s=16, color=colour, marker=marker, edgecolors=theme.ground, lw=0.4)
        axes.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), xticks=[], yticks=[])
        axes.set_title(f"{name}\n{100 * found[name]:.1f} %", fontsize=14)
    message(figure, f"The same weights: without a threshold at {superscript('2^-126')} they draw a straight line")


def main() -> None:
    """Train, print the accuracies, and draw the regions."""
    folder = folder_of_the_command_line(__doc__)
    ways = arithmetics(*train())
    found = accuracies(ways)
    for name, accuracy in found.items():
        print(f"{name:30} {accuracy:6.1%}")
    for path in save_both(lambda f, t: draw(f, t, ways, found), (10, 7.8), folder, "other-arithmetics"):
        print(path)


if __name__ == "__main__":
    main()
