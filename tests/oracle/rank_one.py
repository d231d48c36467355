"""Low-rank populations where each pair perturbs one layer, and perhaps few of its units: members, outputs, gradient.

Written from the definition: the pair's own positions and factors, then what they change, sample by sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import noise
from .flush import add, fma, mul, negate, to_float32, widen
from .network import gemm, product_ftz
from .one_layer import OneLayerPopulation


@dataclass(frozen=True)
class RankOnePopulation(OneLayerPopulation):
    """w' = w +- sigma a b^T in one layer, where b is zero but in the pair's units."""

    def positions(self, layer: int, pair: int, sample: int) -> np.ndarray:
        """The same for every sample: those of sample 0."""
        return super().positions(layer, pair, 0)

    def factors(self, layer: int, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """a, float32 [fan_in], and b, float32 [fan_out]."""
        fan_in, fan_out = self.network.shape(layer)
        units = self.positions(layer, pair, 0)
        b = np.zeros(fan_out, np.float32)
        b[units] = self._factor(layer, noise.FACTOR_B, pair, units.size)
        return self._factor(layer, noise.FACTOR_A, pair, fan_in), b

    def _factor(self, layer: int, role: int, pair: int, count: int) -> np.ndarray:
        tensor = noise.tensor_id(layer, role)
        return noise.integers(self.kind, self.seed, tensor, pair, self.generation, count).astype(np.float32)

    def scale(self, member: int) -> np.ndarray:
        """Of q = (h a) * scale, float32 []."""
        scale = to_float32(self.sigma * noise.unit(self.kind) * noise.unit(self.kind))
        return negate(scale) if member % 2 else scale

    def perturbed_sums(self, member: int, sample: int, inputs: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Accumulators of the perturbed layer: float32 [fan_out] from its inputs [fan_in] and sums [fan_out]."""
        layer, ftz = self.layer_of(member // 2), product_ftz(self.network.flush)
        units = self.positions(layer, member // 2, sample)
        a, b = self.factors(layer, member // 2)
        q = mul(gemm(inputs[None], a[:, None], self.network.flush)[0, 0], self.scale(member), ftz)
        acc = sums.copy()
        acc[units] = fma(q, b[units], acc[units], ftz)
        return acc

    def member(self, member: int) -> np.ndarray:
        """Parameters: float32 [parameters]."""
        theta, layer = self.theta.copy(), self.layer_of(member // 2)
        a, b = self.factors(layer, member // 2)
        weight = self.network.unpack(theta)[layer][0]
        ftz = product_ftz(self.network.flush)
        weight[...] = fma(mul(a, self.scale(member), ftz)[:, None], b[None, :], weight, ftz)
        return theta

    def weights_gradient(self, weights: np.ndarray) -> np.ndarray:
        """The estimate from weights [size], integers or float32: float32 [parameters]; zero for biases."""
        exact = np.issubdtype(weights.dtype, np.integer)
        if exact:
            differences = weights[0::2].astype(np.int64) - weights[1::2]
        else:
            differences = add(weights[0::2], negate(weights[1::2]), ftz=False)
        result = np.zeros(self.network.parameters, np.float32)
        for layer, (weight, _) in enumerate(self.network.unpack(result)):
            total = np.zeros(weight.shape, np.int64 if exact else np.float32)
            pairs = [pair for pair in range(self.size // 2) if self.layer_of(pair) == layer]
            for pair in pairs:
                a, b = self.factors(layer, pair)
                if exact:
                    total += differences[pair] * np.outer(a, b).astype(np.int64)
                else:
                    left = mul(differences[pair], a, ftz=False)
                    total = gemm(left[:, None], b[None, :], "never", start=total)
            unit = noise.unit(self.kind)
            scale = unit * unit / (2.0 * len(pairs) * self.sigma)
            scale *= weight.shape[1] / self.positions(layer, pairs[0], 0).size
            weight[...] = to_float32((total.astype(np.float64) if exact else widen(total)) * scale)
        return result
