"""The CPU backend: NumPy arrays, the module _cpu."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fpes import _checks, _cpu, _settings
from fpes._backends.base import Backend, PairRange, Shape
from fpes._backends.description import Array, NetworkCall, PopulationCall

if TYPE_CHECKING:
    from fpes.minibatch import Minibatch

# Multiply-adds in one call of the C++ module: a second or so on one core, after which Ctrl-C is heard.
_CALL_MULTIPLY_ADDS = 2**35
_FEWEST_PAIRS = 16


class CpuBackend(Backend):
    """The CPU: how many threads and which instruction set, fpes._settings says anew for every call."""

    device = "cpu"

    def adopt(self, name: str, value: Any) -> Array:
        return _checks.numpy_array(name, value)

    def contiguous(self, array: Array) -> Array:
        return np.asarray(array, order="C")

    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
        return np.empty(shape, dtype)

    def copied_to_device(self, array: np.ndarray) -> Array:
        return array

    def finite(self, name: str, value: Any, shape: Shape) -> Array:
        return _checks.finite_array(name, value, shape)

    def labels(self, name: str, value: Any, shape: Shape, classes: int) -> Array:
        return _checks.labels(name, value, shape, classes)

    def integer_weights(self, name: str, value: Array, shape: Shape, limit: int) -> Array:
        _checks.check_shape(name, value.shape, shape)
        largest = max(abs(int(value.max())), abs(int(value.min())))
        if largest > limit:
            raise ValueError(
                f"{name} has integers up to {largest} in magnitude, expected at most {limit} for an exact sum: "
                "convert them to float32 to have them summed in float32"
            )
        return np.ascontiguousarray(value, dtype=np.int32)

    def gemm(self, flush: str, a: Array, b: Array, out: Array) -> None:
        _cpu.gemm(
            _settings.execution(),
            _cpu.Flush.__members__[flush],
            a.ctypes.data,
            b.ctypes.data,
            out.ctypes.data,
            *out.shape,
            a.shape[1],
        )

    def bias_add(self, flush: str, v: Array, bias: Array, out: Array) -> None:
        _cpu.bias_add(
            _settings.execution(),
            _cpu.Flush.__members__[flush],
            v.ctypes.data,
            bias.ctypes.data,
            out.ctypes.data,
            *v.shape,
        )

    def multiply(self, flush: str, v: Array, factor: float, out: Array) -> None:
        _cpu.multiply(
            _settings.execution(), _cpu.Flush.__members__[flush], v.ctypes.data, factor, out.ctypes.data, v.size
        )

    def noise(
        self, kind: str, seed: int, layer: int, role: str, pair: int, generation: int, first: int, out: Array
    ) -> None:
        _cpu.noise(
            _settings.execution(),
            _cpu.NoiseKind.__members__[kind],
            seed,
            layer,
            _cpu.NoiseRole.__members__[role],
            pair,
            generation,
            first,
            out.size,
            out.ctypes.data,
        )

    def forward(self, network: NetworkCall, x: Array, out: Array) -> None:
        _cpu.forward(*_network(network), x.ctypes.data, x.shape[0], out.ctypes.data)

    def pairs_per_call(self, population: PopulationCall, batch: Minibatch, multiply_adds: int) -> int:
        return max(_FEWEST_PAIRS, _CALL_MULTIPLY_ADDS // (2 * batch.size * multiply_adds))

    def evaluate(
        self,
        population: PopulationCall,
        pairs: PairRange,
        batch: Minibatch,
        labels: Array,
        activations: Array | None,
        fitness: Array,
        losses: Array | None,
    ) -> None:
        _cpu.population_evaluate(
            *_network(population.network),
            _population(population),
            *pairs,
            batch.x.ctypes.data,
            labels.ctypes.data,
            batch.shape,
            _address(activations),
            fitness.ctypes.data,
            _address(losses),
        )

    def outputs(
        self, population: PopulationCall, pairs: PairRange, batch: Minibatch, activations: Array | None, out: Array
    ) -> None:
        _cpu.population_forward(
            *_network(population.network),
            _population(population),
            *pairs,
            batch.x.ctypes.data,
            batch.shape,
            _address(activations),
            out.ctypes.data,
        )

    def member(self, population: PopulationCall, index: int, out: Array) -> None:
        _cpu.population_member(*_network(population.network), _population(population), index, out.ctypes.data)

    def gradient(self, population: PopulationCall, weights: Array, out: Array) -> None:
        _cpu.population_gradient(
            _settings.execution(),
            population.network.sizes,
            _population(population),
            weights.ctypes.data,
            weights.dtype == np.int32,
            population.size,
            out.ctypes.data,
        )

    def node_gradient(
        self, population: PopulationCall, batch: Minibatch, weights: Array, activations: Array | None, out: Array
    ) -> None:
        call = (
            *_network(population.network),
            _population(population),
            population.pairs,
            batch.x.ctypes.data,
            batch.shape,
            weights.ctypes.data,
            weights.ndim == 2,
        )
        if activations is None:
            _cpu.node_gradient(*call, out.ctypes.data)
        else:
            _cpu.incremental_gradient(*call, activations.ctypes.data, out.ctypes.data)


def _network(network: NetworkCall) -> tuple[_cpu.Execution, _cpu.Flush, Any, float, int]:
    """A network as the C++ module takes it."""
    return (
        _settings.execution(),
        _cpu.Flush.__members__[network.flush],
        network.sizes,
        network.scaling,
        network.theta.ctypes.data,
    )


def _population(population: PopulationCall) -> _cpu.Population:
    return _cpu.Population(
        family=_cpu.Family.__members__[population.family],
        rank=population.rank,
        noise=_cpu.NoiseKind.__members__[population.noise],
        seed=population.seed,
        generation=population.generation,
        sigma=population.sigma,
        units=population.units,
        draws=population.draws,
    )


def _address(array: Array | None) -> int:
    """Where an array lies; 0 for none."""
    return 0 if array is None else int(array.ctypes.data)
