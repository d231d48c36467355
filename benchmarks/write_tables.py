"""The tables of the documentation, from stored results: `python benchmarks/write_tables.py` writes them anew.

A table stands between `<!-- begin NAME: ... -->` and `<!-- end NAME -->`. A test compares each with what comes out
here, so that no figure in the documentation is another than the one that was measured.
"""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_measure import FASTER, OF_EVALUATE
from bench_table import milliseconds

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CPU = RESULTS / "2026-11-27-cpu-zen5.json"
_H200 = ("2026-11-26-cuda-h200.json", "2026-11-27-cuda-h200.json")
_H200_COMMITS = ("d8530c3", "66021e1", "e633829", "4fbac66")


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
        """The figures in one run; nothing where it has none."""
        rows = [_row(run, title, variant) for title in self.tables for variant in self.variants]
        return "; ".join(self.figure(row) for row in rows if row)


def _row(run: dict[str, Any], title: str, variant: str) -> dict[str, Any]:
    rows = next(table["rows"] for table in run["tables"] if table["title"] == title)
    found: dict[str, Any] = next((row for row in rows if row["variant"].startswith(variant)), {})
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
    _Gpu("batch 64, with MNIST's images", (_FULL,), ('fpes, full, binomial, "boundary", MNIST images',), _of_peak),
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
    stored = {run["commit"]: run for name in _H200 for run in json.loads((RESULTS / name).read_text())["runs"]}
    runs = [stored[commit] for commit in _H200_COMMITS]
    rows = [[row.label, *(row.cell(run) for run in runs)] for row in _GPU_ROWS]
    return _markdown(["", *_H200_COMMITS], rows)


# --- The CPU ----------------------------------------------------------------------------------------------------------


def _measured(stored: dict[str, Any]) -> list[str]:
    """When and on what, as a sentence above a table."""
    machine = stored["machine"]
    peak = statistics.median(benchmark["extra_info"]["peak_gflops"] for benchmark in stored["benchmarks"])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if name != "fpes")
    sentence = (
        f"Measured on {stored['datetime'][:10]}, commit {machine['commit']}: {machine['processor']}; "
        f"{machine['threads']} threads, {machine['isa']}; multiply-add peak {peak:.0f} GFLOP/s, memory "
        f"{machine['bandwidth'] / 1e9:.1f} GB/s; {machine['compiler'].partition(' -')[0]}, {packages}."
    )
    return [*textwrap.wrap(sentence, 120), ""]


def cpu() -> list[str]:
    """A row for each benchmark of `fpes bench`."""
    stored = json.loads(CPU.read_text())
    benchmarks, rows = stored["benchmarks"], []
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
    return _measured(stored) + _markdown(
        ["case", "", "ms", "quartiles", "cold", "% of peak", "fpes is faster by"], rows
    )


@dataclass(frozen=True)
class _Cpu:
    """A row of the overview.

    Args:
        label: of the row.
        group, variant: of the benchmark.
    """

    label: str
    group: str
    variant: str

    def cells(self, benchmarks: Sequence[dict[str, Any]]) -> list[str]:
        """Its figures, and what is known of others on the same case."""
        infos = [benchmark["extra_info"] for benchmark in benchmarks if benchmark["group"] == self.group]
        ours = next(info for info in infos if info["variant"] == f"fpes{self.variant}")
        speed = ours.get("member_samples_per_second")
        against = [f"{name} x {info[FASTER]:#.3g}" for info in infos if (name := self.peer(info)) is not None]
        if OF_EVALUATE in ours:
            against.append(f"{ours[OF_EVALUATE]:.2f} times the time of `evaluate`")
        return [
            self.label,
            "" if speed is None else f"{speed:.1e}".replace("e+0", "e"),
            "void" if ours["void"] else f"{100 * ours['fraction_of_peak']:.0f} %",
            ", ".join(against),
        ]

    def peer(self, info: dict[str, Any]) -> str | None:
        """The name of a peer, if the row is one of the same family."""
        name, comma, family = info["variant"].partition(", low rank ")
        name = {"numpy": "NumPy", "torch": "PyTorch"}.get(name, name)
        return name if FASTER in info and f"{comma}{family}" in (self.variant, "") else None


_BATCH_64, _BATCH_256, _BATCH_8, _GRADIENT_128, _GRADIENT_8 = (
    f"{what}{_NET}, population 512, batch {batch}"
    for what, batch in (("", 64), ("", 256), ("", 8), ("gradient after ", 128), ("gradient after ", 8))
)
_CPU_ROWS = (
    _Cpu("full rank, batch 64", _BATCH_64, ", full"),
    _Cpu("full rank, batch 256", _BATCH_256, ", full"),
    _Cpu("low rank 1, batch 8", _BATCH_8, ", low rank 1"),
    _Cpu("low rank 4, batch 8", _BATCH_8, ", low rank 4"),
    _Cpu("node, batch 8", _BATCH_8, ", node"),
    _Cpu("gradient of full rank, batch 128", _GRADIENT_128, ", full, ranks"),
    _Cpu("gradient of low rank 1, from centred ranks", _GRADIENT_128, ", low rank 1, ranks"),
    _Cpu("gradient of low rank 1, from floats", _GRADIENT_128, ", low rank 1, floats"),
    _Cpu("gradient of low rank 4, from centred ranks", _GRADIENT_128, ", low rank 4, ranks"),
    _Cpu("gradient of low rank 4, from floats", _GRADIENT_128, ", low rank 4, floats"),
    _Cpu("gradient of node, batch 8", _GRADIENT_8, ", node, floats"),
    _Cpu("`gemm` 8192x512x512", "gemm 8192x512x512", ""),
)


def overview() -> list[str]:
    """The rows of `fpes bench` that say most."""
    stored = json.loads(CPU.read_text())
    rows = [row.cells(stored["benchmarks"]) for row in _CPU_ROWS]
    headings = ["evaluation", "member-samples a second", "of the multiply-add peak", "fpes against others"]
    return _measured(stored) + _markdown(headings, rows)


# --- Training ---------------------------------------------------------------------------------------------------------


def _runs(preset: str) -> tuple[int, list[dict[str, Any]]]:
    """The threads, and the seeds, of a preset's last results of store_runs.py."""
    stored = _newest(preset)
    return stored["machine"]["threads"], [seed for seed in stored["seeds"] if seed["preset"] == preset]


def _mean(accuracies: Sequence[dict[str, float]], digits: int = 1) -> list[str]:
    """Of train and test, in %."""
    return [f"{100 * sum(a[part] for a in accuracies) / len(accuracies):.{digits}f}" for part in ("train", "test")]


def _by_seed(accuracies: Sequence[dict[str, float]], digits: int = 1) -> str:
    return "  ".join(f"{100 * a['test']:.{digits}f}" for a in accuracies)


def _controls(seeds: Sequence[dict[str, Any]], name: str) -> list[dict[str, float]]:
    return [next(control for control in seed["controls"] if name in control["name"]) for seed in seeds]


def _seconds(seeds: Sequence[dict[str, Any]]) -> str:
    """Of a seed."""
    return f"{sum(seed['seconds'] for seed in seeds) / len(seeds):.0f} seconds"


def _bold(cells: Sequence[str]) -> list[str]:
    return [f"**{cell}**" for cell in cells]


def mnist_es() -> list[str]:
    """The network of 2017: means over the seeds, beside what was published."""
    threads, seeds = _runs("mnist-es")
    trained = ["ES with underflow, `fpes train --preset mnist-es`", *_mean([seed["trained"] for seed in seeds], 2)]
    rows = [
        ["backprop: a linear classifier", *_mean([seed["backprop"] for seed in seeds])],
        ["ES with underflow on GPUs, OpenAI 2017", "> 99", "96.7"],
        _bold(trained),
        ["the same weights without flushing", *_mean(_controls(seeds, "never"))],
    ]
    heading = f"mean of {len(seeds)} seeds, each {_seconds(seeds)} on {threads} CPU cores"
    return _markdown([heading, "train, %", "test, %"], rows)


def digits() -> list[str]:
    """What `make run` shows."""
    _, seeds = _runs("digits")

    def row(label: str, accuracies: Sequence[dict[str, float]]) -> list[str]:
        return [label, *_mean(accuracies), _by_seed(accuracies)]

    never = _controls(seeds, "never")
    for name in ("float64", "one matrix"):
        if _by_seed(_controls(seeds, name), 4) != _by_seed(never, 4):
            raise ValueError(f"{name} differs from flush never: they need a row each")
    rows = [
        row("backprop: linear", [seed["backprop"] for seed in seeds]),
        _bold(row("ES on every weight: flush `boundary`", [seed["trained"] for seed in seeds])),
        row("the same weights, flush `never`, in float64, or collapsed into one matrix", never),
        row("the same weights, flush `always`", _controls(seeds, "always")),
    ]
    heading = f"UCI digits at 4x4 pixels, 16-64-64-10, mean of {len(seeds)} seeds"
    return _markdown([heading, "train, %", "test, %", "test, by seed"], rows)


def mnist() -> list[str]:
    """The presets of MNIST whose runs are stored."""
    rows = []
    for preset in ("mnist-es", "mnist-node"):
        threads, seeds = _runs(preset)
        trained = [seed["trained"] for seed in seeds]
        label = f"`{preset}`, {_seconds(seeds)} a seed on {threads} CPU cores"
        rows.append([label, *_mean(trained, 2), _by_seed(trained, 2)])
    return _markdown(["MNIST, by `fpes train --preset ... --seeds 3`", "train, %", "test, %", "test, by seed"], rows)


# --- Several processes ------------------------------------------------------------------------------------------------


_WAYS = ("1 worker", "2 workers", "1 actor", "2 actors", "1 rank", "2 ranks")


@dataclass(frozen=True)
class _Shared:
    """A case of sharing.py, with the model of docs/machines.md: W ranks take E / W + R.

    Args:
        row: its figures, times in milliseconds.
    """

    row: dict[str, Any]

    @property
    def name(self) -> str:
        """With commas in the number of members."""
        family, _, members = self.row["case"].rpartition(", ")
        return f"{family}, {int(members):,}"

    @property
    def shared(self) -> float:
        """E: what ranks divide."""
        gradient = self.row["gradient"] if self.row["exchanged"] else 0.0
        return float(self.row["evaluate"] + gradient)

    def times(self) -> list[str]:
        """Of each way to run it."""
        columns = ("generation", "evaluate", "gradient", *_WAYS)
        return [self.name, *(_three_digits(self.row[column]) for column in columns if column in self.row)]

    def model(self, weight: dict[str, Any]) -> list[str]:
        """What a worker's and the ranks' messages weigh, and what two ranks take, predicted and measured.

        Args:
            weight: bytes to and from two workers.
        """
        row, own = self.row, self.row["1 rank"] - self.shared
        predicted, own_of_two = self.shared / 2 + own, row["2 ranks"] - self.shared / 2
        return [
            self.name,
            f"{_bytes(weight['sent'] / 2)} + {_bytes(weight['received'] / 2)}",
            _bytes(weight["replayed"] / 2) if weight["replayed"] < weight["sent"] / 2 else "sent",
            _bytes(row["fitness bytes"]),
            _bytes(row["sum bytes"]) if row["exchanged"] else "none",
            _three_digits(predicted),
            _three_digits(row["2 ranks"]),
            f"{row['2 ranks'] - predicted:.1f}",
            f"{ranks:.0f}" if (ranks := self.shared / own_of_two) >= 1.5 else "none",
        ]


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def sharing_times() -> list[str]:
    """Milliseconds of a generation, for each number of processes."""
    return _times("sharing-*")


def actors_times() -> list[str]:
    """The same, with actors of Ray."""
    return _times("actors-*")


def _times(name: str) -> list[str]:
    stored = _newest(name)
    rows = [_Shared(row) for row in stored["rows"]]
    headings = ["family, members", "one process", "of this, evaluation", "gradient"]
    ways = [way for way in _WAYS if way in stored["rows"][0]]
    table = _markdown([*headings, *ways], [row.times() for row in rows])
    return [*_two_cores(stored), "", *table]


def _two_cores(stored: dict[str, Any]) -> list[str]:
    """When, and on which machine."""
    machine = stored["machine"]
    sentence = (
        f"Measured on {stored['date']}, commit {machine['commit']}: two cores of an {machine['processor']}, "
        f"{machine['isa']}."
    )
    return textwrap.wrap(sentence, 120)


def sharing_model() -> list[str]:
    """What the model says of two ranks, and how far the family scales."""
    headings = ["family, members", "a worker's bytes, to + from", "to, with replays"]
    headings += ["fitness, all ranks", "sums", "2 ranks, predicted"]
    weights = {row["case"]: row for row in _newest("bytes")["rows"]}
    rows = [_Shared(row).model(weights[row["case"]]) for row in _newest("sharing-*")["rows"]]
    return _markdown([*headings, "measured", "error", "ranks at E = R"], rows)


def links() -> list[str]:
    """Milliseconds of a generation, with theta sent and with steps replayed, over links of different speeds."""
    stored = _newest("links-*")
    rows = [
        [row["case"], row["link"], str(row["workers"]), _three_digits(row["sent"]), _three_digits(row["replayed"])]
        for row in stored["rows"]
    ]
    table = _markdown(["family, members", "link of each worker", "workers", "theta sent", "steps replayed"], rows)
    return [*_two_cores(stored), "", *table]


# --- Everything -------------------------------------------------------------------------------------------------------


def _newest(name: str) -> dict[str, Any]:
    """The last results of this name, a pattern of glob: files begin with their day."""
    stored: dict[str, Any] = json.loads(sorted(RESULTS.glob(f"????-??-??-{name}.json"))[-1].read_text())
    return stored


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in ([*headings], ["---"] * len(headings), *rows)]


PLACES = (
    Place(ROOT / "docs" / "cuda.md", "h200", h200),
    Place(ROOT / "docs" / "benchmarks.md", "overview", overview),
    Place(ROOT / "docs" / "benchmarks.md", "cpu", cpu),
    Place(ROOT / "docs" / "machines.md", "sharing", sharing_times),
    Place(ROOT / "docs" / "machines.md", "sharing-model", sharing_model),
    Place(ROOT / "docs" / "machines.md", "actors", actors_times),
    Place(ROOT / "docs" / "machines.md", "links", links),
    Place(ROOT / "docs" / "training.md", "digits", digits),
    Place(ROOT / "docs" / "training.md", "mnist", mnist),
    Place(ROOT / "README.md", "mnist-es", mnist_es),
)


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
