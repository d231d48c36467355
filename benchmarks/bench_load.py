"""Whether the machine left a benchmark the processors that it needed.

A share of a processor that somebody else has makes a long call slower and a short burst, such as the measurement of the
peak, hardly: so a fraction of the peak, or a ratio to a peer, is then no property of the kernel.
"""

from __future__ import annotations

import statistics
from pathlib import Path

ENOUGH = 0.9
_TASKS = Path("/proc/self/task")


class ProcessorWatch:
    """For each round the time that the process's threads have run, over the time that they could have run.

    Linux counts both for every thread (/proc/self/task/*/schedstat). Elsewhere the share is not known.
    """

    def __init__(self) -> None:
        self.shares: list[float | None] = []
        self.since: tuple[int, int] | None = None
        self.running = False

    def start(self) -> None:
        """At the beginning of a round."""
        self.since, self.running = _nanoseconds(), True

    def stop(self) -> None:
        """At the end of a round, if one has begun."""
        if not self.running:
            return
        self.running, now = False, _nanoseconds()
        if self.since is None or now is None:
            self.shares.append(None)
            return
        ran, waited = (b - a for a, b in zip(self.since, now, strict=True))
        self.shares.append(ran / (ran + waited) if ran + waited > 0 else 1.0)

    def share(self, rounds: int) -> float | None:
        """The median of the last rounds; None where it isn't known."""
        known = [share for share in self.shares[-rounds:] if share is not None]
        return statistics.median(known) if known else None


def _nanoseconds() -> tuple[int, int] | None:
    """Spent running, and waiting for a processor, by the threads that there are."""
    try:
        counts = [(task / "schedstat").read_text().split() for task in _TASKS.iterdir()]
    except OSError:
        return None
    return sum(int(c[0]) for c in counts), sum(int(c[1]) for c in counts)


def percent(share: float | None) -> str:
    """For the table."""
    return "?" if share is None else f"{100 * share:.0f}"


def warn_of_load(console, rows) -> None:
    """Say which rows to doubt."""
    starved = [row for row in rows if (share := row.info["processor_share"]) is not None and share < ENOUGH]
    if starved:
        console.print(
            f"The machine was busy: {len(starved)} of {len(rows)} rows had a processor for less than "
            f"{100 * ENOUGH:.0f} % of the time that they could run (the column CPU). Their figures, fractions and "
            "ratios say little; measure again when nothing else runs.",
            style="bold yellow",
        )
