"""Perturbed members of a population, and the gradient estimate from their fitness weights.

Members 2p and 2p+1 are the antithetic pair p, with noise +z and -z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import noise
from .flush import add, fma, mul, negate, to_float32, widen
from .network import Network, forward, gemm, product_ftz

PERTURBATIONS = ("full", "lowrank", "node")


@dataclass(frozen=True)
class Population:
    """theta: float32 [parameters]; size: even number of members; rank: of low-rank perturbations only."""

    network: Network
    theta: np.ndarray
    size: int
    sigma: float
    seed: int = 0
    generation: int = 0
    perturbation: str = "full"
    kind: str = "binomial"
    rank: int = 1

    def __post_init__(self) -> None:
        if self.perturbation not in PERTURBATIONS:
            raise ValueError(f"perturbation must be one of {PERTURBATIONS}, got {self.perturbation!r}")
        if self.size <= 0 or self.size % 2:
            raise ValueError(f"size must be positive and even, got {self.size}")

    @property
    def pairs(self) -> int:
        return self.size // 2

    # Scales of the noise: computed in float64, rounded once to float32.

    @property
    def full_scale(self) -> np.ndarray:
        """float32 []: one step of full noise."""
        return to_float32(self.sigma * noise.unit(self.kind))

    @property
    def lowrank_scale(self) -> np.ndarray:
        """float32 []: one step of A B^T noise."""
        unit = noise.unit(self.kind)
        return to_float32(self.sigma * unit * unit / np.sqrt(np.float64(self.rank)))

    def node_scale(self, layer: int) -> np.ndarray:
        """float32 []: one step of pre-activation noise. Layers after the first work in units of 1/scaling."""
        layer_scale = 1.0 if layer == 0 else 1.0 / self.network.scaling
        return to_float32(self.sigma * noise.unit(self.kind) * layer_scale)

    def draw(self, layer: int, role: int, pair: int, shape: tuple[int, ...]) -> np.ndarray:
        """Noise of one tensor of one pair, row-major: int64 of the given shape.

        That of parameters is counted by the layers that have some of their own, that of nodes by all layers.
        """
        owner = layer if role == noise.NODE else self.network.owners.index(self.network.owner(layer))
        tensor = noise.tensor_id(owner, role)
        count = int(np.prod(shape))
        return noise.integers(self.kind, self.seed, tensor, pair, self.generation, count).reshape(shape)

    def draw_factors(self, layer: int, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """Low-rank factors A, int64 [rank, fan_in], and B, int64 [rank, fan_out]."""
        fan_in, fan_out = self.network.shape(layer)
        a = self.draw(layer, noise.FACTOR_A, pair, (self.rank, fan_in))
        b = self.draw(layer, noise.FACTOR_B, pair, (self.rank, fan_out))
        return a, b

    def perturbed_theta(self, member: int) -> np.ndarray:
        """Parameters of one member of a full-rank population: float32 [parameters]."""
        if self.perturbation != "full":
            raise ValueError(f"a member of a {self.perturbation} population has no parameters of its own")
        return self._add_full_noise(member, weights=True)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Logits of all members: float32 [size, batch, classes]. x: float32 [batch, inputs]."""
        return np.stack([self.forward_member(member, x) for member in range(self.size)])

    def forward_member(self, member: int, x: np.ndarray) -> np.ndarray:
        """Logits of one member: float32 [batch, classes]. x: float32 [batch, inputs]."""
        if self.perturbation == "full":
            return forward(self.network, self.perturbed_theta(member), x)
        if self.perturbation == "lowrank":
            theta = self._add_full_noise(member, weights=False)
            return forward(self.network, theta, x, lambda *args: self._add_lowrank_noise(member, *args))
        return forward(self.network, self.theta, x, lambda *args: self._add_node_noise(member, *args))

    # Perturbations. All of them run in the mode of the matrix product. The member's sign sits on the scale: a
    # zero z then gives a zero product of the member's sign, which matters only for a parameter that is itself
    # -0.

    def _fma_noise(self, z: np.ndarray, scale: np.ndarray, target: np.ndarray) -> np.ndarray:
        """fma(z, scale, target): z int64, scale float32 [], target float32 of z's shape."""
        return fma(_to_float(z), scale, target, product_ftz(self.network.flush))

    def _add_full_noise(self, member: int, weights: bool) -> np.ndarray:
        """theta with full noise on the biases, and on the weights too if `weights`: float32 [parameters]."""
        pair, scale = member // 2, _signed(self.full_scale, member)
        theta = self.theta.copy()
        for layer, (weight, bias) in self.network.unpack_own(theta).items():
            if weights:
                z = self.draw(layer, noise.WEIGHT, pair, weight.shape)
                weight[...] = self._fma_noise(z, scale, weight)
            z = self.draw(layer, noise.BIAS, pair, bias.shape)
            bias[...] = self._fma_noise(z, scale, bias)
        return theta

    def _add_lowrank_noise(self, member: int, layer: int, inputs: np.ndarray, acc: np.ndarray) -> np.ndarray:
        """acc [batch, fan_out] after the rank-r chain: q_r = (x . A_r) * scale, acc = fma(q_r, B_rj, acc)."""
        a, b = self.draw_factors(layer, member // 2)
        flush = self.network.flush
        q = gemm(inputs, _to_float(a).T, flush)  # [batch, rank]
        q = mul(q, _signed(self.lowrank_scale, member), product_ftz(flush))
        return gemm(q, _to_float(b), flush, start=acc)

    def _add_node_noise(self, member: int, layer: int, _inputs: np.ndarray, acc: np.ndarray) -> np.ndarray:
        """acc [batch, fan_out] with one draw for each sample and unit."""
        z = self.draw(layer, noise.NODE, member // 2, acc.shape)
        return self._fma_noise(z, _signed(self.node_scale(layer), member), acc)

    # Gradient.

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Estimate of the fitness gradient: float32 [parameters].

        weights [size]: integers (shaped fitness; the sum over pairs is then exact) or float32 (summed in
        float32, IEEE whatever the network's flush mode, pairs ascending).
        """
        if self.perturbation == "node":
            raise ValueError("the gradient of a node population is not defined from weights alone")
        if weights.shape != (self.size,):
            raise ValueError(f"weights must have shape ({self.size},), got {weights.shape}")
        if np.issubdtype(weights.dtype, np.integer):
            weights = weights.astype(np.int64)
            differences = weights[0::2] - weights[1::2]
            self._check_exact(differences)
            sums = self._integer_sums(differences)
        else:
            differences = add(weights[0::2], negate(weights[1::2]), ftz=False)
            sums = self._float_sums(differences)
        return self._scale_sums(sums)

    def _integer_sums(self, differences: np.ndarray) -> np.ndarray:
        """Sum over pairs of difference * noise: int64 [parameters], exact."""
        total = np.zeros(self.network.parameters, dtype=np.int64)
        for pair, difference in enumerate(differences):
            for layer, (weight, bias) in self.network.unpack_own(total).items():
                bias += difference * self.draw(layer, noise.BIAS, pair, bias.shape)
                if self.perturbation == "full":
                    weight += difference * self.draw(layer, noise.WEIGHT, pair, weight.shape)
                else:
                    a, b = self.draw_factors(layer, pair)
                    weight += difference * (a.T @ b)
        return total

    def _float_sums(self, differences: np.ndarray) -> np.ndarray:
        """Sum over pairs of difference * noise, float32 [parameters]: IEEE, pairs, then ranks ascending."""
        total = np.zeros(self.network.parameters, dtype=np.float32)
        for pair, d in enumerate(differences):
            for layer, (weight, bias) in self.network.unpack_own(total).items():
                bias[...] = fma(d, _to_float(self.draw(layer, noise.BIAS, pair, bias.shape)), bias, ftz=False)
                if self.perturbation == "full":
                    z = _to_float(self.draw(layer, noise.WEIGHT, pair, weight.shape))
                    weight[...] = fma(d, z, weight, ftz=False)
                else:
                    a, b = (_to_float(factor) for factor in self.draw_factors(layer, pair))
                    weight[...] = gemm(mul(d, a, ftz=False).T, b, "never", start=weight)
        return total

    def _scale_sums(self, sums: np.ndarray) -> np.ndarray:
        """float32(float64(sum) * scale), one scale for biases and one for weights."""
        unit = noise.unit(self.kind)
        full = unit / (self.size * self.sigma)
        # From left to right: (sqrt(r) * n) * sigma.
        lowrank = unit * unit / (np.sqrt(np.float64(self.rank)) * self.size * self.sigma)
        scales = np.empty(self.network.parameters)
        for weight, bias in self.network.unpack_own(scales).values():
            weight[...] = full if self.perturbation == "full" else lowrank
            bias[...] = full
        wide = widen(sums) if sums.dtype == np.float32 else sums.astype(np.float64)
        with np.errstate(all="ignore"):
            return to_float32(wide * scales)

    def _check_exact(self, differences: np.ndarray) -> None:
        """Refuse weights whose sums might leave int64 (Python integers can't overflow)."""
        largest = 8 * 8 * self.rank  # of |z|, or of |sum_r A_r B_r|, with some to spare
        if sum(abs(int(d)) for d in differences) * largest >= 2**63:
            raise OverflowError("weights too large for an exact int64 sum")


def _to_float(z: np.ndarray) -> np.ndarray:
    """Small integers as float32, exactly (zeros are +0)."""
    return z.astype(np.float32)


def _signed(scale: np.ndarray, member: int) -> np.ndarray:
    """+scale for the even member of a pair, -scale for the odd one."""
    return negate(scale) if member % 2 else scale
