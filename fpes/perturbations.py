"""How the members of a population differ from its centre."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from fpes import _checks, _config
from fpes.noise import check_kind

_LARGEST_RANK = 4096
_MOST_DRAWS = 1 << 20


@_config.register
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


@_config.register
@dataclass(frozen=True)
class LowRank:
    """A layer's weights differ by +-sigma A B^T / sqrt(rank), its biases by full noise.

    Sarkar et al., "Evolution Strategies at the Hyperscale" (EGGROLL), 2025. The difference is never formed: the product
    x W is followed by the rank's own multiply-adds, acc = fma(q_r, B_rj, acc) with q_r = (x . A_r) times the scale.

    By default a member perturbs all layers at once. With `units` or `draws` each antithetic pair perturbs the weights
    of one layer only, by sigma a b^T where b is zero but in k units, and the network is evaluated incrementally as for
    NodePerturbation: a member then costs little more than what lies above its layer. Biases stay as they are.

    Args:
        rank: 1 ... 4096; 1 where each pair perturbs one layer.
        noise: "binomial", "rademacher" or "gaussian".
        units: in how many units of a layer b isn't zero: one number for every layer that is wider, or one for each
            layer, where None means all units. Positions are a pair's own, stratified as for NodePerturbation.
        draws: how many pairs in a row perturb each layer, as for NodePerturbation.
    """

    rank: int = 1
    noise: str = "binomial"
    units: int | tuple[int | None, ...] | None = None
    draws: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _checks.integer("rank", self.rank, 1, _LARGEST_RANK)
        check_kind(self.noise)
        _freeze(self)
        if self.one_layer_at_a_time and self.rank != 1:
            raise ValueError(f"rank is {self.rank}, expected 1 where each pair perturbs one layer (units, draws)")

    @property
    def one_layer_at_a_time(self) -> bool:
        """Whether each pair perturbs one layer only."""
        return self.units is not None or self.draws is not None


@_config.register
@dataclass(frozen=True)
class NodePerturbation:
    """Noise on the pre-activations, one draw for each member and sample; the weights stay as they are.

    In units of the network's own scale: standard deviation sigma in every layer. It is added inside the matrix product,
    before the boundary, where it isn't flushed.

    By default a member perturbs all layers at once. With `units` or `draws` each antithetic pair perturbs one layer
    only, and the network is evaluated incrementally: once unperturbed for each sample, and then only what a pair's
    noise changes. With k units perturbed, the next layer's sums are the unperturbed ones and then, for each perturbed
    unit j in ascending order whose activation changes, acc = fma(dh_j, w_j, acc). Positions are stratified: the n units
    of a layer are cut into k strata of nearly equal size, and one unit is drawn from each.

    Args:
        noise: "binomial", "rademacher" or "gaussian".
        units: how many units of a layer carry noise: one number for every layer that is wider, or one for each layer,
            where None means all units.
        draws: how many pairs in a row perturb each layer, such as (24, 8, 8); the population's number of pairs is a
            multiple of their sum. One each unless told.
    """

    noise: str = "binomial"
    units: int | tuple[int | None, ...] | None = None
    draws: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_kind(self.noise)
        _freeze(self)

    @property
    def one_layer_at_a_time(self) -> bool:
        """Whether each pair perturbs one layer only."""
        return self.units is not None or self.draws is not None


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

    def __post_init__(self) -> None:
        if self.directions not in ("span", "white"):
            raise ValueError(f"directions is {self.directions!r}, expected 'span' or 'white'")
        if self.draws is not None:
            object.__setattr__(self, "draws", _numbers("draws", self.draws))

    def members(self, sizes: Sequence[int]) -> int:
        """Members of a block, for a network with these sizes: a population's size is a multiple of it.

        Raises:
            TypeError, ValueError: as Population does about draws.
        """
        return 2 * sum(draws * units for draws, units in zip(draws_of(self, sizes), sizes[1:], strict=True))


Perturbation = FullRank | LowRank | NodePerturbation | OneUnit


def _freeze(perturbation: LowRank | NodePerturbation) -> None:
    """Lists and arrays as tuples of Python's numbers, so that equal perturbations are equal and can be hashed."""
    if isinstance(perturbation.units, Iterable):
        object.__setattr__(perturbation, "units", _numbers("units", perturbation.units))
    if perturbation.draws is not None:
        object.__setattr__(perturbation, "draws", _numbers("draws", perturbation.draws))


def _numbers(name: str, values: Iterable[int | None]) -> tuple[int | None, ...]:
    """One for each layer. What is no integer is left to the checks of who knows the layers."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}, expected a sequence with one number for each layer")
    return tuple(operator.index(value) if isinstance(value, SupportsIndex) else value for value in values)


def units_of(perturbation: LowRank | NodePerturbation, sizes: Sequence[int]) -> list[int]:
    """How many units of each layer carry noise, 0 meaning all, for a network with these sizes.

    Raises:
        TypeError: a number of units that isn't an integer.
        ValueError: not one for each layer, or more than the layer has.
    """
    widths = sizes[1:]
    if not isinstance(perturbation.units, tuple):
        wanted = (
            0 if perturbation.units is None else _checks.integer("units", perturbation.units, 1, _checks.LARGEST_INDEX)
        )
        return [wanted if wanted < width else 0 for width in widths]
    if len(perturbation.units) != len(widths):
        raise ValueError(f"units is {perturbation.units}, expected one number for each of the {len(widths)} layers")
    return [
        0 if wanted is None else _checks.integer(f"units[{layer}]", wanted, 1, width)
        for layer, (wanted, width) in enumerate(zip(perturbation.units, widths, strict=True))
    ]


def draws_of(perturbation: LowRank | NodePerturbation | OneUnit, sizes: Sequence[int]) -> list[int]:
    """How many pairs in a row perturb each layer of a network with these sizes.

    Raises:
        TypeError: a number of draws that isn't an integer.
        ValueError: not one for each layer, or none at all.
    """
    layers = len(sizes) - 1
    if perturbation.draws is None:
        return [1] * layers
    if len(perturbation.draws) != layers:
        raise ValueError(f"draws is {perturbation.draws}, expected one number for each of the {layers} layers")
    return [_checks.integer(f"draws[{layer}]", draws, 1, _MOST_DRAWS) for layer, draws in enumerate(perturbation.draws)]
