"""What is measured, the floor of each case, what was predicted before the work, and what came out.

Units. A *member-sample* is one member's forward pass for one sample. Its *network operations* are those of the
unperturbed network, 2 x 668,672 for 784-512-512-10. The *peak* is what independent chains of fused multiply-adds reach
without touching memory, on the same threads, measured just before each round (csrc/cpu/kernels/peak.hpp). Fractions of
the peak count network operations only, so noise, biases, boundaries and the loss are overhead. The *needed* operations
of low rank and node count the first product once a sample, for all members see the same samples; exact zeros, which
are skipped too, still count. So both fractions may pass 100 %.

Floors on two Zen 4 cores at 3.7 GHz (peak about 225 GFLOP/s in AVX-512, 205 in AVX2), predictions before the work, as
fractions of the peak or times, and results (medians; a machine shared with others, so a few per cent come and go):

case                             floor, ms   bound by                      predicted      AVX-512        AVX2
gemm 1024^3                            9.5   multiply-adds                 0.90           0.84 to 0.92   0.82 to 0.93
gemm 8192x512x512                       19   multiply-adds                 0.90           0.88 to 0.96   0.85 to 1.00
full rank, n 512, batch 128      390 (95 needed)  loads of weights         2.2 (0.85 (*)) 1.9 to 2.2     1.8 to 2.1
full rank, n 512, batch 64       195 (47 needed)  loads; 17 ms of noise    1.7 (0.8 (*))  1.6 to 1.85    1.4 to 1.7
full rank, n 512, batch 32        97 (24 needed)  noise: 0.2 ns a weight   1.3 (0.72 (*)) 1.2 to 1.5     1.0 to 1.2
                                             and pair is 17 ms
  rademacher noise                97 (24 needed)  the same, 0.06 ns        1.7 (0.78 (*)) 1.7 to 1.9     1.5 to 1.9
  gaussian noise                  97 (24 needed)  the same, 0.8 ns: 69 ms  0.8 (0.55 (*)) 0.66 to 0.77   0.6 to 0.68
low rank 1, n 512, batch 8         24 (9.5 needed)  multiply-adds          1.9 (0.75 (*)) 2.5 to 2.8     2.2 to 3.0
node, n 512, batch 8               24 (9.5 needed)  multiply-adds          2.1 (0.85 (*)) 4.9 to 5.8     4.3 to 4.6
gradient, full rank, n 512             8.5   noise: 0.2 ns a weight and    17 ms          19 to 20 ms    27 to 32 ms
                                             pair, one multiply-add
gradient, low rank 1, n 512            1.5   multiply-adds
  ranks                                0.76  multiply-adds of two terms    1.1            0.95 to 0.99   0.9
    without VNNI                                                                          0.75 to 0.79
  floats                                1.5  multiply-adds                 0.75           0.59 to 0.66   0.6
gradient, low rank 4, n 512            6.1   multiply-adds
  ranks                                3.0   multiply-adds of two terms    1.4            1.27 to 1.37   0.9 to 1.2
    without VNNI                                                                          0.93 to 1.02
  floats                               6.1   multiply-adds                 0.8            0.63 to 0.77   0.73 to 0.81
gradient, node, n 512, batch 8          12 (5 needed)  multiply-adds and   1.1            0.84 to 1.04   0.7 to 0.9
                                             a second pass, 4 ms
one unit at a time, on one core; ns of a member-sample (fractions of the peak count multiply-adds only)
  two layers above                 29 ns     a third of the members     35 to 55 ns    70 ns          84 ns
                                             reach anything: 64 cycles
                                             of sums, 256 of product
  one layer above                  3.1 ns    ten exponentials and a     2.9 ns         5.7 ns         9.1 ns
                                             logarithm, 185 cycles for
                                             16 samples
training step, one layer at a time      40   products 26 ms, changes 9,    60 ms          56 to 65 ms    62 to 77 ms
                                             noise and loss 5
(*) before terms that are zero were left out.

"Needed" leaves out what all members share or, in full rank, terms whose activation is zero: a fifth of the inputs and
about a quarter of the activations are not. How zeros came to pay: rows share none, so each row is a list of its nonzero
terms and goes through the weights alone (csrc/cpu/kernels/nonzeros.hpp). That takes a load for each multiply-add, from
the first-level cache; break-even with the dense product is where 0.65 of the activations are not zero, and above 0.6
the dense product is taken. Dense inputs give 0.85 at batch 64.

Cases below 0.80, and why. Gaussian noise is the reference, not the product: two polynomials, a logarithm and a square
root for each value. Gradient of full rank: its one multiply-add a weight and pair hides behind drawing the weight's
noise; the floor is that of the noise. Gradient of low rank from floats (centred ranks, the default, are integers; above
2,048 members they are two digits, 0.6): its product alone runs at 0.92, but 1.6 ms of it are short, and 0.7 ms go to
drawing the factors, to writing 2.7 MB of gradient, and to waking a thread three times; within a loop of gradients it is
0.76. Training step: lists of changes are scattered work, 0.6 to 0.67.

Gradients were at 0.44 and 0.67 (low rank) and 0.38 (node) at first. What made the difference: factors drawn once for
all blocks of rows; sums that go to the gradient straight from the product; two terms in a lane, as 16-bit integers, by
one instruction (VNNI; multiply and add without it, which share ports); for node the evaluation's own walk, and lists of
nonzeros in the product; and memory that a thread keeps from call to call. Without that a call took 3.1 or 5.4 ms, as
glibc happened to give freed pages back or not.
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
    "784-512-10": (784, 512, 10),
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

    @property
    def moved_bytes(self) -> float:
        """Of theta, inputs and fitness, each once."""
        return 4.0 * (self.net.parameters + self.batch * self.net.features + self.size)

    def population(self, flush: str = "boundary") -> fpes.Population:
        net, theta = self.net.with_flush(flush), self.net.init(0)
        return fpes.Population(net, theta, size=self.size, sigma=SIGMA, perturbation=PERTURBATIONS[self.family])

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x float32 [batch, features] and labels [batch]."""
        return samples(self.batch, self.net.features, self.net.classes)

    def data_for(self, loss: str) -> tuple[np.ndarray, np.ndarray]:
        """The same x, and targets for a loss: labels, or a column of zeros and ones for each class."""
        x, labels = self.data()
        return x, labels if loss == "cross_entropy" else np.eye(self.net.classes, dtype=np.float32)[labels]


@dataclass(frozen=True)
class OneUnitCase:
    """A population of OneUnit, of which nearly all members perturb the first layer."""

    name: str
    network: str
    draws: tuple[int, ...]
    batch: int = 16
    groups: int = 16

    @property
    def flops(self) -> float:
        """Multiply-adds, times two, of what lies above the first layer: a term for each sum, and then products."""
        _, units, *above = NETWORKS[self.network]
        terms = above[0] + sum(a * b for a, b in pairwise(above))
        return 2.0 * self.groups * self.batch * 2 * self.draws[0] * units * terms

    def population(self) -> fpes.Population:
        net, perturbation = fpes.LinearNetwork(NETWORKS[self.network]), fpes.OneUnit(draws=self.draws)
        size = self.groups * perturbation.members(net.sizes)
        return fpes.Population(net, net.init(0), size=size, sigma=0.15, perturbation=perturbation)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x float32 [groups, batch, features] and labels [groups, batch]."""
        sizes = NETWORKS[self.network]
        x, y = samples(self.groups * self.batch, sizes[0], sizes[-1])
        return x.reshape(self.groups, self.batch, -1), y.reshape(self.groups, self.batch)


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
ONE_UNIT = [
    OneUnitCase("two layers above", _MNIST, (8, 1, 1)),
    OneUnitCase("one layer above", "784-512-10", (8, 1)),
]
LONG = [
    Case(network, family, size, 128 if family == "full" else 8)
    for network, size in (("2048-2048", 128), ("196-64-64-10", 4096), ("8x256", 512))
    for family in ("full", "low rank 1", "low rank 4", "node")
]
