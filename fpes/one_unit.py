"""Populations of OneUnit: what a batch makes of them, their evaluation, gradient and members.

Population has checked what comes in; docs/one-unit.md has the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fpes._backends import Array, Backend, Minibatch, NetworkCall, Targets, UnitCall, UnitState
from fpes.minibatch import copied
from fpes.noise import LARGEST_WORD
from fpes.perturbations import OneUnit, draws_of

# The Gram matrix of a batch, and its factor, are squares of its size in double.
_LARGEST_SPAN = 1024


@dataclass(frozen=True, eq=False)
class SeenByUnits:
    """What an evaluation keeps of its batch.

    Args:
        inputs: a copy of the batch.
        state: what it makes of the population.
        centre: losses of the unperturbed network, float32 [groups * batch]; None where there are no targets.
    """

    inputs: Minibatch
    state: UnitState
    centre: Array | None


class UnitMembers:
    """The members of a population, for one network, size and sigma.

    Raises:
        ValueError: the size is no multiple of a block.
    """

    def __init__(
        self,
        backend: Backend,
        network: NetworkCall,
        perturbation: OneUnit,
        *,
        size: int,
        sigma: float,
        seed: int,
        generation: int,
    ) -> None:
        self._backend = backend
        self._sizes = network.sizes
        draws = draws_of(perturbation, network.sizes)
        self._block = perturbation.members(network.sizes) // 2
        if size % (2 * self._block):
            raise ValueError(
                f"size is {size}, expected a multiple of {2 * self._block}: two members for each unit of each draw "
                f"({', '.join(f'{d} x {n}' for d, n in zip(draws, network.sizes[1:], strict=True))})"
            )
        if size // (2 * self._block) * max(draws) > LARGEST_WORD:
            raise ValueError(f"size is {size}, expected at most {LARGEST_WORD} draws of a layer")
        self._call = UnitCall(network, size, perturbation.directions == "span", seed, generation, sigma, draws)

    def prepared(self, batch: Minibatch, with_losses: bool) -> SeenByUnits:
        """What a batch makes of the population.

        Raises:
            ValueError: groups that cut blocks in two; for directions in the span, more draws than samples, or too many
                samples.
        """
        call, backend = self._call, self._backend
        blocks = call.pairs // self._block
        if blocks % batch.groups:
            raise ValueError(
                f"x has {batch.groups} groups of samples, expected a divisor of {blocks}: the population has "
                f"{blocks} blocks of {2 * self._block} members, and a block sees one minibatch"
            )
        if call.span and max(call.draws) > batch.size:
            raise ValueError(
                f"draws is {tuple(call.draws)}, expected at most {batch.size}, the samples of a minibatch: so many "
                "directions span all that its gradient can be"
            )
        if call.span and batch.size > _LARGEST_SPAN:
            raise ValueError(
                f"x has {batch.size} samples in a minibatch, expected at most {_LARGEST_SPAN} for directions in their "
                "span: use more groups"
            )
        rows = batch.groups * batch.size
        shape = (blocks, sum(call.draws), batch.size)
        state = UnitState(
            sums=backend.empty((rows * sum(self._sizes[1:]),)),
            changes=backend.empty(shape),
            solutions=backend.empty(shape if call.span else (0,), np.float64),
            factors=backend.empty((batch.groups, len(call.draws)), np.float64),
        )
        inputs = copied(backend, batch)
        backend.prepare_units(call, inputs, state)
        return SeenByUnits(inputs, state, backend.empty((rows,)) if with_losses else None)

    def evaluate(
        self,
        seen: SeenByUnits,
        targets: Targets,
        *,
        weights: Array | None,
        losses: Array | None,
        pairs: tuple[int, int],
        chunk: int | None,
    ) -> Array:
        """Fitness float32 [members] of a range of pairs; losses [members, batch] too, unless None."""
        fitness = self._backend.empty((2 * (pairs[1] - pairs[0]),))
        for begin, end in self._ranges(pairs, chunk):
            members = slice(2 * (begin - pairs[0]), 2 * (end - pairs[0]))
            self._backend.evaluate_units(
                self._call,
                seen.inputs,
                seen.state,
                (begin, end),
                targets=targets,
                weights=weights,
                fitness=fitness[members],
                losses=None if losses is None else losses[members],
                centre=seen.centre,
            )
        return fitness

    def evaluate_centre(self, seen: SeenByUnits, targets: Targets) -> None:
        """Fill in the losses of the unperturbed network, of all groups."""
        everything = (0, self._call.pairs)
        self._backend.evaluate_units(
            self._call, seen.inputs, seen.state, everything, targets=targets, centre=seen.centre
        )

    def outputs(self, seen: SeenByUnits, pairs: tuple[int, int], chunk: int | None) -> Array:
        """Logits float32 [members, batch, classes] of a range of pairs."""
        outputs = self._backend.empty((2 * (pairs[1] - pairs[0]), seen.inputs.size, self._sizes[-1]))
        for begin, end in self._ranges(pairs, chunk):
            members = slice(2 * (begin - pairs[0]), 2 * (end - pairs[0]))
            self._backend.evaluate_units(self._call, seen.inputs, seen.state, (begin, end), outputs=outputs[members])
        return outputs

    def gradient(self, seen: SeenByUnits, weights: Any, pairs: tuple[int, int]) -> Array:
        """What a range of pairs adds to the estimate, float32 [parameters].

        Raises:
            TypeError, ValueError: weights that aren't finite float32 or int32 [size].
        """
        backend = self._backend
        array = backend.adopt("weights", weights)
        if array.dtype.kind in "iu":
            array = backend.integer_weights("weights", array, self._call)
        else:
            array = backend.finite("weights", array, (self._call.size,))
        if pairs != (0, self._call.pairs):  # the others count nothing
            array = backend.copy(array)
            array[: 2 * pairs[0]] = 0
            array[2 * pairs[1] :] = 0
        result = backend.empty(self._call.network.theta.shape)
        backend.unit_gradient(self._call, seen.inputs, seen.state, array, result)
        return result

    def member(self, seen: SeenByUnits, index: int) -> Array:
        """Parameters of one member, float32 [parameters]."""
        theta = self._backend.empty(self._call.network.theta.shape)
        self._backend.unit_member(self._call, seen.inputs, seen.state, index, theta)
        return theta

    @staticmethod
    def _ranges(pairs: tuple[int, int], chunk: int | None) -> list[tuple[int, int]]:
        """Parts of a range of pairs: one, unless a chunk says how many pairs each has."""
        begin, end = pairs
        step = end - begin if chunk is None else chunk // 2
        return [(at, min(at + step, end)) for at in range(begin, end, step)]
