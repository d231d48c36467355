"""Descriptions of calls as plain data, the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A NumPy or CuPy array; as an argument also any GPU array with DLPack or __cuda_array_interface__.
Array = Any


@dataclass(frozen=True)
class NetworkCall:
    """A network with its parameters.

    Args:
        flush: "never", "boundary" or "always".
        sizes: inputs, widths, outputs.
        tensors: for each layer the number of its tensor, from 0 in the order of first use.
        scaling: a power of two.
        theta: float32 [parameters], on the backend's device.
    """

    flush: str
    sizes: tuple[int, ...]
    tensors: tuple[int, ...]
    scaling: float
    theta: Array


@dataclass(frozen=True)
class PerturbationSpec:
    """A perturbation, as the C++ modules take it.

    Args:
        family: the name of a family in csrc/common/perturbations.
        noise: "binomial", "rademacher" or "gaussian".
        parameters: the family's own numbers, by name.
        units: number of perturbed units of each layer (0: all) if each pair perturbs one layer; otherwise empty.
        pairs: number of consecutive pairs that perturb each layer, in the same case; otherwise empty.
        per_sample: whether noise is drawn for each sample.
        products: number of products of two draws in the change of a weight; 0 if the change is one draw.
    """

    family: str
    noise: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    units: Sequence[int] = ()
    pairs: Sequence[int] = ()
    per_sample: bool = False
    products: int = 0

    @property
    def one_layer(self) -> bool:
        """Whether each pair perturbs one layer."""
        return len(self.pairs) > 0


@dataclass(frozen=True)
class PopulationCall:
    """A population around a network.

    Args:
        network: its centre.
        size: number of members.
        perturbation: how members differ from the centre.
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1.
        sigma: standard deviation of the perturbation.
    """

    network: NetworkCall
    size: int
    perturbation: PerturbationSpec
    seed: int
    generation: int
    sigma: float

    @property
    def pairs(self) -> int:
        """Antithetic pairs."""
        return self.size // 2

    @property
    def largest_weight(self) -> int:
        """The largest integer weight that a GPU sums exactly: sums have 64 bits, and terms of products 32."""
        products = self.perturbation.products
        return min(2**26 if products else 2**30, 2**62 // (self.size * max(products, 1) * 64))


@dataclass(frozen=True)
class Targets:
    """The targets of a loss.

    Args:
        loss: name of the loss.
        numbers: the targets in the form that the loss takes, on the backend's device.
    """

    loss: str
    numbers: Array


@dataclass(frozen=True)
class UnitCall:
    """A population whose members differ from a network in one unit's weights.

    Args:
        network: its centre.
        size: number of members.
        span: whether directions lie in the span of a layer's inputs; otherwise they are white.
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1.
        sigma: root mean square of a member's change of its unit's pre-activations.
        draws: number of draws of each layer in a block of members.
    """

    network: NetworkCall
    size: int
    span: bool
    seed: int
    generation: int
    sigma: float
    draws: Sequence[int]

    @property
    def pairs(self) -> int:
        """Antithetic pairs."""
        return self.size // 2

    @property
    def largest_weight(self) -> int:
        """As for PopulationCall. Here each weight becomes a double."""
        return 2**30


@dataclass(frozen=True)
class UnitState:
    """Preparations of such a population for a batch: arrays, filled once, group by group, and read by later calls.

    Args:
        sums: sums of the unperturbed network, float32: for each layer [groups * batch, fan_out].
        changes: changes of the pre-activations by the + member of a draw, float32 [blocks, draws, batch].
        solutions: coefficients of the inputs in the direction of a draw, float64 of the same shape; empty for white
            directions.
        factors: float64 [groups, layers]; the change of the weights is a factor times a direction.
    """

    sums: Array
    changes: Array
    solutions: Array
    factors: Array
