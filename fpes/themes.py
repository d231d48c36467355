"""The light and dark theme of pictures, with colours that colour-blind readers can tell apart.

A picture is a function that draws into a figure with a theme. `save_both` writes it as `NAME-light.png` and
`NAME-dark.png`, for pages that follow the reader's setting.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpes._matplotlib import Axes, Figure, agg_figure, rc_context
from fpes.files import writable_folder, written_whole

_DPI = 130


@dataclass(frozen=True)
class Theme:
    """Colours of a picture (Okabe and Ito 2008, lightened on dark ground).

    Args:
        name: "light" or "dark".
        ground: background.
        ink: text and axes.
        faint: grids and fillings.
        modes: colours of the flush modes, by name.
        series: colours for anything else, in this order.
    """

    name: str
    ground: str
    ink: str
    faint: str
    modes: dict[str, str]
    series: tuple[str, ...]

    def settings(self) -> Any:
        """The theme as settings of matplotlib."""
        return {
            "figure.facecolor": self.ground,
            "axes.facecolor": self.ground,
            "savefig.facecolor": self.ground,
            "text.color": self.ink,
            "axes.labelcolor": self.ink,
            "axes.edgecolor": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "grid.color": self.faint,
            "legend.frameon": False,
            "font.size": 14,
            "axes.titlesize": 15,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 2.5,
            "svg.hashsalt": "fpes",
        }


LIGHT = Theme(
    "light",
    ground="#ffffff",
    ink="#1f2328",
    faint="#d0d7de",
    modes={"never": "#0072b2", "boundary": "#d55e00", "always": "#6b4c9a"},
    series=("#0072b2", "#d55e00", "#6b4c9a", "#009e73"),
)
DARK = Theme(
    "dark",
    ground="#0d1117",
    ink="#e6edf3",
    faint="#3d444d",
    modes={"never": "#56b4e9", "boundary": "#ff9b50", "always": "#c9a7f5"},
    series=("#56b4e9", "#ff9b50", "#c9a7f5", "#3fd6a8"),
)
THEMES = (LIGHT, DARK)

Draw = Callable[[Figure, Theme], None]


def figure(draw: Draw, size: tuple[float, float], theme: Theme) -> Figure:
    """Draw a figure of this size in inches."""
    with rc_context(theme.settings()):
        drawn = agg_figure(size)
        draw(drawn, theme)
        drawn.canvas.draw()
    return drawn


def save_both(draw: Draw, size: tuple[float, float], folder: Path, name: str) -> list[Path]:
    """Write `name`-light.png and `name`-dark.png into a folder, and return their paths.

    Raises:
        OSError: the folder can't be written to.
    """
    writable_folder(folder)
    paths = []
    for theme in THEMES:
        target = folder / f"{name}-{theme.name}.png"
        with written_whole(target) as aside:
            figure(draw, size, theme).savefig(aside, dpi=_DPI, format="png")
        paths.append(target)
    return paths


def as_svg(draw: Draw, size: tuple[float, float], theme: Theme) -> str:
    """The picture as SVG, with letters as outlines, so it looks the same everywhere."""
    stream = io.BytesIO()
    figure(draw, size, theme).savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode()


def message(drawn: Figure, title: str, below: str = "") -> None:
    """Add the message of a picture as its title, and a note in smaller letters."""
    drawn.suptitle(title, x=0.01, ha="left", fontsize=17, fontweight="bold")
    if below:
        drawn.supxlabel(below, x=0.01, ha="left", fontsize=12)


def bare(axes: Axes) -> None:
    """Remove the frame of a plot except its lower side."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def superscript(text: str) -> str:
    """ "2^-126" with a superscript: 2⁻¹²⁶."""
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return re.sub(r"\^(-?\d+)", lambda found: found[1].translate(digits), text)
