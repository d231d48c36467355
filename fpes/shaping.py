"""Fitness shaping: what a member's fitness counts for in the update."""

from __future__ import annotations

import numpy as np

from fpes import _checks
from fpes._checks import FloatArray, IntArray


def centred_ranks(fitness: FloatArray) -> IntArray:
    """Doubled, centred ranks: u = 2 rank - (n - 1), from -(n - 1) for the worst to n - 1 for the best.

    Ties share the doubled mean of their ranks, which is an integer again; so the update that they weight is an exact
    integer sum.

    Args:
        fitness: float32 [n].

    Returns:
        int32 [n], summing to 0.

    Raises:
        ValueError: NaN in fitness, which has no rank.
    """
    values = _checks.float_array("fitness", fitness, ("n",))
    bad = np.flatnonzero(np.isnan(values))
    if bad.size:
        raise ValueError(f"fitness is NaN for {bad.size} of {values.size} members, the first {int(bad[0])}")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    doubled_mean = 2 * below + counts - 1  # ranks below ... below + count - 1
    return (doubled_mean[inverse] - (values.size - 1)).astype(np.int32)
