"""The CUDA backend on the host shim, called as a GPU would be: the same modules' functions, "device memory" in NumPy.

Every buffer that a call may write is surrounded by guards, what it reads ends where memory ends, and scratch memory
starts as NaN.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import mmap

import numpy as np
import pytest

import fpes
from fpes._backends.base import native

BUILT = importlib.util.find_spec("fpes._shim_ftz") is not None
needs_shim = pytest.mark.skipif(not BUILT, reason="NOT TESTED: the host shim was not built (FPES_SHIM=ON builds it)")

_GUARD = 64
_ALIGNMENT = 256
_NO_ACCESS = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LARGE_SHARED_MEMORY, _MULTIPROCESSORS, _FLOATS_AT_A_TIME = 232448, 4, 2**25


def module(flush: str):
    """The build that computes a flush mode."""
    return importlib.import_module("fpes._shim_ieee" if flush == "never" else "fpes._shim_ftz")


@contextlib.contextmanager
def device(
    reverse: bool = False,
    shared: int = _LARGE_SHARED_MEMORY,
    multiprocessors: int = _MULTIPROCESSORS,
    floats_at_a_time: int = _FLOATS_AT_A_TIME,
):
    """How the shim runs: fibers in descending order, on a device with so much shared memory for a block."""
    builds = [module("never"), module("always")]
    for build in builds:
        build.set_reverse_order(reverse)
        build.set_device(shared, multiprocessors, floats_at_a_time)
    try:
        yield
    finally:
        for build in builds:
            build.set_reverse_order(False)
            build.set_device(_LARGE_SHARED_MEMORY, _MULTIPROCESSORS, _FLOATS_AT_A_TIME)


class Guarded:
    """An array to be written, in the middle of bytes that must stay what they are and near where memory ends."""

    def __init__(self, shape, dtype=np.float32, alignment: int = _ALIGNMENT, offset: int = 0):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = _before_a_wall(_GUARD + size + _GUARD + alignment)
        memory[:] = 0xFF
        start = (memory.size - _GUARD - size - offset) // alignment * alignment + offset
        self._before, self._after = memory[:start], memory[start + size :]
        self.array = memory[start : start + size].view(dtype).reshape(shape)

    @property
    def address(self) -> int:
        return self.array.ctypes.data if self.array.size else 0

    def check(self) -> None:
        assert (self._before == 0xFF).all(), "the call wrote before its buffer"
        assert (self._after == 0xFF).all(), "the call wrote behind its buffer"


def _before_a_wall(size: int) -> np.ndarray:
    """Whole pages, `size` bytes at least, and behind them one that can't be touched.

    A kernel that does ends the process, and faulthandler says in which test. (What a GPU's memcheck finds can't always
    be told in a gentler way: numbers that are read there are often never used.)
    """
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, pages + mmap.PAGESIZE), np.uint8)
    assert _libc.mprotect(memory.ctypes.data + pages, mmap.PAGESIZE, _NO_ACCESS) == 0
    return memory[:pages]


def aligned(array: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy that starts `offset` bytes after a multiple of 16, and ends where memory ends."""
    memory = _before_a_wall(array.nbytes + _ALIGNMENT)
    start = (memory.size - array.nbytes - offset) // 16 * 16 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype)
    copy[:] = array.ravel()
    return copy.reshape(array.shape)


def call(flush: str, name: str, *arguments) -> None:
    """Run a function of the module, with the workspace that it asks for."""
    build = module(flush)
    size = getattr(build, name + "_workspace")(build.Execution(0, 0), *arguments)
    workspace = Guarded((size,), np.uint8)
    getattr(build, name)(build.Execution(0, 0, workspace.address, size), *arguments)
    workspace.check()


def gemm(a: np.ndarray, b: np.ndarray, flush: str, offsets: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """a b; the operands and the result start so many bytes after a multiple of 16."""
    left, right = aligned(a, offsets[0]), aligned(b, offsets[1])
    out = Guarded((a.shape[0], b.shape[1]), offset=offsets[2])
    sizes = (a.shape[0], b.shape[1], a.shape[1])
    call(
        flush, "gemm", module(flush).Flush.__members__[flush], left.ctypes.data, right.ctypes.data, out.address, *sizes
    )
    out.check()
    return out.array


def _program(build, net: fpes.LinearNetwork):
    call = net._call(None)
    return build.Program(sizes=call.sizes, tensors=call.tensors, scaling=call.scaling)


class ShimPopulation:
    """What a fpes.Population computes, by the CUDA kernels on the shim.

    Parameters and inputs start `offset` bytes after a multiple of 16.
    """

    def __init__(self, population: fpes.Population, offset: int = 0):
        self._population = population
        self._offset = offset
        self._flush = population.net.flush
        build = module(self._flush)
        self._native = native(build, population._members.call)
        self.theta = aligned(population.theta, offset)
        self._sums: Guarded | None = None
        self._batch: tuple | None = None

    @property
    def _network(self) -> tuple:
        net = self._population.net
        build = module(self._flush)
        return build.Flush.__members__[self._flush], _program(build, net), self.theta.ctypes.data

    def _see(self, x: np.ndarray) -> tuple:
        population, grouped = self._population, x.ndim == 3
        groups, size = x.shape[:2] if grouped else (1, x.shape[0])
        shape = (size, groups, population.size // 2 // groups)
        self._batch = (aligned(x, self._offset), shape)
        if population.perturbation.per_sample and population._members.call.perturbation.one_layer:
            self._sums = Guarded((groups * size * sum(population.net.sizes[1:]),))
        return self._batch

    @property
    def _sums_address(self) -> int:
        return 0 if self._sums is None else self._sums.address

    def evaluate(self, x, y, loss="cross_entropy", *, per_sample=False, pairs=None) -> np.ndarray:
        begin, end = pairs or (0, self._population.size // 2)
        inputs, shape = self._see(x)
        targets = aligned(np.ascontiguousarray(y, np.int32 if loss == "cross_entropy" else np.float32))
        fitness = Guarded((2 * (end - begin),))
        losses = Guarded((2 * (end - begin), shape[0]) if per_sample else (0,))
        call(
            self._flush,
            "population_evaluate",
            *self._network,
            self._native,
            begin,
            end,
            inputs.ctypes.data,
            (module(self._flush).Loss.__members__[loss], targets.ctypes.data),
            shape,
            self._sums_address,
            fitness.address,
            losses.address,
        )
        fitness.check()
        losses.check()
        if self._sums is not None:
            self._sums.check()
        return -losses.array if per_sample else fitness.array

    def forward(self, x, *, pairs=None) -> np.ndarray:
        begin, end = pairs or (0, self._population.size // 2)
        inputs, shape = self._see(x)
        out = Guarded((2 * (end - begin), shape[0], self._population.net.sizes[-1]))
        call(
            self._flush,
            "population_forward",
            *self._network,
            self._native,
            begin,
            end,
            inputs.ctypes.data,
            shape,
            self._sums_address,
            out.address,
        )
        out.check()
        return out.array

    def member(self, i: int) -> np.ndarray:
        out = Guarded((self._population.net.parameters,))
        call(self._flush, "population_member", *self._network, self._native, i, out.address)
        out.check()
        return out.array

    def gradient(self, weights: np.ndarray, pairs: tuple[int, int] | None = None) -> np.ndarray:
        population = self._population
        pairs = pairs or (0, population.size // 2)
        out = Guarded((population.net.parameters,))
        copy = aligned(weights)
        if self._batch is None or not population.perturbation.per_sample:
            integers = weights.dtype == np.int32
            call(
                self._flush,
                "population_gradient",
                self._network[1],
                self._native,
                copy.ctypes.data,
                integers,
                population.size,
                *pairs,
                0,
                out.address,
            )
        else:
            inputs, shape = self._batch
            arguments = (
                *self._network,
                self._native,
                population.size // 2,
                *pairs,
                inputs.ctypes.data,
                shape,
                copy.ctypes.data,
                weights.ndim == 2,
            )
            call(self._flush, "population_sample_gradient", *arguments, self._sums_address, out.address)
        out.check()
        return out.array

    def gradient_sums(self, weights: np.ndarray, pairs: tuple[int, int]) -> np.ndarray:
        population = self._population
        out = Guarded((population.net.parameters,), np.int64)
        copy = aligned(weights)
        where = (copy.ctypes.data, True, population.size, *pairs, out.address, 0)
        call(self._flush, "population_gradient", self._network[1], self._native, *where)
        out.check()
        return out.array

    def scale_sums(self, sums: np.ndarray) -> np.ndarray:
        population = self._population
        out, copy = Guarded((population.net.parameters,)), aligned(sums)
        where = (population.size // 2, copy.ctypes.data, out.address)
        call(self._flush, "scale_sums", self._network[1], self._native, *where)
        out.check()
        return out.array

    def plan(self, x: np.ndarray) -> str:
        build = module(self._flush)
        _, shape = self._see(x)
        flush, program, _ = self._network
        pairs = self._population.size // 2
        return build.population_plan(build.Execution(0, 0), flush, program, self._native, 0, pairs, shape)


def net_forward(net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray, offset: int = 0) -> np.ndarray:
    """Outputs of the unperturbed network. theta and x start `offset` bytes after a multiple of 16."""
    build = module(net.flush)
    parameters, inputs = aligned(theta, offset), aligned(x, offset)
    out = Guarded((x.shape[0], net.sizes[-1]))
    flush = build.Flush.__members__[net.flush]
    address = (parameters.ctypes.data, inputs.ctypes.data)
    call(net.flush, "forward", flush, _program(build, net), *address, x.shape[0], out.address)
    out.check()
    return out.array
