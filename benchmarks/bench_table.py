"""The tables of `fpes bench`, from what pytest-benchmark and bench_measure.py have noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench_load import percent, warn_of_load
from bench_measure import RATIOS
from rich.console import Console
from rich.table import Table

Cell = Callable[[Any], str]


def print_tables(console: Console, benchmarks: list, machine: dict[str, Any]) -> None:
    """A table for each group, and what the columns mean."""
    console.print()
    console.print(_heading(machine))
    for group in dict.fromkeys(b.group for b in benchmarks):
        members, cells = [b for b in benchmarks if b.group == group], {}
        table = Table(title=group, title_justify="left", title_style="bold")
        for number, (heading, cell) in enumerate(_columns(members)):
            table.add_column(heading, justify="right" if number else "left")
            cells[heading] = cell
        for b in members:
            table.add_row(*(cell(b) for cell in cells.values()))
        console.print(table)
    warn_of_load(console, benchmarks)
    console.print(
        f"The peak is about {benchmarks[0].extra_info['peak_gflops']:.0f} GFLOP/s, measured before and after each "
        "round; a fraction is void where the two differ by more than a tenth. ms is the median, and beside it are the "
        "quartiles; cold is the time with nothing in the caches. CPU is the part of the time in which threads ran, of "
        "that in which they could. GFLOP/s and % of peak count the operations of the unperturbed network; needed, % "
        "counts once what all members share."
    )


def milliseconds(seconds: float) -> str:
    """With three digits or so."""
    value = 1e3 * seconds
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _heading(machine: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {size // 1024} KB" for name, size in machine["caches"].items())
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    commit = f" (commit {machine['commit']})" if machine["commit"] else ""
    return (
        f"{machine['processor']}, {machine['clock']:.2f} GHz; {sizes}. {machine['threads']} threads, {machine['isa']}."
        f" {machine['compiler']}. {packages}{commit}."
    )


def _columns(benchmarks: list) -> list[tuple[str, Cell]]:
    """Headings of a group's table, and what stands below; columns that would be empty or the same are left out."""

    def number(name: str, form: str, factor: float = 1.0) -> Cell:
        return lambda b: form.format(factor * b.extra_info[name]) if name in b.extra_info else ""

    def of_peak(name: str) -> Cell:
        return lambda b: "void" if b.extra_info["void"] else number(name, "{:.0f}", 100)(b)

    infos = [b.extra_info for b in benchmarks]
    columns: list[tuple[str, Cell]] = [("", lambda b: b.extra_info["variant"])]
    if len({info["flush"] for info in infos} - {None}) > 1:
        columns.append(("flush", lambda b: b.extra_info["flush"] or ""))
    columns += [
        ("ms", lambda b: milliseconds(b.stats.median)),
        ("quartiles", lambda b: f"{milliseconds(b.stats.q1)} {milliseconds(b.stats.q3)}"),
        ("cold", lambda b: milliseconds(b.extra_info["cold_seconds"]) if "cold_seconds" in b.extra_info else ""),
        ("CPU, %", lambda b: percent(b.extra_info["processor_share"])),
        ("GFLOP/s", number("gflops", "{:.1f}")),
        ("% of peak", of_peak("fraction_of_peak")),
    ]
    if any(info["fraction_of_peak"] != info["fraction_of_peak_needed"] for info in infos):
        columns.append(("needed, %", of_peak("fraction_of_peak_needed")))
    if any("member_samples_per_second" in info for info in infos):
        columns.append(("member-samples/s", number("member_samples_per_second", "{:.3g}")))
    columns += [(h, number(name, "{:.2f}")) for name, h in RATIOS.items() if any(name in info for info in infos)]
    return columns
