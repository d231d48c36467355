"""On a GPU: OneUnit has the bits of the CPU backend, whatever the network, the batches and the directions.

Run by itself, this file times a generation of the preset mnist-es on both, and compares every array of it:

    python tests/gpu/test_gpu_one_unit.py
"""

from __future__ import annotations

import time

import numpy as np
import oracle
import pytest

import fpes
from fpes.presets import PRESETS

pytestmark = pytest.mark.gpu

# (sizes, draws, blocks, groups, batch): tails everywhere; the network of 2017; one to five layers; a layer wider than
# shared memory; a matrix of more than one tile.
CASES = {
    "odd": ((13, 33, 17, 5), (1, 3, 2), 4, 2, 7),
    "MNIST": ((784, 512, 512, 10), (2, 4, 2), 4, 4, 8),
    "one layer": ((70, 3), (3,), 2, 1, 40),
    "two layers": ((20, 140, 12), (1, 2), 1, 1, 67),
    "five layers": ((16, 64, 65, 64, 33, 10), (1, 2, 1, 2, 1), 2, 2, 16),
    "wide": ((3, 9, 8000, 3), (1, 1, 1), 1, 1, 5),
    "large batches": ((30, 40, 20, 4), (2, 2, 2), 2, 2, 300),
    "one sample": ((6, 9, 8, 3), (1, 1, 1), 2, 2, 1),
}


def setting(case: str, directions: str, flush: str) -> tuple[fpes.Population, np.ndarray, np.ndarray]:
    """(population, x, labels) on the CPU."""
    sizes, draws, blocks, groups, batch = CASES[case]
    rng = np.random.default_rng(batch)
    net, perturbation = fpes.LinearNetwork(sizes, flush=flush), fpes.OneUnit(directions, draws)
    population = fpes.Population(
        net,
        net.init(1) * np.float32(2.0),
        size=blocks * perturbation.members(sizes),
        sigma=0.4,
        seed=2**63 + 7,
        generation=5,
        perturbation=perturbation,
    )
    x = rng.random((groups, batch, sizes[0]), np.float32)
    return population, x, rng.integers(0, sizes[-1], (groups, batch)).astype(np.int32)


def there(cupy, population: fpes.Population) -> fpes.Population:
    """The same population on the GPU."""
    return fpes.Population(
        population.net,
        cupy.asarray(population.theta),
        size=population.size,
        sigma=population.sigma,
        perturbation=population.perturbation,
        seed=population.seed,
        generation=population.generation,
    )


def compare(cupy, cpu: fpes.Population, x: np.ndarray, labels: np.ndarray, what: str) -> None:
    """Losses, fitness, centre, gradients and members."""
    gpu, inputs, classes = there(cupy, cpu), cupy.asarray(x), cupy.asarray(labels)
    weights = np.random.default_rng(3).uniform(0.0, 2.0, labels.shape).astype(np.float32)
    expected = cpu.evaluate(x, labels, sample_weights=weights)
    got = gpu.evaluate(inputs, classes, sample_weights=cupy.asarray(weights))
    oracle.assert_bitwise_equal(cupy.asnumpy(got.values), expected.values, f"fitness: {what}")
    oracle.assert_bitwise_equal(cupy.asnumpy(got.centre_losses), expected.centre_losses, f"centre: {what}")
    for shaped in (expected.values, fpes.centred_ranks(expected.values)):
        gradient = cupy.asnumpy(gpu.gradient(cupy.asarray(shaped), got))
        oracle.assert_bitwise_equal(gradient, cpu.gradient(shaped, expected), f"gradient: {what}")
    for i in {0, 1, cpu.size // 2, cpu.size - 1}:
        oracle.assert_bitwise_equal(cupy.asnumpy(gpu.member(i, got)), cpu.member(i, expected), f"member {i}: {what}")


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("flush", oracle.FLUSH_MODES)
@pytest.mark.parametrize("directions", ["span", "white"])
def test_everything(cupy, case, flush, directions):
    cpu, x, labels = setting(case, directions, flush)
    what = f"{case}, {directions}, {flush}"
    compare(cupy, cpu, x, labels, what)
    if cpu.size * x.shape[1] * cpu.net.classes < 10**7:
        outputs = there(cupy, cpu).forward(cupy.asarray(x))
        oracle.assert_bitwise_equal(cupy.asnumpy(outputs), cpu.forward(x), f"outputs: {what}")


def generation_of_mnist_es(groups: int | None = None) -> tuple[fpes.Population, np.ndarray, np.ndarray]:
    """A generation of the preset, on random images; of fewer groups where told."""
    preset = PRESETS["mnist-es"]
    net, count = fpes.LinearNetwork(preset.sizes), groups or preset.training.groups
    population = fpes.Population(
        net,
        net.init(0),
        size=preset.size // preset.training.groups * count,
        sigma=preset.sigma,
        perturbation=preset.perturbation,
    )
    rng = np.random.default_rng(0)
    shape = (count, preset.training.batch, 784)
    x = rng.random(shape, np.float32) * (rng.random(shape) < 0.2)
    return population, x.astype(np.float32), rng.integers(0, 10, shape[:2]).astype(np.int32)


def test_a_generation_of_mnist_es(cupy):
    compare(cupy, *generation_of_mnist_es(groups=32), "mnist-es, 32 groups")


def timed(wait, call, repeats: int) -> float:
    """Best time of a call, in milliseconds."""
    best = float("inf")
    for _ in range(repeats):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def main() -> None:
    """Bits and times of a whole generation of mnist-es."""
    import cupy

    cpu, x, labels = generation_of_mnist_es()
    compare(cupy, cpu, x, labels, "mnist-es")
    gpu, inputs, classes = there(cupy, cpu), cupy.asarray(x), cupy.asarray(labels)
    print(f"{cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}: the bits of the CPU")
    for population, arrays, wait, repeats in (
        (gpu, (inputs, classes), cupy.cuda.Device().synchronize, 20),
        (cpu, (x, labels), lambda: None, 2),
    ):
        evaluation = population.evaluate(*arrays)
        evaluate = timed(wait, lambda p=population, a=arrays: p.evaluate(*a), repeats)
        gradient = timed(wait, lambda p=population, e=evaluation: p.gradient(e), repeats)
        print(f"{population.theta.__class__.__module__:>6}: evaluate {evaluate:9.3f} ms, gradient {gradient:9.3f} ms")
    preset = PRESETS["mnist-es"]
    for layer, units in enumerate(preset.sizes[1:]):
        draws = [1] * (len(preset.sizes) - 1)
        more = list(draws)
        more[layer] += 7
        times = []
        for count in (draws, more):
            perturbation = fpes.OneUnit(draws=count)
            size = perturbation.members(preset.sizes) * preset.training.groups
            population = fpes.Population(gpu.net, gpu.theta, size=size, sigma=preset.sigma, perturbation=perturbation)
            population.evaluate(inputs, classes)
            times.append(timed(cupy.cuda.Device().synchronize, lambda p=population: p.evaluate(inputs, classes), 20))
        evaluations = 7 * 2 * units * preset.training.batch * preset.training.groups
        each = 1e6 * (times[1] - times[0]) / evaluations
        print(f"layer {layer + 1}: {each:.4f} ns an evaluation (member x sample)")


if __name__ == "__main__":
    main()
