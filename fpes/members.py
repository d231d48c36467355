"""The members of a population on a device: the protocol, and the implementation that most families use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fpes._backends import Array, Backend, Minibatch, NetworkCall, PerturbationSpec, PopulationCall, Targets
from fpes.minibatch import copied

# The largest draw of each kind of integer noise.
_LARGEST_INTEGER = {"binomial": 8, "rademacher": 1}

PairRange = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Centre:
    """The centre of a population, and the identity of its members.

    Args:
        backend: backend of the device that holds the parameters.
        network: the network with its parameters.
        size: number of members.
        sigma: standard deviation of the perturbation.
        seed: seed of the noise.
        generation: generation of the noise.
    """

    backend: Backend
    network: NetworkCall
    size: int
    sigma: float
    seed: int
    generation: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """The information about its batch that an evaluation keeps.

    Args:
        groups: number of groups of members with their own minibatch; 1 if all members share one.
        samples: number of samples for each member.
        centre: losses of the unperturbed network, float32 [groups * batch], if it was evaluated.
    """

    groups: int
    samples: int
    centre: Array | None = None


class Members(Protocol):
    """The members around a network. Population has checked the arguments.

    `pairs` is a range (begin, end) of antithetic pairs; results are for their members. `chunk` is the number of members
    to compute at a time; None: the backend chooses.
    """

    def see(self, batch: Minibatch, pairs: PairRange, *, losses: bool) -> Seen:
        """Prepare the Seen of an evaluation of these pairs. `losses`: whether the evaluation computes losses.

        Raises:
            ValueError: a batch that doesn't suit the perturbation.
        """

    def completed(self, batch: Minibatch, part: Seen | None, targets: Targets | None) -> Seen:
        """The Seen that an evaluation of all pairs would have, filled in. `part`: the Seen of some pairs.

        `targets` are needed for the losses of the unperturbed network, if the perturbation weights samples.
        """

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
        """Fitness, float32 [members]. Fills losses [members, batch] too, unless None."""

    def outputs(self, batch: Minibatch, seen: Seen, pairs: PairRange, chunk: int | None) -> Array:
        """Outputs, float32 [members, batch, classes]."""

    def member(self, index: int, seen: Seen | None) -> Array:
        """Parameters of one member, float32 [parameters].

        Raises:
            ValueError: it has no parameters of its own, or they depend on a batch and `seen` is None.
        """

    def gradient(self, weights: Any, seen: Seen | None, pairs: PairRange, *, exact: bool) -> Array:
        """The part of some pairs in the gradient, float32 [parameters]; with `exact`, unscaled integer sums, int64.

        Raises:
            TypeError, ValueError: wrong weights; `seen` is None, and the gradient depends on the batch.
        """

    def sums_exactly(self, weights: Any) -> bool:
        """Whether parts of the gradient with these weights are exact integer sums."""

    @property
    def largest_term(self) -> int:
        """The largest magnitude that a pair can add to an exact sum, for weights that differ by 1."""

    def scaled(self, sums: Array) -> Array:
        """The gradient, float32 [parameters], from exact sums over all pairs."""


def ranges(pairs: PairRange, step: int) -> Iterator[tuple[PairRange, slice]]:
    """Parts of a range, of `step` pairs each, and the positions of their members within the range."""
    begin, end = pairs
    for at in range(begin, end, step):
        part = (at, min(at + step, end))
        yield part, slice(2 * (part[0] - begin), 2 * (part[1] - begin))


@dataclass(frozen=True, eq=False, kw_only=True)
class SeenByNoise(Seen):
    """The information that an evaluation keeps for the gradient if noise is drawn for each sample.

    Args:
        inputs: a copy of the batch.
        sums: sums of the unperturbed network, float32, if each pair perturbs one layer.
    """

    inputs: Minibatch | None
    sums: Array | None


class PerturbedMembers:
    """Members that differ by noise on weights or pre-activations, for the families of csrc/common/perturbations.

    Raises:
        ValueError: pairs perturb one layer, and their number isn't a multiple of the pairs for all layers.
    """

    def __init__(self, centre: Centre, perturbation: PerturbationSpec) -> None:
        turn = sum(perturbation.pairs)
        if turn and centre.size // 2 % turn:
            raise ValueError(
                f"size is {centre.size}, expected a multiple of {2 * turn}: {turn} antithetic pairs "
                f"({', '.join(map(str, perturbation.pairs))}) perturb the layers in turn"
            )
        self._backend = centre.backend
        self._perturbation = perturbation
        self.call = PopulationCall(
            centre.network, centre.size, perturbation, centre.seed, centre.generation, centre.sigma
        )

    @property
    def _sizes(self) -> list[int]:
        return list(self.call.network.sizes)

    def see(self, batch: Minibatch, pairs: PairRange, *, losses: bool) -> SeenByNoise:
        """Keep a copy of the batch if noise is drawn for each sample."""
        sums, of_samples = None, self._perturbation.per_sample
        if of_samples and self._perturbation.one_layer:
            sums = self._backend.empty((batch.groups * batch.size * sum(self._sizes[1:]),))
            if pairs != (0, self.call.pairs):
                sums[:] = 0  # these pairs don't fill the sums of other minibatches
        inputs = copied(self._backend, batch) if of_samples else None
        return SeenByNoise(groups=batch.groups, samples=batch.size, inputs=inputs, sums=sums)

    def completed(self, batch: Minibatch, part: Seen | None, targets: Targets | None) -> SeenByNoise:
        """Compute the sums of the unperturbed network for each group's minibatch."""
        seen = self.see(batch, (0, self.call.pairs), losses=False)
        if seen.sums is None:
            return seen
        inputs = seen.inputs or batch
        if self._backend.device == "cpu":
            self._backend.outputs(self.call, (0, 0), inputs, seen.sums, self._backend.empty((0,)))
            return seen
        # On a GPU, evaluating one pair of each group fills the sums too.
        outputs = self._backend.empty((2, batch.size, self._sizes[-1]))
        each = self.call.pairs // batch.groups
        for group in range(batch.groups):
            self._backend.outputs(self.call, (group * each, group * each + 1), inputs, seen.sums, outputs)
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
        inputs, sums = _kept(batch, seen)
        step = self._step(batch, chunk)
        fitness = self._backend.empty((2 * (pairs[1] - pairs[0]),))
        for part, members in ranges(pairs, step):
            self._backend.evaluate(
                self.call,
                part,
                inputs,
                targets=targets,
                sums=sums,
                fitness=fitness[members],
                losses=None if losses is None else losses[members],
            )
        return fitness

    def outputs(self, batch: Minibatch, seen: Seen, pairs: PairRange, chunk: int | None) -> Array:
        """Outputs float32 [members, batch, classes]."""
        inputs, sums = _kept(batch, seen)
        step = self._step(batch, chunk)
        outputs = self._backend.empty((2 * (pairs[1] - pairs[0]), batch.size, self._sizes[-1]))
        for part, members in ranges(pairs, step):
            self._backend.outputs(self.call, part, inputs, sums, outputs[members])
        return outputs

    def member(self, index: int, seen: Seen | None) -> Array:
        """Parameters of one member, float32 [parameters]."""
        if self._perturbation.per_sample:
            raise ValueError(
                "a member of node perturbation has no parameters of its own: its noise differs for each sample"
            )
        theta = self._backend.empty(self.call.network.theta.shape)
        self._backend.member(self.call, index, theta)
        return theta

    def gradient(self, weights: Any, seen: Seen | None, pairs: PairRange, *, exact: bool) -> Array:
        """The part of some pairs in the gradient."""
        if self._perturbation.per_sample:
            return self._sample_gradient(weights, seen, pairs)
        checked = self._checked_weights(weights)
        sums = exact and self.sums_exactly(checked)
        result = self._backend.empty(self.call.network.theta.shape, np.int64 if sums else np.float32)
        self._backend.gradient(self.call, pairs, checked, result)
        return result

    def _sample_gradient(self, weights: Any, seen: Seen | None, pairs: PairRange) -> Array:
        inputs = seen.inputs if isinstance(seen, SeenByNoise) else None
        if seen is None or inputs is None:
            raise ValueError(
                "the gradient of node perturbation needs a batch: give it the evaluation that the weights were made "
                "from, population.gradient(weights, evaluation)"
            )
        of_samples = getattr(weights, "ndim", 1) == 2
        shape = (self.call.size, inputs.size) if of_samples else (self.call.size,)
        checked = self._backend.finite("weights", weights, shape)
        result = self._backend.empty(self.call.network.theta.shape)
        sums = _kept(inputs, seen)[1]
        self._backend.sample_gradient(self.call, pairs, inputs, weights=checked, sums=sums, out=result)
        return result

    def sums_exactly(self, weights: Any) -> bool:
        """Whether weights and noise are integers."""
        exact = not self._perturbation.per_sample and self._perturbation.noise in _LARGEST_INTEGER
        return exact and weights.dtype.kind in "iu"

    @property
    def largest_term(self) -> int:
        """The largest draw; for products of two draws, its square times their number."""
        largest, products = _LARGEST_INTEGER[self._perturbation.noise], self._perturbation.products
        return largest * largest * products if products else largest

    def scaled(self, sums: Array) -> Array:
        """The gradient, from exact sums over all pairs."""
        result = self._backend.empty(self.call.network.theta.shape)
        self._backend.scale_sums(self.call, sums, result)
        return result

    def _checked_weights(self, weights: Any) -> Array:
        array = self._backend.adopt("weights", weights)
        if array.dtype.kind not in "iu":
            return self._backend.finite("weights", array, (self.call.size,))
        return self._backend.integer_weights("weights", array, self.call)

    def _step(self, batch: Minibatch, chunk: int | None) -> int:
        """Number of pairs to compute at a time."""
        return chunk // 2 if chunk else self._backend.pairs_per_call(self.call, batch)


def _kept(batch: Minibatch, seen: Seen) -> tuple[Minibatch, Array | None]:
    """The batch, or its copy in `seen`; and the sums, if there are any."""
    assert isinstance(seen, SeenByNoise)
    return seen.inputs or batch, seen.sums
