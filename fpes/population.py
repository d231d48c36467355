"""Populations: many perturbed copies of one network, evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fpes import _checks
from fpes._backends import Array, Minibatch, backend_of
from fpes._modes import ieee_mode
from fpes.devices import to_host
from fpes.evaluation import Evaluation, Origin, checked_fitness, members_of, negated, plain
from fpes.losses import checked_targets, loss_named
from fpes.members import Centre
from fpes.minibatch import checked_minibatch
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_SEED, LARGEST_WORD
from fpes.perturbations import FullRank, Perturbation, checked_perturbation

_SMALLEST_SIGMA, _LARGEST_SIGMA = 2.0**-126, 2.0**100


class Population:
    """Members 0 ... size - 1 around theta; members 2p and 2p + 1 are the antithetic pair p, with +noise and -noise.

    Noise is drawn from (seed, generation) whenever it is needed and never stored, so a population costs no memory, and
    a member is the same whatever the size of the population around it.

    Args:
        net: the network.
        theta: its parameters, float32 [net.parameters], finite. Not copied. Where it lies, there the population is
            computed: a NumPy array on the CPU; a CuPy array, or another on a GPU, on its device. Whatever the methods
            take must lie on the same device, and what they give does, as CuPy arrays.
        size: members, an even number.
        sigma: standard deviation of the perturbation, from 2**-126 to 2**100.
        perturbation: FullRank(), LowRank(rank), NodePerturbation() or OneUnit().
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1; every generation has noise of its own.

    On a GPU every call is asynchronous, on CuPy's current stream, and nothing waits for values to be looked at: what
    the CPU refuses because of its value (NaN in theta, a target or an integer weight out of range) gives NaN in the
    results that it reaches.

    Raises:
        TypeError: an argument of the wrong type, theta not float32.
        ValueError: an odd or empty population, sigma not above 0, NaN or infinity in theta, a number out of range; tied
            layers with a perturbation other than FullRank() and LowRank() of all layers.
    """

    def __init__(
        self,
        net: LinearNetwork,
        theta: Array,
        *,
        size: int,
        sigma: float,
        perturbation: Perturbation | None = None,
        seed: int = 0,
        generation: int = 0,
    ) -> None:
        if not isinstance(net, LinearNetwork):
            raise TypeError(f"net is a {type(net).__name__}, expected a LinearNetwork")
        self.net = net
        self._backend = backend_of(theta=theta)
        self.theta = self._backend.finite("theta", theta, (net.parameters,))
        self.size = _checked_even("size", size)
        self.sigma = _checked_sigma(sigma)
        self.perturbation = FullRank() if perturbation is None else checked_perturbation(perturbation)
        _check_tied(net, self.perturbation)
        self.seed = _checks.integer("seed", seed, 0, LARGEST_SEED)
        self.generation = _checks.integer("generation", generation, 0, LARGEST_WORD)
        self._members = self.perturbation.around(
            Centre(self._backend, net._call(self.theta), self.size, self.sigma, self.seed, self.generation)
        )

    def __repr__(self) -> str:
        return (
            f"Population({self.net!r}, size={self.size}, sigma={self.sigma}, perturbation={self.perturbation!r}, "
            f"seed={self.seed}, generation={self.generation})"
        )

    def evaluate(
        self,
        x: Array,
        y: Any,
        loss: str | Callable[[Array, Any], Any] = "cross_entropy",
        *,
        per_sample: bool = False,
        sample_weights: Array | None = None,
        pairs: tuple[int, int] | None = None,
        chunk: int | None = None,
    ) -> Evaluation:
        """Fitness of every member: minus its mean loss over the batch; higher is better.

        Args:
            x: float32 [batch, features], the same for all members; or [groups, batch, features], a minibatch for each
                group, where the members are divided evenly, in order, into groups of whole antithetic pairs.
            y: what outputs are compared with: for "cross_entropy" integer labels [batch] or [groups, batch], each in
                0 ... outputs - 1; for "squared_error" float32 [batch, outputs] or [groups, batch, outputs]; for
                "binary_cross_entropy" likewise, from 0 to 1; for a function, what it takes.
            loss: "cross_entropy" of one label, in nats; "squared_error", its mean over outputs; "binary_cross_entropy"
                of several labels, in nats, its mean over outputs (losses.py); or a function that gives *fitness*:
                loss(outputs, y) of outputs float32 [size, batch, outputs] is float32 or float64 [size], or
                [size, batch], higher is better.
            per_sample: don't average over the batch. A function decides by what it gives.
            sample_weights: float32 [batch] or [groups, batch], finite: times the loss of each sample, before the mean
                is taken. For OneUnit only; elsewhere per_sample gives what it takes to weight by oneself.
            pairs: (begin, end): evaluate these antithetic pairs only, members 2 begin ... 2 end - 1. The results are
                theirs then; so several calls, perhaps on several machines, share a population. x and y stay
                those of the whole population. See evaluated().
            chunk: how many members to evaluate at a time, an even number; chosen for you unless told. It bounds the
                memory in use and changes no bits.

        Returns:
            an Evaluation, which is used as the array that it holds, float32 [size], or [size, batch] where per_sample;
            and which tell() and gradient() take. For node perturbation and OneUnit it holds a copy of x.

        Raises:
            TypeError: x isn't float32, or y not of the loss's type; a function's result no array of float32 or float64.
            ValueError: wrong shapes, an empty batch, targets out of range, unknown loss, an odd chunk; pairs that the
                population doesn't have; groups that cut blocks of OneUnit in two, or fewer samples in a
                minibatch than it has draws.
        """
        if sample_weights is not None and not self.perturbation.weights_samples:
            raise ValueError(
                f"sample_weights are for OneUnit only, and perturbation is {self.perturbation!r}: take per_sample=True "
                "and weight the losses"
            )
        if callable(loss):
            return self._evaluated_by(loss, x, y, self._checked_pairs(pairs), chunk)
        chosen = loss_named(loss)
        self._check_device(x=x, y=y)
        some = self._checked_pairs(pairs)
        batch = self._checked_batch(x)
        targets = checked_targets(chosen, self._backend, y, batch.samples, self.net.classes)
        weights = None
        if sample_weights is not None:
            weights = self._backend.finite("sample_weights", sample_weights, batch.samples)
        most = _checked_chunk(chunk)
        seen = self._members.see(batch, some, losses=True)
        losses = self._backend.empty((members_of(some), batch.size)) if per_sample else None
        fitness = self._members.evaluate(
            batch, seen, some, targets=targets, sample_weights=weights, losses=losses, chunk=most
        )
        values = fitness if losses is None else negated(losses)
        return Evaluation(self._backend, self.origin, seen, values, fitness, pairs=some)

    def _evaluated_by(
        self, fitness: Callable[[Array, Any], Any], x: Array, y: Any, pairs: tuple[int, int], chunk: int | None
    ) -> Evaluation:
        """As evaluate(), by a fitness of the caller's own."""
        self._check_device(x=x)
        batch, most = self._checked_batch(x), _checked_chunk(chunk)
        seen = self._members.see(batch, pairs, losses=False)
        given = fitness(self._members.outputs(batch, seen, pairs, most), y)
        size = members_of(pairs)
        values = checked_fitness("what the fitness function gives", given, self._backend, size, batch.size)
        return Evaluation(self._backend, self.origin, seen, values, pairs=pairs)

    def evaluated(
        self,
        x: Array,
        fitness: Any,
        y: Any = None,
        loss: str | Callable[[Array, Any], Any] = "cross_entropy",
        *,
        part: Evaluation | None = None,
    ) -> Evaluation:
        """The evaluation that evaluate(x, y) gives, of fitness that was computed in parts, here or elsewhere.

            parts = [population.evaluate(x, y, pairs=pairs).values for pairs in ((0, 100), (100, 256))]
            es.tell(population.evaluated(x, numpy.concatenate(parts)))

        Args:
            x: as for evaluate().
            fitness: float32 or float64 [size], or [size, batch].
            y: targets as for evaluate(), if OneUnit shall give the losses of the unperturbed network too.
            loss: as for evaluate().
            part: an evaluation of some pairs on the same x, whose preparations then needn't be made again (OneUnit).

        Raises:
            TypeError, ValueError: as evaluate(); fitness of another dtype or shape; the part of another population.
        """
        self._check_device(x=x)
        batch = self._checked_batch(x)
        chosen = None if y is None or callable(loss) else loss_named(loss)
        if part is not None:
            part.check_belongs_to(self.origin)
        targets = None
        if chosen is not None and self.perturbation.weights_samples:
            targets = checked_targets(chosen, self._backend, y, batch.samples, self.net.classes)
        seen = self._members.completed(batch, None if part is None else part.seen, targets)
        values = checked_fitness("fitness", fitness, self._backend, self.size, batch.size)
        return Evaluation(self._backend, self.origin, seen, values)

    def forward(self, x: Array, *, pairs: tuple[int, int] | None = None, chunk: int | None = None) -> Array:
        """Outputs of every member.

        Args:
            x: float32 [batch, features], or [groups, batch, features] as for evaluate().
            pairs: as for evaluate().
            chunk: as for evaluate().

        Returns:
            float32 [size, batch, classes].

        Raises:
            TypeError: x isn't float32.
            ValueError: wrong shape, an empty batch, an odd chunk, pairs that the population doesn't have.
        """
        self._check_device(x=x)
        some = self._checked_pairs(pairs)
        batch = self._checked_batch(x)
        most = _checked_chunk(chunk)
        return self._members.outputs(batch, self._members.see(batch, some, losses=False), some, most)

    def member(self, i: int, evaluation: Evaluation | None = None) -> Array:
        """Parameters of member i.

        Full rank: evaluating them gives the same bits as the population gives. Low rank: it doesn't quite, for the
        population adds the perturbation to the product and not to the weights, so the two round differently; biases
        have the same bits. (In flush mode "always" even a small difference of rounding can decide what is flushed.)
        OneUnit is like low rank in this; its members depend on the batch.

        Args:
            i: from 0 to below size.
            evaluation: of this population, for OneUnit.

        Returns:
            float32 [parameters].

        Raises:
            ValueError: i outside the population; the evaluation of another population, or none for OneUnit; node
                perturbation, whose members differ by noise on each sample.
        """
        index = _checks.integer("i", i, 0, self.size - 1)
        if evaluation is not None:
            evaluation.check_belongs_to(self.origin)
        return self._members.member(index, None if evaluation is None else evaluation.seen)

    def gradient(self, weights: Any, evaluation: Evaluation | None = None) -> Array:
        """The ES estimate of the gradient: 1 / (size sigma) times the sum of weight times perturbation.

        With weights = fitness it estimates the gradient of the mean fitness (Salimans et al. 2017, equation 1). Integer
        weights, such as centred ranks, with integer noise give the correctly rounded exact sum; float weights are
        summed in float32, pairs in order. Either way the bits are the same for any number of threads.

        Where each pair perturbs one layer, a layer's estimate is the sum over its own pairs, and k of n units perturbed
        count n / k times; for low rank, biases have gradient zero.

        Node perturbation: for each layer the sum over samples of weight times (mean of the pair's inputs) (x) noise, on
        the batch of the evaluation; a bias that the boundary flushes to zero has gradient zero. Where each pair
        perturbs one layer, the noise of a unit that is zero in both members is left out: the loss doesn't depend on it,
        so it adds nothing to the expectation, only variance.

        OneUnit: for each layer the mean over its draws of half the difference of a pair's weights, over its factor,
        times its direction, in the column of its unit; biases have gradient zero.

        Args:
            weights: [size], int32 or float32. For node perturbation float32 [size], or [size, batch] to weight each
                sample by itself, as evaluate(per_sample=True) gives it: much the better estimate. An Evaluation may
                stand for both arguments.
            evaluation: what the weights were made from. Node perturbation and OneUnit need it, for the batch.

        Returns:
            float32 [parameters].

        Raises:
            TypeError: weights neither integer nor float32.
            ValueError: wrong shape, NaN or infinity, integers too large, the evaluation of another population, node
                perturbation or OneUnit without an evaluation.
        """
        return self._gradient(weights, evaluation, (0, self.size // 2), exact=False)

    def partial_gradient(self, weights: Any, evaluation: Evaluation | None = None, *, pairs: tuple[int, int]) -> Array:
        """What the antithetic pairs begin ... end - 1 add to gradient(weights, evaluation).

        Where the gradient is a sum of integers, integer weights with noise of integers in full or low rank, the parts
        are such sums, and joined_gradient() gives the bits of gradient() whatever the ranges. Everywhere else a part is
        summed in float32, its pairs in order, and the sum of several parts rounds differently from gradient(); its bits
        depend on the ranges, and on nothing else.

        Args:
            weights: as for gradient(), those of all members; only the range's are looked at.
            evaluation: as for gradient(); that of a range of pairs will do that covers these.
            pairs: begin and end.

        Returns:
            int64 [parameters], exact and not scaled; or float32 [parameters].

        Raises:
            TypeError, ValueError: as gradient(); pairs that the population or the evaluation doesn't have; integer
                weights whose sum doesn't fit 64 bits.
        """
        return self._gradient(weights, evaluation, self._checked_pairs(pairs), exact=True)

    def joined_gradient(self, parts: Iterable[Any]) -> Array:
        """The gradient, from the parts that partial_gradient() gave of ranges that make up the population.

        Parts of floats are added in float64, in the order in which they are given, and rounded once.

        Args:
            parts: int64 or float32 arrays [parameters]; or the one sum of all parts of int64.

        Returns:
            float32 [parameters].

        Raises:
            TypeError, ValueError: no parts, parts of different dtypes, another dtype or shape.
        """
        arrays = [self._backend.adopt("parts", part) for part in parts]
        if not arrays:
            raise ValueError("parts is empty, expected at least one array of partial_gradient()")
        dtypes = {str(array.dtype) for array in arrays}
        if len(dtypes) > 1 or not dtypes <= {"int64", "float32"}:
            raise TypeError(f"parts have dtypes {', '.join(sorted(dtypes))}, expected all int64 or all float32")
        for array in arrays:
            _checks.check_shape("parts", array.shape, (self.net.parameters,))
        if len(arrays) == 1 and dtypes == {"float32"}:
            return arrays[0]
        if dtypes == {"float32"}:
            with ieee_mode():  # on the host: CuPy's conversion would flush
                wide = np.zeros(self.net.parameters)
                for array in arrays:
                    wide += to_host(array)
                return self._backend.copied_to_device(wide.astype(np.float32))
        total = self._backend.contiguous(arrays[0] if len(arrays) == 1 else sum(arrays[1:], arrays[0]))
        return self._members.scaled(total)

    def sums_exactly(self, weights: Any) -> bool:
        """Whether the parts of the gradient with these weights are exact sums of integers."""
        return self._members.sums_exactly(plain(weights))

    @property
    def largest_term(self) -> int:
        """Magnitude of what a pair adds to such a sum at most, for weights that differ by 1."""
        return self._members.largest_term

    def _gradient(self, weights: Any, evaluation: Evaluation | None, pairs: tuple[int, int], *, exact: bool) -> Array:
        """What some pairs add to the gradient; exact sums stay as they are where `exact`."""
        if evaluation is None and isinstance(weights, Evaluation):
            evaluation = weights
        if evaluation is not None:
            evaluation.check_belongs_to(self.origin)
            evaluation.check_covers(pairs)
        values = plain(weights)
        self._check_device(weights=values)
        return self._members.gradient(values, None if evaluation is None else evaluation.seen, pairs, exact=exact)

    @property
    def origin(self) -> Origin:
        """What an evaluation notes of its population."""
        return Origin(
            self.net, self.theta, self.size, self.sigma, self.perturbation, seed=self.seed, generation=self.generation
        )

    def _check_device(self, **arrays: Any) -> None:
        """Refuse arrays that aren't where theta is."""
        backend_of(theta=self.theta, **arrays)

    def _checked_batch(self, x: Array) -> Minibatch:
        return checked_minibatch(self._backend, x, self.net.features, self.size // 2, max(self.net.sizes[1:]))

    def _checked_pairs(self, pairs: tuple[int, int] | None) -> tuple[int, int]:
        whole = (0, self.size // 2)
        if pairs is None:
            return whole
        if not isinstance(pairs, tuple | list) or len(pairs) != 2:
            raise TypeError(f"pairs is {pairs!r}, expected a tuple (begin, end)")
        begin = _checks.integer("pairs[0]", pairs[0], 0, whole[1] - 1)
        return begin, _checks.integer("pairs[1]", pairs[1], begin + 1, whole[1])


def _check_tied(net: LinearNetwork, perturbation: Perturbation) -> None:
    """Refuse tied layers where noise isn't on the weights of all layers at once."""
    if net.tied and not perturbation.takes_tied_layers:
        raise ValueError(
            f"perturbation is {perturbation!r}, and net ties layers {', '.join(map(str, net.tied))}: expected "
            "FullRank() or LowRank(rank), which perturb the weights of all layers at once"
        )


def _checked_chunk(chunk: int | None) -> int | None:
    return None if chunk is None else _checked_even("chunk", chunk)


def _checked_sigma(value: float) -> float:
    """A sigma whose multiples float32 holds, as noise of every family is."""
    sigma = _checks.positive("sigma", value)
    if not _SMALLEST_SIGMA <= sigma <= _LARGEST_SIGMA:
        raise ValueError(f"sigma is {sigma}, expected a number from 2**-126 to 2**100, whose multiples float32 holds")
    return sigma


def _checked_even(name: str, value: int) -> int:
    members = _checks.integer(name, value, 2, 2 * LARGEST_WORD)
    if members % 2:
        raise ValueError(f"{name} is {members}, expected an even number: members come in antithetic pairs")
    return members
