"""The operands of the studies: numbers far from the smallest normal float32, near it, and crowded around it.

2^-126 is the smallest normal float32. Smaller numbers are subnormal, and an operation that flushes replaces them by 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpes._checks import FloatArray, IntArray
from fpes.network import LinearNetwork
from fpes.perturbations import FullRank, LowRank, NodePerturbation, OneLayer, OneUnit, Perturbation

SIGMA = 0.1
_SMALLEST_NORMAL_BITS = 0x0080_0000
_CROWD = 1024  # units in the last place on either side


@dataclass(frozen=True)
class Scale:
    """The magnitude of the operands.

    Args:
        name: its name in reports.
        unit: a power of two, by which operands of primitives and products are multiplied.
        scaling: scaling of networks. Their activations are about 1 / scaling.
        crowded: whether operands of primitives lie within 1024 units in the last place of 2^-126.
    """

    name: str
    unit: float
    scaling: float
    crowded: bool = False

    def numbers(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Normally distributed numbers times the unit; if crowded, numbers on both sides of 2^-126 and of -2^-126."""
        if not self.crowded:
            return np.asarray(rng.standard_normal(shape) * self.unit, np.float32)
        bits = rng.integers(_SMALLEST_NORMAL_BITS - _CROWD, _SMALLEST_NORMAL_BITS + _CROWD, shape, np.uint32)
        return np.asarray(bits | rng.integers(0, 2, shape, np.uint32) << np.uint32(31)).view(np.float32)

    def factors(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """The right operand of a product, of variance 1 / k; if crowded 1 or -1, which keeps partial sums crowded."""
        if self.crowded:
            return np.asarray(rng.choice([-1.0, 1.0], shape), np.float32)
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), np.float32)


SCALES = (
    Scale("at 1", 1.0, 1.0),
    Scale("at 2^-125", 2.0**-125, 2.0**125),
    Scale("crowded at 2^-126", 2.0**-126, 2.0**126, crowded=True),
)


@dataclass(frozen=True)
class Size:
    """The sizes of the operands.

    Args:
        network: inputs, widths and outputs of the network.
        members: number of members of a population, unless its family has blocks of another size.
        batch: number of samples.
        product: rows, columns and terms of the matrix product.
        elements: rows and columns of the operands of elementwise operations.
    """

    network: tuple[int, ...]
    members: int
    batch: int
    product: tuple[int, int, int]
    elements: tuple[int, int]

    @property
    def name(self) -> str:
        """The sizes of the network, as reports show them."""
        return "-".join(map(str, self.network))


WHOLE = Size((196, 64, 64, 10), members=252, batch=64, product=(64, 64, 256), elements=(64, 256))
QUICK = Size((49, 32, 32, 10), members=60, batch=32, product=(32, 32, 64), elements=(16, 64))


def families(layers: int) -> dict[str, Perturbation]:
    """Every family of perturbations, by its name in reports."""
    few = OneLayer(units=(8, *[None] * (layers - 1)))
    return {
        "full rank": FullRank(),
        "low rank 1": LowRank(1),
        "low rank 4": LowRank(4),
        "node": NodePerturbation(),
        "one-layer low rank": LowRank(allocation=few),
        "one-layer node": NodePerturbation(allocation=few),
        "one unit": OneUnit(),
    }


def members_of(perturbation: Perturbation, size: Size) -> int:
    """Number of members of a population: size.members, or one block if the family has blocks."""
    block = getattr(perturbation, "members", None)
    return size.members if block is None else int(block(size.network))


@dataclass(frozen=True)
class Problem:
    """A network with weights, and a batch: theta [parameters], x [batch, features], y [batch]."""

    net: LinearNetwork
    theta: FloatArray
    x: FloatArray
    y: IntArray


def problem(size: Size, scale: Scale, seed: int = 0) -> Problem:
    """Initial weights, biases of size 0.5, inputs of which a fifth are nonzero (as in images), and random labels."""
    rng = np.random.default_rng(seed)
    net = LinearNetwork(size.network, scaling=scale.scaling)
    theta = net.init(seed)
    for _, bias in net.unpack(theta):
        bias[...] = 0.5 * rng.standard_normal(bias.shape)
    shape = (size.batch, net.features)
    x = np.where(rng.random(shape) < 0.2, rng.random(shape), 0.0).astype(np.float32)
    return Problem(net, theta, x, rng.integers(0, net.classes, size.batch).astype(np.int32))
