"""Fixtures that choose how the CPU computes, and what becomes of GPU tests on a machine without one."""

from __future__ import annotations

import ctypes
import importlib.util
import signal

import pytest

import fpes
from fpes import _cpu
from fpes._backends import cuda_modules


def pytest_addoption(parser):
    parser.addoption(
        "--require-gpu", action="store_true", help="fail the tests marked gpu, not skip them, without a CUDA device"
    )


def pytest_configure(config):
    """A background job of a shell inherits Ctrl-C ignored, and some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def why_no_gpu() -> str | None:
    """The reason why GPU tests can't run here, or None if they can."""
    if sorted(cuda_modules.builds()) != ["ftz", "ieee"]:
        return f"fpes lacks a CUDA build: {cuda_modules.why_absent()}"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no CUDA driver: {error}"
    count = ctypes.c_int(0)
    for status in (driver.cuInit(0), driver.cuDeviceGetCount(ctypes.byref(count))):
        if status != 0:
            return f"the CUDA driver answers with error {status}"
    return None if count.value else "the CUDA driver finds no device"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is None:
        return
    reason = why_no_gpu()
    if reason is None:
        return
    if item.config.getoption("--require-gpu"):
        pytest.fail(f"--require-gpu, but {reason}", pytrace=False)
    pytest.skip(f"NOT TESTED ON A GPU: {reason}")


@pytest.fixture(params=fpes.supported_isas())
def isa(request):
    """Runs the test once for each instruction set of this machine."""
    before = fpes.get_isa()
    fpes.set_isa(request.param)
    yield request.param
    fpes.set_isa(before)


@pytest.fixture(params=[1, 2, 3, 4, 5], ids="threads{}".format)
def threads(request):
    """Runs the test with one to five threads."""
    before = fpes.get_threads()
    fpes.set_threads(request.param)
    yield request.param
    fpes.set_threads(before)


@pytest.fixture(autouse=True)
def _no_test_leaves_flushing_on():
    assert not _cpu.flush_bits(), "an earlier test, or an import, left FTZ or DAZ set"
    yield
    left_on = _cpu.flush_bits()
    _cpu.set_flush_bits(False)
    assert not left_on, "the test left FTZ or DAZ set"
