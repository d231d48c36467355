"""The samples of a call: one minibatch for all members of a population, or one for each group of them."""

from __future__ import annotations

from dataclasses import dataclass

from fpes._backends.description import Array


@dataclass(frozen=True)
class Minibatch:
    """Samples, checked and ready for the kernels.

    Args:
        x: float32 [batch, features], or [groups, batch, features].
        groups: number of groups of members.
        size: samples in each group's batch.
        pairs_each: antithetic pairs in a group.
    """

    x: Array
    groups: int
    size: int
    pairs_each: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The minibatch, as the C++ modules take it."""
        return self.size, self.groups, self.pairs_each

    @property
    def samples(self) -> tuple[int, ...]:
        """The shape of an array with one number for each sample: [batch], or [groups, batch] if x has groups."""
        return (self.size,) if self.x.ndim == 2 else (self.groups, self.size)
