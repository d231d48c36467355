"""The methods that every backend has.

A backend stands for one device. It takes arrays in (checked, contiguous, on its device), gives arrays out, and knows
how to call its C++ module. The functions of the package choose a backend by their arrays and are otherwise the same for
all devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fpes import _checks
from fpes._backends.description import Array, NetworkCall, PopulationCall

if TYPE_CHECKING:
    from fpes.minibatch import Minibatch

Shape = tuple[int | str, ...]
PairRange = tuple[int, int]


class Backend(ABC):
    """One device and how to compute on it."""

    device: str
    """As users write it: "cpu", "cuda:0"."""

    # --- arrays -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def adopt(self, name: str, value: Any) -> Array:
        """`value` as this backend's kind of array, without a copy.

        Raises:
            TypeError: it is no array that can be.
        """

    @abstractmethod
    def contiguous(self, array: Array) -> Array:
        """`array` in C order, copied only if it has gaps."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
        """An array that isn't initialised.

        Raises:
            MemoryError: no memory, with the bytes asked for.
        """

    @abstractmethod
    def copied_to_device(self, array: np.ndarray) -> Array:
        """A NumPy array, brought to this device."""

    @abstractmethod
    def finite(self, name: str, value: Any, shape: Shape) -> Array:
        """:meth:`floats` for numbers that must be finite; refused if they aren't, where finding out costs no wait."""

    @abstractmethod
    def labels(self, name: str, value: Any, shape: Shape, classes: int) -> Array:
        """`value` as int32 labels in 0 ... classes - 1; refused if they aren't, where finding out costs no wait."""

    @abstractmethod
    def integer_weights(self, name: str, value: Array, shape: Shape, limit: int) -> Array:
        """`value` as int32 of at most `limit` in magnitude; refused if not, where finding out costs no wait."""

    def floats(self, name: str, value: Any, shape: Shape | None = None) -> Array:
        """`value` as a C-contiguous float32 array: copied if it has gaps, refused if it has another dtype or shape.

        `shape` holds a number where an extent must be exactly that, and a word where it may be anything from 1 on.
        """
        array = self.adopt(name, value)
        _checks.check_floats(name, array, shape)
        return self.contiguous(array)

    # --- primitives ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def gemm(self, flush: str, a: Array, b: Array, out: Array) -> None:
        """out[m, n] = a[m, k] b[k, n]."""

    @abstractmethod
    def bias_add(self, flush: str, v: Array, bias: Array, out: Array) -> None:
        """out[rows, n] = v[rows, n] + bias[n]."""

    @abstractmethod
    def multiply(self, flush: str, v: Array, factor: float, out: Array) -> None:
        """out = v times the factor, rounded to float32."""

    @abstractmethod
    def noise(
        self, kind: str, seed: int, layer: int, role: str, pair: int, generation: int, first: int, out: Array
    ) -> None:
        """out[count] = elements first, first + 1, ... of a tensor of noise."""

    # --- networks and populations -------------------------------------------------------------------------------------

    @abstractmethod
    def forward(self, network: NetworkCall, x: Array, out: Array) -> None:
        """out[batch, classes] = logits of x[batch, features]."""

    @abstractmethod
    def pairs_per_call(self, population: PopulationCall, batch: Minibatch, multiply_adds: int) -> int:
        """How many pairs to compute in one call where the caller leaves it open.

        `multiply_adds`: of one member and sample, roughly.
        """

    @abstractmethod
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
        """fitness[2 pairs], and losses[2 pairs, batch] unless None, of a range of pairs.

        `activations`, unless None: where a one_layer population leaves what its gradient needs.
        """

    @abstractmethod
    def outputs(
        self, population: PopulationCall, pairs: PairRange, batch: Minibatch, activations: Array | None, out: Array
    ) -> None:
        """out[2 pairs, batch, classes] of a range of pairs."""

    @abstractmethod
    def member(self, population: PopulationCall, index: int, out: Array) -> None:
        """out[parameters] of one member."""

    @abstractmethod
    def gradient(self, population: PopulationCall, weights: Array, out: Array) -> None:
        """out[parameters], from int32 or float32 weights [size]."""

    @abstractmethod
    def node_gradient(
        self, population: PopulationCall, batch: Minibatch, weights: Array, activations: Array | None, out: Array
    ) -> None:
        """out[parameters] of node perturbation, from float32 weights [size] or [size, batch].

        `activations`: what evaluate() left, of a one_layer population.
        """
