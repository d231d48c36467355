"""The shim sees what it is there to see: kernels wrong on purpose fail, and its arithmetic is the contract's."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import shim_backend

pytestmark = shim_backend.needs_shim


@pytest.fixture
def build():
    return shim_backend.module("always")


def neighbours(build, barrier: bool, distance: int, reverse: bool) -> bool:
    """Whether every thread found its neighbour's number in shared memory."""
    out = np.empty(build.wrong_kernel_threads, np.int32)
    with shim_backend.device(reverse):
        build.neighbour(barrier, distance, out.ctypes.data)
    return bool((out == (np.arange(out.size) + distance) % out.size).all())


@pytest.mark.parametrize("distance", [-1, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_with_its_barrier_a_kernel_works(build, distance, reverse):
    assert neighbours(build, True, distance, reverse)


def test_a_missing_barrier_shows_in_one_of_the_orders(build):
    """Reading upwards fails in ascending order, reading downwards in descending order."""
    out = np.empty(build.wrong_kernel_threads, np.int32)
    for distance, reverse in ((-1, False), (1, True)):
        with shim_backend.device(reverse):
            build.neighbour(False, distance, out.ctypes.data)
        wrong = np.count_nonzero(out != (np.arange(out.size) + distance) % out.size)
        assert wrong == 1, "only the thread that reads across the end is unlucky in this order"
        assert not neighbours(build, False, distance, not reverse)
        with shim_backend.device(not reverse):
            build.neighbour(False, distance, out.ctypes.data)
        wrong = np.count_nonzero(out != (np.arange(out.size) + distance) % out.size)
        assert wrong == out.size - 1


@pytest.mark.parametrize(("ends", "message"), [(True, "thread 32 has ended"), (False, "thread 32 waits at .*:")])
def test_a_diverged_barrier(build, ends, message):
    with pytest.raises(RuntimeError, match=f"diverged barrier: .* thread 0 waits at .*{message}"):
        build.diverged(ends)


def test_writing_beyond_shared_memory(build):
    with pytest.raises(RuntimeError, match="beyond its shared memory, at byte 256 of 256"):
        build.overrun()


def test_an_asynchronous_copy_that_nobody_waits_for(build):
    values = np.arange(build.wrong_kernel_threads, dtype=np.float32)
    out = np.empty_like(values)
    build.copy(True, False, values.ctypes.data, out.ctypes.data)
    oracle.assert_bitwise_equal(out, values)
    build.copy(False, False, values.ctypes.data, out.ctypes.data)
    assert np.isnan(out).all(), "what isn't there yet is poison"


def test_an_asynchronous_copy_into_what_is_still_read(build):
    values = np.arange(build.wrong_kernel_threads, dtype=np.float32)
    out = np.zeros_like(values)
    build.copy(True, True, values.ctypes.data, out.ctypes.data)
    assert np.isnan(out).all(), "from the start of a copy on, its target is poison"


@pytest.mark.parametrize(("places", "what"), [((0, 4), None), ((1, 4), "a load"), ((0, 6), "a store")])
def test_sixteen_bytes_at_any_address(build, places, what):
    if what is None:
        build.move_four(*places)
    else:
        with pytest.raises(RuntimeError, match=f"{what} of 16 bytes isn't aligned"):
            build.move_four(*places)


def test_a_count_that_nobody_has_set_to_zero(build):
    count = np.zeros(1, np.uint32)
    build.count(count.ctypes.data)
    assert count[0] == build.wrong_kernel_threads
    with pytest.raises(RuntimeError, match="nobody has set to zero"):
        build.count(np.full(1, 0xFFFFFFFF, np.uint32).ctypes.data)


@pytest.mark.parametrize("flush", ["never", "always"])
def test_arithmetic(flush):
    """Plain operations flush in the ftz build, and the others never, on operands crowded at the boundary."""
    a, b, c = oracle.boundary_operands(np.random.default_rng(5), 40_000)
    special = oracle.special_operands()
    a, b, c = (np.concatenate(both) for both in zip((a, b, c), special, strict=True))
    out = np.empty((5, a.size), np.float32)
    shim_backend.module(flush).arithmetic(a.ctypes.data, b.ctypes.data, c.ctypes.data, a.size, out.ctypes.data)
    ftz = flush == "always"
    oracle.assert_bitwise_equal(out[0], oracle.fma(a, b, c, ftz), "plain fma")
    oracle.assert_bitwise_equal(out[1], oracle.fma(a, b, c, False), "fma that never flushes")
    oracle.assert_bitwise_equal(out[2], oracle.mul(a, b, False), "product that never flushes")
    oracle.assert_bitwise_equal(out[3], oracle.add(a, b, False), "sum that never flushes")
    oracle.assert_bitwise_equal(out[4], oracle.add(a, oracle.negate(b), False), "difference that never flushes")
