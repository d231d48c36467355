"""The methods that every backend has.

A backend represents one device. It checks and creates arrays there, and runs the functions of its C++ module. These
functions have the same names and arguments on every device: first an Execution, which says where and how to run, then
the job. The functions of the package choose a backend by their arrays. Otherwise they are the same for all devices.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np

from fpes import _checks
from fpes._backends.cuda_streams import Moments
from fpes._backends.description import Array, NetworkCall, PopulationCall, Targets, UnitCall, UnitState
from fpes._backends.minibatch import Minibatch

Shape = tuple[int | str, ...]
PairRange = tuple[int, int]


class Backend(ABC):
    """One device, and its ways to compute."""

    device: str
    """As users write it: "cpu", "cuda:0"."""

    # --- what differs: arrays -----------------------------------------------------------------------------------------

    @abstractmethod
    def adopt(self, name: str, value: Any) -> Array:
        """`value` as this backend's kind of array, without a copy.

        Raises:
            TypeError: it isn't an array of a suitable kind.
        """

    @abstractmethod
    def contiguous(self, array: Array) -> Array:
        """`array` in C order, copied only if it has gaps."""

    @abstractmethod
    def copy(self, array: Array) -> Array:
        """A copy of an array."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
        """An uninitialised array.

        Raises:
            MemoryError: no memory. The message has the number of bytes.
        """

    @abstractmethod
    def copied_to_device(self, array: np.ndarray) -> Array:
        """A copy of a NumPy array on this device."""

    @abstractmethod
    def finite(self, name: str, value: Any, shape: Shape) -> Array:
        """As `floats`, for numbers that must be finite. Others are refused where the check costs no wait."""

    @abstractmethod
    def labels(self, name: str, value: Any, shape: Shape, classes: int) -> Array:
        """`value` as int32 labels in 0 ... classes - 1. Others are refused where the check costs no wait."""

    @abstractmethod
    def integer_weights(self, name: str, value: Array, population: PopulationCall | UnitCall) -> Array:
        """`value` as integer weights [size] of the gradient, for families that perturb weights.

        Integers too large for an exact sum are refused where the check costs no wait.
        """

    def floats(self, name: str, value: Any, shape: Shape | None = None) -> Array:
        """`value` as a C-contiguous float32 array: copied if it has gaps, refused if it has another dtype or shape.

        `shape` holds a number for an extent with this exact value, and a word for any extent of at least 1.
        """
        array = self.adopt(name, value)
        _checks.check_floats(name, array, shape)
        return self.contiguous(array)

    @abstractmethod
    def address(self, array: Array) -> int:
        """The address of an array's first element, as the C++ modules take it."""

    # --- what differs: in which order calls are done ------------------------------------------------------------------

    @abstractmethod
    def made(self, of: Moments = ()) -> Moments:
        """What to note with arrays that are kept for later calls, once the work that fills them has been begun.

        `of`: what was noted with those that are kept along with them, or changed.
        """

    @abstractmethod
    def follow(self, made: Moments) -> None:
        """Do what is begun from now on after the work that fills such arrays."""

    @abstractmethod
    def using(self, made: Moments) -> AbstractContextManager[None]:
        """Around work that uses such arrays: it follows their own, and their memory isn't reused before it is done."""

    # --- what differs: how functions run ------------------------------------------------------------------------------

    @abstractmethod
    def module(self, flush: str | None) -> ModuleType:
        """The C++ module for a flush mode; any module if the mode doesn't matter.

        Raises:
            ImportError: it wasn't built.
        """

    @abstractmethod
    def run(self, module: ModuleType, function: str, *arguments: Any) -> None:
        """Call a function of the module, on this device."""

    @abstractmethod
    def pairs_per_call(self, population: PopulationCall, batch: Minibatch) -> int:
        """The number of pairs to compute in one call, if the caller doesn't choose."""

    # --- primitives ---------------------------------------------------------------------------------------------------

    def gemm(self, flush: str, a: Array, b: Array, out: Array) -> None:
        """out[m, n] = a[m, k] b[k, n]."""
        self._run_in(flush, "gemm", self.address(a), self.address(b), self.address(out), *out.shape, a.shape[1])

    def bias_add(self, flush: str, v: Array, bias: Array, out: Array) -> None:
        """out[rows, n] = v[rows, n] + bias[n]."""
        self._run_in(flush, "bias_add", self.address(v), self.address(bias), self.address(out), *out.shape)

    def multiply(self, flush: str, v: Array, factor: float, out: Array) -> None:
        """out = v times the factor, rounded to float32."""
        self._run_in(flush, "multiply", self.address(v), factor, self.address(out), out.size)

    def losses(self, flush: str, outputs: Array, targets: Targets, out: Array) -> None:
        """out[rows] = losses of outputs[rows, count]."""
        given = self._targets(self.module(flush), targets)
        self._run_in(flush, "losses", self.address(outputs), *outputs.shape, given, self.address(out))

    def noise(
        self, out: Array, *, kind: str, seed: int, layer: int, role: str, pair: int, generation: int, first: int
    ) -> None:
        """out[count] = elements first, first + 1, ... of a tensor of noise."""
        module = self.module(None)
        tensor = (module.NoiseKind.__members__[kind], seed, layer, module.NoiseRole.__members__[role], pair, generation)
        self.run(module, "noise", *tensor, first, out.size, self.address(out))

    # --- networks and populations -------------------------------------------------------------------------------------

    def forward(self, network: NetworkCall, x: Array, out: Array) -> None:
        """out[batch, classes] = logits of x[batch, features]."""
        module = self.module(network.flush)
        self.run(module, "forward", *self._network(module, network), self.address(x), x.shape[0], self.address(out))

    def evaluate(
        self,
        population: PopulationCall,
        pairs: PairRange,
        batch: Minibatch,
        *,
        targets: Targets,
        sums: Array | None,
        fitness: Array,
        losses: Array | None,
    ) -> None:
        """fitness[2 pairs], and losses[2 pairs, batch] unless None, of a range of pairs.

        `sums`, unless None, receives the unperturbed sums that the gradient of one-layer node perturbation needs.
        """
        module = self.module(population.network.flush)
        self.run(
            module,
            "population_evaluate",
            *self._population(module, population),
            *pairs,
            self.address(batch.x),
            self._targets(module, targets),
            batch.shape,
            self._address_or_0(sums),
            self.address(fitness),
            self._address_or_0(losses),
        )

    def outputs(
        self, population: PopulationCall, pairs: PairRange, batch: Minibatch, sums: Array | None, out: Array
    ) -> None:
        """out[2 pairs, batch, classes] of a range of pairs."""
        module = self.module(population.network.flush)
        self.run(
            module,
            "population_forward",
            *self._population(module, population),
            *pairs,
            self.address(batch.x),
            batch.shape,
            self._address_or_0(sums),
            self.address(out),
        )

    def member(self, population: PopulationCall, index: int, out: Array) -> None:
        """out[parameters] of one member."""
        module = self.module(population.network.flush)
        self.run(module, "population_member", *self._population(module, population), index, self.address(out))

    def gradient(self, population: PopulationCall, pairs: PairRange, weights: Array, out: Array) -> None:
        """out[parameters] = the part of a range of pairs, for float32 weights [size] or integer_weights().

        If `out` is int64, it receives exact unscaled sums, from integer weights and integer noise: see scale_sums().
        """
        module = self.module(None)
        sums = out.dtype == np.int64
        self.run(
            module,
            "population_gradient",
            self._program(module, population.network),
            native(module, population),
            self.address(weights),
            weights.dtype.kind == "i",
            population.size,
            *pairs,
            self.address(out) if sums else 0,
            0 if sums else self.address(out),
        )

    def scale_sums(self, population: PopulationCall, sums: Array, out: Array) -> None:
        """out[parameters] = the gradient, from exact sums over all pairs."""
        module = self.module(None)
        self.run(
            module,
            "scale_sums",
            self._program(module, population.network),
            native(module, population),
            population.pairs,
            self.address(sums),
            self.address(out),
        )

    def sample_gradient(
        self,
        population: PopulationCall,
        pairs: PairRange,
        batch: Minibatch,
        *,
        weights: Array,
        sums: Array | None,
        out: Array,
    ) -> None:
        """out[parameters] = the part of a range of pairs, for float32 weights [size] or [size, batch].

        `sums`: the sums that evaluate() filled, if it did.
        """
        module = self.module(population.network.flush)
        call = (
            *self._population(module, population),
            population.pairs,
            *pairs,
            self.address(batch.x),
            batch.shape,
            self.address(weights),
            weights.ndim == 2,
        )
        self.run(module, "population_sample_gradient", *call, self._address_or_0(sums), self.address(out))

    # --- populations whose members differ in one unit -----------------------------------------------------------------

    def prepare_units(self, population: UnitCall, batch: Minibatch, state: UnitState, groups: tuple[int, int]) -> None:
        """Fill the state of a range of groups."""
        self._run_units("unit_prepare", population, batch, state, *groups)

    def evaluate_units(
        self,
        population: UnitCall,
        batch: Minibatch,
        state: UnitState,
        pairs: PairRange,
        *,
        targets: Targets | None = None,
        weights: Array | None = None,
        fitness: Array | None = None,
        losses: Array | None = None,
        outputs: Array | None = None,
        centre: Array | None = None,
    ) -> None:
        """Fill fitness[2 pairs], losses[2 pairs, batch] and outputs[2 pairs, batch, classes] of a range, unless None.

        centre[groups * batch] receives losses of the unperturbed network, for the minibatches of this range.
        """
        results = [self._address_or_0(array) for array in (weights, fitness, losses, outputs, centre)]
        given = self._targets(self.module(population.network.flush), targets)
        self._run_units("unit_evaluate", population, batch, state, *pairs, given, results)

    def unit_gradient(
        self, population: UnitCall, batch: Minibatch, state: UnitState, weights: Array, out: Array
    ) -> None:
        """out[parameters] = the gradient, from weights [size]: float32, or a result of integer_weights()."""
        integers = weights.dtype.kind == "i"
        self._run_units("unit_gradient", population, batch, state, self.address(weights), integers, self.address(out))

    def unit_member(self, population: UnitCall, batch: Minibatch, state: UnitState, index: int, out: Array) -> None:
        """out[parameters] of one member."""
        self._run_units("unit_member", population, batch, state, index, self.address(out))

    def _run_units(
        self, function: str, population: UnitCall, batch: Minibatch, state: UnitState, *arguments: Any
    ) -> None:
        module = self.module(population.network.flush)
        native = module.UnitPopulation(
            span=population.span,
            seed=population.seed,
            generation=population.generation,
            sigma=population.sigma,
            draws=population.draws,
        )
        arrays = [self.address(array) for array in (state.sums, state.changes, state.solutions, state.factors)]
        self.run(
            module,
            function,
            *self._network(module, population.network),
            native,
            population.pairs,
            self.address(batch.x),
            batch.shape,
            arrays,
            *arguments,
        )

    # --- jobs as the C++ modules take them ----------------------------------------------------------------------------

    def _run_in(self, flush: str, function: str, *arguments: Any) -> None:
        """Run a function whose first argument is the flush mode."""
        module = self.module(flush)
        self.run(module, function, module.Flush.__members__[flush], *arguments)

    def _network(self, module: ModuleType, network: NetworkCall) -> tuple[Any, ...]:
        flush = module.Flush.__members__[network.flush]
        return flush, self._program(module, network), self.address(network.theta)

    def _program(self, module: ModuleType, network: NetworkCall) -> Any:
        return _program(module, network.sizes, network.tensors, network.scaling)

    def _population(self, module: ModuleType, population: PopulationCall) -> tuple[Any, ...]:
        return *self._network(module, population.network), native(module, population)

    def _targets(self, module: ModuleType, targets: Targets | None) -> tuple[Any, int]:
        """A loss and the address of its targets; without targets, a null address."""
        if targets is None:
            return module.Loss(0), 0
        return module.Loss.__members__[targets.loss], self.address(targets.numbers)

    def _address_or_0(self, array: Array | None) -> int:
        return 0 if array is None else self.address(array)


@functools.lru_cache(maxsize=64)  # a call of a small network takes only some microseconds
def _program(module: ModuleType, sizes: tuple[int, ...], tensors: tuple[int, ...], scaling: float) -> Any:
    """The module's own description of a network."""
    return module.Program(sizes=sizes, tensors=tensors, scaling=scaling)


def native(module: ModuleType, population: PopulationCall) -> Any:
    """The module's own description of a population."""
    perturbation = population.perturbation
    return module.Population(
        family=perturbation.family,
        parameters=perturbation.parameters,
        units=perturbation.units,
        pairs=perturbation.pairs,
        noise=module.NoiseKind.__members__[perturbation.noise],
        seed=population.seed,
        generation=population.generation,
        sigma=population.sigma,
    )
