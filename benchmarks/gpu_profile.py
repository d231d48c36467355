"""Launches of the main kernels, each once, large enough to fill a GPU, for Nsight Compute to look at (gpu_check.py)."""

from __future__ import annotations

import cupy
import gpu_bench
import numpy as np
from bench_cases import Case

import fpes

MNIST = "784-512-512-10"
CASES = [Case(MNIST, "full", 1024, 64), Case(MNIST, "low rank 1", 8192, 8), Case(MNIST, "node", 8192, 8)]


def main() -> None:
    """A product, then a population of each kind and its gradient."""
    rng = np.random.default_rng(0)
    a, b = (cupy.asarray(rng.standard_normal((4096, 4096), np.float32)) for _ in range(2))
    fpes.gemm(a, b)
    for case in CASES:
        members, x, y = gpu_bench.population(cupy, case)
        members.gradient(members.evaluate(x, y, per_sample=case.family == "node"))
    cupy.cuda.Device().synchronize()


if __name__ == "__main__":
    main()
