"""What one stream of a GPU has computed and another one uses: each call follows it, and its memory isn't reused early.

Without a GPU: the stand-in for CuPy notes which work of one stream comes after which work of another. Memory that was
allocated on a stream, and is dropped, goes to later work on that stream; so it is safe if that work comes after
whatever still reads it.
"""

from __future__ import annotations

import threading

import cuda_double
import fake_cupy
import numpy as np
import oracle
import pytest
from cuda_double import host, on_gpu

import fpes

A, B, C, PER_THREAD = 0x71, 0x72, 0x73, 2
NET = fpes.LinearNetwork([5, 7, 3])
RNG = np.random.default_rng(0)
X, Y = RNG.random((9, 5), np.float32), RNG.integers(0, 3, 9)
PERTURBATIONS = [
    fpes.FullRank(),
    fpes.NodePerturbation(),
    fpes.NodePerturbation(allocation=fpes.OneLayer(units=(2, None), pairs=(1, 1))),
    fpes.OneUnit(draws=(1, 1)),
]
SIZE = 40
FITNESS = RNG.random(SIZE, np.float32)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    cuda_double.install(monkeypatch, {build: cuda_double.CpuKernels(build) for build in ("ftz", "ieee")})
    yield
    assert not fake_cupy.state.waits, "the host waited for the device"


def on(stream):
    return fake_cupy.on_stream(stream)


def population(perturbation=None, place=on_gpu):
    return fpes.Population(NET, place(NET.init(1)), size=SIZE, sigma=0.1, perturbation=perturbation, seed=3)


def evaluated_on(stream, perturbation=None, **options):
    """A population and its evaluation, both made on a stream."""
    with on(stream):
        members = population(perturbation)
        return members, members.evaluate(on_gpu(X), on_gpu(Y), **options)


def check_ordered(later, earlier):
    """`later` used what `earlier` made: it came after, and what `earlier` does next comes after it."""
    state = fake_cupy.state
    assert state.known[earlier][earlier], "nothing was made"
    assert state.known[later][later], "nothing was done"
    assert state.follows(later, earlier), "it isn't waited for"
    assert state.follows(earlier, later), "its memory may be reused while it is read"


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
def test_a_gradient_on_another_stream(perturbation):
    members, evaluation = evaluated_on(A, perturbation)
    with on(B):
        gradient = members.gradient(evaluation)
    check_ordered(B, A)
    cpu = population(perturbation, np.array)
    oracle.assert_bitwise_equal(host(gradient), cpu.gradient(cpu.evaluate(X, Y)))


def test_nobody_waits_on_one_stream():
    members, evaluation = evaluated_on(A)
    with on(A):
        members.gradient(evaluation - evaluation.mean(), evaluation)
    assert not fake_cupy.state.events


USES_OF_A_POPULATION = {
    "evaluate": lambda members: members.evaluate(on_gpu(X), on_gpu(Y)),
    "evaluate by a function": lambda members: members.evaluate(on_gpu(X), None, lambda o, _: o[:, 0, 0]),
    "evaluated": lambda members: members.evaluated(on_gpu(X), on_gpu(FITNESS)),
    "forward": lambda members: members.forward(on_gpu(X)),
    "member": lambda members: members.member(3),
    "gradient": lambda members: members.gradient(on_gpu(FITNESS)),
}


@pytest.mark.parametrize("use", USES_OF_A_POPULATION.values(), ids=USES_OF_A_POPULATION)
def test_every_use_of_a_population_on_another_stream(use):
    with on(A):
        members = population()
    with on(B):
        use(members)
    check_ordered(B, A)


USES = {
    "member": lambda members, evaluation: members.member(3, evaluation),
    "evaluated": lambda members, evaluation: members.evaluated(on_gpu(X), evaluation, on_gpu(Y), part=evaluation),
    "gradient": lambda members, evaluation: members.gradient(evaluation.values, evaluation),
    "gradient of weights": lambda members, evaluation: members.gradient(evaluation),
    "partial gradient": lambda members, evaluation: members.partial_gradient(evaluation, pairs=(0, 20)),
    "losses": lambda _, evaluation: evaluation.losses,
    "arithmetic": lambda _, evaluation: evaluation + np.float32(1.0),
    "arithmetic in place": lambda _, evaluation: evaluation.__iadd__(np.float32(1.0)),
    "a ufunc": lambda _, evaluation: np.exp(evaluation),
    "change": lambda _, evaluation: evaluation.__setitem__(5, -1e20),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_use_of_an_evaluation_on_another_stream(use):
    per_sample = use is USES["losses"]
    members, evaluation = evaluated_on(A, None if per_sample else fpes.OneUnit(draws=(1, 1)), per_sample=per_sample)
    with on(B):
        use(members, evaluation)
    check_ordered(B, A)


def test_the_mean_of_losses_on_another_stream():
    members, _ = evaluated_on(A, fpes.NodePerturbation())
    with on(A):
        evaluation = members.evaluated(on_gpu(X), on_gpu(RNG.random((SIZE, 9), np.float32)))
    with on(B):
        mean = evaluation.fitness
    check_ordered(B, A)
    with on(C):
        assert evaluation.fitness is mean
    assert fake_cupy.state.follows(C, B)


@pytest.mark.parametrize("read", ["values", "fitness", "shape", "centre_losses", "__cuda_array_interface__"])
def test_what_is_taken_from_an_evaluation_is_there_on_the_current_stream(read):
    _, evaluation = evaluated_on(A, fpes.OneUnit(draws=(1, 1)))
    with on(B):
        getattr(evaluation, read)
        assert fake_cupy.state.follows(B, A)


def test_theta_is_there_on_the_current_stream():
    members, _ = evaluated_on(A)
    with on(B):
        assert members.theta is members.theta
    assert ("wait", B, A) in fake_cupy.state.events


def test_a_change_on_another_stream_is_followed_by_a_third():
    members, evaluation = evaluated_on(A)
    with on(B):
        evaluation[3] = 7.0
    with on(C):
        members.gradient(evaluation)
    check_ordered(C, B)
    check_ordered(C, A)
    with on(B):
        np.add(evaluation, evaluation, out=evaluation)
    with on(C):
        members.gradient(evaluation)
    check_ordered(C, B)


@pytest.mark.parametrize(
    "changed",
    [
        lambda evaluation: evaluation + np.float32(1.0),
        np.exp,
        lambda evaluation: evaluation.with_fitness(on_gpu(FITNESS)),
    ],
)
def test_an_evaluation_made_of_another_one_keeps_the_streams_of_both(changed):
    """Its batch is still in the first one's memory."""
    members, evaluation = evaluated_on(A, fpes.NodePerturbation())
    with on(B):
        other = changed(evaluation)
    with on(C):
        members.gradient(other.values, other)
    check_ordered(C, B)
    check_ordered(C, A)


def test_moments_of_a_stream_do_not_pile_up():
    _, evaluation = evaluated_on(A)
    with on(B):
        for _ in range(9):
            evaluation = evaluation + evaluation
    assert len(evaluation.made) == 2


def test_streams_that_share_a_population_do_not_wait_for_each_other():
    members, _ = evaluated_on(A)
    for stream, pairs in ((B, (0, 10)), (C, (10, 20))):
        with on(stream):
            members.evaluate(on_gpu(X), on_gpu(Y), pairs=pairs)
    assert fake_cupy.state.follows(A, B)
    assert fake_cupy.state.follows(A, C)
    assert not fake_cupy.state.known[B][C]
    assert not fake_cupy.state.known[C][B]


def test_ask_on_one_stream_and_tell_on_another():
    es = fpes.ES(NET, NET.init(0), size=SIZE, sigma=0.1, device="cuda")
    cpu = fpes.ES(NET, NET.init(0), size=SIZE, sigma=0.1)
    with on(A):
        members = es.ask()
    with on(B):
        evaluation = members.evaluate(on_gpu(X), on_gpu(Y))
    check_ordered(B, A)
    with on(C):
        es.tell(evaluation)
    check_ordered(C, B)
    fake_cupy.state.waits.clear()  # tell() needs numbers on the host
    cpu.tell(cpu.ask().evaluate(X, Y))
    oracle.assert_bitwise_equal(es.theta, cpu.theta)


def test_memory_is_not_reused_early_if_a_call_fails():
    members, evaluation = evaluated_on(A, fpes.NodePerturbation())
    with on(B), pytest.raises(TypeError):
        members.gradient(on_gpu(FITNESS.astype(complex)), evaluation)
    assert ("wait", A, B) in fake_cupy.state.events


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_scratch(monkeypatch):
    """Kernels that need no scratch memory: only such can be captured."""
    monkeypatch.setattr(cuda_double, "WORKSPACE", 0)


def test_a_capture_uses_what_its_own_stream_made_before(no_scratch):
    members, evaluation = evaluated_on(A)
    fake_cupy.state.capturing.add(A)
    with on(A):
        members.gradient(evaluation)
    assert not fake_cupy.state.events


def test_a_capture_cannot_wait_for_another_stream(no_scratch):
    members, evaluation = evaluated_on(A)
    fake_cupy.state.capturing.add(B)
    with on(B), pytest.raises(RuntimeError, match="cuda:0: CuPy's current stream is capturing a graph, and can't wait"):
        members.gradient(evaluation)
    fake_cupy.state.all_done = True
    with on(B):
        members.gradient(evaluation)
    assert not fake_cupy.state.events


def test_what_a_capture_made_is_used_on_its_stream_only(no_scratch):
    fake_cupy.state.capturing.add(A)
    members, evaluation = evaluated_on(A)
    fake_cupy.state.capturing.clear()
    with on(A):
        members.gradient(evaluation)
    with on(B), pytest.raises(RuntimeError, match=r"made while its stream captured a graph.*use it there"):
        members.gradient(evaluation)
    fake_cupy.state.capturing |= {A, B}  # streams of one capture are ordered by whoever captures
    with on(B):
        members.gradient(evaluation)
    assert not fake_cupy.state.events


def test_a_stream_that_captures_cannot_wait_for_a_use():
    members, evaluation = evaluated_on(A)
    calls = len(fake_cupy.state.allocations)
    fake_cupy.state.capturing.add(A)
    with on(B), pytest.raises(RuntimeError, match="made on a stream that is capturing a graph now"):
        members.gradient(evaluation)
    assert len(fake_cupy.state.allocations) == calls


# --- CUDA's per-thread default stream ---------------------------------------------------------------------------------


def in_another_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_the_per_thread_default_stream_is_another_one_in_each_thread():
    members, evaluation = evaluated_on(PER_THREAD)
    with on(PER_THREAD):
        members.gradient(evaluation)
    assert not fake_cupy.state.events
    members, evaluation = in_another_thread(lambda: evaluated_on(PER_THREAD))
    with on(PER_THREAD):
        assert evaluation.values is not None
        assert ("wait", PER_THREAD, PER_THREAD) in fake_cupy.state.events
        with pytest.raises(RuntimeError, match="per-thread default stream of another thread"):
            members.gradient(evaluation)
