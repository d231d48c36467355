"""The CUDA backend without a GPU: CuPy replaced by fake_cupy, the CUDA modules by ones that compute on host memory."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys

import fake_cupy
import numpy as np
import pytest

from fpes import _cpu, _settings
from fpes._backends import cuda_modules
from fpes.evaluation import plain

WORKSPACE = 1000


class CudaError(RuntimeError):
    """As csrc/bindings/cuda.cpp defines it: (code, name, message)."""


class Execution:
    def __init__(self, device, stream, workspace=0, workspace_bytes=0):
        self.device, self.stream, self.workspace, self.workspace_bytes = device, stream, workspace, workspace_bytes


class CpuKernels:
    """A CUDA module whose functions are the CPU's: their arguments are the same, the Execution apart.

    Notes every call, and fails when it is told to.
    """

    CudaError, Execution = CudaError, Execution
    Flush, Loss, NoiseKind, NoiseRole, Program, Population, UnitPopulation = (
        _cpu.Flush,
        _cpu.Loss,
        _cpu.NoiseKind,
        _cpu.NoiseRole,
        _cpu.Program,
        _cpu.Population,
        _cpu.UnitPopulation,
    )

    def __init__(self, build):
        self.build = build
        self.calls = []  # (function, Execution)
        self.failure = None
        self.workspace_of_a_pair = 0

    def architectures(self):
        return "90-real;75-virtual"

    def __getattr__(self, name):
        if name.endswith("_workspace"):
            return functools.partial(self._workspace, name.removesuffix("_workspace"))
        function = getattr(_cpu, name)

        def call(execution, *arguments):
            assert execution.workspace_bytes >= WORKSPACE
            self.calls.append((name, execution))
            fake_cupy.state.work()
            if self.failure:
                raise CudaError(*self.failure)
            function(_settings.execution(), *_as_the_cpu_takes_them(name, arguments))

        return call

    def _workspace(self, function, execution, *arguments):
        assert execution.workspace == 0
        if function != "population_evaluate":
            return WORKSPACE
        first, end = arguments[4:6]
        return WORKSPACE + self.workspace_of_a_pair * (end - first)


def _as_the_cpu_takes_them(name, arguments):
    """Integer weights have 32 bits on a GPU, and 64 on the CPU."""
    if name == "population_gradient" and arguments[3]:
        place, members = 2, arguments[4]
    elif name == "unit_gradient" and arguments[9]:
        place, members = 8, 2 * arguments[4]
    else:
        return arguments
    weights = np.ctypeslib.as_array((ctypes.c_int32 * members).from_address(arguments[place])).astype(np.int64)
    _as_the_cpu_takes_them.kept = weights
    return *arguments[:place], weights.ctypes.data, *arguments[place + 1 :]


def install(monkeypatch, modules):
    """Put the double in the place of CuPy, and modules, {"ftz": ..., "ieee": ...}, in the place of the CUDA builds."""
    fake_cupy.reset()
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    for build in ("ftz", "ieee"):
        name = f"fpes._double_{build}"
        monkeypatch.setitem(cuda_modules.MODULES, build, name)
        if build in modules:
            monkeypatch.setitem(sys.modules, name, modules[build])
        else:
            monkeypatch.delitem(sys.modules, name, raising=False)


def shim():
    """The kernels of csrc/cuda themselves, compiled for the CPU against the shim; the test is skipped without them."""
    names = {build: f"fpes._shim_{build}" for build in ("ftz", "ieee")}
    missing = [name for name in names.values() if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} was not built (FPES_SHIM=ON pip install .)")
    return {build: importlib.import_module(name) for build, name in names.items()}


def on_gpu(array, device=0):
    """A copy of a NumPy array in the memory of a device of the double."""
    with fake_cupy.Device(device):
        return fake_cupy.asarray(np.asarray(array))


def host(array):
    """A result of the double as a NumPy array, which must be on a device."""
    values = plain(array)
    assert type(values) is fake_cupy.ndarray, f"a {type(values)} came back"
    return values._host
