"""The caller's floating-point mode: neither changed by a call nor felt by one."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import platform
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from test_population import FAMILIES, SMALL, SMALL_BATCH, population, setting

import fpes
from fpes import _cpu
from fpes.health import active_fractions, weight_norms
from fpes.losses import accuracy
from fpes.optimisers import norm, weighted_sum
from fpes.shaping import SHAPINGS, all_equal

TINY = np.float32(1e-40)


@contextlib.contextmanager
def flush_bits(on: bool):
    _cpu.set_flush_bits(on)
    try:
        yield
    finally:
        _cpu.set_flush_bits(False)


def numpy_keeps_subnormals() -> bool:
    """By integers: the comparison itself must not depend on the mode."""
    products = np.full(64, TINY) * np.float32(1)
    return bool((products.view(np.uint32) == TINY.view(np.uint32)).all())


def calls():
    """(name, function) of every call of the API that computes; each returns an array."""
    theta, x, y = setting(SMALL, SMALL_BATCH)
    tiny = np.full((40, 40), TINY)
    yield "noise", lambda: fpes.noise("gaussian", 1, layer=0, role="weight", pair=0, generation=0, count=1000)
    yield "init", lambda: fpes.LinearNetwork(SMALL).init(0)
    for flush in oracle.FLUSH_MODES:
        net = fpes.LinearNetwork(SMALL, flush=flush)
        yield f"gemm {flush}", lambda flush=flush: fpes.gemm(tiny, np.ones_like(tiny), flush=flush)
        yield f"bias_add {flush}", lambda flush=flush: fpes.bias_add(tiny, tiny[0], flush=flush)
        yield f"multiply {flush}", lambda flush=flush: fpes.multiply(tiny, 3.0, flush=flush)
        yield f"multiply by subnormal {flush}", lambda flush=flush: fpes.multiply(x, TINY, flush=flush)
        yield f"network {flush}", lambda net=net: net(theta, x)
        for family in FAMILIES:
            pop = population(SMALL, SMALL_BATCH, family, flush=flush)
            weights = np.linspace(-1, 1, 6, dtype=np.float32)
            weights[0] = TINY
            evaluation = pop.evaluate(x, y)
            name = f"{family} {flush}"
            yield f"forward {name}", lambda pop=pop: pop.forward(x)
            yield f"evaluate {name}", lambda pop=pop: pop.evaluate(x, y)
            yield f"evaluate samples {name}", lambda pop=pop: pop.evaluate(x, y, per_sample=True)
            yield f"gradient {name}", functools.partial(pop.gradient, weights, evaluation)
            if family != "node":
                integers = np.array([5, -3, 1, 7, -900, 900], np.int32)
                yield f"integer gradient {name}", lambda pop=pop, integers=integers: pop.gradient(integers)
                yield f"member {name}", lambda pop=pop: pop.member(3)


@pytest.mark.parametrize("on", [False, True], ids=["ieee caller", "flushing caller"])
def test_no_call_changes_the_mode_of_its_caller(isa, on):
    for name, call in calls():
        with flush_bits(on):
            call()
            assert _cpu.flush_bits() == on, name


def test_no_result_depends_on_the_mode_of_the_caller(isa):
    for name, call in calls():
        want = call()
        with flush_bits(True):
            got = call()
        oracle.assert_bitwise_equal(got, want, name)


def test_objects_made_by_a_flushing_caller(isa):
    """A scale that is computed on construction is computed in the caller's thread."""
    theta, x, _ = setting(SMALL, SMALL_BATCH)
    for family in FAMILIES:
        want = population(SMALL, SMALL_BATCH, family, flush="never", sigma=1e-3).forward(x)
        with flush_bits(True):
            got = population(SMALL, SMALL_BATCH, family, flush="never", sigma=1e-3).forward(x)
        oracle.assert_bitwise_equal(got, want, family)
    with flush_bits(True):
        got = fpes.LinearNetwork(SMALL, flush="never")(theta, x)
    oracle.assert_bitwise_equal(got, fpes.LinearNetwork(SMALL, flush="never")(theta, x))


def test_numpy_keeps_its_subnormals(isa):
    for name, call in calls():
        call()
        assert numpy_keeps_subnormals(), name
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: numpy_keeps_subnormals(), range(12)))


def test_the_check_of_numpy_can_fail():
    with flush_bits(True):
        kept = numpy_keeps_subnormals()
    assert not kept


def test_a_worker_of_another_mode_does_not_matter(isa, threads):
    """Threads of the pool may have been born in any mode: a flushing caller comes first, then one that isn't."""
    theta, x, _ = setting(SMALL, SMALL_BATCH)
    net = fpes.LinearNetwork(SMALL, flush="never")
    want = oracle.forward(oracle.Network(SMALL, flush="never"), theta, x)
    for on in (True, False, True):
        with flush_bits(on):
            got = net(theta, x)
            doubled = fpes.multiply(np.full(100_000, TINY), 2.0, flush="never")
            flushed = fpes.multiply(np.full(100_000, TINY), 2.0, flush="always")
        oracle.assert_bitwise_equal(got, want, f"{threads} threads")
        assert (doubled.view(np.uint32) == 2 * TINY.view(np.uint32)).all()
        assert not flushed.view(np.uint32).any()


def test_errors_restore_the_mode(isa):
    for on in (False, True):
        with flush_bits(on):
            with pytest.raises(ValueError, match=r"."):
                fpes.gemm(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
            assert _cpu.flush_bits() == on


def test_calls_from_several_threads_at_once(isa):
    """Each in another flush mode and from a caller of another mode: no one disturbs the others."""
    work = list(calls())
    want = [call() for _, call in work]
    workers = 4
    start = threading.Barrier(workers)
    failures = []

    def run(worker: int) -> None:
        on = worker % 2 == 1
        _cpu.set_flush_bits(on)
        start.wait()
        for step in range(len(work)):
            index = (step + worker * len(work) // workers) % len(work)
            name, call = work[index]
            try:
                oracle.assert_bitwise_equal(call(), want[index], name)
                assert _cpu.flush_bits() == on, name
                assert numpy_keeps_subnormals() != on, name
            except Exception as error:
                failures.append((name, error))
            except AssertionError as error:
                failures.append((name, error))

    callers = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures
    assert numpy_keeps_subnormals()


def bits(numbers):
    """Python's numbers, to be compared by their bits."""
    return np.array(numbers).view(np.float32)


def trainer_calls():
    """What the package computes in Python, with NumPy, around the kernels."""
    fitness = np.array([3e-42, 1e-42, 2e-42, 0, -1e-42, 4e-42], np.float32)
    for name in SHAPINGS:
        yield name, lambda name=name: np.asarray(SHAPINGS[name](fitness, 1).values)
    yield "all equal", lambda: np.array([all_equal(fitness, 1)])
    yield "init", lambda: fpes.LinearNetwork(SMALL).init(0)
    images = np.random.default_rng(0).random((4, 16), dtype=np.float32)
    augmentation = fpes.datasets.Augmentation(4, 4, shift=0.3, linear=0.1, elastic=0.3)
    yield "augmentation", lambda: augmentation.apply(images, np.arange(4), 0, 0, 1 / 3)
    sampling = fpes.datasets.ImportanceSampling()
    residuals = np.linspace(1e-4, 0.9, 50, dtype=np.float32)
    for part in (0, 1):
        yield f"importance {part}", lambda part=part: sampling.draw(residuals, 20, 0, 1)[part]
    yield "residuals", lambda: sampling.updated(residuals, np.arange(20), residuals[:20])
    faded = fpes.datasets.Augmentation(4, 4, fade=0.7)
    yield "fading", lambda: bits([faded.strength(step, 37) for step in range(26)])
    theta, x, y = setting(SMALL, SMALL_BATCH)
    yield "norm", lambda: bits([norm(theta)])
    yield "weighted sum", lambda: weighted_sum(0.1, theta, 0.7, theta)
    net = fpes.LinearNetwork(SMALL)
    yield "health", lambda: bits([*active_fractions(net, theta, x), *weight_norms(net, theta)])
    yield "accuracy", lambda: bits([accuracy(net(theta, x), y)])
    yield "spirals", lambda: fpes.datasets.two_spirals(50).x_train
    for optimiser in (fpes.Adam(), fpes.SGD(), fpes.ClipUp()):
        for shaping in ("centred_ranks", "z_score"):

            def steps(optimiser=optimiser, shaping=shaping):
                es = fpes.ES(
                    fpes.LinearNetwork(SMALL),
                    theta,
                    size=8,
                    sigma=fpes.Cosine(0.1),
                    steps=7,
                    optimiser=optimiser,
                    shaping=shaping,
                    learning_rate=fpes.Exponential(0.1, 0.01),
                    weight_decay=0.1,
                    clip=0.3,
                    averaging=0.9,
                )
                for _ in range(3):
                    es.tell(es.ask().evaluate(x, y))
                return np.concatenate([es.theta, es.solution, np.array([es.fitness]).view(np.float32)])

            yield f"ES, {type(optimiser).__name__}, {shaping}", steps


@contextlib.contextmanager
def rounding(mode):
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before = libm.fegetround()
    assert libm.fesetround(mode) == 0
    try:
        yield
    finally:
        libm.fesetround(before)


def test_nothing_that_the_trainer_computes_depends_on_flushing():
    for name, call in trainer_calls():
        want = call()
        with flush_bits(True):
            got = call()
            assert _cpu.flush_bits(), name
        oracle.assert_bitwise_equal(got, want, name)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the constants are those of x86-64")
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_nothing_depends_on_the_rounding_of_the_caller(mode):
    for name, call in (*trainer_calls(), *calls()):
        want = call()
        with rounding(mode):
            got = call()
        oracle.assert_bitwise_equal(got, want, name)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the constants are those of x86-64")
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_checkpoints_hold_the_same_numbers_whatever_the_rounding(tmp_path, mode):
    """Python writes and reads decimals in the caller's rounding: settings came back as their neighbours."""
    net = fpes.LinearNetwork(SMALL)
    numbers = {"sigma": fpes.Cosine(0.1, 0.0123), "learning_rate": 0.1 / 3, "clip": 3.3, "averaging": 0.97}
    es = fpes.ES(net, net.init(0), size=8, steps=9, **numbers)
    es.save(tmp_path / "usual.npz")
    with rounding(mode):
        read = fpes.ES.load(tmp_path / "usual.npz")
        es.save(tmp_path / "other.npz")
    for back in (read, fpes.ES.load(tmp_path / "other.npz")):
        assert {name: getattr(back, name) for name in numbers} == numbers


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the constants are those of x86-64")
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_importance_sampling_in_fit_whatever_the_rounding(mode):
    """Weights were applied in the caller's."""
    net, data = fpes.LinearNetwork([2, 8, 2]), fpes.datasets.two_spirals(60)

    def trained():
        es = fpes.ES(net, net.init(0), size=8, sigma=0.1, shaping="none")
        es.fit(data, steps=8, batch=20, importance=fpes.datasets.ImportanceSampling())
        return es.theta

    want = trained()
    with rounding(mode):
        got = trained()
    oracle.assert_bitwise_equal(got, want)


def test_ranks_of_subnormal_fitness():
    """In the mode of a flushing caller they were all ties."""
    fitness = np.array([3e-42, 1e-42, 2e-42, 0], np.float32)
    with flush_bits(True):
        ranks = fpes.centred_ranks(fitness)
    np.testing.assert_array_equal(ranks, [3, -1, 1, -3])
