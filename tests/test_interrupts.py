"""Ctrl-C in the middle of a call: heard within a second whatever the sizes, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import oracle
import pytest

import fpes

RNG = np.random.default_rng(0)
NET = fpes.LinearNetwork([784, 512, 512, 10])
THETA = NET.init(0)
X = RNG.random((20_000, 784), dtype=np.float32)
Y = RNG.integers(0, 10, len(X))
LATE = 3.0  # seconds: three times what is promised, for machines that are busy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill here")


def population(size, perturbation=None, net=NET, theta=THETA):
    return fpes.Population(net, theta, size=size, sigma=0.02, perturbation=perturbation)


WIDE_X = np.ones((32, 9000), np.float32)
WIDE = fpes.LinearNetwork([9000, 2000, 10])
# Calls that take a minute or more.
CALLS = {
    "few members, many samples": lambda: population(2000).evaluate(X, Y),
    "many members, few samples": lambda: population(10**7).evaluate(X[:1], Y[:1]),
    "in large chunks": lambda: population(2**17).evaluate(X[:512], Y[:512], chunk=2**17),
    "outputs": lambda: population(10**6).forward(X[:8]),
    "low rank": lambda: population(10**6, fpes.LowRank(4)).evaluate(X[:512], Y[:512]),
    "node": lambda: population(10**6, fpes.NodePerturbation()).evaluate(X[:512], Y[:512]),
    "few units": lambda: population(3 * 10**6, fpes.NodePerturbation(allocation=fpes.OneLayer(16))).evaluate(
        X[:512], Y[:512]
    ),
    "wide": lambda: population(10**5, None, WIDE, np.zeros(WIDE.parameters, np.float32)).forward(
        np.ones((32, 9000), np.float32)
    ),
    "gradient": lambda: population(2**20).gradient(np.arange(2**20, dtype=np.int32)),
    "gradient of floats": lambda: population(2**20).gradient(np.arange(2**20, dtype=np.float32)),
    "gradient of low rank": lambda: population(2**23, fpes.LowRank(4)).gradient(np.ones(2**23, np.float32)),
    "noise": lambda: fpes.noise("gaussian", 0, layer=0, role="weight", count=10**9),
}


@contextmanager
def signal_in(seconds, number=signal.SIGINT):
    """A signal to this process, as Ctrl-C sends it, after a while."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def handled_by(handler, number=signal.SIGINT):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("isa", [fpes.supported_isas()[0], fpes.supported_isas()[-1]])
def test_a_call_is_interrupted(name, isa):
    fpes.set_isa(isa)
    small = population(4)
    want = np.asarray(small.evaluate(X[:16], Y[:16]))
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signal_in(0.2):
        CALLS[name]()
    assert time.monotonic() - begin < 0.2 + LATE
    busy = time.process_time()
    time.sleep(0.05)
    assert time.process_time() - busy < 0.04, "threads still compute"
    oracle.assert_bitwise_equal(small.evaluate(X[:16], Y[:16]), want)


def test_a_handler_that_raises_nothing_changes_nothing():
    """It may even make calls of its own."""
    pop, heard = population(24), []
    want = np.asarray(pop.evaluate(X[:1000], Y[:1000]))
    small = np.asarray(population(4).evaluate(X[:16], Y[:16]))

    def handler(number, frame):
        heard.append(np.asarray(population(4).evaluate(X[:16], Y[:16])))

    with handled_by(handler), signal_in(0.05):
        got = pop.evaluate(X[:1000], Y[:1000])
        while not heard:
            time.sleep(0.01)
    oracle.assert_bitwise_equal(got, want)
    oracle.assert_bitwise_equal(heard[0], small)


def test_the_handlers_own_exception_is_raised():
    def handler(number, frame):
        raise LookupError("the handler's")

    with (
        handled_by(handler, signal.SIGTERM),
        signal_in(0.2, signal.SIGTERM),
        pytest.raises(LookupError, match="handler's"),
    ):
        CALLS["gradient"]()


def test_a_call_in_another_thread_goes_on():
    """Python handles signals in its main thread only."""
    pop, got = population(24), []
    want = np.asarray(pop.evaluate(X[:1000], Y[:1000]))
    thread = threading.Thread(target=lambda: got.append(pop.evaluate(X[:1000], Y[:1000])))
    with pytest.raises(KeyboardInterrupt), signal_in(0.05):  # noqa: PT012
        thread.start()
        time.sleep(LATE)
    thread.join()
    oracle.assert_bitwise_equal(got[0], want)


@pytest.mark.parametrize("samples", [1, 2000])
def test_the_process_ends_while_a_daemon_thread_is_in_a_call(samples):
    program = f"""
import threading, time, numpy as np, fpes
net = fpes.LinearNetwork([784, 512, 512, 10])
theta, x, y = net.init(0), np.ones(({samples}, 784), np.float32), np.zeros({samples}, int)
def work():
    while True:
        fpes.Population(net, theta, size=8, sigma=0.02).evaluate(x, y)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
raise SystemExit(7)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (7, "")


def test_sigterm_ends_a_copy_of_a_process_that_saves_first():
    """A worker that was forked in the middle of fit() and raises Terminated anywhere may live on."""
    program = """
import os, signal, time
from fpes._signals import terminating_raises
with terminating_raises():
    there, here = os.pipe()
    copy = os.fork()
    if copy == 0:
        try:
            os.write(here, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    os.read(there, 1)
    os.kill(copy, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except SystemExit as end:
        print(end.code)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["-15", "143"]
