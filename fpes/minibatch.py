"""Checked minibatches for populations."""

from __future__ import annotations

from dataclasses import replace

from fpes._backends import Array, Backend, Minibatch

# Noise is indexed by (sample, unit) in blocks of at least 4 elements, whose numbers have 32 bits.
_MOST_NODES = 2**34


def checked_minibatch(backend: Backend, x: Array, features: int, pairs: int, widest: int) -> Minibatch:
    """A minibatch for a population with this number of pairs, whose widest layer has `widest` units.

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
    return Minibatch(inputs, groups, size, pairs // groups)


def copied(backend: Backend, batch: Minibatch) -> Minibatch:
    """The same samples in a private copy."""
    return replace(batch, x=backend.copy(batch.x))
