"""How a benchmark measures.

The machine's peak is measured before and after each round of a benchmark, and each round of a peer is preceded by a run
of fpes on the same case. So every fraction and every ratio is taken within a second, on the same threads: other tenants
of the machine disturb both sides alike. Medians over the rounds are reported. Where the two peaks around a round differ
by more than a tenth, in half of the rounds, the machine was another one before than after, and the fraction is void.

A call finds its data where the round before has left them: hot. Rows of fpes are measured cold as well, with all caches
written over before each call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench_load import ProcessorWatch
from bench_machine import Caches

import fpes
from fpes import _cpu, _settings

_PEAK_STEPS = 200_000  # some 5 ms
_PEAK_RUNS = 4
_VOID = 0.9  # the smaller of the peaks around a round, over the larger
_SETTLE_SECONDS = 0.1  # threads of other libraries spin a while after a call, OpenBLAS's for 26 ms at 2.6 GHz
_COLD_ROUNDS = 3
# Names of ratios of times, and how the table heads them.
FASTER, OF_EVALUATE, OF_ALL_THREADS = "fpes_is_faster_by", "share_of_evaluate", "times_that_of_all_threads"
RATIOS = {
    FASTER: "fpes is\nfaster by",
    OF_EVALUATE: "time, of\nevaluate's",
    OF_ALL_THREADS: "times that of\nall threads",
}


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
        moved_bytes: float | None = None,
        member_samples: int | None = None,
        flush: str | None = None,
        ours: Callable[[], object] | None = None,
        ratio: str = FASTER,
        rounds: int = 5,
    ) -> None:
        """Time `call`, and `ours` before each round, if given; `ratio` says what their quotient is called.

        Args:
            group: the heading of the table that the row is in.
            variant: what the row is called.
            call: what is timed.
            flops: its operations.
            needed_flops: without those that all members share.
            moved_bytes: of what it reads and writes, each once: the least that memory has to move.
            member_samples: of a population.
            flush: the mode, where there is one.
            ours: fpes on the same case, where `call` is a peer's.
            ratio: what their quotient is called.
            rounds: so many of them.
        """
        rows = _Rounds(ours)
        self.benchmark.group = group
        self.benchmark.name = variant if flush is None else f"{variant}, {flush}"
        self.benchmark.pedantic(call, setup=rows.before, rounds=rounds, iterations=1, warmup_rounds=1)
        rows.end()
        info = self.benchmark.extra_info
        info.update(variant=variant, flush=flush, flops=flops, moved_bytes=moved_bytes)
        times = list(self.benchmark.stats.stats.data)
        info.update(rows.found(times, flops, needed_flops or flops, ratio))
        if ours is None or ratio != FASTER:  # fpes, and no peer
            info["cold_seconds"] = _cold(call)
        if member_samples is not None:
            info["member_samples_per_second"] = member_samples / statistics.median(times)


class _Rounds:
    """What is measured around each round."""

    def __init__(self, ours: Callable[[], object] | None) -> None:
        self.ours = ours
        self.peaks_before: list[float] = []
        self.peaks_after: list[float] = []
        self.our_times: list[float] = []
        self.watch = ProcessorWatch()

    def before(self) -> None:
        """At the beginning of a round, which is the end of the one before."""
        self.watch.stop()
        time.sleep(_SETTLE_SECONDS)
        if self.peaks_before:
            self.peaks_after.append(measure_peak())
        self.peaks_before.append(measure_peak())  # also wakes the processor, for both that come
        if self.ours is not None:
            self.our_times.append(timed(self.ours))
        self.watch.start()

    def end(self) -> None:
        """After the last round."""
        self.watch.stop()
        time.sleep(_SETTLE_SECONDS)
        self.peaks_after.append(measure_peak())

    def found(self, times: list[float], flops: float, needed_flops: float, ratio: str) -> dict[str, object]:
        """Fractions and ratios, and whether they mean anything; times are those of all rounds but the warm-up."""
        rounds = slice(-len(times), None)
        around = list(zip(self.peaks_before[rounds], self.peaks_after[rounds], strict=True))
        peaks = [max(both) for both in around]
        fraction = statistics.median(flops / t / peak for t, peak in zip(times, peaks, strict=True))
        found = {
            "gflops": flops / statistics.median(times) / 1e9,
            "peak_gflops": statistics.median(peaks) / 1e9,
            "fraction_of_peak": fraction,
            "fraction_of_peak_needed": fraction * needed_flops / flops,
            "isa": fpes.get_isa(),
            "threads": fpes.get_threads(),
            "processor_share": self.watch.share(len(times)),
            "void": statistics.median(min(both) / max(both) for both in around) < _VOID,
        }
        if self.our_times:
            ours = self.our_times[rounds]
            found[ratio] = statistics.median(t / o for t, o in zip(times, ours, strict=True))
        return found


def _cold(call: Callable[[], object]) -> float:
    """Seconds of a call that finds nothing in the caches: the median of a few."""
    caches = Caches()

    def once() -> float:
        caches.flush()
        return timed(call)

    return statistics.median(once() for _ in range(_COLD_ROUNDS))
