"""Ray actors, on this machine or on a cluster.

python examples/machines/ray_actors.py 2
"""

from __future__ import annotations

import sys
import zlib

import ray

import fpes

if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)  # ray.init("auto") on a cluster
    net = fpes.LinearNetwork([16, 64, 64, 10])
    es = fpes.ES(net, net.init(seed=0), size=256, sigma=0.05, learning_rate=0.02)
    with fpes.distributed.RayExecutor(int(sys.argv[1]), num_cpus=1) as executor:
        es.fit(fpes.datasets.load("digits"), steps=20, batch=64, executor=executor)
    print(f"theta {zlib.crc32(es.theta.data):08x}")
