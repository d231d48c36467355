"""What a call computes, in plain data: the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A NumPy or a CuPy array; on the way in also what else lies on a GPU and speaks DLPack or __cuda_array_interface__.
Array = Any


@dataclass(frozen=True)
class NetworkCall:
    """A network with its parameters.

    Args:
        flush: "never", "boundary" or "always".
        sizes: inputs, widths, outputs.
        tensors: of each layer, which parameters it takes, numbered from 0 in the order in which they are first taken.
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
    """How members of a population differ, as the C++ modules know it.

    Args:
        family: the name of a family in csrc/common/perturbations.
        noise: "binomial", "rademacher" or "gaussian".
        parameters: the family's own numbers, by name.
        units: where each pair perturbs one layer: how many units of each layer, 0 meaning all. Else empty.
        pairs: likewise: how many pairs in a row perturb each layer.
        per_sample: whether noise is drawn for each sample.
        products: of how many products of two draws the change of a weight consists; 0 where it is one draw.
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
        size: members.
        perturbation: how they differ.
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
        """Magnitude of integer weights up to which a GPU sums exactly: in 64 bits, and terms of products in 32."""
        products = self.perturbation.products
        return min(2**26 if products else 2**30, 2**62 // (self.size * max(products, 1) * 64))


@dataclass(frozen=True)
class Targets:
    """What the outputs of each sample are compared with.

    Args:
        loss: by which loss: its name.
        numbers: as the loss wants them, on the backend's device.
    """

    loss: str
    numbers: Array


@dataclass(frozen=True)
class UnitCall:
    """A population whose members differ from a network in one unit's weights.

    Args:
        network: its centre.
        size: members.
        span: whether directions lie in the span of a layer's inputs; otherwise they are white.
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1.
        sigma: root mean square of what a member changes in its unit's pre-activations.
        draws: of each layer, in a block of members.
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
        """As for PopulationCall; here each becomes a double."""
        return 2**30


@dataclass(frozen=True)
class UnitState:
    """What a batch makes of such a population: arrays that are filled once, group by group, and that later calls read.

    Args:
        sums: of the unperturbed network, float32: for each layer [groups * batch, fan_out].
        changes: float32 [blocks, draws, batch], of the pre-activations by a draw's + member.
        solutions: float64, likewise: the coefficients of the inputs in a draw's direction. Empty for white ones.
        factors: float64 [groups, layers], times a direction: the change of the weights.
    """

    sums: Array
    changes: Array
    solutions: Array
    factors: Array
