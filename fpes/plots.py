"""Pictures, by matplotlib."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fpes._checks import FloatArray
from fpes.controls import Accuracy
from fpes.datasets import Dataset
from fpes.network import LinearNetwork
from fpes.records import Record

_SEED_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LAYER_STYLES = ("-", "--", ":", "-.")
_CLASS_COLOURS = ("#0072b2", "#d55e00")


def training_curves(title: str, runs: Mapping[str, Sequence[Record]], linear: float | None, path: Path) -> None:
    """Accuracy, loss, active units and weight norms against evaluations; a colour a run, a line style a layer.

    Args:
        title: of the whole picture.
        runs: the records of each run, by its name.
        linear: test accuracy of the linear baseline, drawn as a line.
        path: of the PNG.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    ((accuracies, losses), (activity, norms)) = figure.subplots(2, 2, sharex=True)
    for number, (name, records) in enumerate(runs.items()):
        colour = _SEED_COLOURS[number % len(_SEED_COLOURS)]
        at = [record.evaluations for record in records]
        accuracies.plot(at, [100 * r.test for r in records], color=colour, label=f"{name}, test")
        accuracies.plot(at, [100 * r.train for r in records], color=colour, ls=":", label=f"{name}, train")
        losses.plot(at, [np.nan if r.loss is None else r.loss for r in records], color=colour, label=name)
        for layer, style in zip(range(len(records[0].norms)), itertools.cycle(_LAYER_STYLES), strict=False):
            label = f"layer {layer + 1}" if number == 0 else None
            norms.plot(at, [r.norms[layer] for r in records], color=colour, ls=style, label=label)
            if layer < len(records[0].norms) - 1:
                activity.plot(at, [100 * r.active[layer] for r in records], color=colour, ls=style, label=label)
    if linear is not None:
        accuracies.axhline(100 * linear, color="black", lw=1, ls="--", label="backprop (linear), test")
    accuracies.set(ylabel="accuracy, %", title="accuracy")
    accuracies.set_ylim(*_accuracy_limits(runs, linear))
    losses.set(ylabel="cross-entropy, nats", title="mean loss of the population")
    if any(r.loss is not None and r.loss > 0.0 for records in runs.values() for r in records):
        losses.set_yscale("log")
    activity.set(ylabel="units that are not flushed, %", title="active units (100 %: linear)", ylim=(0, 102))
    norms.set(ylabel="multiple of the initial scale", title="root mean square of the weights")
    for axes in (activity, norms):
        axes.set_xlabel("evaluations (member x sample)")
    for axes in (accuracies, losses, activity, norms):
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small")
    figure.suptitle("\n".join(textwrap.wrap(title, 110)))
    figure.savefig(path, format="png", dpi=130)


def _accuracy_limits(runs: Mapping[str, Sequence[Record]], linear: float | None) -> tuple[float, float]:
    """From a little below the linear baseline, where it gets interesting, unless nothing gets there."""
    best = 100 * max((max(r.train, r.test) for records in runs.values() for r in records), default=1.0)
    worst = 100 * min((min(r.train, r.test) for records in runs.values() for r in records), default=0.0)
    floor = worst if linear is None else max(worst, min(best, 100 * linear) - 12)
    return max(0.0, floor - 1), min(100.4, max(best, 0.0 if linear is None else 100 * linear) + 2)


def control_bars(title: str, controls: Sequence[Accuracy], path: Path) -> None:
    """Train and test accuracy of each control as bars, the network as it was trained on top."""
    figure = Figure(figsize=(9, 1.4 + 0.5 * len(controls)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = np.arange(len(controls))
    for offset, part, colour in ((-0.2, "test", _CLASS_COLOURS[0]), (0.2, "train", "#9ecae1")):
        values = [100 * getattr(control, part) for control in controls]
        bars = axes.barh(places + offset, values, height=0.38, color=colour, label=part)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize="small")
    axes.set_yticks(places, [control.name for control in controls])
    axes.invert_yaxis()
    axes.set(xlabel="accuracy, %", xlim=(0, 108), title=title)
    figure.legend(loc="outside lower right", ncols=2, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=130)


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
    figure.savefig(path, format="png", dpi=130)
