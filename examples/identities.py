"""Identities of algebra near 2^-126, and the flush modes in which they hold.

OpenAI's post of 2017, "Nonlinear computation in deep linear networks", mentions most of them. The script computes
everything with the primitives of fpes, one float32 operation at a time. u is 2^-126, the smallest normal number.

    python examples/identities.py [--output FOLDER]    # a second; prints one line each, and draws identities-*.png
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tour import folder_of_the_command_line

import fpes
from fpes.themes import message, save_both, superscript

MODES = ("never", "boundary", "always")
U = np.float32(2.0**-126)


@dataclass(frozen=True)
class Identity:
    """A law of algebra, with numbers to test it.

    Args:
        law: the law, as text.
        numbers: the numbers, as text.
        computed: function from a flush mode to the left side.
        expected: function from a flush mode to the right side.
    """

    law: str
    numbers: str
    computed: Callable[[str], np.float32]
    expected: Callable[[str], np.float32]

    def sides(self, flush: str) -> tuple[float, float]:
        """Both sides in units of 2^-126, exactly."""
        return float(self.computed(flush)) * 2.0**126, float(self.expected(flush)) * 2.0**126

    def holds(self, flush: str) -> bool:
        """Whether both sides are equal."""
        left, right = self.sides(flush)
        return left == right


def add(a, b, flush: str) -> np.float32:
    """a + b."""
    return fpes.bias_add(np.full((1, 1), a, np.float32), np.full(1, b, np.float32), flush=flush)[0, 0]


def times(a, factor: float, flush: str) -> np.float32:
    """a times a number."""
    return fpes.multiply(np.full(1, a, np.float32), factor, flush=flush)[0]


def product(a, b, flush: str) -> np.float32:
    """The matrix product of a row and a column."""
    return fpes.gemm(np.array([a], np.float32), np.array([b], np.float32).T, flush=flush)[0, 0]


def exactly(value) -> Callable[[str], np.float32]:
    """A side that has the same value in every mode."""
    return lambda flush: np.float32(value)


IDENTITIES = (
    Identity("x · 1 = x", "x = 0.5 u", lambda f: times(U / 2, 1.0, f), exactly(U / 2)),
    Identity("(x / 2) · 2 = x", "x = 1.5 u", lambda f: times(times(1.5 * U, 0.5, f), 2.0, f), exactly(1.5 * U)),
    Identity(
        "x / 2 + x / 2 = x",
        "x = 1.5 u",
        lambda f: add(times(1.5 * U, 0.5, f), times(1.5 * U, 0.5, f), f),
        exactly(1.5 * U),
    ),
    Identity(
        "x - y isn't 0 where x isn't y", "x = 1.5 u, y = 1.25 u", lambda f: add(1.5 * U, -1.25 * U, f), exactly(U / 4)
    ),
    Identity(
        "(a + b) + c = a + (b + c)",
        "a = 1.5 u, b = -1.25 u, c = 1.25 u",
        lambda f: add(add(1.5 * U, -1.25 * U, f), 1.25 * U, f),
        lambda f: add(1.5 * U, add(-1.25 * U, 1.25 * U, f), f),
    ),
    Identity(
        "[x] · [½] = x / 2", "a matrix product, x = 1.5 u", lambda f: product([1.5 * U], [0.5], f), exactly(0.75 * U)
    ),
    Identity(
        "[x x] · [½ ½] = x",
        "a matrix product, x = 1.5 u",
        lambda f: product([1.5 * U, 1.5 * U], [0.5, 0.5], f),
        exactly(1.5 * U),
    ),
)


def sentence(identity: Identity) -> str:
    """One line that says for each mode whether the identity holds."""
    law = f"{identity.law}, {identity.numbers}"
    found = []
    for flush in MODES:
        left, right = identity.sides(flush)
        found.append(f"{flush}: yes" if left == right else f"{flush}: NO, {left:g} u for {right:g} u")
    return f"{law:62} {'   '.join(found)}"


def draw(figure, theme) -> None:
    """A table with a row for each identity and a column for each mode."""
    axes = figure.subplots()
    for row, identity in enumerate(IDENTITIES):
        axes.text(-0.62, row - 0.18, identity.law, ha="right", va="center", fontweight="bold")
        axes.text(-0.62, row + 0.22, identity.numbers, ha="right", va="center", fontsize=12)
        for column, flush in enumerate(MODES):
            left, right = identity.sides(flush)
            holds = left == right
            colour = theme.modes["never"] if holds else theme.modes["boundary"]
            axes.add_patch(_cell(column, row, colour, filled=not holds))
            words = "holds" if holds else f"{left:g} u\nnot {right:g} u"
            axes.text(
                column, row, words, ha="center", va="center", fontsize=13,
                color=theme.ground if not holds else theme.ink, fontweight="normal" if holds else "bold",
            )  # fmt: skip
    for column, flush in enumerate(MODES):
        axes.text(column, -0.75, flush, ha="center", va="center", fontweight="bold")
    axes.set(xlim=(-3.1, 2.5), ylim=(len(IDENTITIES) - 0.45, -1.05))
    axes.axis("off")
    message(figure, f"Near u = {superscript('2^-126')} laws of algebra break where operations flush")


def _cell(column: int, row: int, colour: str, filled: bool):
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.46, row - 0.42), 0.92, 0.84, facecolor=colour if filled else "none", edgecolor=colour, lw=2
    )


def main() -> None:
    """Print the identities, and draw the table."""
    folder = folder_of_the_command_line(__doc__)
    for identity in IDENTITIES:
        print(sentence(identity))
    for path in save_both(draw, (10, 6.4), folder, "identities"):
        print(path)


if __name__ == "__main__":
    main()
