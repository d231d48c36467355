"""Low-rank perturbations: changes of the weights of low rank, which are never written to memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpes import _checks, _config
from fpes._backends import PerturbationSpec
from fpes.members import Centre, Members, PerturbedMembers
from fpes.noise import check_kind
from fpes.perturbations.allocation import ALL_LAYERS, Allocation, check_allocation, from_units_and_draws
from fpes.perturbations.base import OfWeights

_LARGEST_RANK = 4096


@_config.register
@dataclass(frozen=True)
class LowRank(OfWeights):
    """The weights of a layer change by +-sigma A B^T / sqrt(rank). Every bias has its own noise.

    Sarkar et al., "Evolution Strategies at the Hyperscale" (EGGROLL), 2025. The change is never written to memory:
    after the product x W, acc = fma(q_r, B_rj, acc) for each r, with q_r = (x . A_r) times the scale.

    Args:
        rank: 1 ... 4096; 1 if each pair perturbs one layer.
        noise: "binomial", "rademacher" or "gaussian".
        allocation: AllLayers(), or OneLayer(units, pairs). With OneLayer, B is zero except in the units that a pair
            perturbs, so a member costs little more than the layers above its own.
    """

    rank: int = 1
    noise: str = "binomial"
    allocation: Allocation = ALL_LAYERS

    def __post_init__(self) -> None:
        _checks.integer("rank", self.rank, 1, _LARGEST_RANK)
        check_kind(self.noise)
        check_allocation(self.allocation)
        if self.rank != 1 and self.allocation != ALL_LAYERS:
            raise ValueError(f"rank is {self.rank}, expected 1 where each pair perturbs one layer: {self.allocation!r}")

    @property
    def takes_tied_layers(self) -> bool:
        """If all layers are perturbed at once."""
        return self.allocation == ALL_LAYERS

    @property
    def gradient_work(self) -> float:
        """A pair draws little noise. Its product costs, for each rank, 1 / 12 of drawing noise for all parameters."""
        return self.rank / 12

    def around(self, centre: Centre) -> Members:
        """The members around a network."""
        sizes = centre.network.sizes
        spec = PerturbationSpec(
            "low_rank",
            self.noise,
            parameters={"rank": self.rank},
            units=self.allocation.units_of(sizes),
            pairs=self.allocation.pairs_of(sizes),
            products=self.rank,
        )
        return PerturbedMembers(centre, spec)

    @staticmethod
    def _from_older(fields: Mapping[str, Any]) -> dict[str, Any]:
        return from_units_and_draws(fields)
