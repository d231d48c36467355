"""Results of the benchmarks: what counts as a difference, and the documentation's tables of them."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

import fpes
from fpes.cli import bench_results, roofline
from fpes.cli.bench_results import Kernel, Results, Row, changes, check_same_machine, kernels, print_changes
from fpes.cli.commands import cli as command
from fpes.presets import PRESETS
from fpes.themes import DARK, LIGHT, THEMES, figure

ROOT = Path(__file__).parent.parent
MACHINE = {"processor": "Z80", "caches": {}, "threads": 2, "isa": "baseline", "bandwidth": 2e10, "commit": ""}


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
        row("fpes", flops=1e9, moved_bytes=1e7, variant="fpes", flush="boundary"),
        row("numpy", flops=1e9, moved_bytes=1e7, variant="numpy", flush=None),
        row("fpes, b", flops=1e9, variant="fpes, b", flush=None),
    ]
    found = kernels(Results(MACHINE, rows))
    assert found == [Kernel("gemm", "fpes", intensity=100.0, gflops=100.0, peak=200.0, fraction=0.5)]
    roofline.write(MACHINE, found, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="there is nothing to draw"):
        kernels(Results(MACHINE, rows[1:]))


def test_kernels_are_told_from_each_other_by_their_modes_where_there_are_several():
    names = [("fpes, full", "never"), ("fpes, full", "always"), ("fpes", None)]
    rows = [
        row(", ".join(filter(None, name)), flops=1.0, moved_bytes=1.0, variant=name[0], flush=name[1]) for name in names
    ]
    assert [kernel.name for kernel in kernels(Results(MACHINE, rows))] == ["full, never", "full, always", "fpes"]


def drawn_roofline(*found: Kernel, theme=LIGHT):
    return figure(lambda f, t: roofline.draw(f, t, MACHINE, found), roofline.size(found), theme)


def kernel(name, intensity=100.0, gflops=100.0, fraction: float | None = 0.5, group="gemm") -> Kernel:
    return Kernel(group, name, intensity, gflops, 200.0, fraction)


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_what_a_roofline_shows(theme):
    """The roofs are 200 GFLOP/s and 20 GB/s, and meet at 10 operations a byte."""
    held, void = kernel("held", 2.0, 30.0, fraction=0.15), kernel("void", fraction=None)
    drawn = drawn_roofline(held, void, kernel("fast", gflops=300.0, fraction=1.5), theme=theme)
    chart, names = drawn.axes
    assert drawn._suptitle.get_text() == "Memory limits 1 of 3 kernels; 1 passes the multiply-add peak"
    assert texts(chart) == ["multiply-adds: 200 GFLOP/s", "memory:\n20.0 GB/s", "1", "2", "3"]
    (roof,) = chart.get_lines()
    assert roof.get_xdata()[1] == 10.0
    assert list(roof.get_ydata()[1:]) == [200.0, 200.0]
    # 30 GFLOP/s of the 40 that memory allows.
    listed = texts(names)
    assert [listed[listed.index(name) + 1] for name in ("held", "void", "fast")] == ["75 %", "void", "150 %"]
    filled = [points.get_facecolor()[0][:3].tolist() for points in chart.collections]
    assert filled[1] == pytest.approx(to_rgb(theme.ground))
    assert filled[0] == filled[2] == pytest.approx(to_rgb(theme.series[0]))


def test_no_two_numbers_of_a_roofline_lie_on_each_other():
    """Where all kernels are in one place, and on the roof."""
    drawn = drawn_roofline(*(kernel(str(number), 100.0 + number, 200.0) for number in range(12)))
    boxes = [Text.get_window_extent(text) for text in drawn.axes[0].texts]  # without the line that leads there
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_no_two_texts_of_the_stored_roofline_lie_on_each_other():
    results = bench_results.read(ROOT / "benchmarks" / "results" / "2026-11-27-cpu-zen5.json")
    found = kernels(results)
    drawn = figure(lambda f, t: roofline.draw(f, t, results.machine, found), roofline.size(found), DARK)
    written = [text for axes in drawn.axes for text in axes.texts]
    # Without the lines that lead to points.
    boxes = [Text.get_window_extent(text) for text in (*written, drawn._suptitle, drawn._supxlabel)]
    assert len(boxes) > 60
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def drawn_by(picture: Path) -> str:
    """The version of matplotlib: another one draws letters a little differently."""
    with Image.open(picture) as image:
        return image.info["Software"]


def test_pictures_of_the_documentation_are_of_the_stored_results(scripts, tmp_path):
    """Where results are new: `python benchmarks/write_pictures.py` draws them."""
    pictures = scripts("write_pictures")
    drawn = pictures.write(tmp_path)
    assert [path.name for path in drawn[:2]] == ["roofline-light.png", "roofline-dark.png"]
    for path in drawn:
        stored = pictures.PICTURES / path.name
        assert stored.exists()
        if drawn_by(stored) == drawn_by(path):
            assert stored.read_bytes() == path.read_bytes(), path.name


def test_tables_of_the_documentation_are_what_was_measured(scripts):
    """Where results are new: `python benchmarks/write_tables.py` writes the tables."""
    tables = scripts("write_tables")
    assert [str(page) for page, _ in tables.changed()] == []
    names = ["h200", "overview", "cpu", "sharing", "sharing-model", "actors", "links", "digits", "mnist", "mnist-es"]
    assert [place.name for place in tables.PLACES] == names
    place = tables.PLACES[0]
    text = place.page.read_text()
    assert place.filled(text.replace("| 1.01 |", "| 1.02 |")) == text
    with pytest.raises(ValueError, match="has no <!-- begin h200"):
        place.filled("no table")


def test_figures_of_pytorch_are_those_of_the_older_results():
    """What the page says in a sentence, since no later results have it."""
    page = " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
    text = (ROOT / "benchmarks" / "results" / "2026-11-24-cpu-zen4.txt").read_text()
    rows = [
        line.strip("│ ").split("│") for line in text.splitlines() if line.startswith(("│ PyTorch, baddbmm", "│ torch"))
    ]
    _square, product, small, large = (row[-1].strip() for row in rows[:4])
    assert f"{small} times faster than its `baddbmm` at batch 64 and {large} times at batch 256" in page
    assert f"`gemm` 8192x512x512 was {product} times faster" in page


def test_rows_of_the_ablation_are_populations(scripts):
    """Each takes as many evaluations as the others, to a hundredth."""
    script, net = scripts("one_unit"), fpes.LinearNetwork([784, 512, 512, 10])
    theta = net.init(0)
    evaluations = []
    for row in script.rows():
        population = fpes.Population(net, theta, size=script.sized(row), sigma=row.sigma, perturbation=row.perturbation)
        evaluations.append(population.size * row.batch)
    assert len(evaluations) == 9
    assert max(evaluations) <= 1.01 * min(evaluations)


@pytest.fixture
def scripts(monkeypatch):
    """What is in benchmarks/, by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("write_tables", "store_runs", "write_pictures", "one_unit")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def trained(folder: Path, *options: str) -> Path:
    """A folder with a run of the preset digits."""
    result = CliRunner().invoke(command, ["train", "--no-plot", "--quiet", "--output", str(folder), *options])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def quick_preset(monkeypatch):
    """The preset digits, of three generations."""
    monkeypatch.setitem(PRESETS, "digits", replace(PRESETS["digits"], steps=3, size=32, baseline_steps=30))


def test_runs_are_stored(scripts, quick_preset, tmp_path, monkeypatch):
    script = scripts("store_runs")
    runs = [trained(tmp_path / "b", "--seed", "4", "--seeds", "1"), trained(tmp_path / "a", "--seeds", "2")]
    target = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["store_runs.py", *map(str, runs), "--out", str(target)])
    script.main()
    found = json.loads(target.read_text())
    assert {"processor", "threads", "isa", "commit"} <= set(found["machine"])
    want = [seed for run in reversed(runs) for seed in json.loads((run / "result.json").read_text())["seeds"]]
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1, 4]
    for seed, whole in zip(found["seeds"], want, strict=True):
        assert seed["preset"] == "digits"
        assert seed["date"].startswith("20")
        assert {name: seed[name] for name in seed if name not in ("preset", "date")}.items() <= whole.items()
        assert seed["seconds"] > 0


def test_runs_that_are_not_stored(scripts, quick_preset, tmp_path):
    script = scripts("store_runs")
    run = trained(tmp_path / "a", "--seeds", "1")
    with pytest.raises(ValueError, match="two runs of digits have seed 0"):
        script.stored([run, run])
    with pytest.raises(ValueError, match="other settings than preset digits: steps 2 and not 3"):
        script.stored([trained(tmp_path / "b", "--seeds", "1", "--steps", "2")])
    result = json.loads((run / "result.json").read_text())
    result["seeds"][0]["backprop"] = None
    (run / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="seed 0 is not finished and compared"):
        script.stored([run])
    with pytest.raises(FileNotFoundError):
        script.stored([tmp_path / "nowhere"])


def test_the_table_of_the_network_of_2017_has_means_over_the_seeds_of_the_last_results(scripts, tmp_path, monkeypatch):
    script = scripts("write_tables")
    monkeypatch.setattr(script, "RESULTS", tmp_path)

    def seed(train, test, preset="mnist-es"):
        never = {"name": 'flush "never"', "train": train / 2, "test": test / 2}
        other = {"name": "float64", "train": 0.0, "test": 0.0}
        trained = {"train": train, "test": test}
        return {
            "preset": preset,
            "trained": trained,
            "backprop": {"train": 0.5, "test": 0.25},
            "controls": [other, never],
            "seconds": 70 + 20 * train,
        }

    (tmp_path / "2025-01-01-mnist-es.json").write_text("not this one")
    seeds = [seed(0.9, 0.8), seed(1.0, 0.9), seed(0.0, 0.0, "digits")]
    (tmp_path / "2026-01-01-mnist-es.json").write_text(json.dumps({"machine": {"threads": 2}, "seeds": seeds}))
    assert script.mnist_es() == [
        "| mean of 2 seeds, each 89 seconds on 2 CPU cores | train, % | test, % |",
        "| --- | --- | --- |",
        "| backprop: a linear classifier | 50.0 | 25.0 |",
        "| ES with underflow on GPUs, OpenAI 2017 | > 99 | 96.7 |",
        "| **ES with underflow, `fpes train --preset mnist-es`** | **95.00** | **85.00** |",
        "| the same weights without flushing | 47.5 | 42.5 |",
    ]
