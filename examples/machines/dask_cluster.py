"""Workers of a Dask cluster: two on this machine, or those of a given scheduler.

python examples/machines/dask_cluster.py [tcp://SCHEDULER:8786]
"""

from __future__ import annotations

import sys
import zlib

from distributed import Client

import fpes


def main(scheduler: str | None) -> None:
    """Train a small network for a few generations."""
    net = fpes.LinearNetwork([16, 64, 64, 10])
    es = fpes.ES(net, net.init(seed=0), size=256, sigma=0.05, learning_rate=0.02)
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(scheduler) if scheduler else Client(**local) as client:
        workers = fpes.distributed.Workers(client.get_executor(pure=False), threads=1)
        es.fit(fpes.datasets.load("digits"), steps=20, batch=64, executor=workers)
    print(f"theta {zlib.crc32(es.theta.data):08x}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
