"""Node perturbation where each pair perturbs one layer, and perhaps few of its units: outputs and gradient.

Written from the definition, sample by sample: an unperturbed pass, then what the perturbed units change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import noise
from .flush import add, fma, negate, to_float32, widen
from .network import Network, bias_add, elementwise_ftz, gemm, multiply, product_ftz


@dataclass(frozen=True)
class OneLayerPopulation:
    """units: for each layer how many units carry noise, or None for all; draws: pairs in a row for each layer."""

    network: Network
    theta: np.ndarray
    size: int
    sigma: float
    units: tuple[int | None, ...]
    draws: tuple[int, ...]
    seed: int = 0
    generation: int = 0
    kind: str = "binomial"

    def layer_of(self, pair: int) -> int:
        """Which layer a pair perturbs."""
        turns = [layer for layer, count in enumerate(self.draws) for _ in range(count)]
        return turns[pair % len(turns)]

    def positions(self, layer: int, pair: int, sample: int) -> np.ndarray:
        """The perturbed units of one sample, ascending: one in each of k strata."""
        n = self.network.shape(layer)[1]
        k = self.units[layer]
        if k is None:
            return np.arange(n)
        tensor = noise.tensor_id(layer, noise.POSITIONS)
        first = sample * k
        words = noise.blocks(self.seed, tensor, pair, self.generation, first // 4, k // 4 + 2).ravel()
        words = words[first % 4 :][:k]
        edges = [j * n // k for j in range(k + 1)]
        return np.array([edges[j] + (int(words[j]) * (edges[j + 1] - edges[j]) >> 32) for j in range(k)])

    def draw(self, layer: int, pair: int, sample: int) -> np.ndarray:
        """The noise of those units, float32 [k]."""
        count = self.positions(layer, pair, sample).size
        tensor = noise.tensor_id(layer, noise.NODE)
        z = noise.integers(self.kind, self.seed, tensor, pair, self.generation, count, start=sample * count)
        return z.astype(np.float32)

    def unperturbed(self, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Accumulators and activations of every layer, float32 [batch, fan_out] each."""
        sums, activations, h = [], [], x
        for layer, (weight, _) in enumerate(self.network.unpack(self.theta)):
            sums.append(gemm(h, weight, self.network.flush))
            h = self.cross(layer, sums[-1])
            activations.append(h)
        return sums, activations

    def cross(self, layer: int, acc: np.ndarray) -> np.ndarray:
        """The boundary after a layer; after the last one, the logits."""
        flush, inverse = self.network.flush, to_float32(1.0 / self.network.scaling)
        bias = self.network.unpack(self.theta)[layer][1]
        if layer == 0:
            h = multiply(bias_add(acc, bias, flush), inverse, flush)
        else:
            h = bias_add(acc, multiply(bias, inverse, flush), flush)
        return multiply(h, to_float32(self.network.scaling), flush) if layer == self.network.layers - 1 else h

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Logits of all members: float32 [size, batch, classes]."""
        before = self.unperturbed(x)
        outputs = np.empty((self.size, x.shape[0], self.network.sizes[-1]), np.float32)
        for member in range(self.size):
            for sample in range(x.shape[0]):
                outputs[member, sample] = self.forward_sample(member, sample, x, *before)
        return outputs

    def forward_sample(
        self, member: int, sample: int, x: np.ndarray, sums: list[np.ndarray], before: list[np.ndarray]
    ) -> np.ndarray:
        """Logits of one member for one sample, float32 [classes]."""
        layer, ftz = self.layer_of(member // 2), product_ftz(self.network.flush)
        units = self.positions(layer, member // 2, sample)
        inputs = [x, *before][layer][sample]
        h = self.cross(layer, self.perturbed_sums(member, sample, inputs, sums[layer][sample])[None])[0]
        if layer == self.network.layers - 1:
            return h
        weights = [weight for weight, _ in self.network.unpack(self.theta)]
        if self.units[layer] is None:
            acc = gemm(h[None], weights[layer + 1], self.network.flush)[0]
        else:
            acc = sums[layer + 1][sample].copy()
            change = add(h, negate(before[layer][sample]), ftz)
            for unit in units:
                if change[unit] != 0.0:
                    acc = fma(change[unit], weights[layer + 1][unit], acc, ftz)
        h = self.cross(layer + 1, acc[None])
        for above in range(layer + 2, self.network.layers):
            h = self.cross(above, gemm(h, weights[above], self.network.flush))
        return h[0]

    def perturbed_sums(self, member: int, sample: int, _inputs: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Accumulators of the perturbed layer: float32 [fan_out] from its inputs [fan_in] and sums [fan_out]."""
        layer, ftz = self.layer_of(member // 2), product_ftz(self.network.flush)
        units = self.positions(layer, member // 2, sample)
        scale = to_float32(self.sigma * noise.unit(self.kind) * (1.0 if layer == 0 else 1.0 / self.network.scaling))
        acc = sums.copy()
        z = self.draw(layer, member // 2, sample)
        acc[units] = fma(z, negate(scale) if member % 2 else scale, acc[units], ftz)
        return acc

    def gradient(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The estimate from weights float32 [size] or [size, batch]: float32 [parameters]."""
        batch = x.shape[0]
        per_sample = weights.ndim == 2
        each = np.broadcast_to(weights if per_sample else weights[:, None], (self.size, batch))
        differences = add(each[0::2], negate(each[1::2]), ftz=False)
        inverse = to_float32(1.0 / self.network.scaling)
        sums, activations = self.unperturbed(x)
        inputs = [x, *(h * to_float32(self.network.scaling) for h in activations[:-1])]
        result = np.empty(self.network.parameters, np.float32)
        for layer, (weight, bias) in enumerate(self.network.unpack(result)):
            noise_sum, pairs = self.noise_sum(layer, differences, inputs[layer], sums[layer])
            scale = noise.unit(self.kind) / (2.0 * pairs * (batch if per_sample else 1.0) * self.sigma)
            if self.units[layer] is not None:
                scale *= self.network.shape(layer)[1] / self.units[layer]
            weight[...] = to_float32(widen(gemm(inputs[layer].T.copy(), noise_sum, "never")) * scale)
            ones = np.ones((1, batch), np.float32)
            bias[...] = to_float32(widen(gemm(ones, noise_sum, "never")) * scale)[0]
            if layer > 0 and elementwise_ftz(self.network.flush):
                own = self.network.unpack(self.theta)[layer][1]
                bias[multiply(own, inverse, self.network.flush) == 0.0] = 0.0
        return result

    def noise_sum(
        self, layer: int, differences: np.ndarray, inputs: np.ndarray, sums: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """The sum over a layer's pairs of difference times noise, float32 [batch, fan_out], and how many pairs.

        Noise counts in the perturbed units that aren't zero in both members.
        """
        total = np.zeros((differences.shape[1], self.network.shape(layer)[1]), np.float32)
        pairs = [pair for pair in range(self.size // 2) if self.layer_of(pair) == layer]
        for pair in pairs:
            for sample in range(total.shape[0]):
                units = self.positions(layer, pair, sample)
                z = self.draw(layer, pair, sample)
                members = [
                    self.perturbed_sums(2 * pair + sign, sample, inputs[sample], sums[sample]) for sign in (0, 1)
                ]
                reached = (self.cross(layer, np.stack(members))[:, units] != 0.0).any(axis=0)
                units, z = units[reached], z[reached]
                total[sample, units] = fma(differences[pair, sample], z, total[sample, units], ftz=False)
        return total, len(pairs)
