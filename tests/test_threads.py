"""The threads that computing is shared with: they outlive calls, but not forks, and follow their caller's affinity."""

from __future__ import annotations

import os
import threading
import time

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


@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.NodePerturbation()], ids=repr)
def test_one_es_told_by_several_threads(tmp_path, perturbation):
    """They wrote over each other's memory; afterwards tell() refused for good."""
    net = fpes.LinearNetwork([6, 8, 3])
    x, y = np.random.default_rng(0).random((16, 6), dtype=np.float32), np.arange(16) % 3

    def beginning():
        return fpes.ES(net, net.init(0), size=8, sigma=0.1, weight_decay=0.1, averaging=0.9, perturbation=perturbation)

    alone, states = beginning(), {}
    for _ in range(121):
        states[alone.generation] = alone.theta, alone.solution
        alone.tell(alone.ask().evaluate(x, y))
    es, wrong = beginning(), []

    def work(number):
        for turn in range(40):
            try:
                es.tell(es.ask().evaluate(x, y))
            except ValueError as error:
                if "the evaluation is of another population: it has generation" not in str(error):
                    wrong.append(error)
            path = tmp_path / f"{number}-{turn}.npz"
            es.save(path)
            saved = fpes.ES.load(path)
            if any(
                (a != b).any() for a, b in zip((saved.theta, saved.solution), states[saved.generation], strict=True)
            ):
                wrong.append(saved.generation)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert es.generation >= 40
    assert (es.theta == states[es.generation][0]).all()


def test_a_step_of_fit_is_one_turn(monkeypatch):
    """Else another thread's step in between would be lost, and its memory written over."""
    net = fpes.LinearNetwork([2, 8, 2])
    es = fpes.ES(net, net.init(0), size=8, sigma=0.1)
    proposed, accept, order, others = fpes.ES.proposed, fpes.ES.accept, [], []

    def ask():
        order.append("asked")
        es.ask()
        order.append("answered")

    def slowly(self, *arguments):
        state = proposed(self, *arguments)
        others.append(threading.Thread(target=ask))
        others[-1].start()
        time.sleep(0.1)
        return state

    def accepted(self, state):
        order.append("accepted")
        accept(self, state)

    monkeypatch.setattr(fpes.ES, "proposed", slowly)
    monkeypatch.setattr(fpes.ES, "accept", accepted)
    es.fit(fpes.datasets.two_spirals(40), steps=1)
    for other in others:
        other.join()
    assert order == ["asked", "accepted", "answered"]
