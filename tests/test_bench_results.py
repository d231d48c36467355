"""Results of the benchmarks: what counts as a difference, and the documentation's tables of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fpes import plots
from fpes.cli import bench_results
from fpes.cli.bench_results import Results, Row, changes, check_same_machine, kernels, print_changes

ROOT = Path(__file__).parent.parent
MACHINE = {"processor": "Z80", "caches": {}, "threads": 2, "isa": "baseline", "bandwidth": 2e10}


def row(name="fpes", seconds=1.0, spread=0.0, fraction=0.5, **info) -> Row:
    return Row("gemm", name, seconds, spread, fraction, {"gflops": 100.0, "peak_gflops": 200.0, **info})


def change(before: Row, after: Row) -> bench_results.Change:
    return next(changes(Results(MACHINE, [before]), Results(MACHINE, [after])))


@pytest.mark.parametrize(
    ("before", "after", "ratio", "verdict"),
    [
        # In multiples of what the peak would take: twice the time at half the peak is the same kernel.
        (row(seconds=1.0, fraction=0.5), row(seconds=2.0, fraction=0.5), 1.0, ""),
        (row(seconds=1.0, fraction=0.5), row(seconds=1.0, fraction=0.25), 2.0, "slower"),
        (row(fraction=0.5), row(fraction=0.6), 0.5 / 0.6, "faster"),
        # Void: times are all that there is.
        (row(seconds=1.0, fraction=None), row(seconds=3.0), 3.0, "slower"),
        (row(seconds=1.0), row(seconds=0.5, fraction=None), 0.5, "faster"),
        # Noise: the spread of both, and 2 % at least.
        (row(spread=0.3), row(fraction=0.4, spread=0.4), 1.25, ""),
        (row(spread=0.03), row(fraction=0.4, spread=0.04), 1.25, "slower"),
        (row(fraction=0.500), row(fraction=0.495), 0.5 / 0.495, ""),
        (row(fraction=0.500), row(fraction=0.485), 0.5 / 0.485, "slower"),
    ],
)
def test_what_is_beyond_noise(before, after, ratio, verdict):
    found = change(before, after)
    assert found.ratio == pytest.approx(ratio)
    assert found.verdict == verdict


def test_only_what_both_have_is_compared():
    before, after = Results(MACHINE, [row("a"), row("b")]), Results(MACHINE, [row("b"), row("c")])
    assert [found.after.name for found in changes(before, after)] == ["b"]
    console = Console(record=True, width=118)
    print_changes(console, before, after)
    assert "1 rows have nothing to compare with" in " ".join(console.export_text().split())


@pytest.mark.parametrize("name", ["processor", "caches", "threads", "isa"])
def test_another_machine(name):
    check_same_machine(Results(MACHINE, []), MACHINE, Path("before.json"))
    with pytest.raises(ValueError, match=f"before.json is from another machine: {name} .* and not 'other'"):
        check_same_machine(Results(MACHINE, []), {**MACHINE, name: "other"}, Path("before.json"))


def test_a_roofline_has_the_kernels_whose_bytes_are_known(tmp_path):
    rows = [
        row("fpes", flops=1e9, moved_bytes=1e7),
        row("numpy", flops=1e9, moved_bytes=1e7),
        row("fpes, b", flops=1e9),
    ]
    found = kernels(Results(MACHINE, rows))
    assert [(kernel.name, kernel.intensity, kernel.gflops, kernel.peak) for kernel in found] == [
        ("gemm, fpes", 100.0, 100.0, 200.0)
    ]
    plots.roofline(MACHINE, found, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="there is nothing to draw"):
        plots.roofline(MACHINE, [], tmp_path / "roof.png")


def test_tables_of_the_documentation_are_what_was_measured(monkeypatch):
    """Where results are new: `python benchmarks/write_tables.py` writes the tables."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("write_tables")
    try:
        assert [str(page) for page, _ in tables.changed()] == []
        place = tables.PLACES[0]
        text = place.page.read_text()
        assert place.filled(text.replace("| 1.01 |", "| 1.02 |")) == text
        with pytest.raises(ValueError, match="has no <!-- begin h200"):
            place.filled("no table")
    finally:
        sys.modules.pop("write_tables")
