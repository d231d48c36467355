"""Presets: complete settings of training runs, by name. `fpes train --preset NAME` runs them.

docs/recipes.md explains how the numbers were found, and what else was tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fpes.datasets import Augmentation, ImportanceSampling
from fpes.es import ES
from fpes.network import LinearNetwork
from fpes.optimisers import Adam, Optimiser
from fpes.perturbations import FullRank, LowRank, NodePerturbation, OneLayer, OneUnit, Perturbation
from fpes.schedules import Cosine, Schedule
from fpes.training import TrainingSettings


@dataclass(frozen=True)
class Preset:
    """All settings of a run except its seed.

    Args:
        name: its name on the command line.
        algorithm: one line that says what is perturbed, and how.
        dataset: a name for fpes.datasets.load().
        sizes: sizes of the network.
        perturbation, size, sigma, optimiser, learning_rate, weight_decay, shaping, averaging: arguments of ES.
        training: minibatches and how they are drawn.
        steps: generations of the whole run.
        max_minutes: limit to the time of each run. None, as in every preset, means no limit.
        seeds: number of runs that the command makes by default.
        baseline_steps: steps of the linear baseline, which is trained by backprop.
    """

    name: str
    algorithm: str
    dataset: str
    sizes: tuple[int, ...]
    perturbation: Perturbation
    size: int
    sigma: float | Schedule
    learning_rate: float | Schedule
    weight_decay: float | Schedule
    training: TrainingSettings
    steps: int
    optimiser: Optimiser = field(default_factory=Adam)
    shaping: str | None = None
    averaging: float = 0.0
    max_minutes: float | None = None
    seeds: int = 1
    baseline_steps: int = 1_500

    def es(self, seed: int, device: str = "cpu") -> ES:
        """A new run."""
        net = LinearNetwork(self.sizes)
        return ES(
            net,
            net.init(seed),
            size=self.size,
            sigma=self.sigma,
            perturbation=self.perturbation,
            optimiser=self.optimiser,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            shaping=self.shaping,
            averaging=self.averaging,
            steps=self.steps,
            seed=seed,
            device=device,
        )


_DEFORMED = Augmentation(28, 28, shift=0.9, linear=0.12, points=2, fade=0.9)

_DIGITS = Preset(
    name="digits",
    algorithm="ES on the weights: noise on every weight (full rank), centred ranks",
    dataset="digits",
    sizes=(16, 64, 64, 10),
    perturbation=FullRank(),
    size=512,
    sigma=0.03,
    learning_rate=Cosine(0.02),
    weight_decay=0.1,
    training=TrainingSettings(batch=512),
    steps=400,
    seeds=3,
)

_MNIST_NODE = Preset(
    name="mnist-node",
    algorithm="node perturbation: noise on the pre-activations, a fitness for each sample. Not the algorithm of 2017, "
    "which is ES on the weights",
    dataset="mnist",
    sizes=(784, 512, 512, 10),
    perturbation=NodePerturbation(noise="rademacher", allocation=OneLayer((16, None, None), (48, 32, 12))),
    size=184,
    sigma=0.1,
    learning_rate=Cosine(1e-3),
    weight_decay=2.0,
    training=TrainingSettings(batch=512, importance=ImportanceSampling(exponent=1.0, uniform=0.2)),
    steps=2_200,
    baseline_steps=500,
)

_MNIST_NODE_AUGMENTED = replace(
    _MNIST_NODE,
    name="mnist-node-augmented",
    algorithm="node perturbation, on images that are shifted, turned and sheared at random, less and less. Not the "
    "algorithm of 2017, which is ES on the weights, on undeformed images",
    weight_decay=1.5,
    training=_MNIST_NODE.training.changed(augmentation=_DEFORMED),
    steps=5_500,
)

_MNIST_ES = Preset(
    name="mnist-es",
    algorithm="ES on the weights: each pair of members perturbs the weights of one unit, in the span of its inputs on "
    "the members' minibatch; one number for each member",
    dataset="mnist",
    sizes=(784, 512, 512, 10),
    perturbation=OneUnit(draws=(2, 4, 2)),
    size=128 * 6_184,  # a block for each minibatch
    sigma=0.15,
    learning_rate=Cosine(1.5e-3),
    weight_decay=1.5,
    training=TrainingSettings(batch=8, groups=128, importance=ImportanceSampling(exponent=1.0, uniform=0.2)),
    steps=1_300,
    baseline_steps=500,
)

_MNIST_ES_AUGMENTED = replace(
    _MNIST_ES,
    name="mnist-es-augmented",
    algorithm="as mnist-es, on images that are shifted, turned and sheared at random, less and less",
    weight_decay=1.1,
    training=_MNIST_ES.training.changed(augmentation=_DEFORMED),
    steps=3_000,
)

_MNIST_ES_14X14 = Preset(
    name="mnist-es-14x14",
    algorithm="ES on the weights: rank-one noise on one layer at a time, a minibatch for each group of members",
    dataset="mnist-14x14",
    sizes=(196, 64, 64, 10),
    perturbation=LowRank(noise="rademacher", allocation=OneLayer((4, None, None), (5, 2, 1))),
    size=73_728,
    sigma=0.02,
    learning_rate=Cosine(8e-3),
    weight_decay=0.2,
    optimiser=Adam(epsilon=1e-12),  # gradients of low rank are small numbers
    shaping="none",
    training=TrainingSettings(batch=32, groups=64, importance=ImportanceSampling(exponent=1.0, uniform=0.2)),
    steps=3_000,
)

PRESETS = {
    preset.name: preset
    for preset in (_DIGITS, _MNIST_NODE, _MNIST_NODE_AUGMENTED, _MNIST_ES, _MNIST_ES_AUGMENTED, _MNIST_ES_14X14)
}
