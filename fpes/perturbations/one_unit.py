"""One unit at a time: perturbations of the weights that lead into one unit."""

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

    Biases aren't perturbed. All units of a layer use the same direction `a` in turn (a *draw*). A population consists
    of blocks. A block has, for each layer, its draws; for each draw, the units of the layer; for each unit, one pair.
    All members of a block see the same minibatch.

    With "span", a = H^T L^-T r. H [batch, fan_in] holds the inputs of the layer on the block's minibatch, in the
    unperturbed network. L L^T = H H^T + ridge I (Cholesky); the ridge is a thousandth of the mean of the diagonal. r is
    a vector of random signs, orthogonal between draws. Up to the ridge, the covariance of `a` is the projector onto the
    span of the rows of H. The gradient of the block's mean loss lies in this span, and a change outside it has no
    effect on any member. With "white", `a` is a vector of random signs, [fan_in].

    In both cases factor = sigma / sqrt(mean of the diagonal of H H^T). So sigma is the root mean square, over the
    minibatch, of a member's change of its unit's pre-activations, in the scale of the layer, as for NodePerturbation.
    docs/one-unit.md has the derivation, and the arithmetic to the bit.

    Args:
        directions: "span" or "white".
        draws: number of draws of each layer in a block, such as (1, 8, 4). Default: one for each layer. With "span" at
            most the number of samples in the minibatch: that many orthogonal directions leave no noise.

    Raises:
        ValueError: directions is neither "span" nor "white".
    """

    directions: str = "span"
    draws: tuple[int, ...] | None = None

    per_sample: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = True
    weights_samples: ClassVar[bool] = True
    takes_tied_layers: ClassVar[bool] = False
    default_shaping: ClassVar[str] = "none"
    gradient_work: ClassVar[float] = 1 / 300  # of a unit's weights, and of the directions

    def __post_init__(self) -> None:
        if self.directions not in ("span", "white"):
            raise ValueError(f"directions is {self.directions!r}, expected 'span' or 'white'")
        if self.draws is not None:
            object.__setattr__(self, "draws", numbers("draws", self.draws))

    def members(self, sizes: Sequence[int]) -> int:
        """Number of members of a block for a network with these sizes. A population's size is a multiple of it.

        Raises:
            TypeError, ValueError: as draws_of().
        """
        return 2 * sum(draws * units for draws, units in zip(self.draws_of(sizes), sizes[1:], strict=True))

    def draws_of(self, sizes: Sequence[int]) -> list[int]:
        """Number of draws of each layer in a block, for a network with these sizes.

        Raises:
            TypeError: a number of draws that isn't an integer.
            ValueError: not one number for each layer, or a number below 1.
        """
        return of_each_layer("draws", self.draws, len(sizes) - 1)

    def around(self, centre: Centre) -> Members:
        """The members around a network."""
        return UnitMembers(centre, self.directions == "span", self.draws_of(centre.network.sizes))
