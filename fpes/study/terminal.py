"""A report in a terminal."""

from __future__ import annotations

from itertools import product
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fpes.study.operands import SCALES

Row = dict[str, Any]


def show(report: dict[str, Any], console: Console) -> None:
    """Print the tables of a report, and then its sentences."""
    if report["bits"]:
        console.print(_bits(report["bits"]))
        if any("members" in row["effect"] and row["difference"]["different"] for row in report["bits"]):
            console.print(_effects(report["bits"]))
    for cost in report["cost"]:
        if cost["kernels"]:
            console.print(_cost(cost))
    if report["code"].get("kernels"):
        console.print(_code(report["code"]["kernels"]))
    console.print()
    for sentence in report["sentences"]:
        console.print(f"- {sentence}", highlight=False)


def share(row: Row) -> str:
    """The percentage of elements that differ. A single element of many doesn't show as 0.0."""
    found = row["difference"]
    if not found["different"]:
        return "-"
    percent = 100 * found["different"] / found["elements"]
    return f"{percent:.1f}" if percent >= 0.1 else f"{percent:.1g}"


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=f"{caption}\n",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def _bits(rows: list[Row]) -> Table:
    scales = [
        scale
        for scale in SCALES
        if any(row["operands"] == scale.name and row["difference"]["different"] for row in rows)
    ]
    table = _table(
        "Bits that differ from flush never",
        f"Per cent of the elements, for operands {', '.join(scale.name for scale in scales) or 'of any scale'}.",
    )
    table.add_column("kernel", no_wrap=True)
    columns = list(product(scales, ("boundary", "always")))
    for scale, mode in columns:
        table.add_column(f"{'crowded' if scale.crowded else scale.name}\n{mode}", justify="right")
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        table.add_row(kernel, *(share(_row(rows, kernel, scale.name, mode)) for scale, mode in columns))
    return table


def _row(rows: list[Row], kernel: str, operands: str, mode: str) -> Row:
    """The row that compares a mode with never."""
    return next(
        row
        for row in rows
        if row["kernel"] == kernel and row["operands"] == operands and tuple(row["modes"]) == (mode, "never")
    )


def _effects(rows: list[Row]) -> Table:
    table = _table(
        "Effect of the differences on a population",
        "Comparison with never: correlation of the members' ranks, and cosine between the gradients with the ranks of "
        "each mode. An empty cell means that in one mode all members are equal.",
    )
    table.add_column("family", no_wrap=True)
    table.add_column("operands")
    for name, mode in product(("ranks", "gradient"), ("boundary", "always")):
        table.add_column(f"{name}:\n{mode}", justify="right")
    for population in rows:
        if tuple(population["modes"]) != ("boundary", "never") or "members" not in population["effect"]:
            continue
        kernel, operands = population["kernel"], population["operands"]
        if not population["difference"]["different"]:
            continue
        gradient = kernel.replace("population", "gradient")
        ranks = [_row(rows, kernel, operands, mode)["effect"] for mode in ("boundary", "always")]
        directions = [_row(rows, gradient, operands, mode)["effect"] for mode in ("boundary", "always")]
        table.add_row(
            kernel.partition(": ")[2],
            operands.replace("crowded at 2^-126", "crowded"),
            *(_number(effect.get("rank_correlation")) for effect in ranks),
            *(_number(effect.get("cosine")) for effect in directions),
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cost(cost: Row) -> Table:
    table = _table(
        f"Cost, {cost['device']}: {cost['clock']}",
        "boundary, always: time on subnormal numbers, divided by the time of never. subnormal: time of never on "
        "subnormal numbers, divided by its time on normal numbers. Median ± half the distance of the quartiles.",
    )
    table.add_column("kernel")
    for name in ("never, us", "subnormal", "boundary", "always"):
        table.add_column(name, justify="right")
    for kernel in cost["kernels"]:
        table.add_row(
            kernel["kernel"],
            f"{kernel['microseconds']['subnormal, never']:.1f}",
            short_ratio(kernel["to_normal"]["never"]),
            short_ratio(kernel["to_never"]["subnormal, boundary"]),
            short_ratio(kernel["to_never"]["subnormal, always"]),
        )
    return table


def ratio(found: dict[str, float]) -> str:
    """A ratio with its quartiles."""
    return f"{found['median']:.2f} ({found['low']:.2f}, {found['high']:.2f})"


def short_ratio(found: dict[str, float]) -> str:
    """A ratio with half the distance of its quartiles."""
    return f"{found['median']:.2f} ± {(found['high'] - found['low']) / 2:.2f}"


def _code(kernels: list[Row]) -> Table:
    table = _table(
        "Code: the ftz build beside the ieee build",
        "differ: lines of machine code that differ. by .FTZ: lines that differ only by this modifier.",
    )
    table.add_column("kernel", overflow="fold")
    table.add_column("modes")
    for name in ("instr.", "FFMA", "FFMA.FTZ", "differ", "by .FTZ", "regs", "spills"):
        table.add_column(name, justify="right")
    for kernel in kernels:
        ftz, ieee = kernel["ftz"], kernel["ieee"]
        table.add_row(
            kernel["kernel"],
            kernel["modes"],
            both(ftz["instructions"], ieee["instructions"]),
            str(ftz["multiply_adds"]),
            str(ftz["flushing_multiply_adds"]),
            "lengths" if kernel["different"] is None else str(kernel["different"]),
            "" if kernel["only_by_ftz"] is None else str(kernel["only_by_ftz"]),
            both(ftz["registers"], ieee["registers"]),
            both(ftz["spills"], ieee["spills"]),
        )
    return table


def both(ftz: int, ieee: int) -> str:
    """One number if the builds agree, else both: ftz, ieee."""
    return str(ftz) if ftz == ieee else f"{ftz}, {ieee}"
