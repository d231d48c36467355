"""Full-rank perturbations: every parameter has its own noise."""

from __future__ import annotations

from dataclasses import dataclass

from fpes import _config
from fpes._backends import PerturbationSpec
from fpes.members import Centre, Members, PerturbedMembers
from fpes.noise import check_kind
from fpes.perturbations.base import OfWeights


@_config.register
@dataclass(frozen=True)
class FullRank(OfWeights):
    """Every weight and bias has its own noise: w' = fma(z, +-sigma / 2, w) for binomial z.

    Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017, section 2.

    Args:
        noise: "binomial" (integers of variance 4, scaled by sigma / 2), "rademacher" or "gaussian".
    """

    noise: str = "binomial"

    def __post_init__(self) -> None:
        check_kind(self.noise)

    def around(self, centre: Centre) -> Members:
        """The members around a network."""
        return PerturbedMembers(centre, PerturbationSpec("full_rank", self.noise))
