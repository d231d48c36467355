"""How the members of a population differ from its centre."""

from __future__ import annotations

from dataclasses import dataclass

from fpes import _checks
from fpes.noise import check_kind

_LARGEST_RANK = 4096


@dataclass(frozen=True)
class FullRank:
    """Every weight and bias has noise of its own: w' = fma(z, +-sigma / 2, w) for binomial z.

    Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017, section 2.

    Args:
        noise: "binomial" (integers of variance 4, scaled by sigma / 2), "rademacher" or "gaussian".
    """

    noise: str = "binomial"

    def __post_init__(self) -> None:
        check_kind(self.noise)


@dataclass(frozen=True)
class LowRank:
    """A layer's weights differ by +-sigma A B^T / sqrt(rank), its biases by full noise.

    Sarkar et al., "Evolution Strategies at the Hyperscale" (EGGROLL), 2025. The difference is never formed: the product
    x W is followed by the rank's own multiply-adds, acc = fma(q_r, B_rj, acc) with q_r = (x . A_r) times the scale.

    Args:
        rank: 1 ... 4096.
        noise: "binomial", "rademacher" or "gaussian".
    """

    rank: int = 1
    noise: str = "binomial"

    def __post_init__(self) -> None:
        _checks.integer("rank", self.rank, 1, _LARGEST_RANK)
        check_kind(self.noise)


@dataclass(frozen=True)
class NodePerturbation:
    """Noise on the pre-activations, one draw for each member and sample; the weights stay as they are.

    In units of the network's own scale: standard deviation sigma in every layer. It is added inside the matrix product,
    before the boundary, where it isn't flushed.

    Args:
        noise: "binomial", "rademacher" or "gaussian".
    """

    noise: str = "binomial"

    def __post_init__(self) -> None:
        check_kind(self.noise)


Perturbation = FullRank | LowRank | NodePerturbation
