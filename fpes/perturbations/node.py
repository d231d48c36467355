"""Node perturbation: noise on the pre-activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpes import _config
from fpes._backends import PerturbationSpec
from fpes.members import Centre, Members, PerturbedMembers
from fpes.noise import check_kind
from fpes.perturbations.allocation import ALL_LAYERS, Allocation, check_allocation, from_units_and_draws
from fpes.perturbations.base import OfSamples


@_config.register
@dataclass(frozen=True)
class NodePerturbation(OfSamples):
    """Noise on the pre-activations, one draw for each member and sample. The weights aren't perturbed.

    The noise has standard deviation sigma in every layer, in the scale of the layer: 1 in the first, 1 / scaling in the
    others. It is added inside the matrix product, before the boundary, so that it isn't flushed.

    Args:
        noise: "binomial", "rademacher" or "gaussian".
        allocation: AllLayers(), or OneLayer(units, pairs), which draws the positions of units for each sample.
    """

    noise: str = "binomial"
    allocation: Allocation = ALL_LAYERS

    def __post_init__(self) -> None:
        check_kind(self.noise)
        check_allocation(self.allocation)

    @property
    def gradient_work(self) -> float:
        """A sample adds an outer product in all layers, or in few units of one layer."""
        return 1 / 8 if self.allocation == ALL_LAYERS else 1 / 400

    def around(self, centre: Centre) -> Members:
        """The members around a network."""
        sizes = centre.network.sizes
        units, pairs = self.allocation.units_of(sizes), self.allocation.pairs_of(sizes)
        return PerturbedMembers(centre, PerturbationSpec("node", self.noise, units=units, pairs=pairs, per_sample=True))

    @staticmethod
    def _from_older(fields: Mapping[str, Any]) -> dict[str, Any]:
        return from_units_and_draws(fields)
