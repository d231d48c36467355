"""What the members of a population see: one minibatch for all, or one for each group of members."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fpes._backends import Array, Backend

# Noise is indexed by (sample, unit) in blocks of at least 4 elements, whose numbers have 32 bits.
_MOST_NODES = 2**34


@dataclass(frozen=True)
class Minibatch:
    """Samples, checked and ready for the kernels.

    Args:
        backend: of the device that holds it.
        x: float32 [batch, features], or [groups, batch, features].
        groups: 1, or how many groups of members there are.
        size: samples in each group's batch.
        pairs_each: antithetic pairs in a group.
    """

    backend: Backend
    x: Array
    groups: int
    size: int
    pairs_each: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """As the C++ modules take it."""
        return self.size, self.groups, self.pairs_each

    @property
    def samples(self) -> tuple[int, ...]:
        """The shape of an array with one number for each sample: [batch], or [groups, batch] where x has groups."""
        return (self.size,) if self.x.ndim == 2 else (self.groups, self.size)

    def copy(self) -> Minibatch:
        """The same samples in an array of their own, which nobody else changes."""
        return replace(self, x=self.backend.copy(self.x))


def checked_minibatch(backend: Backend, x: Array, features: int, pairs: int, widest: int) -> Minibatch:
    """A minibatch for a population of so many pairs, whose widest layer has `widest` units.

    Raises:
        TypeError: x isn't float32.
        ValueError: a wrong shape, an empty batch, groups that don't divide the pairs, too many samples.
    """
    grouped = getattr(x, "ndim", 2) == 3
    inputs = backend.floats("x", x, ("groups", "batch", features) if grouped else ("batch", features))
    groups, size = inputs.shape[:2] if grouped else (1, inputs.shape[0])
    if pairs % groups:
        raise ValueError(
            f"x has {groups} groups of samples, which don't divide the population's {pairs} antithetic pairs evenly"
        )
    if size * widest >= _MOST_NODES:
        raise ValueError(f"x has {size} samples, too many for layers {widest} wide: split the batch")
    return Minibatch(backend, inputs, groups, size, pairs // groups)
