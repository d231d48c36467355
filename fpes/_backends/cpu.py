"""The CPU backend: NumPy arrays, the module _cpu."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from fpes import _checks, _cpu, _settings
from fpes._backends.base import Backend, Shape
from fpes._backends.cuda_streams import Moments
from fpes._backends.description import Array, PopulationCall, UnitCall
from fpes._backends.minibatch import Minibatch

_LARGEST_WEIGHT = 2**53


class CpuBackend(Backend):
    """The CPU. Every call reads the number of threads and the instruction set from fpes._settings."""

    device = "cpu"

    def adopt(self, name: str, value: Any) -> Array:
        return _checks.numpy_array(name, value)

    def contiguous(self, array: Array) -> Array:
        return _checks.contiguous(array)

    def copy(self, array: Array) -> Array:
        return array.copy()

    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
        return np.empty(shape, dtype)

    def copied_to_device(self, array: np.ndarray) -> Array:
        return array

    def finite(self, name: str, value: Any, shape: Shape) -> Array:
        return _checks.finite_array(name, value, shape)

    def labels(self, name: str, value: Any, shape: Shape, classes: int) -> Array:
        return _checks.labels(name, value, shape, classes)

    def integer_weights(self, name: str, value: Array, population: PopulationCall | UnitCall) -> Array:
        _checks.check_shape(name, value.shape, (population.size,))
        largest = max(abs(int(value.max())), abs(int(value.min())))
        if largest > _LARGEST_WEIGHT:
            raise ValueError(
                f"{name} has integers up to {largest} in magnitude, expected at most {_LARGEST_WEIGHT} for an exact "
                "sum: convert them to float32 to have them summed in float32"
            )
        return np.array(value, dtype=np.int64, order="C")

    def address(self, array: Array) -> int:
        return int(array.ctypes.data)

    def made(self, of: Moments = ()) -> Moments:
        return ()

    def follow(self, made: Moments) -> None:
        """Every call has done its work when it returns."""

    def using(self, made: Moments) -> AbstractContextManager[None]:
        return nullcontext()

    def module(self, flush: str | None) -> ModuleType:
        return _cpu

    def run(self, module: ModuleType, function: str, *arguments: Any) -> None:
        getattr(module, function)(_settings.execution(), *arguments)

    def pairs_per_call(self, population: PopulationCall, batch: Minibatch) -> int:
        return population.pairs
