"""The roofline of `fpes bench` (Williams et al. 2009): every kernel under the two roofs of its machine."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fpes._matplotlib import Axes, Figure, FuncFormatter
from fpes.cli.bench_results import Kernel
from fpes.themes import LIGHT, Theme, figure, message

_WIDTH, _CHART, _LINE = 11.0, 5.4, 0.25  # inches: the picture, the chart's height, a line of the legend
_SMALL = 12  # points
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_NUMBER = 13.0  # points from a marker to its number; where that is farther away, a line leads there
_OFFSETS = [
    np.array([distance * math.cos(angle), distance * math.sin(angle)])
    for distance in (_NUMBER, 22.0, 31.0, 40.0, 50.0)
    for angle in np.linspace(0.0, 2.0 * math.pi, 16, endpoint=False)
]
_OF_A_NUMBER = np.array([(0.0, -4.0), (0.0, 0.0), (0.0, 4.0)])  # places of a number, from its centre
_READING = (
    "Operations are those of the plain computation: where zeros are skipped and what members share is computed once, a "
    "kernel passes the peak."
)
_HOLLOW = " Hollow: void, for the machine's speed changed meanwhile."


@dataclass(frozen=True)
class _Roofs:
    """What a machine can do at most.

    Args:
        peak: of its multiply-adds, GFLOP/s.
        bandwidth: of its memory, GB/s.
    """

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """The operations for each byte from which on memory is no limit."""
        return self.peak / self.bandwidth

    def reached(self, kernel: Kernel) -> float | None:
        """Which part of its roof a kernel reaches; None where that is void."""
        if kernel.fraction is None:
            return None
        return kernel.fraction * max(1.0, self.ridge / kernel.intensity)


def write(machine: Mapping[str, Any], kernels: Sequence[Kernel], path: Path) -> None:
    """Draw them into a PNG.

    Args:
        machine: what it is called, and the bandwidth of its memory, bytes a second (bench_results.Results).
        kernels: at least one (bench_results.kernels).
        path: of the PNG.
    """
    drawn = figure(lambda f, theme: draw(f, theme, machine, kernels), size(kernels), LIGHT)
    drawn.savefig(path, format="png", dpi=130)


def size(kernels: Sequence[Kernel]) -> tuple[float, float]:
    """Of the picture, in inches."""
    return _WIDTH, _CHART + 1.5 + _LINE * max(map(_lines, _columns(kernels)))


def draw(drawn: Figure, theme: Theme, machine: Mapping[str, Any], kernels: Sequence[Kernel]) -> None:
    """The chart, where kernels have numbers, and below it what the numbers mean."""
    roofs = _Roofs(float(np.median([kernel.peak for kernel in kernels])), machine["bandwidth"] / 1e9)
    kernels = [kernel for group in _groups(kernels) for kernel in group]
    below = max(map(_lines, _columns(kernels)))
    chart, names = drawn.subplots(2, 1, height_ratios=[_CHART, _LINE * below])
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    about = f"{machine['processor']}; {machine['threads']} threads, {machine['isa']}{commit}. "
    about += _READING + (_HOLLOW if any(kernel.fraction is None for kernel in kernels) else "")
    message(drawn, textwrap.fill(_title(roofs, kernels), 76), textwrap.fill(about, 112))
    _draw_roofs(chart, theme.ink, roofs, kernels)
    faces = _faces(kernels, theme)
    for kernel in kernels:
        chart.scatter(kernel.intensity, kernel.gflops, **faces[kernel], zorder=3)
    _list(names, roofs, kernels, faces, below)
    drawn.draw_without_rendering()  # only now it is known which points are near each other
    _number(chart, theme.ink, roofs, kernels)


def _title(roofs: _Roofs, kernels: Sequence[Kernel]) -> str:
    held = sum(kernel.intensity < roofs.ridge for kernel in kernels)
    passing = sum((roofs.reached(kernel) or 0.0) > 1.0 for kernel in kernels)
    words = [f"Memory limits {held or 'none'} of {len(kernels)} kernel{'s' if len(kernels) > 1 else ''}"]
    if passing:
        words.append(f"{passing} pass{'es' if passing == 1 else ''} the multiply-add peak")
    return "; ".join(words)


def _faces(kernels: Sequence[Kernel], theme: Theme) -> dict[Kernel, dict[str, Any]]:
    """The markers: the same for kernels of one kind, which the first word of a group tells; hollow where void."""
    kinds = list(dict.fromkeys(kernel.group.split()[0] for kernel in kernels))
    looks = dict(zip(kinds, zip(itertools.cycle(theme.series), itertools.cycle(_MARKERS), strict=False), strict=False))
    faces = {}
    for kernel in kernels:
        colour, marker = looks[kernel.group.split()[0]]
        inside, edge = (theme.ground, colour) if kernel.fraction is None else (colour, theme.ground)
        faces[kernel] = {"marker": marker, "s": 100, "facecolors": inside, "edgecolors": edge, "linewidths": 1.5}
    return faces


def _draw_roofs(axes: Axes, ink: str, roofs: _Roofs, kernels: Sequence[Kernel]) -> None:
    reach = [kernel.intensity for kernel in kernels]
    x = np.array([min(roofs.ridge / 25, min(reach) / 3), roofs.ridge, max(roofs.ridge * 25, max(reach) * 3)])
    rates = [kernel.gflops for kernel in kernels]
    axes.plot(x, np.minimum(roofs.peak, roofs.bandwidth * x), color=ink, lw=2, zorder=2)
    axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]))
    axes.set_ylim(min(*rates, roofs.peak / 20) / 1.6, max(*rates, roofs.peak) * 1.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set(xlabel="operations for each byte that has to be moved", ylabel="GFLOP/s")
    axes.grid(which="major", zorder=0)
    axes.minorticks_off()
    near: dict[str, Any] = {"textcoords": "offset points", "fontsize": _SMALL, "va": "bottom"}
    axes.annotate(f"multiply-adds: {roofs.peak:.0f} GFLOP/s", (roofs.ridge, roofs.peak), (4, 5), ha="left", **near)
    at = roofs.ridge / 2.5
    axes.annotate(f"memory:\n{roofs.bandwidth:.1f} GB/s", (at, roofs.bandwidth * at), (-6, 3), ha="right", **near)


def _number(axes: Axes, ink: str, roofs: _Roofs, kernels: Sequence[Kernel]) -> None:
    """A number at each point, where neither another point is, nor a number, a roof, or the name of a roof."""
    scale = 72.0 / axes.figure.dpi
    x = np.geomspace(*axes.get_xlim(), 300)
    roof = np.column_stack([x, np.minimum(roofs.peak, roofs.bandwidth * x)])
    points = scale * axes.transData.transform([(kernel.intensity, kernel.gflops) for kernel in kernels])
    taken = np.concatenate([points, scale * axes.transData.transform(roof), *(scale * _inside(t) for t in axes.texts)])
    for kernel, point, number in zip(kernels, points, itertools.count(1)):
        offset = max(_OFFSETS, key=partial(_free, point, taken))
        taken = np.vstack([taken, point + offset + _OF_A_NUMBER])
        line = {"arrowstyle": "-", "color": ink, "lw": 0.8, "shrinkA": 5, "shrinkB": 4}
        far = math.hypot(*offset) > _NUMBER + 1.0
        axes.annotate(
            str(number), (kernel.intensity, kernel.gflops), tuple(offset), textcoords="offset points",
            ha="center", va="center", fontsize=_SMALL, zorder=4, arrowprops=line if far else None,
        )  # fmt: skip


def _free(point: Any, taken: Any, offset: Any) -> float:
    """How good a number's place is: its distance to the nearest of what is there, in points, up to what is enough."""
    x, y = abs(point + offset - taken).T
    return min(float(np.hypot(x / 1.3, y).min()), _NUMBER)  # numbers are wider than high


def _inside(text: Any) -> Any:
    """Places all over a text, in pixels."""
    box = text.get_window_extent()
    return np.stack(np.meshgrid(np.linspace(box.x0, box.x1, 40), np.linspace(box.y0, box.y1, 4)), -1).reshape(-1, 2)


def _groups(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    return [
        [kernel for kernel in kernels if kernel.group == group] for group in dict.fromkeys(k.group for k in kernels)
    ]


def _heading(group: Sequence[Kernel]) -> list[str]:
    return textwrap.wrap(group[0].group, 44)


def _columns(kernels: Sequence[Kernel]) -> tuple[list[list[Kernel]], list[list[Kernel]]]:
    """The groups, in two columns of about the same length."""
    groups = _groups(kernels)
    split = min(range(1, len(groups) + 1), key=lambda n: max(_lines(groups[:n]), _lines(groups[n:])))
    return groups[:split], groups[split:]


def _lines(groups: Sequence[Sequence[Kernel]]) -> float:
    """The height of a column, a heading for its shares included."""
    return 1.0 + sum(len(_heading(group)) + len(group) + 0.5 for group in groups)


def _list(
    axes: Axes, roofs: _Roofs, kernels: Sequence[Kernel], faces: Mapping[Kernel, dict[str, Any]], lines: float
) -> None:
    """What the numbers mean, and which part of its roof each kernel reaches."""
    axes.set(xlim=(0, 2), ylim=(lines, 0))
    axes.set_axis_off()
    for left, groups in enumerate(_columns(kernels)):
        y = 0.5
        if groups:
            axes.text(left + 0.95, y, "of its roof", ha="right", va="center", fontsize=_SMALL)
        for group in groups:
            for line in _heading(group):
                y += 1
                axes.text(left, y, line, va="center", fontsize=_SMALL, fontweight="bold")
            for kernel in group:
                y += 1
                reached = roofs.reached(kernel)
                axes.scatter(left + 0.03, y, **faces[kernel])
                axes.text(left + 0.105, y, str(kernels.index(kernel) + 1), ha="right", va="center", fontsize=_SMALL)
                axes.text(left + 0.13, y, kernel.name, va="center", fontsize=_SMALL)
                share = "void" if reached is None else f"{100 * reached:.0f} %"
                axes.text(left + 0.95, y, share, ha="right", va="center", fontsize=_SMALL)
            y += 0.5
