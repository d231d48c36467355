"""What a call computes, in plain data: the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
class PopulationCall:
    """A population around a network.

    Args:
        network: its centre.
        size: members.
        family: "full", "low_rank", "node", "one_layer" or "one_layer_rank_one".
        rank: of low_rank, else 1.
        noise: "binomial", "rademacher" or "gaussian".
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1.
        sigma: standard deviation of the perturbation.
        units: where each pair perturbs one layer: how many units of each layer carry noise, 0 meaning all.
        draws: likewise: how many pairs in a row perturb each layer.
    """

    network: NetworkCall
    size: int
    family: str
    rank: int
    noise: str
    seed: int
    generation: int
    sigma: float
    units: Sequence[int]
    draws: Sequence[int]

    @property
    def pairs(self) -> int:
        """Antithetic pairs."""
        return self.size // 2


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


@dataclass(frozen=True)
class UnitState:
    """What a batch makes of such a population: arrays that are filled once, and that all later calls read.

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
