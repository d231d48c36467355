"""Results of `fpes bench`: read, written as a table for other programs, and compared with earlier ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fpes.files import written_whole

# What has to be the same for two results to be compared, and what else is shown of a machine.
_IDENTITY = ("processor", "caches", "threads", "isa")
_MACHINE = (*_IDENTITY, "clock", "compiler", "packages", "commit", "bandwidth")
_COLUMNS = ("group", "variant", "flush", "median", "q1", "q3", "min", "max", "rounds", "cold_seconds", "void")
_LEAST = 0.02  # differences below this are noise, whatever the quartiles say


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Args:
        group, name: tell it from others.
        seconds: the median.
        spread: the interquartile range over the median.
        fraction: of the peak; None where it is void.
        info: all that was noted.
    """

    group: str
    name: str
    seconds: float
    spread: float
    fraction: float | None
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """One run of the benchmarks: its machine, and its rows."""

    machine: Mapping[str, Any]
    rows: Sequence[Row]


def read(path: Path) -> Results:
    """What `fpes bench --json` has written.

    Benchmarks that don't use the fixture `measure` have no figures of ours, and are left out.

    Raises:
        OSError: it can't be read.
        ValueError: it is something else.
    """
    try:
        stored = json.loads(path.read_text())
        machine = {name: stored["machine"][name] for name in _MACHINE}
        rows = [row_of(benchmark) for benchmark in stored["benchmarks"] if benchmark["extra_info"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no results of `fpes bench --json`: {type(error).__name__}: {error}") from error
    return Results(machine, rows)


def row_of(benchmark: Mapping[str, Any]) -> Row:
    """One benchmark, as pytest-benchmark notes it in JSON."""
    stats, info = benchmark["stats"], dict(benchmark["extra_info"])
    numbers = {name: stats[name] for name in ("median", "q1", "q3", "min", "max", "rounds")}
    return Row(
        group=benchmark["group"],
        name=benchmark["name"],
        seconds=float(stats["median"]),
        spread=float(stats["iqr"]) / float(stats["median"]),
        fraction=None if info["void"] else float(info["fraction_of_peak"]),
        info={"group": benchmark["group"], **info, **numbers},
    )


def write_csv(results: Results, path: Path) -> None:
    """A line for each row; times in seconds.

    Raises:
        OSError: it can't be written.
    """
    others = dict.fromkeys(name for row in results.rows for name in row.info if name not in _COLUMNS)
    with written_whole(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*_COLUMNS, *others])
        writer.writeheader()
        writer.writerows(row.info for row in results.rows)


@dataclass(frozen=True)
class Kernel:
    """A point of a roofline.

    Args:
        group, name: tell it from others.
        intensity: operations for each byte that has to be moved.
        gflops: what it reaches.
        peak: what multiply-adds alone reached beside it, GFLOP/s.
        fraction: of this peak; None where it is void.
    """

    group: str
    name: str
    intensity: float
    gflops: float
    peak: float
    fraction: float | None


def kernels(results: Results) -> list[Kernel]:
    """The rows of fpes whose bytes are known, for a roofline.

    Raises:
        ValueError: there is none.
    """
    several = len({row.info["flush"] for row in results.rows} - {None}) > 1
    found = [
        Kernel(
            row.group,
            (row.name if several else row.info["variant"]).removeprefix("fpes").lstrip(", ") or "fpes",
            row.info["flops"] / row.info["moved_bytes"],
            row.info["gflops"],
            row.info["peak_gflops"],
            row.fraction,
        )
        for row in results.rows
        if row.info.get("moved_bytes") and row.name.startswith("fpes")
    ]
    if not found:
        raise ValueError("there is no benchmark of fpes whose bytes are known, so there is nothing to draw")
    return found


def check_same_machine(before: Results, now: Mapping[str, Any], path: Path) -> None:
    """Times of two machines tell nothing about two versions of a kernel.

    Raises:
        ValueError: results are from another machine, or with other threads or another instruction set.
    """
    different = [
        f"{name} {before.machine.get(name)!r} and not {now.get(name)!r}"
        for name in _IDENTITY
        if before.machine.get(name) != now.get(name)
    ]
    if different:
        raise ValueError(
            f"{path} is from another machine: {'; '.join(different)}. Measure both on one, or compare them all the "
            "same, with --other-machine"
        )


@dataclass(frozen=True)
class Change:
    """A row then and now.

    Args:
        before, after: the rows.
        ratio: of times, after over before: below 1 is faster. Each is a multiple of what the peak would take, where
            both peaks are known: a machine that runs slower today is no slower kernel.
        noise: by which factor a ratio may be off 1 by chance.
    """

    before: Row
    after: Row
    ratio: float
    noise: float

    @property
    def verdict(self) -> str:
        """Faster, slower, or nothing where it is within the noise."""
        if abs(math.log(self.ratio)) <= math.log1p(self.noise):
            return ""
        return "faster" if self.ratio < 1.0 else "slower"


def changes(before: Results, after: Results) -> Iterator[Change]:
    """The rows that both have."""
    known = {(row.group, row.name): row for row in before.rows}
    for row in after.rows:
        old = known.get((row.group, row.name))
        if old is None:
            continue
        if old.fraction is None or row.fraction is None:
            ratio = row.seconds / old.seconds
        else:
            ratio = old.fraction / row.fraction
        yield Change(old, row, ratio, max(_LEAST, math.hypot(old.spread, row.spread)))


def print_changes(console: Console, before: Results, after: Results) -> None:
    """A table of what both have, with what is beyond the noise marked."""
    found = list(changes(before, after))
    table = Table(title="compared with before", title_justify="left", title_style="bold")
    for number, heading in enumerate(("", "ms before", "ms now", "time, ratio", "noise, %", "")):
        table.add_column(heading, justify="right" if 0 < number < 5 else "left")
    for change in found:
        table.add_row(
            f"{change.after.group}: {change.after.name}",
            f"{1e3 * change.before.seconds:.2f}",
            f"{1e3 * change.after.seconds:.2f}",
            f"{change.ratio:.3f}",
            f"{100 * change.noise:.0f}",
            change.verdict,
            style="bold" if change.verdict else None,
        )
    console.print(table)
    missing = len(after.rows) - len(found)
    console.print(
        "Ratios are of times in multiples of what the peak of their minute would take; below 1 is faster. Noise is the "
        f"interquartile range of both together, at least {100 * _LEAST:.0f} %."
        + (f" {missing} rows have nothing to compare with." if missing else "")
    )
