"""The CUDA backend: CuPy arrays, the modules _cuda_ftz and _cuda_ieee.

Everything is put on CuPy's current stream of the device, and nothing waits. So what only the values would tell is not
checked here: it must give NaN, and never a wrong number or a read outside an array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from fpes import _checks
from fpes._backends import cuda_modules
from fpes._backends.base import Backend, Shape
from fpes._backends.cuda_arrays import as_cupy, import_cupy
from fpes._backends.cuda_errors import out_of_memory, translated
from fpes._backends.cuda_streams import Moments, Streams
from fpes._backends.description import Array, PopulationCall, UnitCall, UnitState
from fpes._backends.minibatch import Minibatch

# Scratch memory of one call, unless a single pair needs more: beside the 16 GB or more of a card it doesn't count.
_WORKSPACE_BYTES = 2**30


def cuda_backend(index: int | None) -> CudaBackend:
    """The backend of a CUDA device; of CuPy's current one where `index` is None.

    Raises:
        ImportError: no CUDA build, or no CuPy.
        RuntimeError: no device can be used.
        ValueError: there is no device of this number.
    """
    cuda_modules.any_module()
    cupy = import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        raise RuntimeError(f"no GPU can be used ({error}); NumPy arrays are computed on the CPU") from error
    if count == 0:
        raise RuntimeError("no GPU was found; NumPy arrays are computed on the CPU")
    chosen = cupy.cuda.runtime.getDevice() if index is None else index
    if chosen >= count:
        raise ValueError(f"device is 'cuda:{chosen}', expected 'cuda:0' to 'cuda:{count - 1}': what this machine has")
    return CudaBackend(cupy, chosen)


class CudaBackend(Backend):
    """One CUDA device."""

    def __init__(self, cupy: ModuleType, index: int) -> None:
        self.device = f"cuda:{index}"
        self._cupy = cupy
        self._index = index
        self._streams = Streams(cupy, self.device)

    def adopt(self, name: str, value: Any) -> Array:
        with self._current():
            return as_cupy(name, value)

    def contiguous(self, array: Array) -> Array:
        with self._current():
            return self._cupy.ascontiguousarray(array)

    def copy(self, array: Array) -> Array:
        with self._current(), self._room_for(array.nbytes, "a copy of the inputs: use a smaller batch"):
            return array.copy()

    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._current(), self._room_for(size, "the result: use a smaller batch or population"):
            return self._cupy.empty(shape, dtype)

    def copied_to_device(self, array: np.ndarray) -> Array:
        with self._current(), self._room_for(array.nbytes, "an array"):
            return self._cupy.asarray(array)

    def finite(self, name: str, value: Any, shape: Shape) -> Array:
        return self.floats(name, value, shape)

    def labels(self, name: str, value: Any, shape: Shape, classes: int) -> Array:
        array = self.adopt(name, value)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} has dtype {array.dtype}, expected integer labels")
        _checks.check_shape(name, array.shape, shape)
        return self._as_int32(array, -1, classes)

    def integer_weights(self, name: str, value: Array, population: PopulationCall | UnitCall) -> Array:
        _checks.check_shape(name, value.shape, (population.size,))
        limit = population.largest_weight
        return self._as_int32(value, -limit - 1, limit + 1)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def made(self, of: Moments = ()) -> Moments:
        with self._current():
            return self._streams.now(of)

    def follow(self, made: Moments) -> None:
        with self._current():
            self._streams.follow(made)

    @contextmanager
    def using(self, made: Moments) -> Iterator[None]:
        with self._current(), self._streams.using(made):
            yield

    def module(self, flush: str | None) -> ModuleType:
        return cuda_modules.any_module() if flush is None else cuda_modules.module_for(flush)

    def run(self, module: ModuleType, function: str, *arguments: Any) -> None:
        with self._current(), translated(module, self._index):
            stream = self._cupy.cuda.get_current_stream()
            size = self._workspace_of(module, function, *arguments)
            if size:
                self._refuse_capture(stream)
            with self._room_for(size, "scratch memory: use a smaller chunk or batch"):
                workspace = self._cupy.cuda.alloc(size)
            # The pool gives this memory to later work on the same stream only, so it may go before the kernels end.
            where = module.Execution(self._index, stream.ptr, workspace.ptr, size)
            getattr(module, function)(where, *arguments)

    def pairs_per_call(self, population: PopulationCall, batch: Minibatch) -> int:
        module = self.module(population.network.flush)
        job, nothing = self._population(module, population), self._targets(module, None)

        def workspace(pairs: int) -> int:
            return self._workspace_of(module, "population_evaluate", *job, 0, pairs, 0, nothing, batch.shape, 0, 0, 0)

        pairs = population.pairs
        with self._current(), translated(module, self._index):
            while pairs > 1 and workspace(pairs) > _WORKSPACE_BYTES:
                pairs = (pairs + 1) // 2
        return pairs

    def gradient(self, population: PopulationCall, pairs: tuple[int, int], weights: Array, out: Array) -> None:
        super().gradient(population, pairs, weights, out)
        self._nothing_of_large_integers(population, weights, out)

    def unit_gradient(
        self, population: UnitCall, batch: Minibatch, state: UnitState, weights: Array, out: Array
    ) -> None:
        super().unit_gradient(population, batch, state, weights, out)
        self._nothing_of_large_integers(population, weights, out)

    def _nothing_of_large_integers(self, population: PopulationCall | UnitCall, weights: Array, out: Array) -> None:
        """NaN where there is an integer weight that isn't summed exactly."""
        if weights.dtype == np.int32 and out.dtype == np.float32:
            limit = population.largest_weight
            with self._current():
                inexact = ((weights > limit) | (weights < -limit)).any()
                self._cupy.copyto(out, math.nan, where=inexact)

    def _refuse_capture(self, stream: Any) -> None:
        """Refuse scratch memory for work that is only recorded, for a graph.

        The graph would keep the address, and the pool would give the memory to somebody else before it is replayed.
        """
        if self._streams.is_capturing(stream):
            raise RuntimeError(
                f"{self.device}: CuPy's current stream is capturing a graph, and this call needs scratch memory, which "
                "a graph can't keep: call it outside the capture"
            )

    def _workspace_of(self, module: ModuleType, function: str, *arguments: Any) -> int:
        """Bytes of scratch memory that a call needs."""
        where = module.Execution(self._index, self._cupy.cuda.get_current_stream().ptr)
        return int(getattr(module, f"{function}_workspace")(where, *arguments))

    def _as_int32(self, array: Array, lowest: int, highest: int) -> Array:
        """Integers as int32; those of wider types are clipped first, so that none wraps around into the valid ones."""
        with self._current():
            if array.dtype.itemsize >= np.dtype(np.int32).itemsize and array.dtype != np.int32:
                array = self._cupy.clip(array, lowest if array.dtype.kind == "i" else None, highest)
            return self._cupy.ascontiguousarray(array, dtype=np.int32)

    def _current(self) -> Any:
        """Makes this device CuPy's current one."""
        return self._cupy.cuda.Device(self._index)

    @contextmanager
    def _room_for(self, size: int, purpose: str) -> Iterator[None]:
        try:
            yield
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            free, total = self._cupy.cuda.runtime.memGetInfo()
            raise out_of_memory(self.device, size, free, total, purpose) from error
