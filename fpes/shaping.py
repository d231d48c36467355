"""Fitness shaping: turns fitness into the utilities of the update.

Every function takes fitness [size], or [size, batch] with one fitness for each sample, and the number of groups. Groups
divide the members evenly and in order. Members are compared only within their group: the common part of its minibatch
is a baseline, and cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fpes import _checks
from fpes._checks import FloatArray, IntArray
from fpes._modes import ieee_mode

_MOST_IN_32_BITS = 2**30  # members, whose doubled ranks do


@dataclass(frozen=True)
class Weights:
    """Utilities for Population.gradient(), and a factor for its result.

    Args:
        values: int32 or float32, in the shape of the fitness.
        factor: scales integers so that the result doesn't depend on the number of members.
    """

    values: Any
    factor: float = 1.0


@runtime_checkable
class Shaping(Protocol):
    """The protocol of a shaping for ES: any object of a class under `fpes.register` that has this method."""

    def weights(self, fitness: FloatArray, groups: int) -> Weights:
        """The utility of each member.

        Args:
            fitness: float32 or float64 [size], or [size, batch] for node perturbation; higher is better; without NaN.
            groups: number of groups of size / groups members, in order, each with its own minibatch.
        """


def centred_ranks(fitness: FloatArray, groups: int = 1) -> IntArray:
    """Doubled, centred ranks: u = 2 rank - (n - 1), from -(n - 1) for the worst to n - 1 for the best.

    Ties share the doubled mean of their ranks, which is also an integer. So the update is an exact integer sum.
    (Wierstra et al. 2014, section 3.1; Salimans et al. 2017, section 2.1.)

    Args:
        fitness: float32 [n], or [n, batch] to rank the members for each sample.
        groups: number of groups of n / groups members, which are ranked separately.

    Returns:
        int32, or int64 for more than 2**30 members, in the shape of fitness; the sum over each group is 0.

    Raises:
        ValueError: NaN in fitness, or groups that don't divide the members evenly.
    """
    ranks: IntArray = _in_groups(fitness, groups, _doubled_ranks)
    return ranks


def z_scores(fitness: FloatArray, groups: int = 1) -> FloatArray:
    """(fitness - mean) / standard deviation within each group, float32; 0 if all members are equal.

    Raises:
        ValueError: as for centred_ranks(), or infinity in fitness.
    """
    if np.isinf(fitness).any():
        raise ValueError("fitness is infinite for some members, and has no mean: use centred ranks")
    scores: FloatArray = _in_groups(fitness, groups, _standardised)
    return scores


def signs(fitness: FloatArray, groups: int = 1) -> IntArray:
    """int32: 1 for the fitter member of each antithetic pair, -1 for the other, 0 for both if they are equal."""
    result: IntArray = _in_groups(fitness, groups, _signs_of_pairs)
    return result


SHAPINGS: dict[str, Callable[[FloatArray, int], Weights]] = {
    # Ranks from -(n - 1) to n - 1 become weights from -1/2 to 1/2, whatever the size of a group.
    "centred_ranks": lambda fitness, groups: Weights(
        centred_ranks(fitness, groups), 1.0 / (2.0 * max(1, len(fitness) // groups - 1))
    ),
    "z_score": lambda fitness, groups: Weights(z_scores(fitness, groups)),
    "sign": lambda fitness, groups: Weights(signs(fitness, groups), 0.5),
    # Members come in antithetic pairs, whose difference is all that counts: a baseline would make none.
    "none": lambda fitness, groups: Weights(fitness),
}


def shaped(shaping: str | Shaping, fitness: FloatArray, groups: int) -> Weights:
    """The weights of a named or user-defined shaping.

    Raises:
        TypeError: a user-defined shaping returns something else than Weights of an array.
        ValueError: its array hasn't the shape of the fitness.
    """
    if isinstance(shaping, str):
        return SHAPINGS[shaping](fitness, groups)
    weights = shaping.weights(fitness, groups)
    what = f"what {type(shaping).__name__}.weights() gives"
    if not isinstance(weights, Weights):
        raise TypeError(f"{what} is a {type(weights).__name__}, expected fpes.shaping.Weights")
    values = _checks.numpy_array(what, weights.values)
    if values.shape != fitness.shape:
        raise ValueError(f"{what} has shape {values.shape}, expected that of the fitness, {fitness.shape}")
    return Weights(values, _checks.real("factor", weights.factor))


def all_equal(fitness: FloatArray, groups: int = 1) -> bool:
    """Whether all members of each group have the same fitness, for every sample if there are several."""
    members = fitness.reshape(groups, len(fitness) // groups, -1)
    with ieee_mode():
        return bool((members == members[:, :1]).all())


def _in_groups(fitness: FloatArray, groups: int, shape: Callable[[FloatArray], Any]) -> Any:
    """shape(members [n, samples]) for each group, put together again."""
    values = _checks.numpy_array("fitness", fitness)
    _checks.check_shape("fitness", values.shape, ("n", "batch") if values.ndim == 2 else ("n",))
    _checks.check_fitness("fitness", values, len(values), values.shape[1] if values.ndim == 2 else None)
    bad = np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(axis=1))
    if bad.size:
        raise ValueError(f"fitness is NaN for {bad.size} of {len(values)} members, the first {int(bad[0])}")
    _checks.integer("groups", groups, 1, len(values))
    if len(values) % groups:
        raise ValueError(f"fitness has {len(values)} members, which {groups} groups don't divide evenly")
    columns = values.reshape(groups, len(values) // groups, -1)
    with ieee_mode():
        return np.concatenate([shape(group) for group in columns]).reshape(values.shape)


def _doubled_ranks(members: FloatArray) -> IntArray:
    """Ranks within each column of [n, samples]."""
    n = len(members)
    order = np.argsort(members, axis=0, kind="stable")
    ordered = np.take_along_axis(members, order, axis=0)
    integer = np.int32 if n <= _MOST_IN_32_BITS else np.int64
    rows = np.arange(n, dtype=integer)[:, None]
    differs = np.ones(members.shape, bool)
    differs[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(differs, rows, 0), axis=0)
    # Where a run of equal values ends, seen from behind.
    ends = np.ones(members.shape, bool)
    ends[:-1] = differs[1:]
    last = np.minimum.accumulate(np.where(ends, rows, n)[::-1], axis=0)[::-1]
    ranks = np.empty(members.shape, integer)
    np.put_along_axis(ranks, order, (first + last - (n - 1)).astype(integer, copy=False), axis=0)
    return ranks


def _standardised(members: FloatArray) -> FloatArray:
    wide = members.astype(np.float64)
    mean = _sum_in_order(wide) / len(wide)
    deviation = np.sqrt(_sum_in_order((wide - mean) ** 2) / len(wide))
    scores: FloatArray = ((wide - mean) / np.where(deviation > 0.0, deviation, 1.0)).astype(np.float32)
    return scores


def _sum_in_order(members: Any) -> Any:
    """The sum over the first axis, in order: the order of numpy.sum() depends on the machine."""
    return np.add.accumulate(members, axis=0)[-1]


def _signs_of_pairs(members: FloatArray) -> IntArray:
    plus, minus = members[0::2], members[1::2]
    result = np.empty(members.shape, np.int32)
    result[0::2] = (plus > minus).astype(np.int32) - (plus < minus).astype(np.int32)
    result[1::2] = -result[0::2]
    return result
