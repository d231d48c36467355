"""Populations of OneUnit: what a batch makes of them, their evaluation, gradient and members.

Population has checked what comes in; docs/one-unit.md has the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fpes._backends import Array, Minibatch, Targets, UnitCall, UnitState
from fpes.members import Centre, PairRange, Seen, ranges
from fpes.minibatch import copied
from fpes.noise import LARGEST_WORD

# The Gram matrix of a batch, and its factor, are squares of its size in double.
_LARGEST_SPAN = 1024


@dataclass(frozen=True, eq=False, kw_only=True)
class SeenByUnits(Seen):
    """What an evaluation keeps of its batch.

    Args:
        inputs: a copy of the batch.
        state: what it makes of the population.
        prepared: groups begin ... end - 1, whose state is filled.
    """

    inputs: Minibatch
    state: UnitState
    prepared: tuple[int, int]


class UnitMembers:
    """The members of a population, each with one unit's weights changed.

    Args:
        centre: what they are perturbed from.
        span: whether directions lie in the span of a layer's inputs; otherwise they are white.
        draws: of each layer, in a block.

    Raises:
        ValueError: the size is no multiple of a block.
    """

    def __init__(self, centre: Centre, span: bool, draws: list[int]) -> None:
        self._backend = centre.backend
        self._sizes = centre.network.sizes
        size, layers = centre.size, list(zip(draws, self._sizes[1:], strict=True))
        self._block = sum(count * units for count, units in layers)
        if size % (2 * self._block):
            raise ValueError(
                f"size is {size}, expected a multiple of {2 * self._block}: two members for each unit of each draw "
                f"({', '.join(f'{count} x {units}' for count, units in layers)})"
            )
        if size // (2 * self._block) * max(draws) > LARGEST_WORD:
            raise ValueError(f"size is {size}, expected at most {LARGEST_WORD} draws of a layer")
        self._call = UnitCall(centre.network, size, span, centre.seed, centre.generation, centre.sigma, draws)

    def see(self, batch: Minibatch, pairs: PairRange, *, losses: bool) -> SeenByUnits:
        """What a batch makes of the groups of these pairs.

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
        first = pairs[0] // batch.pairs_each
        seen = SeenByUnits(
            groups=batch.groups,
            samples=batch.size,
            inputs=copied(backend, batch),
            state=state,
            prepared=(first, first),
            centre=backend.empty((rows,)) if losses else None,
        )
        return self._prepared(seen, pairs)

    def _prepared(self, seen: SeenByUnits, pairs: PairRange) -> SeenByUnits:
        """The same, whose state is filled for the groups of these pairs too, and for all between."""
        each, done = seen.inputs.pairs_each, seen.prepared
        begin, end = min(done[0], pairs[0] // each), max(done[1], (pairs[1] - 1) // each + 1)
        for groups in ((begin, done[0]), (done[1], end)):
            if groups[0] < groups[1]:
                self._backend.prepare_units(self._call, seen.inputs, seen.state, groups)
        return replace(seen, prepared=(begin, end))

    def completed(self, batch: Minibatch, part: Seen | None, targets: Targets | None) -> SeenByUnits:
        """What a batch makes of the population, and the losses of the unperturbed network."""
        everything = (0, self._call.pairs)
        if part is None:
            seen = self.see(batch, everything, losses=targets is not None)
        else:
            centre = None if targets is None else self._backend.empty((batch.groups * batch.size,))
            seen = replace(self._prepared(_of_units(part), everything), centre=centre)
        if targets is not None:
            self._backend.evaluate_units(
                self._call, seen.inputs, seen.state, everything, targets=targets, centre=seen.centre
            )
        return seen

    def evaluate(
        self,
        batch: Minibatch,
        seen: Seen,
        pairs: PairRange,
        *,
        targets: Targets,
        sample_weights: Array | None,
        losses: Array | None,
        chunk: int | None,
    ) -> Array:
        """Fitness float32 [members]; losses [members, batch] too, unless None."""
        mine = _of_units(seen)
        fitness = self._backend.empty((2 * (pairs[1] - pairs[0]),))
        for part, members in ranges(pairs, _step(pairs, chunk)):
            self._backend.evaluate_units(
                self._call,
                mine.inputs,
                mine.state,
                part,
                targets=targets,
                weights=sample_weights,
                fitness=fitness[members],
                losses=None if losses is None else losses[members],
                centre=mine.centre,
            )
        return fitness

    def outputs(self, batch: Minibatch, seen: Seen, pairs: PairRange, chunk: int | None) -> Array:
        """Outputs float32 [members, batch, classes]."""
        mine = _of_units(seen)
        outputs = self._backend.empty((2 * (pairs[1] - pairs[0]), mine.inputs.size, self._sizes[-1]))
        for part, members in ranges(pairs, _step(pairs, chunk)):
            self._backend.evaluate_units(self._call, mine.inputs, mine.state, part, outputs=outputs[members])
        return outputs

    def gradient(self, weights: Any, seen: Seen | None, pairs: PairRange, *, exact: bool) -> Array:
        """What pairs add to the estimate, float32 [parameters].

        Raises:
            TypeError, ValueError: weights that aren't finite float32 or int32 [size].
        """
        backend, everything = self._backend, (0, self._call.pairs)
        mine = self._prepared(_of_units(seen, "the gradient of OneUnit depends"), everything)
        array = backend.adopt("weights", weights)
        if array.dtype.kind in "iu":
            array = backend.integer_weights("weights", array, self._call)
        else:
            array = backend.finite("weights", array, (self._call.size,))
        if pairs != everything:  # the others count nothing
            array = backend.copy(array)
            array[: 2 * pairs[0]] = 0
            array[2 * pairs[1] :] = 0
        result = backend.empty(self._call.network.theta.shape)
        backend.unit_gradient(self._call, mine.inputs, mine.state, array, result)
        return result

    def member(self, index: int, seen: Seen | None) -> Array:
        """Parameters of one member, float32 [parameters]."""
        mine = self._prepared(_of_units(seen, "members of OneUnit depend"), (index // 2, index // 2 + 1))
        theta = self._backend.empty(self._call.network.theta.shape)
        self._backend.unit_member(self._call, mine.inputs, mine.state, index, theta)
        return theta

    def sums_exactly(self, weights: Any) -> bool:
        """No: factors of directions are floats."""
        return False

    @property
    def largest_term(self) -> int:
        """There are no exact sums.

        Raises:
            TypeError: always.
        """
        raise TypeError("OneUnit's gradient is no sum of integers")

    def scaled(self, sums: Array) -> Array:
        """There are no exact sums.

        Raises:
            TypeError: always.
        """
        raise TypeError("parts of OneUnit's gradient are float32, and these are integers")


def _of_units(seen: Seen | None, what: str = "OneUnit depends") -> SeenByUnits:
    """What a population of these members made of the batch."""
    if not isinstance(seen, SeenByUnits):
        raise ValueError(
            f"{what} on the batch: give the evaluation too, as in population.member(i, evaluation) "
            "and population.gradient(weights, evaluation)"
        )
    return seen


def _step(pairs: PairRange, chunk: int | None) -> int:
    """Pairs at a time: all, unless a chunk says how many."""
    return pairs[1] - pairs[0] if chunk is None else chunk // 2
