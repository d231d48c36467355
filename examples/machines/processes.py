"""Worker processes on this machine, with the standard library. Any number of them prints the same number.

python examples/machines/processes.py 3
"""

from __future__ import annotations

import sys
import zlib

import fpes


def main(workers: int) -> None:
    """Train a small network for a few generations."""
    net = fpes.LinearNetwork([16, 64, 64, 10])
    es = fpes.ES(net, net.init(seed=0), size=256, sigma=0.05, learning_rate=0.02)
    with fpes.distributed.processes(workers) as executor:
        es.fit(fpes.datasets.load("digits"), steps=20, batch=64, executor=executor)
    print(f"theta {zlib.crc32(es.theta.data):08x}")


if __name__ == "__main__":  # worker processes import this file
    main(int(sys.argv[1]))
