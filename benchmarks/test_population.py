"""Populations: evaluation in every family, beside what users would take instead."""

from __future__ import annotations

import bench_peers
import pytest
from bench_cases import LONG, ONE_UNIT, SHORT, Case, case_id
from bench_measure import OF_ALL_THREADS

import fpes
from fpes.losses import LOSSES

_MNIST = "784-512-512-10"
CASES = [*SHORT, *(pytest.param(case, marks=pytest.mark.long) for case in LONG)]
PEERS = {
    "PyTorch, baddbmm": bench_peers.torch_baddbmm,
    "PyTorch, vmap": bench_peers.torch_vmap,
    "JAX, jitted vmap": bench_peers.jax_vmap,
    "NumPy": bench_peers.numpy_full,
}


def ours(case: Case, flush: str = "boundary"):
    population, (x, y) = case.population(flush), case.data()
    return lambda: population.evaluate(x, y)


def measure_case(measure, case: Case, variant: str, call, **options):
    measure(
        case.group,
        variant,
        call,
        flops=case.flops,
        needed_flops=case.needed_flops,
        moved_bytes=case.moved_bytes,
        member_samples=case.member_samples,
        **options,
    )


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_evaluate(measure, case, flush):
    measure_case(measure, case, f"fpes, {case.family}", ours(case, flush), flush=flush)


@pytest.mark.skipif(fpes.get_threads() == 1, reason="only one thread is in use")
def test_one_thread(measure):
    case = Case(_MNIST, "full", 512, 128)
    population, (x, y) = case.population(), case.data()
    threads = fpes.get_threads()

    def evaluate_with(count: int) -> None:
        fpes.set_threads(count)
        try:
            population.evaluate(x, y)
        finally:
            fpes.set_threads(threads)

    measure_case(
        measure,
        case,
        "fpes, full, one thread",
        lambda: evaluate_with(1),
        ours=lambda: evaluate_with(threads),
        ratio=OF_ALL_THREADS,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_loss(measure, loss):
    """Members so small that the loss counts."""
    case = Case("196-64-64-10", "low rank 1", 4096, 8)
    population, (x, y) = case.population(), case.data_for(loss)
    group = f"{case.group}, losses"
    measure(
        group,
        f"fpes, {loss}",
        lambda: population.evaluate(x, y, loss),
        flops=case.flops,
        needed_flops=case.needed_flops,
        member_samples=case.member_samples,
    )


@pytest.mark.parametrize("case", ONE_UNIT, ids=lambda case: case.name.replace(" ", "_"))
def test_one_unit(measure, case):
    population, (x, y) = case.population(), case.data()
    measure(
        f"{case.network}, one unit, {case.groups} minibatches of {case.batch}",
        f"fpes, {case.name}",
        lambda: population.evaluate(x, y),
        flops=case.flops,
        needed_flops=case.flops,
        member_samples=population.size * case.batch,
    )


@pytest.mark.parametrize("batch", [64, 256])
@pytest.mark.parametrize("peer", PEERS)
def test_full_rank_of_a_peer(measure, peer, batch):
    case = Case(_MNIST, "full", 512, batch)
    measure_case(measure, case, peer, PEERS[peer](case), ours=ours(case), rounds=3)


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank_of_a_peer(measure, rank):
    case = Case(_MNIST, f"low rank {rank}", 512, 8)
    call = bench_peers.jax_vmap(case, rank)
    measure_case(measure, case, f"JAX, jitted vmap, low rank {rank}", call, ours=ours(case), rounds=9)
