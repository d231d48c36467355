"""Where the activations lie, before and after training, in units of 2^-125.

Evolution strategies train a network on two spirals for some seconds. The script draws a histogram of the inputs of the
hidden units. Values below 0.5 in magnitude are flushed. This is the only nonlinearity.

    python examples/threshold.py [--output FOLDER]    # some seconds; draws threshold-*.png
"""

from __future__ import annotations

import numpy as np
from other_arithmetics import spirals, train
from tour import folder_of_the_command_line

import fpes
from fpes.study.bits import activations
from fpes.themes import message, save_both

THRESHOLD = 0.5
SHOWN = 4.0  # range of the histogram, on both sides of 0


def preactivations(net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Inputs of the units of each hidden layer, before flushing, in units of 2^-125: float64 [batch, units]."""
    outputs = activations(net, theta, x)
    below = [x.astype(np.float64), *(h.astype(np.float64) * net.scaling for h in outputs[:-2])]
    hidden = net.unpack(theta)[:-1]
    return [h @ weight.astype(np.float64) + bias for h, (weight, bias) in zip(below, hidden, strict=True)]


def flushed(values: np.ndarray) -> float:
    """The fraction of values below the threshold."""
    return float((abs(values) < THRESHOLD).mean())


def draw(figure, theme, before: list[np.ndarray], after: list[np.ndarray]) -> None:
    """A panel for each hidden layer, with histograms before and after training."""
    panels = figure.subplots(1, len(before), sharey=True)
    edges = np.linspace(-SHOWN, SHOWN, 81)
    for layer, (axes, old, new) in enumerate(zip(panels, before, after, strict=True), start=1):
        axes.axvspan(-THRESHOLD, THRESHOLD, color=theme.faint, alpha=0.6, lw=0)
        for values, colour, style, name in (
            (old, theme.series[0], "--", "before"),
            (new, theme.series[1], "-", "after"),
        ):
            shares = 100 * np.histogram(values, edges)[0] / values.size
            label = f"{name}: {100 * flushed(values):.0f} % flushed"
            axes.stairs(shares, edges, color=colour, ls=style, lw=2.5, label=label)
        axes.set(title=f"hidden layer {layer}", xlabel="what goes into a unit", xlim=(-SHOWN, SHOWN))
        axes.legend(loc="upper right", fontsize=12)
        axes.grid(axis="y")
    panels[0].set_ylim(top=1.3 * panels[0].get_ylim()[1])
    panels[0].set_ylabel("% of units and samples")
    message(figure, "Activations lie around the threshold: what is shaded is flushed")


def main() -> None:
    """Train, print the fractions of flushed inputs, and draw the histograms."""
    folder = folder_of_the_command_line(__doc__)
    x = spirals().x_test
    net, trained = train()
    before, after = preactivations(net, net.init(0), x), preactivations(net, trained, x)
    for layer, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        print(f"hidden layer {layer}: {flushed(old):.1%} flushed before training, {flushed(new):.1%} after")
    for path in save_both(lambda f, t: draw(f, t, before, after), (11, 4.8), folder, "threshold"):
        print(path)


if __name__ == "__main__":
    main()
