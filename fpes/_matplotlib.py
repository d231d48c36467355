"""What pictures need of matplotlib, imported whatever MPLBACKEND says.

MPLBACKEND may name a backend that this environment lacks, a notebook's for instance, and then `import matplotlib`
fails, though a file needs none of it. So the name is kept from the import, and given to matplotlib afterwards if it has
such a backend: what a program plots by itself is drawn as its user wants. All other modules import matplotlib here.
"""

from __future__ import annotations

import contextlib
import os
import sys

_wanted = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogFormatter
finally:
    if _wanted is not None:
        os.environ["MPLBACKEND"] = _wanted
if _wanted is not None:
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _wanted

rc_context = matplotlib.rc_context

__all__ = ["Axes", "EngFormatter", "Figure", "FigureCanvasAgg", "FuncFormatter", "LogFormatter", "Patch", "rc_context"]


def agg_figure(size: tuple[float, float]) -> Figure:
    """A figure of this size in inches that Agg draws: no window, no pyplot, nothing of the user's settings changed."""
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn
