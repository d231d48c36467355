"""The weights that lead into one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fpes import _config
from fpes.members import Centre, Members
from fpes.one_unit import UnitMembers
from fpes.perturbations.allocation import numbers, of_each_layer


@_config.register
@dataclass(frozen=True)
class OneUnit:
    """Each antithetic pair perturbs the weights that lead into one unit of one layer: w' = w +- factor a, [fan_in].

    Biases stay as they are. Whole layers are perturbed draw by draw, a draw being one direction a, which serves all
    units of its layer in turn. A population consists of blocks: for each layer its draws, for each draw its units, for
    each unit a pair. All members of a block see the same minibatch.

    Directions in the span are H^T L^-T r, where H [batch, fan_in] holds the inputs of the layer, in the unperturbed
    network, on the block's minibatch, L L^T = H H^T + ridge I (Cholesky; the ridge is a thousandth of the mean of the
    diagonal), and r are random signs, orthogonal between draws. Their covariance is the projector onto the span of the
    rows of H, where the gradient of the block's mean loss lies: a change outside of it is felt by no member. White
    directions are random signs, [fan_in].

    Either way `factor` is such that sigma is the root mean square, over the minibatch, of what a member changes in its
    unit's pre-activations, in units of the network's own scale, as for NodePerturbation: factor = sigma / sqrt(mean of
    the diagonal of H H^T). The derivation, and the arithmetic to the bit, is in docs/one-unit.md.

    Args:
        directions: "span" or "white".
        draws: of each layer, in a block, such as (1, 8, 4). One each unless told. In the span at most as many as the
            minibatch has samples: so many orthogonal directions leave no noise.

    Raises:
        ValueError: other directions.
    """

    directions: str = "span"
    draws: tuple[int, ...] | None = None

    per_sample: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = True
    weights_samples: ClassVar[bool] = True
    takes_tied_layers: ClassVar[bool] = False
    default_shaping: ClassVar[str] = "none"
    gradient_work: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.directions not in ("span", "white"):
            raise ValueError(f"directions is {self.directions!r}, expected 'span' or 'white'")
        if self.draws is not None:
            object.__setattr__(self, "draws", numbers("draws", self.draws))

    def members(self, sizes: Sequence[int]) -> int:
        """Members of a block, for a network with these sizes: a population's size is a multiple of it.

        Raises:
            TypeError, ValueError: as Population does about draws.
        """
        return 2 * sum(draws * units for draws, units in zip(self.draws_of(sizes), sizes[1:], strict=True))

    def draws_of(self, sizes: Sequence[int]) -> list[int]:
        """Of each layer, in a block, for a network with these sizes.

        Raises:
            TypeError: a number of draws that isn't an integer.
            ValueError: not one for each layer, or none at all.
        """
        return of_each_layer("draws", self.draws, len(sizes) - 1)

    def around(self, centre: Centre) -> Members:
        """The members around a network."""
        return UnitMembers(centre, self.directions == "span", self.draws_of(centre.network.sizes))
