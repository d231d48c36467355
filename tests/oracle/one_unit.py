"""Populations of OneUnit: directions, members, outputs and gradient, written from the definition.

Nothing is vectorised that has an order: sums in double are Python's own, term by term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import noise
from .flush import add, fma, negate, to_float32
from .network import Network, bias_add, gemm, multiply, product_ftz

RIDGE = 1e-3


@dataclass(frozen=True)
class OneUnitPopulation:
    """x: float32 [groups, batch, features]; size: of the whole population; draws: of each layer, in a block."""

    network: Network
    theta: np.ndarray
    size: int
    sigma: float
    draws: tuple[int, ...]
    x: np.ndarray
    span: bool = True
    seed: int = 0
    generation: int = 0

    @property
    def block_pairs(self) -> int:
        """Antithetic pairs of a block."""
        return sum(count * self.network.shape(layer)[1] for layer, count in enumerate(self.draws))

    @property
    def blocks(self) -> int:
        """How many blocks there are; as many of them in a row see the same batch as there are for each."""
        return self.size // (2 * self.block_pairs)

    def batch_of(self, block: int) -> int:
        """Which minibatch a block sees."""
        return block * len(self.x) // self.blocks

    def place(self, pair: int) -> tuple[int, int, int, int]:
        """(block, layer, draw, unit) of a pair."""
        block, rest = divmod(pair, self.block_pairs)
        for layer, count in enumerate(self.draws):
            width = self.network.shape(layer)[1]
            if rest < count * width:
                return block, layer, *divmod(rest, width)
            rest -= count * width
        raise AssertionError(pair)

    # --- the unperturbed network --------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """Of each layer, float32 [fan_in, fan_out]."""
        return [weight for weight, _ in self.network.unpack(self.theta)]

    def cross(self, layer: int, acc: np.ndarray) -> np.ndarray:
        """The boundary after a layer, of sums [rows, fan_out]; after the last one, the logits."""
        flush, inverse = self.network.flush, to_float32(1.0 / self.network.scaling)
        bias = self.network.unpack(self.theta)[layer][1]
        if layer == 0:
            h = multiply(bias_add(acc, bias, flush), inverse, flush)
        else:
            h = bias_add(acc, multiply(bias, inverse, flush), flush)
        return multiply(h, to_float32(self.network.scaling), flush) if layer == self.network.layers - 1 else h

    @cached_property
    def unperturbed(self) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
        """Of each batch, sums and activations of every layer."""
        return [self._unperturbed(batch) for batch in self.x]

    def _unperturbed(self, h: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        sums, activations = [], []
        for layer, weight in enumerate(self.weights):
            sums.append(gemm(h, weight, self.network.flush))
            h = self.cross(layer, sums[-1])
            activations.append(h)
        return sums, activations

    def inputs(self, layer: int, batch: int) -> np.ndarray:
        """H: a layer's inputs in the network's own scale, float32 [batch, fan_in]."""
        if layer == 0:
            return self.x[batch]
        return self.unperturbed[batch][1][layer - 1] * to_float32(self.network.scaling)

    # --- directions ---------------------------------------------------------------------------------------------------

    def gram(self, layer: int, batch: int) -> list[list[float]]:
        """H H^T in double: products of floats are exact, sums run over the inputs in order."""
        rows = [[float(v) for v in row] for row in self.inputs(layer, batch)]
        return [[_dot(a, b) for b in rows] for a in rows]

    def scale(self, layer: int, batch: int) -> tuple[float, float]:
        """(ridge, factor)."""
        gram = self.gram(layer, batch)
        total = 0.0
        for i in range(len(gram)):
            total += gram[i][i]
        mean = total / len(gram)
        if mean == 0.0:
            return 0.0, 0.0
        return RIDGE * mean, self.sigma / math.sqrt(mean)

    def factor(self, layer: int, batch: int) -> list[list[float]]:
        """L, lower triangular: H H^T + ridge I = L L^T."""
        gram, (ridge, _) = self.gram(layer, batch), self.scale(layer, batch)
        count = len(gram)
        lower = [[0.0] * count for _ in range(count)]
        for i in range(count):
            for j in range(i + 1):
                rest = gram[i][j] + (ridge if i == j else 0.0)
                for k in range(j):
                    rest -= lower[i][k] * lower[j][k]
                lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
        return lower

    def draw(self, layer: int, index: int, count: int) -> list[float]:
        """Random signs."""
        tensor = noise.tensor_id(layer, noise.DIRECTION)
        return [float(v) for v in noise.integers("rademacher", self.seed, tensor, index, self.generation, count)]

    def signs(self, block: int, layer: int, draw: int) -> list[float]:
        """r of a draw: the block's signs times a row of Sylvester's Hadamard matrix."""
        first = self.draw(layer, block, self.x.shape[1])
        return [-v if bin(b & draw).count("1") % 2 else v for b, v in enumerate(first)]

    def solution(self, block: int, layer: int, draw: int) -> list[float]:
        """L^-T r."""
        batch = self.batch_of(block)
        signs = self.signs(block, layer, draw)
        if self.scale(layer, batch)[1] == 0.0:
            return [0.0] * len(signs)
        lower = self.factor(layer, batch)
        solution = [0.0] * len(signs)
        for i in reversed(range(len(signs))):
            rest = signs[i]
            for k in range(i + 1, len(signs)):
                rest -= lower[k][i] * solution[k]
            solution[i] = rest / lower[i][i]
        return solution

    def white(self, block: int, layer: int, draw: int) -> list[float]:
        """A white direction, [fan_in]."""
        return self.draw(layer, block * self.draws[layer] + draw, self.network.shape(layer)[0])

    def changes(self, block: int, layer: int, draw: int) -> np.ndarray:
        """What the + members of a draw add to their unit's pre-activation, in the network's own scale: [batch]."""
        batch = self.batch_of(block)
        if self.span:
            solution = self.solution(block, layer, draw)
            products = [_dot(row, solution) for row in self.gram(layer, batch)]
        else:
            direction = self.white(block, layer, draw)
            products = [_dot([float(v) for v in row], direction) for row in self.inputs(layer, batch)]
        factor = self.scale(layer, batch)[1]
        return to_float32(np.array([factor * product for product in products]))

    # --- members ------------------------------------------------------------------------------------------------------

    def forward(self) -> np.ndarray:
        """Logits of all members: float32 [size, batch, classes]."""
        outputs = np.empty((self.size, self.x.shape[1], self.network.sizes[-1]), np.float32)
        for pair in range(self.size // 2):
            block, layer, draw, unit = self.place(pair)
            if unit == 0:
                changes = self.changes(block, layer, draw)
            for sign in range(2):
                for sample in range(self.x.shape[1]):
                    change = negate(changes[sample]) if sign else changes[sample]
                    outputs[2 * pair + sign, sample] = self._forward(self.batch_of(block), layer, unit, sample, change)
        return outputs

    def _forward(self, batch: int, layer: int, unit: int, sample: int, change: np.ndarray) -> np.ndarray:
        sums, activations = self.unperturbed[batch]
        ftz, network = product_ftz(self.network.flush), self.network
        acc = sums[layer][sample].copy()
        scale = to_float32(1.0 if layer == 0 else 1.0 / network.scaling)
        acc[unit] = fma(change, scale, acc[unit], ftz)
        h = self.cross(layer, acc[None])[0]
        if layer == network.layers - 1:
            return h
        difference = add(h[unit], negate(activations[layer][sample, unit]), ftz)
        if difference == 0.0:
            return activations[-1][sample]
        acc = fma(difference, self.weights[layer + 1][unit], sums[layer + 1][sample], ftz)
        h = self.cross(layer + 1, acc[None])
        for above in range(layer + 2, network.layers):
            h = self.cross(above, gemm(h, self.weights[above], network.flush))
        return h[0]

    def member(self, member: int) -> np.ndarray:
        """Parameters: float32 [parameters]."""
        block, layer, draw, unit = self.place(member // 2)
        batch = self.batch_of(block)
        if self.span:
            solution = self.solution(block, layer, draw)
            direction = [_dot([float(v) for v in column], solution) for column in self.inputs(layer, batch).T]
        else:
            direction = self.white(block, layer, draw)
        factor = self.scale(layer, batch)[1]
        change = to_float32(np.array([factor * v for v in direction]))
        theta = self.theta.copy()
        weight = self.network.unpack(theta)[layer][0]
        weight[:, unit] = add(weight[:, unit], negate(change) if member % 2 else change, ftz=False)
        return theta

    # --- gradient -----------------------------------------------------------------------------------------------------

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """The estimate from weights [size], integers or float32: float32 [parameters]; zero for biases."""
        differences = [float(a) - float(b) for a, b in zip(weights[0::2], weights[1::2], strict=True)]
        result = np.zeros(self.network.parameters, np.float32)
        for layer, (weight, _) in enumerate(self.network.unpack(result)):
            left, right = self._span_terms(layer, differences) if self.span else self._white_terms(layer, differences)
            weight[...] = gemm(left.T.copy(), right, "never")
        return result

    def share(self, layer: int, batch: int) -> float:
        """What a draw's difference counts."""
        factor = self.scale(layer, batch)[1]
        return 0.0 if factor == 0.0 else 1.0 / (2.0 * factor * float(self.blocks * self.draws[layer]))

    def _pair(self, block: int, layer: int, draw: int) -> int:
        """Of a draw's first unit."""
        below = sum(count * self.network.shape(lower)[1] for lower, count in enumerate(self.draws[:layer]))
        return block * self.block_pairs + below + draw * self.network.shape(layer)[1]

    def _span_terms(self, layer: int, differences: list[float]) -> tuple[np.ndarray, np.ndarray]:
        units, batch_size = self.network.shape(layer)[1], self.x.shape[1]
        total = [[0.0] * units for _ in range(len(self.x) * batch_size)]
        for block in range(self.blocks):
            batch = self.batch_of(block)
            share = self.share(layer, batch)
            for draw in range(self.draws[layer]):
                first = self._pair(block, layer, draw)
                for b, value in enumerate(self.solution(block, layer, draw)):
                    row, coefficient = total[batch * batch_size + b], value * share
                    for unit in range(units):
                        row[unit] += coefficient * differences[first + unit]
        left = np.concatenate([self.inputs(layer, batch) for batch in range(len(self.x))])
        return left, to_float32(np.array(total))

    def _white_terms(self, layer: int, differences: list[float]) -> tuple[np.ndarray, np.ndarray]:
        units = self.network.shape(layer)[1]
        left, right = [], []
        for block in range(self.blocks):
            share = self.share(layer, self.batch_of(block))
            for draw in range(self.draws[layer]):
                first = self._pair(block, layer, draw)
                left.append(self.white(block, layer, draw))
                right.append([share * difference for difference in differences[first : first + units]])
        return np.array(left, np.float32), to_float32(np.array(right))


def _dot(a: list[float], b: list[float]) -> float:
    """Sum of products, each rounded, one after another."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total
