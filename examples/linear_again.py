"""When the network turns linear again: underflow computes only where activations lie near the threshold.

The script multiplies the weights of a random network by a gain. If the gain is small, everything underflows and all
outputs are 0. If it is large, nothing underflows, and a linear map gives the same outputs. In between the network isn't
a linear map. Training must stay in this range, and weight decay keeps it there.

    python examples/linear_again.py [--output FOLDER]    # a second; draws linear-again-*.png
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.study.bits import activations
from fpes.themes import message, save_both

SIZES = (16, 64, 64, 10)
GAINS = 2.0 ** np.linspace(-4, 6, 31)


@dataclass(frozen=True)
class Point:
    """The state of the network at one gain.

    Args:
        gain: factor of all weights.
        active: fraction of the hidden units that aren't zero.
        unexplained: fraction of the variance of the outputs that the best linear map doesn't explain; nan if all
            outputs are zero.
    """

    gain: float
    active: float
    unexplained: float


def inputs(count: int = 800) -> np.ndarray:
    """Random images: numbers from 0 to 1, half of them 0; float32 [count, 16]."""
    rng = np.random.default_rng(0)
    return np.where(rng.random((count, SIZES[0])) < 0.5, rng.random((count, SIZES[0])), 0).astype(np.float32)


def measure(gain: float, flush: str = "boundary") -> Point:
    """Measure the network with its weights multiplied by a gain."""
    net = fpes.LinearNetwork(SIZES, flush=flush)
    theta = net.init(0) * np.float32(gain)
    x = inputs()
    *hidden, logits = activations(net, theta, x)
    active = float(np.mean([(layer.view(np.uint32) << np.uint32(1) != 0).mean() for layer in hidden]))
    return Point(gain, active, unexplained_by_a_line(x, logits))


def unexplained_by_a_line(x: np.ndarray, y: np.ndarray) -> float:
    """1 - R² of the best affine map from x to y."""
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    wanted = y.astype(np.float64)
    variance = ((wanted - wanted.mean(0)) ** 2).sum()
    if variance == 0:
        return float("nan")
    rest = wanted - design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    return float((rest**2).sum() / variance)


def draw(figure, theme, points: list[Point]) -> None:
    """Both fractions against the gain."""
    axes = figure.subplots()
    gains = [point.gain for point in points]
    axes.plot(gains, [100 * point.active for point in points], color=theme.series[0], ls="--")
    axes.plot(gains, [100 * point.unexplained for point in points], color=theme.series[1], lw=3.5)
    axes.text(7, 84, "hidden units that are active", color=theme.series[0], fontweight="bold")
    axes.text(2.6, 14, "output beyond any linear map", color=theme.series[1], fontweight="bold")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="gain: how much larger the weights are than at first", ylabel="per cent", ylim=(0, 104))
    dead = [point.gain for point in points if np.isnan(point.unexplained)]
    if dead:
        axes.axvspan(gains[0], max(dead), color=theme.faint, alpha=0.5, lw=0)
        axes.text((gains[0] * max(dead)) ** 0.5, 52, "dead:\nall\noutputs\nare 0", ha="center", va="center")
    axes.text(gains[-1] * 0.8, 40, "linear again", ha="right", va="center")
    axes.set_xlim(gains[0], gains[-1])
    axes.grid()
    message(figure, "Too small it is dead, too large it is linear: it computes in between")


def main() -> None:
    """Print some of the points, and draw all of them."""
    folder = folder_of_the_command_line(__doc__)
    points = [measure(gain) for gain in GAINS]
    for point in points[::6]:
        print(f"gain {point.gain:8.4f}: {point.active:6.1%} active, {point.unexplained:6.1%} beyond any linear map")
    for path in save_both(lambda f, t: draw(f, t, points), (10, 5), folder, "linear-again"):
        print(path)


if __name__ == "__main__":
    main()
