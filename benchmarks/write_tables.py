"""The tables of the documentation, from stored results: `python benchmarks/write_tables.py` writes them anew.

A table stands between `<!-- begin NAME: ... -->` and `<!-- end NAME -->`. A test compares each with what comes out
here, so that no figure in the documentation is another than the one that was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_measure import FASTER
from bench_table import milliseconds

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CPU = RESULTS / "2026-11-27-cpu-zen4.json"
_H200 = RESULTS / "2026-11-26-cuda-h200.json"
_H200_COMMITS = ("d8530c3", "66021e1", "7d424eb", "e633829")


@dataclass(frozen=True)
class Place:
    """Where a table stands.

    Args:
        page: of the documentation.
        name: in its markers.
        lines: makes it.
    """

    page: Path
    name: str
    lines: Callable[[], Sequence[str]]

    def filled(self, text: str) -> str:
        """The page with the table.

        Raises:
            ValueError: there are no such markers in it.
        """
        begin, end = f"<!-- begin {self.name}: python benchmarks/write_tables.py -->", f"<!-- end {self.name} -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{self.page} has no {begin} ... {end}")
        table = "\n".join(self.lines())
        return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


# --- The H200 ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gpu:
    """A row: figures of one or several benchmarks, in the runs of several commits.

    Args:
        label: of the row.
        tables: the titles of the benchmarks' tables.
        variants: their rows, of each table.
        figure: what is shown of a row, as text.
    """

    label: str
    tables: Sequence[str]
    variants: Sequence[str]
    figure: Callable[[dict[str, Any]], str]

    def cell(self, run: dict[str, Any]) -> str:
        """The figures in one run."""
        return "; ".join(self.figure(_row(run, title, variant)) for title in self.tables for variant in self.variants)


def _row(run: dict[str, Any], title: str, variant: str) -> dict[str, Any]:
    rows = next(table["rows"] for table in run["tables"] if table["title"] == title)
    found: dict[str, Any] = next(row for row in rows if row["variant"].startswith(variant))
    return found


def _speed(row: dict[str, Any]) -> str:
    return f"{row['relative_speed']:.2f}"


def _slower(row: dict[str, Any]) -> str:
    """By which factor fpes is faster than a peer, whose speed relative to fpes is stored."""
    return f"{1.0 / row['relative_speed']:.1f}"


def _of_peak(row: dict[str, Any]) -> str:
    return f"{100 * row['fraction_of_peak']:.0f}"


def _milliseconds(row: dict[str, Any]) -> str:
    return f"{row['milliseconds']:.2f}"


_NET = "784-512-512-10"
_FULL, _LOW, _LOW4, _NODE = (
    f"{family}, {_NET}, population {size}"
    for family, size in (
        ("full rank", "1024, batch 64"),
        ("low rank 1", "8192, batch 8"),
        ("low rank 4", "8192, batch 8"),
        ("node", "8192, batch 8"),
    )
)
_OURS, _GRADIENT = ('fpes, "boundary"',), ("fpes, gradient",)
_GPU_ROWS = (
    _Gpu("gemm 4096^3, speed of cuBLAS's", ("gemm 4096x4096x4096",), _OURS, _speed),
    _Gpu("gemm 8192 x 512 x 512", ("gemm 8192x512x512",), _OURS, _speed),
    _Gpu("gemm 1024^3", ("gemm 1024x1024x1024",), _OURS, _speed),
    _Gpu("full rank, population 1024, batch 64: % of peak", (_FULL,), ('fpes, full, binomial, "boundary"',), _of_peak),
    _Gpu("batch 128", (_FULL.replace("64", "128"),), ('fpes, full, binomial, "boundary"',), _of_peak),
    _Gpu("batch 64: speed of CuPy with batched cuBLAS; of PyTorch `baddbmm`", (_FULL,), ("CuPy", "PyTorch"), _slower),
    _Gpu(
        "low rank 1, population 8192, batch 8: speed of inference of as many samples",
        (_LOW,),
        ('fpes, low rank 1, binomial, "boundary"',),
        _speed,
    ),
    _Gpu("low rank 4", (_LOW4,), ('fpes, low rank 4, binomial, "boundary"',), _speed),
    _Gpu("node", (_NODE,), ('fpes, node, binomial, "boundary"',), _speed),
    _Gpu("gradient of full rank from ranks, ms", (_FULL,), _GRADIENT, _milliseconds),
    _Gpu("gradient of low rank 1; 4 from ranks, ms", (_LOW, _LOW4), _GRADIENT, _milliseconds),
    _Gpu("gradient of node, a fitness for each sample, ms", (_NODE,), _GRADIENT, _milliseconds),
)


def h200() -> list[str]:
    """A column for each commit that was measured."""
    stored = {run["commit"]: run for run in json.loads(_H200.read_text())["runs"]}
    runs = [stored[commit] for commit in _H200_COMMITS]
    rows = [[row.label, *(row.cell(run) for run in runs)] for row in _GPU_ROWS]
    return _markdown(["", *_H200_COMMITS], rows)


# --- The CPU ----------------------------------------------------------------------------------------------------------


def cpu() -> list[str]:
    """A row for each benchmark of `fpes bench`."""
    benchmarks, rows = json.loads(CPU.read_text())["benchmarks"], []
    cases = list(dict.fromkeys(benchmark["group"] for benchmark in benchmarks))
    for benchmark in sorted(benchmarks, key=lambda benchmark: cases.index(benchmark["group"])):
        info, stats = benchmark["extra_info"], benchmark["stats"]
        cold, faster = info.get("cold_seconds"), info.get(FASTER)
        rows.append(
            [
                benchmark["group"],
                info["variant"],
                milliseconds(stats["median"]),
                f"{milliseconds(stats['q1'])} {milliseconds(stats['q3'])}",
                "" if cold is None else milliseconds(cold),
                "void" if info["void"] else f"{100 * info['fraction_of_peak']:.0f}",
                "" if faster is None else f"{faster:.2f}",
            ]
        )
    return _markdown(["case", "", "ms", "quartiles", "cold", "% of peak", "fpes is faster by"], rows)


# --- Everything -------------------------------------------------------------------------------------------------------


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in ([*headings], ["---"] * len(headings), *rows)]


PLACES = (Place(ROOT / "docs" / "cuda.md", "h200", h200), Place(ROOT / "docs" / "benchmarks.md", "cpu", cpu))


def changed() -> Iterator[tuple[Path, str]]:
    """The pages whose tables aren't those of the stored results, and what they ought to be."""
    pages: dict[Path, str] = {}
    for place in PLACES:
        pages[place.page] = place.filled(pages.get(place.page, place.page.read_text()))
    yield from ((page, text) for page, text in pages.items() if text != page.read_text())


if __name__ == "__main__":
    for page, text in changed():
        page.write_text(text)
        print(f"{page.relative_to(ROOT)}: written")
