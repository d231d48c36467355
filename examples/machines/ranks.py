"""The ranks of an MPI job. Any number of them prints the same number.

mpiexec -n 3 python examples/machines/ranks.py
"""

from __future__ import annotations

import zlib

import fpes

ranks = fpes.distributed.Ranks()
net = fpes.LinearNetwork([16, 64, 64, 10])
es = fpes.ES(net, net.init(seed=0), size=256, sigma=0.05, learning_rate=0.02)
es.fit(fpes.datasets.load("digits"), steps=20, batch=64, executor=ranks)
if ranks.rank == 0:
    print(ranks)
    print(f"theta {zlib.crc32(es.theta.data):08x}")
