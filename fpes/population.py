"""Populations: many perturbed copies of one network, evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fpes import _checks
from fpes._backends import Array, Minibatch, backend_of
from fpes._modes import ieee_mode
from fpes.devices import to_host
from fpes.evaluation import Evaluation, Origin, checked_fitness, members_of, moments_of, negated, plain
from fpes.losses import checked_targets, loss_named
from fpes.members import Centre
from fpes.minibatch import checked_minibatch
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_SEED, LARGEST_WORD
from fpes.perturbations import FullRank, Perturbation, checked_perturbation

_SMALLEST_SIGMA, _LARGEST_SIGMA = 2.0**-126, 2.0**100


class Population:
    """Members 0 ... size - 1 around theta; members 2p and 2p + 1 are the antithetic pair p, with +noise and -noise.

    Noise is a function of (seed, generation). It is drawn when it is needed and never stored. So a population takes
    almost no memory, and a member doesn't depend on the size of the population.

    Args:
        net: the network.
        theta: its parameters, float32 [net.parameters], finite. They aren't copied. theta also chooses the device: a
            NumPy array means the CPU; a CuPy array, or another array on a GPU, means its GPU. Arguments of the methods
            must be on the same device. Results are on this device too, on a GPU as CuPy arrays.
        size: number of members, even.
        sigma: standard deviation of the perturbation, from 2**-126 to 2**100.
        perturbation: FullRank(), LowRank(rank), NodePerturbation() or OneUnit().
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1; every generation has its own noise.

    On a GPU every call is asynchronous, on CuPy's current stream. No call waits to check values. A value that the CPU
    would refuse (NaN in theta, a target or an integer weight out of range) gives NaN in the results that depend on it.

    Raises:
        TypeError: an argument of the wrong type, theta not float32.
        ValueError: an odd or empty population, sigma not above 0, NaN or infinity in theta, a number out of range; tied
            layers with a perturbation other than FullRank() and LowRank() on all layers.
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
        self._theta = self._backend.finite("theta", theta, (net.parameters,))
        self._made = self._backend.made()
        self.size = _checked_even("size", size)
        self.sigma = _checked_sigma(sigma)
        self.perturbation = FullRank() if perturbation is None else checked_perturbation(perturbation)
        _check_tied(net, self.perturbation)
        self.seed = _checks.integer("seed", seed, 0, LARGEST_SEED)
        self.generation = _checks.integer("generation", generation, 0, LARGEST_WORD)
        self._members = self.perturbation.around(
            Centre(self._backend, net._call(self._theta), self.size, self.sigma, self.seed, self.generation)
        )

    def __repr__(self) -> str:
        return (
            f"Population({self.net!r}, size={self.size}, sigma={self.sigma}, perturbation={self.perturbation!r}, "
            f"seed={self.seed}, generation={self.generation})"
        )

    @property
    def theta(self) -> Array:
        """The parameters, float32 [net.parameters]: the array that was given, or a copy if that had gaps."""
        self._backend.follow(self._made)
        return self._theta

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
                group. Members are divided evenly, in order, into groups of whole antithetic pairs.
            y: the targets. For "cross_entropy" integer labels [batch] or [groups, batch], each in 0 ... outputs - 1;
                for "squared_error" float32 [batch, outputs] or [groups, batch, outputs]; for "binary_cross_entropy"
                the same shapes, from 0 to 1; for a function, anything that it takes.
            loss: "cross_entropy" of one label, in nats; "squared_error", the mean over outputs; "binary_cross_entropy"
                of several labels, in nats, the mean over outputs (losses.py); or a function that returns *fitness*,
                where higher is better: loss(outputs, y) takes outputs, float32 [size, batch, outputs], and returns
                float32 or float64 [size], or [size, batch].
            per_sample: return a fitness for each sample, not the mean over the batch. (The shape that a function
                returns has the same meaning.)
            sample_weights: float32 [batch] or [groups, batch], finite. The loss of each sample is multiplied by its
                weight before the mean. For OneUnit only. With other families, use per_sample and weight the result.
            pairs: (begin, end): evaluate only these antithetic pairs, members 2 begin ... 2 end - 1, and return their
                results. So several calls, on one machine or several, can share a population. x and y remain those of
                the whole population. A function is then called for each group of these members, with
                y[group : group + 1], if y has one row for each group. See evaluated().
            chunk: number of members to evaluate at a time, even. By default the package chooses. The number limits
                memory and changes no bits.

        Returns:
            an Evaluation. It acts as the array of its fitness, float32 [size], or [size, batch] with per_sample; tell()
            and gradient() take it. For node perturbation and OneUnit it holds a copy of x.

        Raises:
            TypeError: x isn't float32, or y doesn't have the type that the loss needs; a function doesn't return an
                array of float32 or float64.
            ValueError: wrong shapes, an empty batch, targets out of range, unknown loss, an odd chunk; pairs that the
                population doesn't have; groups that divide a block of OneUnit, or fewer samples in a minibatch than
                OneUnit has draws.
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
        with self._using():
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
        """As evaluate(), with the caller's fitness function."""
        self._check_device(x=x)
        batch, most = self._checked_batch(x), _checked_chunk(chunk)
        with self._using():
            seen = self._members.see(batch, pairs, losses=False)
            outputs = self._members.outputs(batch, seen, pairs, most)
        name = "what the fitness function gives"
        values = [
            checked_fitness(name, fitness(outputs[members], targets), self._backend, len(outputs[members]), batch.size)
            for members, targets in self._calls(batch, pairs, y)
        ]
        joined = values[0] if len(values) == 1 else np.concatenate(values)  # CuPy's, of arrays of CuPy
        return Evaluation(self._backend, self.origin, seen, joined, pairs=pairs)

    def _calls(self, batch: Minibatch, pairs: tuple[int, int], y: Any) -> Iterator[tuple[slice, Any]]:
        """What a fitness function is called for: which members of some pairs, and what they are compared with.

        Of some pairs it couldn't tell which group they belong to, so it is called for each group.
        """
        of_groups = batch.x.ndim == 3 and getattr(y, "shape", ())[:1] == (batch.groups,)
        if pairs == (0, self.size // 2) or not of_groups:
            yield slice(None), y
            return
        begin, end = pairs
        while begin < end:
            group = begin // batch.pairs_each
            until = min(end, (group + 1) * batch.pairs_each)
            yield slice(2 * (begin - pairs[0]), 2 * (until - pairs[0])), y[group : group + 1]
            begin = until

    def evaluated(
        self,
        x: Array,
        fitness: Any,
        y: Any = None,
        loss: str | Callable[[Array, Any], Any] = "cross_entropy",
        *,
        part: Evaluation | None = None,
    ) -> Evaluation:
        """The result of evaluate(x, y), from fitness that was computed in parts, here or elsewhere.

            parts = [population.evaluate(x, y, pairs=pairs).values for pairs in ((0, 100), (100, 256))]
            es.tell(population.evaluated(x, numpy.concatenate(parts)))

        Args:
            x: as for evaluate().
            fitness: float32 or float64 [size], or [size, batch].
            y: targets as for evaluate(). Needed only for OneUnit, and only for the losses of the unperturbed network.
            loss: as for evaluate().
            part: an evaluation of some pairs on the same x. Its preparations are used again (OneUnit).

        Raises:
            TypeError, ValueError: as evaluate(); fitness of another dtype or shape; a part of another population.
        """
        self._check_device(x=x)
        batch = self._checked_batch(x)
        chosen = None if y is None or callable(loss) else loss_named(loss)
        if part is not None:
            part.check_belongs_to(self.origin)
        targets = None
        if chosen is not None and self.perturbation.weights_samples:
            targets = checked_targets(chosen, self._backend, y, batch.samples, self.net.classes)
        with self._using(part):
            seen = self._members.completed(batch, None if part is None else part.seen, targets)
        values = checked_fitness("fitness", fitness, self._backend, self.size, batch.size)
        return Evaluation(self._backend, self.origin, seen, values, made_of=moments_of(part))

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
        with self._using():
            return self._members.outputs(batch, self._members.see(batch, some, losses=False), some, most)

    def member(self, i: int, evaluation: Evaluation | None = None) -> Array:
        """Parameters of member i.

        Full rank: a network with these parameters has the bits of the population. Low rank: its outputs are close but
        not equal, because the population adds the perturbation to the product and not to the weights, which rounds
        differently. Biases are equal. (In flush mode "always" even a small difference of rounding can decide whether a
        value is flushed.) OneUnit: as low rank. Its members depend on the batch.

        Args:
            i: 0 ... size - 1.
            evaluation: an evaluation of this population, for OneUnit.

        Returns:
            float32 [parameters].

        Raises:
            ValueError: i outside the population; an evaluation of another population, or none for OneUnit; node
                perturbation, because its noise differs between samples.
        """
        index = _checks.integer("i", i, 0, self.size - 1)
        if evaluation is not None:
            evaluation.check_belongs_to(self.origin)
        with self._using(evaluation):
            return self._members.member(index, None if evaluation is None else evaluation.seen)

    def gradient(self, weights: Any, evaluation: Evaluation | None = None) -> Array:
        """The ES estimate of the gradient: 1 / (size sigma) times the sum of weight times perturbation.

        With weights = fitness it estimates the gradient of the mean fitness (Salimans et al. 2017, equation 1). Integer
        weights, such as centred ranks, with integer noise give the exact sum, correctly rounded. Float weights are
        summed in float32, pairs in order. In both cases the bits don't depend on the number of threads.

        If each pair perturbs one layer, the estimate of a layer is the sum over its own pairs. If k of n units are
        perturbed, each counts n / k times. For low rank, biases then have gradient zero.

        Node perturbation: for each layer, the sum over samples of weight times the outer product of (mean of the pair's
        inputs) and noise, on the batch of the evaluation. A bias that the boundary flushes to zero has gradient zero.
        If each pair perturbs one layer, the noise of a unit whose activation is zero in both members is left out. The
        loss doesn't depend on this noise, so it would only add variance.

        OneUnit: for each layer, the mean over its draws of (w+ - w-) / (2 factor) times the direction, in the column of
        the unit; w+ and w- are the weights of a pair. Biases have gradient zero.

        Args:
            weights: [size], int32 or float32. For node perturbation float32 [size], or [size, batch] with a weight for
                each sample, as evaluate(per_sample=True) returns it; this estimate is much better. An Evaluation can
                replace both arguments.
            evaluation: the evaluation that the weights come from. Node perturbation and OneUnit need its batch.

        Returns:
            float32 [parameters].

        Raises:
            TypeError: weights neither integer nor float32.
            ValueError: wrong shape, NaN or infinity, integers too large, an evaluation of another population, node
                perturbation or OneUnit without an evaluation.
        """
        return self._gradient(weights, evaluation, (0, self.size // 2), exact=False)

    def partial_gradient(self, weights: Any, evaluation: Evaluation | None = None, *, pairs: tuple[int, int]) -> Array:
        """The part of the antithetic pairs begin ... end - 1 in gradient(weights, evaluation).

        With integer weights and integer noise, full and low rank give parts that are exact integer sums. Then
        joined_gradient() gives the bits of gradient() for any division into ranges. Otherwise a part is summed in
        float32, its pairs in order. The sum of several such parts rounds differently from gradient(); its bits depend
        only on the ranges.

        Args:
            weights: as for gradient(), for all members. Only those of the range are used.
            evaluation: as for gradient(). It may cover only some pairs, if these are among them.
            pairs: (begin, end).

        Returns:
            int64 [parameters], exact and not yet scaled; or float32 [parameters].

        Raises:
            TypeError, ValueError: as gradient(); pairs that the population or the evaluation doesn't have; integer
                weights whose sum doesn't fit 64 bits.
        """
        return self._gradient(weights, evaluation, self._checked_pairs(pairs), exact=True)

    def joined_gradient(self, parts: Iterable[Any]) -> Array:
        """The gradient, from the results of partial_gradient() for ranges that together cover the population.

        Float parts are added in float64, in the given order, and rounded once.

        Args:
            parts: int64 or float32 arrays [parameters]; or, for int64, one array with the sum of all parts.

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
        """Whether partial_gradient() with these weights gives exact integer sums."""
        return self._members.sums_exactly(plain(weights))

    @property
    def largest_term(self) -> int:
        """The largest magnitude that a pair can add to an exact integer sum, for weights that differ by 1."""
        return self._members.largest_term

    def _gradient(self, weights: Any, evaluation: Evaluation | None, pairs: tuple[int, int], *, exact: bool) -> Array:
        """The part of some pairs in the gradient. With `exact`, integer sums are returned unscaled."""
        if evaluation is None and isinstance(weights, Evaluation):
            evaluation = weights
        if evaluation is not None:
            evaluation.check_belongs_to(self.origin)
            evaluation.check_covers(pairs)
        values = plain(weights)
        self._check_device(weights=values)
        with self._using(weights, evaluation):
            return self._members.gradient(values, None if evaluation is None else evaluation.seen, pairs, exact=exact)

    @property
    def origin(self) -> Origin:
        """The identity of this population, which its evaluations keep."""
        return Origin(
            self.net, self.theta, self.size, self.sigma, self.perturbation, seed=self.seed, generation=self.generation
        )

    def _using(self, *evaluations: Any) -> AbstractContextManager[None]:
        """Around work that uses the parameters, and what Evaluations among these hold."""
        return self._backend.using((*self._made, *moments_of(*evaluations)))

    def _check_device(self, **arrays: Any) -> None:
        """Refuse arrays on another device than theta."""
        backend_of(theta=self._theta, **arrays)

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
    """Refuse tied layers unless the perturbation changes the weights of all layers at once."""
    if net.tied and not perturbation.takes_tied_layers:
        raise ValueError(
            f"perturbation is {perturbation!r}, and net ties layers {', '.join(map(str, net.tied))}: expected "
            "FullRank() or LowRank(rank), which perturb the weights of all layers at once"
        )


def _checked_chunk(chunk: int | None) -> int | None:
    return None if chunk is None else _checked_even("chunk", chunk)


def _checked_sigma(value: float) -> float:
    """A sigma whose multiples fit float32. The noise of every family is such a multiple."""
    sigma = _checks.positive("sigma", value)
    if not _SMALLEST_SIGMA <= sigma <= _LARGEST_SIGMA:
        raise ValueError(f"sigma is {sigma}, expected a number from 2**-126 to 2**100, whose multiples float32 holds")
    return sigma


def _checked_even(name: str, value: int) -> int:
    members = _checks.integer(name, value, 2, 2 * LARGEST_WORD)
    if members % 2:
        raise ValueError(f"{name} is {members}, expected an even number: members come in antithetic pairs")
    return members
