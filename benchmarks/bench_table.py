"""The tables of `fpes bench`, of what has just been measured or of stored results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench_load import percent, warn_of_load
from bench_measure import RATIOS
from rich.console import Console
from rich.table import Table

from fpes.cli.bench_results import Results, Row

Cell = Callable[[Row], str]


def print_tables(console: Console, results: Results) -> None:
    """A table for each group, and what the columns mean; there is at least one row."""
    console.print()
    console.print(_heading(results.machine))
    for group in dict.fromkeys(row.group for row in results.rows):
        members, cells = [row for row in results.rows if row.group == group], {}
        table = Table(title=group, title_justify="left", title_style="bold")
        for number, (heading, cell) in enumerate(_columns(members)):
            table.add_column(heading, justify="right" if number else "left")
            cells[heading] = cell
        for row in members:
            table.add_row(*(cell(row) for cell in cells.values()))
        console.print(table)
    warn_of_load(console, results.rows)
    console.print(
        f"The peak is about {results.rows[0].info['peak_gflops']:.0f} GFLOP/s, measured before and after each "
        "round; a fraction is void where the two differ by more than a tenth. ms is the median, and beside it are the "
        "quartiles; cold is the time with nothing in the caches. CPU is the part of the time in which threads ran, of "
        "that in which they could. GFLOP/s and % of peak count the operations of the unperturbed network; needed, % "
        "counts once what all members share."
    )


def milliseconds(seconds: float) -> str:
    """With three digits or so."""
    value = 1e3 * seconds
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _heading(machine: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {size // 1024} KB" for name, size in machine["caches"].items())
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    commit = f" (commit {machine['commit']})" if machine["commit"] else ""
    return (
        f"{machine['processor']}, {machine['clock']:.2f} GHz; {sizes}. {machine['threads']} threads, {machine['isa']}."
        f" {machine['compiler']}. {packages}{commit}."
    )


def _columns(rows: Sequence[Row]) -> list[tuple[str, Cell]]:
    """Headings of a group's table, and what stands below; columns that would be empty or the same are left out."""

    def number(name: str, form: str, factor: float = 1.0) -> Cell:
        return lambda row: form.format(factor * row.info[name]) if name in row.info else ""

    def of_peak(name: str) -> Cell:
        return lambda row: "void" if row.info["void"] else number(name, "{:.0f}", 100)(row)

    infos = [row.info for row in rows]
    columns: list[tuple[str, Cell]] = [("", lambda row: row.info["variant"])]
    if len({info["flush"] for info in infos} - {None}) > 1:
        columns.append(("flush", lambda row: row.info["flush"] or ""))
    columns += [
        ("ms", lambda row: milliseconds(row.seconds)),
        ("quartiles", lambda row: f"{milliseconds(row.info['q1'])} {milliseconds(row.info['q3'])}"),
        ("cold", lambda row: milliseconds(row.info["cold_seconds"]) if "cold_seconds" in row.info else ""),
        ("CPU, %", lambda row: percent(row.info["processor_share"])),
        ("GFLOP/s", number("gflops", "{:.1f}")),
        ("% of\npeak", of_peak("fraction_of_peak")),
    ]
    if not all(math.isclose(info["fraction_of_peak"], info["fraction_of_peak_needed"]) for info in infos):
        columns.append(("needed,\n%", of_peak("fraction_of_peak_needed")))
    if any("member_samples_per_second" in info for info in infos):
        columns.append(("member-\nsamples/s", number("member_samples_per_second", "{:.3g}")))
    columns += [(h, number(name, "{:.2f}")) for name, h in RATIOS.items() if any(name in info for info in infos)]
    return columns
