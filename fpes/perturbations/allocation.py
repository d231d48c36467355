"""Which layers an antithetic pair perturbs: all at once, or one, and how many units there."""

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
        """Of each layer, for a backend: none."""
        return []

    def pairs_of(self, sizes: Sequence[int]) -> list[int]:
        """Of each layer, for a backend: none."""
        return []


@_config.register
@dataclass(frozen=True)
class OneLayer:
    """Each pair perturbs one layer only, the layers in turn, and perhaps few of its units. Biases stay as they are.

    The network is evaluated incrementally: once unperturbed for each sample, and then only what a pair changes. With k
    units perturbed, the next layer's sums are the unperturbed ones and then, for each perturbed unit j in ascending
    order whose activation changes, acc = fma(dh_j, w_j, acc). Positions are stratified: the n units of a layer are cut
    into k strata of nearly equal size, and one unit is drawn from each.

    Args:
        units: how many units of a layer are perturbed: one number for every layer that is wider, or one for each layer,
            where None means all units.
        pairs: how many pairs in a row perturb each layer, such as (24, 8, 8); the population's number of pairs is a
            multiple of their sum. One each unless told.
    """

    units: int | tuple[int | None, ...] | None = None
    pairs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.units, Iterable):
            object.__setattr__(self, "units", numbers("units", self.units))
        if self.pairs is not None:
            object.__setattr__(self, "pairs", numbers("pairs", self.pairs))

    def units_of(self, sizes: Sequence[int]) -> list[int]:
        """How many units of each layer are perturbed, 0 meaning all, for a network with these sizes.

        Raises:
            TypeError: a number of units that isn't an integer.
            ValueError: not one for each layer, or more than the layer has.
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
        """How many pairs in a row perturb each layer of a network with these sizes.

        Raises:
            TypeError: a number of pairs that isn't an integer.
            ValueError: not one for each layer, or none at all.
        """
        return of_each_layer("pairs", self.pairs, len(sizes) - 1, _MOST_PAIRS)


Allocation = AllLayers | OneLayer
ALL_LAYERS = AllLayers()


def check_allocation(allocation: Any) -> None:
    """Refuse what isn't one.

    Raises:
        TypeError: it isn't.
    """
    if not isinstance(allocation, AllLayers | OneLayer):
        raise TypeError(f"allocation is {allocation!r}, expected AllLayers() or OneLayer(units, pairs)")


def from_units_and_draws(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a perturbation from a checkpoint that has `units` and `draws` in the place of an allocation."""
    rest = dict(fields)
    if "allocation" not in rest:
        units, pairs = rest.pop("units", None), rest.pop("draws", None)
        rest["allocation"] = ALL_LAYERS if units is None and pairs is None else OneLayer(units, pairs)
    return rest


def numbers(name: str, values: Iterable[int | None]) -> tuple[int | None, ...]:
    """One for each layer. What is no integer is left to the checks of who knows the layers.

    Lists and arrays become tuples of Python's numbers, so that equal settings are equal and can be hashed.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}, expected a sequence with one number for each layer")
    return tuple(operator.index(value) if isinstance(value, SupportsIndex) else value for value in values)


def check_length(name: str, values: Sequence[Any], layers: int) -> None:
    """Refuse values that aren't one for each layer."""
    if len(values) != layers:
        raise ValueError(f"{name} is {values}, expected one number for each of the {layers} layers")


def of_each_layer(name: str, values: tuple[int, ...] | None, layers: int, most: int = _MOST_PAIRS) -> list[int]:
    """Checked numbers from 1 on, one for each layer; 1 each where there are none."""
    if values is None:
        return [1] * layers
    check_length(name, values, layers)
    return [_checks.integer(f"{name}[{layer}]", value, 1, most) for layer, value in enumerate(values)]
