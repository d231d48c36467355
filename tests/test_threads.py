"""The threads that computing is shared with: they outlive calls, but not forks, and follow their caller's affinity."""

from __future__ import annotations

import os

import numpy as np
import pytest

import fpes

A = np.arange(90_000, dtype=np.float32).reshape(300, 300) / 90_000


@pytest.fixture(autouse=True)
def _three_threads():
    before = fpes.get_threads()
    fpes.set_threads(3)
    yield
    fpes.set_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """Its parent's are gone, and a lock that one of them held would be held for ever."""
    want = fpes.gemm(A, A)
    child = os.fork()
    if child == 0:
        os._exit(0 if (fpes.gemm(A, A) == want).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there are no affinities here")
@pytest.mark.parametrize("processors", ["one", "all"])
def test_the_callers_affinity_is_kept(processors):
    everywhere = os.sched_getaffinity(0)
    allowed = {min(everywhere)} if processors == "one" else everywhere
    want = fpes.gemm(A, A)
    os.sched_setaffinity(0, allowed)
    try:
        for _ in range(20):
            np.testing.assert_array_equal(fpes.gemm(A, A), want)
        assert os.sched_getaffinity(0) == allowed
    finally:
        os.sched_setaffinity(0, everywhere)
