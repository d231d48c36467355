"""Allocations: the layers that an antithetic pair perturbs (all, or one), and the number of units there."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from fpes import _checks, _config

_MOST_PAIRS = 1 << 20


@_config.register
@dataclass(frozen=True)
class AllLayers:
    """Each pair perturbs all layers at once."""

    def units_of(self, sizes: Sequence[int]) -> list[int]:
        """Units of each layer, as a backend takes them: an empty list."""
        return []

    def pairs_of(self, sizes: Sequence[int]) -> list[int]:
        """Pairs of each layer, as a backend takes them: an empty list."""
        return []


@_config.register
@dataclass(frozen=True)
class OneLayer:
    """Each pair perturbs one layer only, all units of it or a few. The layers take turns. Biases aren't perturbed.

    The network is evaluated incrementally: once without perturbation for each sample, and then only the values that a
    pair changes. With k perturbed units, the sums of the next layer start from the unperturbed sums. For each perturbed
    unit j whose activation changes, in ascending order, acc = fma(dh_j, w_j, acc). Positions are stratified: the n
    units of a layer are divided into k strata of nearly equal size, and one unit is drawn from each stratum.

    Args:
        units: number of perturbed units of a layer: one number for every layer that is wider, or one for each layer,
            where None means all units.
        pairs: number of consecutive pairs that perturb each layer, such as (24, 8, 8). The population's number of pairs
            is a multiple of their sum. Default: one for each layer.
    """

    units: int | tuple[int | None, ...] | None = None
    pairs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.units, Iterable):
            object.__setattr__(self, "units", numbers("units", self.units))
        if self.pairs is not None:
            object.__setattr__(self, "pairs", numbers("pairs", self.pairs))

    def units_of(self, sizes: Sequence[int]) -> list[int]:
        """Number of perturbed units in each layer of a network with these sizes; 0 means all.

        Raises:
            TypeError: a number of units that isn't an integer.
            ValueError: not one number for each layer, or more units than the layer has.
        """
        widths = sizes[1:]
        if not isinstance(self.units, tuple):
            wanted = 0 if self.units is None else _checks.integer("units", self.units, 1, _checks.LARGEST_INDEX)
            return [wanted if wanted < width else 0 for width in widths]
        check_length("units", self.units, len(widths))
        return [
            0 if wanted is None else _checks.integer(f"units[{layer}]", wanted, 1, width)
            for layer, (wanted, width) in enumerate(zip(self.units, widths, strict=True))
        ]

    def pairs_of(self, sizes: Sequence[int]) -> list[int]:
        """Number of consecutive pairs that perturb each layer of a network with these sizes.

        Raises:
            TypeError: a number of pairs that isn't an integer.
            ValueError: not one number for each layer, or a number below 1.
        """
        return of_each_layer("pairs", self.pairs, len(sizes) - 1, _MOST_PAIRS)


Allocation = AllLayers | OneLayer
ALL_LAYERS = AllLayers()


def check_allocation(allocation: Any) -> None:
    """Refuse any other type.

    Raises:
        TypeError: allocation is neither AllLayers nor OneLayer.
    """
    if not isinstance(allocation, AllLayers | OneLayer):
        raise TypeError(f"allocation is {allocation!r}, expected AllLayers() or OneLayer(units, pairs)")


def from_units_and_draws(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a perturbation from a checkpoint that may have `units` and `draws` instead of an allocation."""
    rest = dict(fields)
    if "allocation" not in rest:
        units, pairs = rest.pop("units", None), rest.pop("draws", None)
        rest["allocation"] = ALL_LAYERS if units is None and pairs is None else OneLayer(units, pairs)
    return rest


def numbers(name: str, values: Iterable[int | None]) -> tuple[int | None, ...]:
    """Numbers for the layers, as a tuple. Values that aren't integers stay: the caller, who knows the layers, checks.

    Lists and arrays become tuples of Python numbers, so equal settings compare equal and can be hashed.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}, expected a sequence with one number for each layer")
    return tuple(operator.index(value) if isinstance(value, SupportsIndex) else value for value in values)


def check_length(name: str, values: Sequence[Any], layers: int) -> None:
    """Refuse anything but one value for each layer."""
    if len(values) != layers:
        raise ValueError(f"{name} is {values}, expected one number for each of the {layers} layers")


def of_each_layer(name: str, values: tuple[int, ...] | None, layers: int, most: int = _MOST_PAIRS) -> list[int]:
    """Checked numbers of at least 1, one for each layer. Without values each is 1."""
    if values is None:
        return [1] * layers
    check_length(name, values, layers)
    return [_checks.integer(f"{name}[{layer}]", value, 1, most) for layer, value in enumerate(values)]
