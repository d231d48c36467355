"""The number line at 2^-126: the numbers that flush-to-zero removes.

The smallest normal float32 is 2^-126. Below it, IEEE 754 has subnormal numbers, evenly spaced down to zero. An
operation that flushes replaces all of them by 0, so the number line has a gap on both sides of zero.

    python examples/number_line.py [--output FOLDER]    # a second; prints the count, and draws number-line-*.png
"""

from __future__ import annotations

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.themes import message, save_both, superscript

SMALLEST = 0x0080_0000  # the bits of 2^-126
UNIT = 2.0**-126
SHOWN = 1 << 20  # one of so many numbers is drawn


def from_bits(bits) -> np.ndarray:
    """float32 numbers with these bits, and the same numbers with the opposite sign."""
    magnitude = np.asarray(bits, np.uint32)
    return np.concatenate([magnitude | np.uint32(1 << 31), magnitude]).view(np.float32)


def kept(numbers: np.ndarray, flush: str) -> np.ndarray:
    """Numbers after a multiplication by 1, in units of 2^-126."""
    return fpes.multiply(numbers, 1.0, flush=flush).astype(np.float64) / UNIT


def flushed_to_zero() -> int:
    """Count the nonzero float32 numbers that become zero when multiplied by 1. All numbers up to 2^-125 are tried."""
    zeros = 0
    for first in range(1, 2 * SMALLEST, 1 << 22):
        numbers = from_bits(np.arange(first, min(first + (1 << 22), 2 * SMALLEST), dtype=np.uint32))
        zeros += int((kept(numbers, "boundary") == 0).sum())
    return zeros


def draw(figure, theme, count: int) -> None:
    """Two lines: all float32 numbers, and the numbers that an operation with flushing can return."""
    axes = figure.subplots()
    numbers = from_bits(np.arange(0, SMALLEST + 8 * SHOWN, SHOWN))
    for place, flush, words in (
        (1, "never", "IEEE 754\n(never)"),
        (0, "boundary", "flush to zero\n(boundary, always)"),
    ):
        values = kept(numbers, flush)
        axes.axhline(place, color=theme.faint, zorder=0)
        axes.plot(values, np.full(values.size, place), "|", ms=30, mew=2.5, color=theme.modes[flush], clip_on=False)
        axes.text(-2.15, place, words, ha="right", va="center", color=theme.modes[flush], fontweight="bold")
    axes.axvspan(-1, 1, color=theme.faint, alpha=0.35, lw=0)
    axes.text(0, 0.5, f"{count:,} numbers\nbecome 0", ha="center", va="center", fontsize=15)
    axes.set(ylim=(-0.45, 1.45), xlim=(-2.1, 2.1), yticks=[])
    axes.set_xticks([-2, -1, 0, 1, 2], [superscript(s) for s in ("-2^-125", "-2^-126", "0", "2^-126", "2^-125")])
    axes.spines[["left", "bottom"]].set_visible(False)
    message(
        figure, "Flush-to-zero tears a hole into the number line", "One of every 1,048,576 float32 numbers is drawn."
    )


def main() -> None:
    """Count the numbers, and draw them."""
    count = flushed_to_zero()
    print(f"{count:,} float32 numbers become zero when multiplied by 1: all subnormal numbers.")
    folder = folder_of_the_command_line(__doc__)
    for path in save_both(lambda f, t: draw(f, t, count), (10, 4), folder, "number-line"):
        print(path)


if __name__ == "__main__":
    main()
