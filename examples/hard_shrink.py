"""The hard shrink: the function that a linear network computes at a scale of 2^-125.

The network has one input, hidden units and one output, and only weights. In real arithmetic it is a straight line.
Under flush "boundary" each unit is a hard shrink: v stays v if |v| >= 0.5, else it becomes 0. Many units with random
weights make a function with corners and jumps. Under "always" each term of a sum is shrunk too.

    python examples/hard_shrink.py [--output FOLDER]    # a second; draws hard-shrink-*.png
"""

from __future__ import annotations

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.themes import message, save_both

MODES = ("never", "boundary", "always")
X = np.linspace(-1.6, 1.6, 1601, dtype=np.float32)


def two_units() -> tuple[fpes.LinearNetwork, np.ndarray]:
    """Both units receive x, and the output is half of their sum. In real arithmetic this is x."""
    net = fpes.LinearNetwork([1, 2, 1])
    theta = np.zeros(net.parameters, np.float32)
    (first, _), (second, _) = net.unpack(theta)
    first[...] = 1.0
    second[...] = 0.5
    return net, theta


def many_units(units: int = 24) -> tuple[fpes.LinearNetwork, np.ndarray]:
    """Random weights and biases. In real arithmetic this is still a straight line."""
    net = fpes.LinearNetwork([1, units, 1])
    theta = np.zeros(net.parameters, np.float32)
    rng = np.random.default_rng(8)
    (first, bias), (second, _) = net.unpack(theta)
    first[...] = rng.normal(0, 1.4, first.shape)
    bias[...] = rng.normal(0, 0.7, bias.shape)
    second[...] = rng.normal(0, 1.6 / np.sqrt(units), second.shape)
    return net, theta


def outputs(net: fpes.LinearNetwork, theta: np.ndarray) -> dict[str, np.ndarray]:
    """The output for every x, in each mode."""
    return {flush: net.with_flush(flush)(theta, X[:, None])[:, 0] for flush in MODES}


def distance_from_a_line(y: np.ndarray) -> float:
    """Root mean square distance from the best line, divided by the standard deviation. 0 means a straight line."""
    line = np.polynomial.Polynomial.fit(X, y, 1)(X)
    return float(np.sqrt(np.mean((y - line) ** 2)) / max(y.std(), 1e-9))


def draw(figure, theme) -> None:
    """Output against input for both networks, with a curve for each mode."""
    left, right = figure.subplots(1, 2)
    styles = {"never": (0, (1, 1.2)), "boundary": "-", "always": (0, (5, 2))}
    for axes, (net, theta), title in (
        (left, two_units(), "two units, weights 1 and ½"),
        (right, many_units(), "24 units, random weights"),
    ):
        for flush, y in outputs(net, theta).items():
            # No line is drawn across a jump.
            broken = np.where(np.abs(np.diff(y, prepend=y[0])) > 0.05, np.nan, y)
            axes.plot(X, broken, color=theme.modes[flush], ls=styles[flush], label=flush)
        axes.set(title=title, xlabel="x")
        axes.grid()
    left.set_ylabel("output")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    message(figure, "No activation function: underflow alone bends the line")


def main() -> None:
    """Print how far the curves are from straight lines, and draw them."""
    folder = folder_of_the_command_line(__doc__)
    for flush, y in outputs(*many_units()).items():
        print(f"{flush:9} deviates from a straight line by {distance_from_a_line(y):6.1%} of its standard deviation.")
    for path in save_both(draw, (11, 5), folder, "hard-shrink"):
        print(path)


if __name__ == "__main__":
    main()
