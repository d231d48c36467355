"""The ablation of OneUnit: directions in the span against white ones, sizes of minibatches, one unit against several.

python benchmarks/one_unit.py cosine [--theta FILE.npz]   the estimate's cosine to the gradient, for each evaluation
python benchmarks/one_unit.py train [--steps N]           training, on all but the last 5,000 training images of MNIST

Every row of a table takes the same number of evaluations (of one member on one sample) a generation, and prints the
processor time that they took. docs/one-unit.md says what to expect, and why.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np

import fpes
from fpes.losses import accuracy

SIZES = (784, 512, 512, 10)
SAMPLES = 1_024  # that a generation sees, whatever the minibatches
HELD_OUT = 5_000


@dataclass(frozen=True)
class Row:
    """One way to spend the evaluations of a generation."""

    name: str
    perturbation: fpes.OneUnit | fpes.LowRank
    batch: int

    @property
    def groups(self) -> int:
        """Minibatches of a generation."""
        return SAMPLES // self.batch

    @property
    def size(self) -> int:
        """Members, a block for each minibatch; as many where several units are perturbed."""
        return self.groups * fpes.OneUnit(draws=(2, 4, 2)).members(SIZES)

    @property
    def sigma(self) -> float:
        """0.15 at the pre-activations: low rank has it on the weights, and an input is 9 long or so."""
        return 0.15 if isinstance(self.perturbation, fpes.OneUnit) else 0.15 / 9


def span(batch: int) -> Row:
    return Row(f"span, B = {batch}", fpes.OneUnit("span", (2, 4, 2)), batch)


def rows() -> list[Row]:
    """All of them, the preset's first."""
    white = [Row(f"white, B = {batch}", fpes.OneUnit("white", (2, 4, 2)), batch) for batch in (8, 32)]
    # Pairs of 3,092 a minibatch, 1,024 + 2,048 + 20, as for one unit.
    several = fpes.LowRank(noise="rademacher", allocation=fpes.OneLayer(units=(16, None, None), pairs=(256, 512, 5)))
    return [
        *(span(batch) for batch in (8, 16, 32, 64, 128, 256)),
        *white,
        Row("white, 16 units or all, B = 8", several, 8),
    ]


def sized(row: Row) -> int:
    """Members, a multiple of what the perturbation takes."""
    if isinstance(row.perturbation, fpes.OneUnit):
        return row.size
    block = 2 * sum(row.perturbation.allocation.pairs)
    return row.groups * max(1, round(row.size / row.groups / block)) * block


def estimate(row: Row, net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One estimate of the gradient of the mean fitness on all samples."""
    population = fpes.Population(net, theta, size=sized(row), sigma=row.sigma, perturbation=row.perturbation, seed=7)
    shape = (row.groups, row.batch)
    evaluation = population.evaluate(x.reshape(*shape, -1), y.reshape(shape))
    return population.gradient(evaluation.values, evaluation)


def smoothed(net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient itself, smoothed by sigma: minibatches of 8 with a basis of 8 directions, which leaves no noise."""
    total = np.zeros(net.parameters)
    perturbation = fpes.OneUnit("span", (8, 8, 8))
    for seed in range(4):
        population = fpes.Population(
            net,
            theta,
            size=SAMPLES // 8 * perturbation.members(SIZES),
            sigma=0.15,
            perturbation=perturbation,
            seed=seed,
        )
        total += population.gradient(population.evaluate(x.reshape(-1, 8, 784), y.reshape(-1, 8)))
    return total.astype(np.float32)


def print_cosines(path: str | None) -> None:
    """Of each row's estimate to the smoothed gradient, layer by layer."""
    data, net = fpes.datasets.load("mnist"), fpes.LinearNetwork(SIZES)
    theta = net.init(0) if path is None else np.load(path)["theta"]
    chosen = np.random.default_rng(0).permutation(len(data.x_train))[:SAMPLES]
    x, y = data.x_train[chosen], data.y_train[chosen]
    exact = [weight for weight, _ in net.unpack(smoothed(net, theta, x, y))]
    print(f"{'':32} evaluations  CPU s  cosine, layer 1      2      3")
    for row in rows():
        begin = time.process_time()
        found = [weight for weight, _ in net.unpack(estimate(row, net, theta, x, y))]
        seconds = time.process_time() - begin
        cosines = [
            float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(found, exact, strict=True)
        ]
        print(
            f"{row.name:32} {sized(row) * row.batch:11.2e} {seconds:6.2f}        "
            + "".join(f"{cosine:7.3f}" for cosine in cosines)
        )


def print_training(steps: int, names: list[str]) -> None:
    """Accuracy on the training images that are used, and on those that are held out."""
    data, net = fpes.datasets.load("mnist"), fpes.LinearNetwork(SIZES)
    x, y = data.x_train, data.y_train
    used = replace(data, x_train=x[:-HELD_OUT], y_train=y[:-HELD_OUT], x_test=x[-HELD_OUT:], y_test=y[-HELD_OUT:])
    print(f"{'':32} generations  evaluations  CPU s  train, %  held out, %")
    for row in rows():
        if names and not any(name in row.name for name in names):
            continue
        es = fpes.ES(
            net,
            net.init(0),
            size=sized(row),
            sigma=row.sigma,
            perturbation=row.perturbation,
            shaping="none",
            learning_rate=fpes.Cosine(1.5e-3),
            weight_decay=1.5,
            steps=steps,
        )
        begin = time.process_time()
        importance = fpes.datasets.ImportanceSampling(exponent=1.0, uniform=0.2)
        es.fit(used, batch=row.batch, groups=row.groups, importance=importance)
        scores = [
            100 * accuracy(net(es.theta, a), b) for a, b in ((used.x_train, used.y_train), (used.x_test, used.y_test))
        ]
        print(
            f"{row.name:32} {steps:11} {es.evaluations:12.2e} {time.process_time() - begin:6.0f} "
            f"{scores[0]:9.2f} {scores[1]:12.2f}",
            flush=True,
        )


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description="The ablation of OneUnit.")
    commands = parser.add_subparsers(dest="command", required=True)
    cosine = commands.add_parser("cosine", help="cosine to the smoothed gradient")
    cosine.add_argument(
        "--theta", help="where: a theta.npz or checkpoint.npz of a run; the initial weights unless told"
    )
    train = commands.add_parser("train", help="training, on held-out training images")
    train.add_argument("--steps", type=int, default=300, help="generations of each run")
    train.add_argument(
        "--rows", nargs="*", default=[], help='only rows whose names contain one of these: "span, B = 8"'
    )
    options = parser.parse_args()
    if options.command == "cosine":
        print_cosines(options.theta)
    else:
        print_training(options.steps, options.rows)


if __name__ == "__main__":
    main()
