"""Losses by CUDA's kernels, run on the CPU by the host shim: the bits of the CPU backend (test_losses.py)."""

from __future__ import annotations

import fake_cupy
import numpy as np
import oracle
import pytest
import shim_backend
from cuda_double import host, install, on_gpu, shim
from test_losses import BATCH, LOSSES, MODES, PERTURBATIONS, SIZES, population, setting, targets_for
from test_one_unit_on_a_device import on_device

import fpes

pytestmark = shim_backend.needs_shim

each_loss = pytest.mark.parametrize("loss", LOSSES)
every_family = pytest.mark.parametrize("family", PERTURBATIONS)
# Bytes of shared memory that a block may have: with the last, networks run a layer at a time.
SHARED = {"H100": 232448, "Turing": 65536}


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    install(monkeypatch, shim())
    yield
    assert not fake_cupy.state.waits, "the host waited for the device"


def check(cpu: fpes.Population, x, y, loss: str, what: str) -> None:
    there = on_device(cpu)
    want = cpu.evaluate(x, y, loss, per_sample=True)
    got = there.evaluate(on_gpu(x), on_gpu(y), loss, per_sample=True)
    oracle.assert_bitwise_equal(host(got.values), want.values, f"losses: {what}")
    got = there.evaluate(on_gpu(x), on_gpu(y), loss)
    oracle.assert_bitwise_equal(host(got.values), want.fitness, f"fitness: {what}")
    if want.centre_losses is not None:
        oracle.assert_bitwise_equal(host(got.centre_losses), want.centre_losses, f"centre: {what}")


@every_family
@each_loss
@pytest.mark.parametrize("flush", MODES)
def test_populations(family, loss, flush):
    with shim_backend.device(reverse=flush == "always"):
        check(population(family, flush=flush), *setting(SIZES, (BATCH,), loss)[1:], loss, f"{family}, {flush}")


@every_family
@pytest.mark.parametrize("loss", LOSSES[1:])
@pytest.mark.parametrize("shared", SHARED)
def test_devices(family, loss, shared):
    """Narrow and wide last layers, in one launch and a layer at a time, with little memory, threads in both orders."""
    for sizes, reverse in ((SIZES, True), ((7, 18, 9, 24), False), ((5, 150, 12, 20), True)):
        _, x, y = setting(sizes, (5,), loss)
        with shim_backend.device(reverse, SHARED[shared], floats_at_a_time=2**12):
            check(population(family, sizes), x, y, loss, f"{family}, {sizes}")


@every_family
@pytest.mark.parametrize("loss", LOSSES[1:])
def test_groups(family, loss):
    check(population(family, groups=2), *setting(SIZES, (2, 7), loss)[1:], loss, family)


@each_loss
def test_one_network(loss):
    pop, (_, x, y) = population("full"), setting(SIZES, (130,), loss)
    there, given = on_gpu(pop.theta), (on_gpu(x), on_gpu(y), loss)
    want = fpes.loss(pop.net, pop.theta, x, y, loss, per_sample=True)
    oracle.assert_bitwise_equal(host(fpes.loss(pop.net, there, *given, per_sample=True)), want)
    assert fpes.loss(pop.net, there, *given) == fpes.loss(pop.net, pop.theta, x, y, loss)
    assert fpes.metric(pop.net, there, *given) == fpes.metric(pop.net, pop.theta, x, y, loss)
    fake_cupy.state.waits.clear()  # a number is on the host


@pytest.mark.parametrize("family", ["full", "node", "one layer", "one unit, span"])
def test_what_only_the_values_tell_is_nan(family):
    pop, (_, x, _) = population(family), setting(SIZES, (BATCH,), "cross_entropy")
    there = on_device(pop)
    for loss, wrong in (("squared_error", np.nan), ("binary_cross_entropy", 1.5), ("binary_cross_entropy", -0.5)):
        y = targets_for(loss, np.random.default_rng(0), (BATCH,), SIZES[-1])
        y[3, 2] = wrong
        each = host(there.evaluate(on_gpu(x), on_gpu(y), loss, per_sample=True).values)
        assert np.isnan(each).any(axis=0).tolist() == [b == 3 for b in range(BATCH)], (loss, wrong)
        assert np.isnan(each[:, 3]).all()


def test_targets_that_are_refused_without_looking_at_values():
    there = on_device(population("full"))
    x = on_gpu(setting(SIZES, (4,), "squared_error")[1])
    for y, error, message in (
        (np.zeros((4, 6)), TypeError, "y has dtype float64, expected float32"),
        (np.zeros((4, 5), np.float32), ValueError, r"y has shape \(4, 5\), expected \[4, 6\]"),
    ):
        with pytest.raises(error, match=message):
            there.evaluate(x, on_gpu(y), "squared_error")
