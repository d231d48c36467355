"""Populations: many perturbed copies of one network, evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fpes import _checks, _cpu, _settings
from fpes._checks import FloatArray
from fpes.minibatch import Minibatch, checked_minibatch
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_SEED, LARGEST_WORD
from fpes.perturbations import FullRank, LowRank, NodePerturbation, Perturbation, draws_of, units_of

_FAMILIES = {
    FullRank: _cpu.Family.full,
    LowRank: _cpu.Family.low_rank,
    NodePerturbation: _cpu.Family.node,
}
_ONE_LAYER_FAMILIES = {
    LowRank: _cpu.Family.one_layer_rank_one,
    NodePerturbation: _cpu.Family.one_layer,
}
# The largest integer weights whose products with integer noise a float holds exactly (24 bits).
_LARGEST_WEIGHT = {FullRank: 2**20, LowRank: 2**17}
# Multiply-adds in one call of the C++ module: a second or so on one core, after which Ctrl-C is heard.
_CALL_MULTIPLY_ADDS = 2**35


class Population:
    """Members 0 ... size - 1 around theta; members 2p and 2p + 1 are the antithetic pair p, with +noise and -noise.

    Noise is drawn from (seed, generation) whenever it is needed and never stored, so a population costs no memory, and
    a member is the same whatever the size of the population around it.

    Args:
        net: the network.
        theta: its parameters, float32 [net.parameters], finite. Not copied.
        size: members, an even number.
        sigma: standard deviation of the perturbation, above 0.
        perturbation: FullRank(), LowRank(rank) or NodePerturbation().
        seed: 0 ... 2**64 - 1.
        generation: 0 ... 2**32 - 1; every generation has noise of its own.

    Raises:
        TypeError: an argument of the wrong type, theta not float32.
        ValueError: an odd or empty population, sigma not above 0, NaN or infinity in theta, a number out of range.
    """

    def __init__(
        self,
        net: LinearNetwork,
        theta: FloatArray,
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
        self.theta = _checks.finite_array("theta", theta, (net.parameters,))
        self.size = _checked_even("size", size)
        self.sigma = _checks.positive("sigma", sigma)
        self.perturbation = FullRank() if perturbation is None else perturbation
        if type(self.perturbation) not in _FAMILIES:
            raise TypeError(f"perturbation is {perturbation!r}, expected a FullRank, LowRank or NodePerturbation")
        self.seed = _checks.integer("seed", seed, 0, LARGEST_SEED)
        self.generation = _checks.integer("generation", generation, 0, LARGEST_WORD)
        self._family = _FAMILIES[type(self.perturbation)]
        self._units: list[int] = []
        self._draws: list[int] = []
        if not isinstance(self.perturbation, FullRank) and self.perturbation.one_layer_at_a_time:
            self._family = _ONE_LAYER_FAMILIES[type(self.perturbation)]
            self._units = units_of(self.perturbation, net.sizes)
            self._draws = draws_of(self.perturbation, net.sizes)
            self._check_draws()
        # The last batch, and its unperturbed accumulators where each pair perturbs one layer: node perturbation's
        # gradient depends on them.
        self._batch: Minibatch | None = None
        self._sums: FloatArray | None = None

    def _check_draws(self) -> None:
        pairs, draws = self.size // 2, sum(self._draws)
        if pairs % draws:
            raise ValueError(
                f"size is {self.size}, expected a multiple of {2 * draws}: {draws} antithetic pairs "
                f"({', '.join(map(str, self._draws))}) perturb the layers in turn"
            )

    def __repr__(self) -> str:
        return (
            f"Population({self.net!r}, size={self.size}, sigma={self.sigma}, perturbation={self.perturbation!r}, "
            f"seed={self.seed}, generation={self.generation})"
        )

    @property
    def groups(self) -> int:
        """How many groups of members had a minibatch of their own in the last evaluation; 1 before any."""
        return 1 if self._batch is None else self._batch.groups

    @property
    def samples(self) -> int:
        """How many samples each member saw in the last evaluation; 0 before any."""
        return 0 if self._batch is None else self._batch.size

    def evaluate(
        self,
        x: FloatArray,
        y: Any,
        loss: str = "cross_entropy",
        *,
        per_sample: bool = False,
        chunk: int | None = None,
    ) -> FloatArray:
        """Fitness of every member: minus its mean loss over the batch; higher is better.

        Args:
            x: float32 [batch, features], the same for all members; or [groups, batch, features], a minibatch for each
                group, where the members are divided evenly, in order, into groups of whole antithetic pairs.
            y: integer labels [batch] or [groups, batch], each in 0 ... classes - 1.
            loss: "cross_entropy", in natural units.
            per_sample: don't average over the batch.
            chunk: how many members to evaluate at a time, an even number; chosen for you unless told. It bounds the
                memory in use and changes no bits.

        Returns:
            float32 [size], or [size, batch] where per_sample.

        Raises:
            TypeError: x isn't float32, y not integer.
            ValueError: wrong shapes, an empty batch, labels outside the classes, unknown loss, an odd chunk.
        """
        if loss != "cross_entropy":
            raise ValueError(f"loss is {loss!r}, expected 'cross_entropy'; for others use forward()")
        batch = self._checked_batch(x)
        labels = batch.labels(y, self.net.classes)
        calls = self._calls(batch, chunk)
        fitness = np.empty(self.size, np.float32)
        losses = np.empty((self.size, batch.size), np.float32) if per_sample else None
        for begin, end in calls:
            _cpu.population_evaluate(
                *self._description,
                self._native,
                begin,
                end,
                batch.x.ctypes.data,
                labels.ctypes.data,
                batch.shape,
                self._sums_address,
                fitness[2 * begin :].ctypes.data,
                0 if losses is None else losses[2 * begin :].ctypes.data,
            )
        return fitness if losses is None else -losses

    def forward(self, x: FloatArray, *, chunk: int | None = None) -> FloatArray:
        """Outputs of every member.

        Args:
            x: float32 [batch, features], or [groups, batch, features] as for evaluate().
            chunk: as for evaluate().

        Returns:
            float32 [size, batch, classes].

        Raises:
            TypeError: x isn't float32.
            ValueError: wrong shape, an empty batch, an odd chunk.
        """
        batch = self._checked_batch(x)
        calls = self._calls(batch, chunk)
        outputs = np.empty((self.size, batch.size, self.net.classes), np.float32)
        for begin, end in calls:
            _cpu.population_forward(
                *self._description,
                self._native,
                begin,
                end,
                batch.x.ctypes.data,
                batch.shape,
                self._sums_address,
                outputs[2 * begin :].ctypes.data,
            )
        return outputs

    def member(self, i: int) -> FloatArray:
        """Parameters of member i.

        Full rank: evaluating them gives the same bits as the population gives. Low rank: it doesn't quite, for the
        population adds the perturbation to the product and not to the weights, so the two round differently; biases
        have the same bits. (In flush mode "always" even a small difference of rounding can decide what is flushed.)

        Returns:
            float32 [parameters].

        Raises:
            ValueError: i outside the population; node perturbation, whose members differ by noise on each sample.
        """
        index = _checks.integer("i", i, 0, self.size - 1)
        if isinstance(self.perturbation, NodePerturbation):
            raise ValueError(
                "a member of node perturbation has no parameters of its own: its noise differs for each sample"
            )
        theta = np.empty(self.net.parameters, np.float32)
        _cpu.population_member(*self._description, self._native, index, theta.ctypes.data)
        return theta

    def gradient(self, weights: Any) -> FloatArray:
        """The ES estimate of the gradient: 1 / (size sigma) times the sum of weight times perturbation.

        With weights = fitness it estimates the gradient of the mean fitness (Salimans et al. 2017, equation 1). Integer
        weights, such as centred ranks, with integer noise give the correctly rounded exact sum; float weights are
        summed in float32, pairs in order. Either way the bits are the same for any number of threads.

        Where each pair perturbs one layer, a layer's estimate is the sum over its own pairs, and k of n units perturbed
        count n / k times; for low rank, biases have gradient zero.

        Node perturbation: for each layer the sum over samples of weight times (mean of the pair's inputs) (x) noise, on
        the batch last evaluated; a bias that the boundary flushes to zero has gradient zero. Where each pair perturbs
        one layer, the noise of a unit that is zero in both members is left out: the loss doesn't depend on it, so it
        adds nothing to the expectation, only variance.

        Args:
            weights: [size], int32 or float32. For node perturbation float32 [size], or [size, batch] to weight each
                sample by itself, as evaluate(per_sample=True) gives it: much the better estimate.

        Returns:
            float32 [parameters].

        Raises:
            TypeError: weights neither integer nor float32.
            ValueError: wrong shape, NaN or infinity, integers too large, node perturbation before any evaluation.
        """
        if isinstance(self.perturbation, NodePerturbation):
            return self._node_gradient(weights)
        checked = self._checked_weights(weights)
        result = np.empty(self.net.parameters, np.float32)
        _cpu.population_gradient(
            _settings.execution(),
            self.net.sizes,
            self._native,
            checked.ctypes.data,
            checked.dtype == np.int32,
            self.size,
            result.ctypes.data,
        )
        return result

    def _node_gradient(self, weights: Any) -> FloatArray:
        if self._batch is None:
            raise ValueError("the gradient of node perturbation needs a batch: call evaluate() or forward() first")
        batch = self._batch
        per_sample = np.ndim(weights) == 2
        checked = _checks.finite_array("weights", weights, (self.size, batch.size) if per_sample else (self.size,))
        result = np.empty(self.net.parameters, np.float32)
        call = (
            *self._description,
            self._native,
            self.size // 2,
            batch.x.ctypes.data,
            batch.shape,
            checked.ctypes.data,
            per_sample,
        )
        if self._sums is None:
            _cpu.node_gradient(*call, result.ctypes.data)
        else:
            _cpu.incremental_gradient(*call, self._sums_address, result.ctypes.data)
        return result

    def _checked_weights(self, weights: Any) -> Any:
        if not (isinstance(weights, np.ndarray) and weights.dtype.kind in "iu"):
            return _checks.finite_array("weights", weights, (self.size,))
        _checks.check_shape("weights", weights.shape, (self.size,))
        limit = _LARGEST_WEIGHT[type(self.perturbation)]
        largest = max(abs(int(weights.max())), abs(int(weights.min())))
        if largest > limit:
            raise ValueError(
                f"weights has integers up to {largest} in magnitude, expected at most {limit} for an exact sum: "
                "convert them to float32 to have them summed in float32"
            )
        return np.ascontiguousarray(weights, dtype=np.int32)

    def _checked_batch(self, x: FloatArray) -> Minibatch:
        batch = checked_minibatch(x, self.net.features, self.size // 2, max(self.net.sizes[1:]))
        self._batch = batch
        if self._family is _cpu.Family.one_layer:
            self._sums = np.empty(batch.groups * batch.size * sum(self.net.sizes[1:]), np.float32)
        return batch

    def _calls(self, batch: Minibatch, chunk: int | None) -> list[tuple[int, int]]:
        """Ranges of pairs: as many as a chunk has, or few enough that an interrupt is heard soon."""
        pairs = self.size // 2
        if chunk is None:
            step = max(16, _CALL_MULTIPLY_ADDS // (2 * batch.size * self._multiply_adds))
        else:
            step = _checked_even("chunk", chunk) // 2
        return [(begin, min(begin + step, pairs)) for begin in range(0, pairs, step)]

    @property
    def _multiply_adds(self) -> int:
        """Of one member and sample, roughly. Where a pair perturbs one layer, only what lies above is computed."""
        if not self._draws:
            return self.net.parameters
        sizes = self.net.sizes
        above = [sum(a * b for a, b in pairwise(sizes[layer + 1 :])) for layer in range(len(self._draws))]
        return 1 + sum(draws * work for draws, work in zip(self._draws, above, strict=True)) // sum(self._draws)

    @property
    def _description(self) -> tuple[_cpu.Execution, _cpu.Flush, Sequence[int], float, int]:
        """The network as the C++ module takes it."""
        return (_settings.execution(), *self.net._description, self.theta.ctypes.data)

    @property
    def _native(self) -> _cpu.Population:
        return _cpu.Population(
            family=self._family,
            rank=self.perturbation.rank if isinstance(self.perturbation, LowRank) else 1,
            noise=_cpu.NoiseKind.__members__[self.perturbation.noise],
            seed=self.seed,
            generation=self.generation,
            sigma=self.sigma,
            units=self._units,
            draws=self._draws,
        )

    @property
    def _sums_address(self) -> int:
        return 0 if self._sums is None else self._sums.ctypes.data


def _checked_even(name: str, value: int) -> int:
    members = _checks.integer(name, value, 2, 2 * LARGEST_WORD)
    if members % 2:
        raise ValueError(f"{name} is {members}, expected an even number: members come in antithetic pairs")
    return members
