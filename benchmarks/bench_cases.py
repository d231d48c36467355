"""What is measured, the floor of each case, what was predicted before the work, and what came out.

Units. A *member-sample* is one member's forward pass for one sample. Its *network operations* are those of the
unperturbed network, 2 x 668,672 for 784-512-512-10. The *peak* is what independent chains of fused multiply-adds reach
without touching memory, on the same threads, measured just before each round (csrc/cpu/kernels_peak.hpp). Fractions of
the peak count network operations only, so noise, biases, boundaries and the loss are overhead. The *needed* operations
of low rank and node count the first product once a sample, for all members see the same samples; exact zeros, which
are skipped too, still count. So both fractions may pass 100 %.

Floors on two Zen 4 cores at 3.7 GHz (peak about 230 GFLOP/s in AVX-512; AVX2 the same), predictions before the work,
and results (medians; a machine shared with others, so a few per cent come and go):

case                             floor, ms   bound by                      predicted      measured
gemm 1024^3                            9.3   multiply-adds                 0.90           0.85 to 0.90
gemm 8192x512x512                     18.7   multiply-adds                 0.90           0.87 to 0.91
full rank, n 512, batch 128            381   multiply-adds                 0.85           0.80 to 0.86
full rank, n 512, batch 32              95   noise: 0.2 ns a weight and    0.72           0.69 to 0.73
                                             pair is 17 ms on two cores
  rademacher noise                      95   the same, 0.06 ns             0.78           0.70 to 0.76
  gaussian noise                        95   the same, 0.8 ns: 69 ms       0.55           0.44 to 0.50
low rank 1, n 512, batch 8            24 (9.5 needed)  multiply-adds       1.9 (0.75)     2.8 to 3.0
node, n 512, batch 8                  24 (9.5 needed)  multiply-adds       2.1 (0.85)     6.0 to 6.6
gradient, full rank, n 512             8.5   noise: 0.2 ns a weight and    17 ms          20 ms
                                             pair, one multiply-add
training step, one layer at a time      40   products 26 ms, changes 9,    60 ms          55 to 60 ms
                                             noise and loss 5

Cases below 0.80, and why. Full rank at batch 32: each weight that is drawn serves 32 samples of two members, 4 vector
multiply-adds in AVX-512, and drawing it takes the time of 1.4 of them; rademacher is bound by loading the weights
and writing the perturbed ones, which no noise is needed for. Gaussian noise is the reference, not the product: two
polynomials, a logarithm and a square root for each value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

import fpes

GEMM_SHAPES = {"1024x1024x1024": (1024, 1024, 1024), "8192x512x512": (8192, 512, 512)}
NETWORKS = {
    "784-512-512-10": (784, 512, 512, 10),
    "2048-2048": (2048, 2048),
    "196-64-64-10": (196, 64, 64, 10),
    "8x256": (256,) * 9,
}
PERTURBATIONS = {
    "full": fpes.FullRank(),
    "full, rademacher": fpes.FullRank("rademacher"),
    "full, gaussian": fpes.FullRank("gaussian"),
    "low rank 1": fpes.LowRank(1),
    "low rank 4": fpes.LowRank(4),
    "node": fpes.NodePerturbation(),
}
SIGMA = 0.02


@dataclass(frozen=True)
class Case:
    """One population on one batch: inputs are a fifth nonzero, as MNIST's are."""

    network: str
    family: str
    size: int
    batch: int

    @property
    def group(self) -> str:
        """What shares a table: the same shape."""
        return f"{self.network}, population {self.size}, batch {self.batch}"

    @property
    def member_samples(self) -> int:
        return self.size * self.batch

    @property
    def flops(self) -> float:
        """Network operations of an evaluation."""
        return 2.0 * self.member_samples * sum(a * b for a, b in pairwise(NETWORKS[self.network]))

    @property
    def needed_flops(self) -> float:
        """Without what all members share."""
        first, *rest = (2.0 * a * b for a, b in pairwise(NETWORKS[self.network]))
        if self.family.startswith("full"):
            return self.flops
        return self.batch * first + self.member_samples * sum(rest)

    @cached_property
    def net(self) -> fpes.LinearNetwork:
        return fpes.LinearNetwork(NETWORKS[self.network])

    def population(self) -> fpes.Population:
        theta = self.net.init(0)
        return fpes.Population(self.net, theta, size=self.size, sigma=SIGMA, perturbation=PERTURBATIONS[self.family])

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x float32 [batch, features] and labels [batch]."""
        return samples(self.batch, self.net.features, self.net.classes)


@lru_cache
def samples(batch: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in [0, 1] of which a fifth are not zero, and labels."""
    rng = np.random.default_rng(0)
    x = rng.random((batch, features)) * (rng.random((batch, features)) < 0.2)
    return x.astype(np.float32), rng.integers(0, classes, batch)


def case_id(case: Case) -> str:
    """A name for pytest."""
    return f"{case.network}/{case.family}/{case.size}x{case.batch}".replace(" ", "_")


_MNIST = "784-512-512-10"
# What `make bench` measures; LONG adds the rest.
SHORT = [
    *(Case(_MNIST, "full", 512, batch) for batch in (32, 64, 128, 256)),
    Case(_MNIST, "full, rademacher", 512, 32),
    Case(_MNIST, "full, gaussian", 512, 32),
    *(Case(_MNIST, family, 512, 8) for family in ("low rank 1", "low rank 4", "node")),
]
LONG = [
    Case(network, family, size, 128 if family == "full" else 8)
    for network, size in (("2048-2048", 128), ("196-64-64-10", 4096), ("8x256", 512))
    for family in ("full", "low rank 1", "low rank 4", "node")
]
