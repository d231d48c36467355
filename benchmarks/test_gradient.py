"""The gradient estimate, whose time is compared with that of the evaluation before it; and a whole training step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from bench_cases import Case, case_id, samples
from bench_measure import OF_EVALUATE

import fpes

_MNIST = (784, 512, 512, 10)
CASES = [
    (Case("784-512-512-10", "full", 512, 128), "ranks"),
    (Case("784-512-512-10", "low rank 1", 512, 128), "ranks"),
    (Case("784-512-512-10", "low rank 1", 512, 128), "floats"),
    (Case("784-512-512-10", "low rank 4", 512, 128), "ranks"),
    (Case("784-512-512-10", "low rank 4", 512, 128), "floats"),
    (Case("784-512-512-10", "node", 512, 8), "floats"),
]


@pytest.mark.parametrize(
    ("case", "weights"), CASES, ids=lambda value: value if isinstance(value, str) else case_id(value)
)
def test_gradient(measure, case, weights):
    population, (x, y) = case.population(), case.data()
    fitness = population.evaluate(x, y, per_sample=case.family == "node")
    values = fpes.centred_ranks(fitness) if weights == "ranks" else fitness
    measure(
        f"gradient after {case.group}",
        f"fpes, {case.family}, {weights}",
        lambda: population.gradient(values),
        flops=gradient_flops(case),
        moved_bytes=4.0 * case.net.parameters,
        ours=lambda: population.evaluate(x, y),
        ratio=OF_EVALUATE,
    )


def gradient_flops(case: Case) -> float:
    """Of the sum that it is: a multiply-add for each weight and pair, rank, or pair and sample."""
    terms = {"full": 1, "low rank 1": 1, "low rank 4": 4, "node": case.batch}[case.family]
    return case.flops / case.batch / 2 * terms


def test_training_step(measure):
    """One step of node perturbation, one layer at a time: batch 2048, 24 draws of 16 units, 8 and 8 dense ones.

    Floor: an unperturbed pass and the gradient's products are 2 x 2.7 GFLOP, 48 + 16 passes through the last layer 2.1
    in vectors of which 10 of 16 lanes are used, changes at most 2.6: together 10.1 GFLOP, 44 ms at 230 GFLOP/s.
    """
    net = fpes.LinearNetwork(_MNIST)
    x, y = samples(2048, 784, 10)
    noise = fpes.NodePerturbation(allocation=fpes.OneLayer(units=(16, None, None), pairs=(24, 8, 8)))
    population = fpes.Population(net, net.init(0), size=80, sigma=0.1, perturbation=noise)

    def step() -> np.ndarray:
        return population.gradient(population.evaluate(x, y, per_sample=True))

    layers = [a * b for a, b in pairwise(_MNIST)]
    flops = 2.0 * 2048 * (2 * sum(layers) + 48 * 16 * 512 + 64 * layers[2])
    measure("training step, one layer at a time, batch 2048", "fpes", step, flops=flops, member_samples=80 * 2048)
