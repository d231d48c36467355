"""Pictures, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fpes._checks import FloatArray
from fpes.datasets import Dataset
from fpes.network import LinearNetwork

if TYPE_CHECKING:
    from fpes.cli.runs import Curve

_SEED_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_CLASS_COLOURS = ("#0072b2", "#d55e00")


def training_curves(curves: dict[str, Curve], linear: float, path: Path) -> None:
    """Accuracy and loss against evaluations, a colour a run, with the linear ceiling as a line."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(curves.items()):
        colour = _SEED_COLOURS[number % len(_SEED_COLOURS)]
        left.plot(curve.evaluations, np.multiply(100, curve.test), color=colour, label=f"{name}, test")
        left.plot(curve.evaluations, np.multiply(100, curve.train), color=colour, ls=":", label=f"{name}, train")
        right.plot(curve.evaluations, curve.loss, color=colour, label=name)
    left.axhline(100 * linear, color="black", lw=1, ls="--", label="backprop (linear), test")
    left.set(xlabel="evaluations (member x sample)", ylabel="accuracy, %", title="ES with float32 underflow")
    best = max((100 * max(curve.train, default=0.0) for curve in curves.values()), default=100.0)
    left.set_ylim(max(0.0, 100 * linear - 25), min(100.5, best + 5))
    left.legend(fontsize="small", loc="lower right")
    right.set(xlabel="evaluations (member x sample)", ylabel="cross-entropy, nats", title="mean loss of the population")
    right.set_yscale("log")
    right.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def decision_regions(
    net: LinearNetwork, theta: FloatArray, data: Dataset, accuracies: dict[str, float], path: Path
) -> None:
    """Which class the network sees at each point of the plane, in each flush mode, with the held-out points on top."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    side = np.linspace(-1.15, 1.15, 400, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    titles = {"boundary": "ftz on", "never": "ftz off"}
    for axes, (flush, reached) in zip(figure.subplots(1, len(accuracies)), accuracies.items(), strict=True):
        regions = np.argmax(net.with_flush(flush)(theta, grid), axis=1).reshape(side.size, side.size)
        axes.contourf(side, side, regions, levels=[-0.5, 0.5, 1.5], colors=_CLASS_COLOURS, alpha=0.35)
        for label, colour in enumerate(_CLASS_COLOURS):
            points = data.x_test[data.y_test == label]
            axes.scatter(points[:, 0], points[:, 1], s=7, color=colour, edgecolors="white", linewidths=0.3)
        axes.set(title=f'{titles[flush]} (flush="{flush}"): {reached:.1%}', aspect="equal")
        axes.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
    figure.suptitle("The same weights of one deep linear network")
    figure.savefig(path, dpi=130)
