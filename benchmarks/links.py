"""Theta sent against steps replayed, over links of different speeds: a table of docs/machines.md.

    python benchmarks/links.py --json FILE  # as root, on Linux with iproute2; needs the extra dask

The hosts are network namespaces of this machine, each with one worker of Dask, which has one thread. tc limits the link
to each host. The scheduler of Dask, and the process that trains, are on another host. Times are milliseconds of the
fastest generation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import namespaces_run
import sharing
from bench_machine import machine

from fpes.distributed import Workers, workers
from fpes.files import written_whole

LINKS = {"no limit": None, "10 Gbit/s": "10gbit", "1 Gbit/s": "1gbit"}
CASES = ("low rank, 512", "node of one layer, 512")
TURNS = 2  # of both ways, one after the other


def limit(rate: str, host: int) -> None:
    """The speed of the link to a host."""
    words = ("qdisc", "add", "dev", f"to{host}", "root", "tbf", "rate", rate, "burst", "256kb", "latency", "100ms")
    subprocess.run(["tc", *words], check=True)


def measure(link: str, count: int, case: str, steps: int) -> dict[str, Any]:
    """In a network namespace of its own: both ways, with so many workers."""
    namespaces_run.HOSTS = tuple(range(2, 2 + count))
    namespaces_run.connect()
    rate = LINKS[link]
    if rate is not None:
        for host in namespaces_run.HOSTS:
            limit(rate, host)
    from distributed import Client

    row: dict[str, Any] = {"case": case, "link": link, "workers": count}
    with namespaces_run.dask():
        client = Client(namespaces_run.SCHEDULER, timeout=60)
        client.wait_for_workers(count, timeout=60)
        executor = Workers(client.get_executor(pure=False), parts=count, threads=1)
        for _ in range(TURNS):
            for way, replays in (("sent", False), ("replayed", True)):
                workers.replay_pays = lambda *arguments, replays=replays: replays
                row[way] = min(row.get(way, float("inf")), round(1e3 * sharing.run(case, steps, executor), 3))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="generations of each measurement; the fastest counts")
    parser.add_argument("--json", type=Path, help="store the results there")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        warnings.simplefilter("ignore")
        link, count, case = options.one
        print(json.dumps(measure(link, int(count), case, options.steps)), flush=True)
        os._exit(0)  # the client, closed, would wait for its scheduler
    rows = []
    for case in CASES:
        for link in LINKS:
            for count in (1, 2):
                command = [
                    "unshare",
                    "--net",
                    "--mount",
                    sys.executable,
                    __file__,
                    "--steps",
                    str(options.steps),
                    "--one",
                ]
                done = subprocess.run([*command, link, str(count), case], stdout=subprocess.PIPE, text=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        stored = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": machine(), "rows": rows}
        with written_whole(options.json) as aside:
            aside.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
