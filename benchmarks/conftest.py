"""How the benchmarks measure, and the table that they print.

The machine's peak is measured before and after each round of a benchmark, and each round of a peer is preceded by a run
of fpes on the same case. So every fraction and every ratio is taken within a second, on the same threads: other tenants
of the machine disturb both sides alike. Medians over the rounds are reported. Where the two peaks around a round differ
by more than a tenth, in half of the rounds, the machine was another one before than after, and the fraction is void.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import pytest
from bench_load import ProcessorWatch, percent, warn_of_load
from rich.console import Console
from rich.table import Table

import fpes
from fpes import _cpu, _settings

_PEAK_STEPS = 200_000  # some 5 ms
_PEAK_RUNS = 4
_VOID = 0.9  # the smaller of the peaks around a round, over the larger
_SETTLE_SECONDS = 0.1  # threads of other libraries spin a while after a call, OpenBLAS's for 26 ms at 2.6 GHz
# Names of ratios of times, and how the table heads them.
FASTER, OF_EVALUATE, OF_ALL_THREADS = "fpes_is_faster_by", "share_of_evaluate", "times_that_of_all_threads"
_RATIOS = {
    FASTER: "fpes is faster by",
    OF_EVALUATE: "time, of evaluate's",
    OF_ALL_THREADS: "times that of all threads",
}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="more networks and families, half an hour")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: measured with --long only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    kept = [item for item in items if item.get_closest_marker("long") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    del machine_info["node"]  # the host's name is nobody's business


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config, benchmarks, output_json):
    """What was compared: the commit that pytest-benchmark notes is that of the current folder, whatever it is."""
    names = ("fpes", "numpy", "torch", "jax")
    output_json["packages"] = {name: version(name) for name in names if find_spec(name) is not None}


def measure_peak() -> float:
    """Operations a second of multiply-adds without memory, now: the best of a few, for what disturbs can only slow."""

    def once() -> float:
        start = time.perf_counter()
        multiply_adds = _cpu.multiply_add_chains(_settings.execution(), False, _PEAK_STEPS)
        return 2.0 * multiply_adds / (time.perf_counter() - start)

    return max(once() for _ in range(_PEAK_RUNS))


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Measure:
    """Runs one benchmark and notes what the table shows."""

    def __init__(self, benchmark):
        self.benchmark = benchmark

    def __call__(
        self,
        group: str,
        variant: str,
        call: Callable[[], object],
        *,
        flops: float,
        needed_flops: float | None = None,
        member_samples: int | None = None,
        ours: Callable[[], object] | None = None,
        ratio: str = FASTER,
        rounds: int = 5,
    ) -> None:
        """Time `call`, and `ours` before each round, if given; `ratio` says what their quotient is called."""
        peaks_before: list[float] = []
        peaks_after: list[float] = []
        our_times: list[float] = []
        watch = ProcessorWatch()

        def before() -> None:
            watch.stop()
            time.sleep(_SETTLE_SECONDS)
            if peaks_before:
                peaks_after.append(measure_peak())
            peaks_before.append(measure_peak())  # also wakes the processor, for both that come
            if ours is not None:
                our_times.append(timed(ours))
            watch.start()

        self.benchmark.group = group
        self.benchmark.name = variant
        self.benchmark.pedantic(call, setup=before, rounds=rounds, iterations=1, warmup_rounds=1)
        watch.stop()
        time.sleep(_SETTLE_SECONDS)
        peaks_after.append(measure_peak())
        times = list(self.benchmark.stats.stats.data)
        rounds_of = slice(-len(times), None)  # without the warm-up
        around = list(zip(peaks_before[rounds_of], peaks_after[rounds_of], strict=True))
        peaks, our_times = [max(both) for both in around], our_times[rounds_of]
        fraction = statistics.median(flops / t / peak for t, peak in zip(times, peaks, strict=True))
        info = self.benchmark.extra_info
        info.update(
            variant=variant,
            gflops=flops / statistics.median(times) / 1e9,
            peak_gflops=statistics.median(peaks) / 1e9,
            fraction_of_peak=fraction,
            fraction_of_peak_needed=fraction * (needed_flops or flops) / flops,
            isa=fpes.get_isa(),
            threads=fpes.get_threads(),
            processor_share=watch.share(len(times)),
            void=statistics.median(min(both) / max(both) for both in around) < _VOID,
        )
        if member_samples is not None:
            info["member_samples_per_second"] = member_samples / statistics.median(times)
        if our_times:
            info[ratio] = statistics.median(t / o for t, o in zip(times, our_times, strict=True))


@pytest.fixture
def measure(benchmark) -> Measure:
    """Times a call, its fraction of the peak, and its ratio to fpes."""
    return Measure(benchmark)


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    benchmarks = [b for b in session.benchmarks if b.extra_info] if session else []
    if not benchmarks:
        return
    console = Console(file=terminalreporter._tw._file, width=118, highlight=False)
    console.print()
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
    info = benchmarks[0].extra_info
    console.print(
        f"{info['isa']}, {info['threads']} threads, peak about {info['peak_gflops']:.0f} GFLOP/s, measured before and "
        "after each round; void where these differ by more than a tenth. +- is the interquartile range over the "
        "median; CPU is the part of the time that its threads could run in which they did. GFLOP/s and % of peak "
        "count the operations of the unperturbed network; 'needed' counts once what all members share."
    )


def _columns(benchmarks) -> list[tuple[str, Callable]]:
    """Headings of a group's table, and what stands below; columns that would be empty or the same are left out."""

    def number(name: str, form: str, factor: float = 1.0) -> Callable:
        return lambda b: form.format(factor * b.extra_info[name]) if name in b.extra_info else ""

    def of_peak(name: str) -> Callable:
        return lambda b: "void" if b.extra_info["void"] else number(name, "{:.0f}", 100)(b)

    columns = [
        ("", lambda b: b.extra_info["variant"]),
        ("ms", lambda b: f"{1e3 * b.stats.median:.1f}"),
        ("+-, %", lambda b: f"{100 * b.stats.iqr / b.stats.median:.0f}"),
        ("CPU, %", lambda b: percent(b.extra_info["processor_share"])),
        ("GFLOP/s", number("gflops", "{:.1f}")),
        ("% of peak", of_peak("fraction_of_peak")),
    ]
    infos = [b.extra_info for b in benchmarks]
    if any(info["fraction_of_peak"] != info["fraction_of_peak_needed"] for info in infos):
        columns.append(("needed, %", of_peak("fraction_of_peak_needed")))
    if any("member_samples_per_second" in info for info in infos):
        columns.append(("member-samples/s", number("member_samples_per_second", "{:.3g}")))
    columns += [(h, number(name, "{:.2f}")) for name, h in _RATIOS.items() if any(name in info for info in infos)]
    return columns
