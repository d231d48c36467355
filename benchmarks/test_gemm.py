"""The matrix product in every flush mode, beside NumPy's and PyTorch's."""

from __future__ import annotations

import functools

import bench_peers
import numpy as np
import pytest
from bench_cases import GEMM_SHAPES

import fpes

each_shape = pytest.mark.parametrize("shape", GEMM_SHAPES)


def operands(shape: str) -> tuple[np.ndarray, np.ndarray, float]:
    """a, b, and the operations of their product."""
    m, n, k = GEMM_SHAPES[shape]
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    return a, b, 2.0 * m * n * k


@each_shape
def test_fpes(measure, shape, flush):
    a, b, flops = operands(shape)
    moved = a.nbytes + b.nbytes + 4.0 * a.shape[0] * b.shape[1]
    call = functools.partial(fpes.gemm, a, b, flush=flush)
    measure(f"gemm {shape}", "fpes", call, flops=flops, moved_bytes=moved, flush=flush, rounds=15)


@each_shape
@pytest.mark.parametrize("peer", ["numpy", "torch"])
def test_peer(measure, shape, peer):
    a, b, flops = operands(shape)
    call = bench_peers.gemm(peer, a, b)
    measure(f"gemm {shape}", peer, call, flops=flops, ours=lambda: fpes.gemm(a, b), rounds=15)
