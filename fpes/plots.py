"""Pictures, by matplotlib, which is imported when one is drawn and not before."""

from __future__ import annotations

import importlib.util
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpes._checks import FloatArray
from fpes.controls import Accuracy
from fpes.datasets import Dataset
from fpes.losses import loss_named
from fpes.network import LinearNetwork
from fpes.records import Record

_LEAST_DRAWN = -0.25  # of a metric that has no lower bound
_SEED_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LAYER_STYLES = ("-", "--", ":", "-.")
_CLASS_COLOURS = ("#0072b2", "#d55e00")
_OF_TRAINED, _OF_CONTROL = {"train": "#f0b48a", "test": "#d55e00"}, {"train": "#9ecae1", "test": "#0072b2"}
_GREYS = {"train": "#bdbdbd", "test": "#636363"}
_EXPLAINED = {
    "float64": "float64: nothing underflows",
    "one matrix": "one matrix: the layers multiplied out, in float64",
}


def require() -> None:
    """Make sure that pictures can be drawn, before there is anything to draw.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("pictures need matplotlib, which is not installed: pip install matplotlib")


def training_curves(
    title: str,
    runs: Mapping[str, Sequence[Record]],
    linear: float | None,
    path: Path,
    loss: str = "cross_entropy",
) -> None:
    """Metric, loss, active units and weight norms against evaluations; a colour a run, a line style a layer.

    Args:
        title: of the whole picture.
        runs: the records of each run, by its name.
        linear: the metric of the linear baseline on the test part, drawn as a line.
        path: of the PNG.
        loss: of the runs: it says what is measured, and in which units.
    """
    what = loss_named(loss)
    unit = 100 if what.percent else 1
    figure = _figure(11, 8)
    ((metrics, losses), (activity, norms)) = figure.subplots(2, 2, sharex=True)
    for number, (name, records) in enumerate(runs.items()):
        colour = _SEED_COLOURS[number % len(_SEED_COLOURS)]
        at = [record.evaluations for record in records]
        metrics.plot(at, [unit * r.test for r in records], color=colour, label=name)
        metrics.plot(at, [unit * r.train for r in records], color=colour, ls=":")
        metrics.plot(at, [np.nan if r.valid is None else unit * r.valid for r in records], color=colour, ls="-.")
        losses.plot(at, [np.nan if r.loss is None else r.loss for r in records], color=colour)
        for layer, style in zip(range(len(records[0].norms)), itertools.cycle(_LAYER_STYLES), strict=False):
            norms.plot(at, [r.norms[layer] for r in records], color=colour, ls=style)
            if layer < len(records[0].norms) - 1:
                activity.plot(at, [100 * r.active[layer] for r in records], color=colour, ls=style)
    colours = metrics.get_legend_handles_labels()
    validated = any(r.valid is not None for records in runs.values() for r in records)
    styles = [("test", "-"), ("train", ":"), *([("validation", "-.")] if validated else [])]
    if linear is not None:
        metrics.axhline(unit * linear, color="black", lw=1, ls="--")
        styles.append(("test, backprop: linear", "--"))
    metrics.set(ylabel=f"{what.metric}, %" if what.percent else what.metric, title=what.metric)
    if what.percent:
        metrics.set_ylim(*_accuracy_limits(runs, linear))
    else:
        metrics.set_ylim(bottom=_LEAST_DRAWN, top=1.02)
    losses.set(ylabel=what.unit, title="loss: the population's mean on its minibatch")
    if any(r.loss is not None and r.loss > 0.0 for records in runs.values() for r in records):
        _logarithmic(losses)
    activity.set(ylabel="units that are not flushed, %", title="active units (100 %: linear)", ylim=(0, 102))
    norms.set(ylabel="multiple of the initial scale", title="root mean square of the weights")
    layers = [len(records[0].norms) for records in runs.values()]
    layer_styles = zip(range(max(layers)), itertools.cycle(_LAYER_STYLES), strict=False)
    names = [(f"layer {layer + 1}", style) for layer, style in layer_styles]
    for axes, shown in ((metrics, styles), (activity, names[:-1]), (norms, names)):
        for name, style in shown:
            axes.plot([], [], color="black", ls=style, lw=1, label=name)
        handles = [line for line in axes.get_lines() if line.get_label() in dict(shown)]
        axes.legend(handles=handles, fontsize="small")
    for axes in (activity, norms):
        axes.set_xlabel("evaluations (member x sample)")
    for axes in (metrics, losses, activity, norms):
        axes.grid(alpha=0.25)
    _in_thousands_and_millions(activity)
    figure.legend(*colours, loc="outside lower center", ncols=6, fontsize="small")
    figure.suptitle("\n".join(textwrap.wrap(title, 110)))
    figure.savefig(path, format="png", dpi=130)


def _accuracy_limits(runs: Mapping[str, Sequence[Record]], linear: float | None) -> tuple[float, float]:
    """From a little below the linear baseline, where it gets interesting, unless nothing gets there."""
    best = 100 * max((max(r.train, r.test) for records in runs.values() for r in records), default=1.0)
    worst = 100 * min((min(r.train, r.test) for records in runs.values() for r in records), default=0.0)
    floor = worst if linear is None else max(worst, min(best, 100 * linear) - 12)
    return max(0.0, floor - 1), min(100.4, max(best, 0.0 if linear is None else 100 * linear) + 2)


def control_bars(title: str, controls: Sequence[Accuracy], chance: float, path: Path) -> None:
    """Train and test accuracy of each control as bars, the network as it was trained on top.

    Args:
        title: of the whole picture.
        controls: the network as it was trained, then the others.
        chance: what always guessing the most frequent class gets right, drawn as a line.
        path: of the PNG.
    """
    from fpes._matplotlib import Patch

    figure = _figure(9, 1.6 + 0.5 * len(controls))
    axes = figure.subplots()
    for place, control in enumerate(controls):
        colours = _OF_CONTROL if place else _OF_TRAINED
        for offset, part in ((-0.2, "train"), (0.2, "test")):
            bar = axes.barh(place + offset, 100 * getattr(control, part), height=0.38, color=colours[part])
            axes.bar_label(bar, fmt="%.1f", padding=3, fontsize="small")
    line = axes.axvline(100 * chance, color="black", lw=1, ls="--", label="the most frequent class")
    axes.set_yticks(np.arange(len(controls)), [_EXPLAINED.get(control.name, control.name) for control in controls])
    axes.invert_yaxis()
    axes.set(xlabel="accuracy, %", xlim=(0, 108))
    parts = [Patch(color=colour, label=part) for part, colour in _GREYS.items()]
    figure.legend(handles=[*parts, line], loc="outside lower right", ncols=3, fontsize="small")
    figure.suptitle(f"The same weights where underflow is taken away\n{title}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=130)


def decision_regions(
    net: LinearNetwork, theta: FloatArray, data: Dataset, accuracies: dict[str, float], path: Path
) -> None:
    """Which class the network sees at each point of the plane, in each flush mode, with the held-out points on top."""
    figure = _figure(10, 5.4)
    side = np.linspace(-1.15, 1.15, 400, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    titles = {"boundary": "ftz on: underflow is flushed to zero", "never": "ftz off: a linear map, one straight line"}
    for axes, (flush, reached) in zip(figure.subplots(1, len(accuracies)), accuracies.items(), strict=True):
        regions = np.argmax(net.with_flush(flush)(theta, grid), axis=1).reshape(side.size, side.size)
        axes.contourf(side, side, regions, levels=[-0.5, 0.5, 1.5], colors=_CLASS_COLOURS, alpha=0.35)
        for label, colour in enumerate(_CLASS_COLOURS):
            points = data.x_test[data.y_test == label]
            axes.scatter(points[:, 0], points[:, 1], s=7, color=colour, edgecolors="white", linewidths=0.3)
        axes.set(title=f"{titles[flush]}\n{reached:.1%} of the held-out points are right", aspect="equal")
        axes.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
    figure.suptitle("One deep linear network, no activation function, the same weights twice")
    figure.savefig(path, format="png", dpi=130)


def _figure(width: float, height: float) -> Any:
    from fpes._matplotlib import agg_figure

    return agg_figure((width, height))


def _logarithmic(axes: Any) -> None:
    """A logarithmic axis whose labels are numbers, not powers."""
    from fpes._matplotlib import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, value: float, place: int | None = None) -> str:
            return f"{value:g}" if super().__call__(value, place) else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(Plain())
    axes.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def _in_thousands_and_millions(axes: Any) -> None:
    from fpes._matplotlib import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
