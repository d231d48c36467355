"""Pendulum swing-up: a controller without an activation function, trained by ES on a simulated pendulum.

Fitness can be any function of the outputs of the members. Here each member controls its own pendulums. At every time
step the outputs of the population for the states of all pendulums are the torques. The fitness of a member is minus the
mean cost of its pendulums. The torque is too small to lift the pendulum directly, so the controller must swing it up
and then hold it. ES needs no gradient of the physics.

    python examples/pendulum.py            # half a minute or more: the pendulum swings up and stays up
    python examples/pendulum.py --quick    # a few seconds: better than at the start
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

import fpes

# The pendulum of Gymnasium's Pendulum-v1: a rod of 1 kg and 1 m.
GRAVITY = 10.0
TORQUE = 2.0  # newton metres, at most; holding the rod horizontal needs 5
STEP = 0.05  # seconds
TOP_SPEED = 8.0  # radians a second
STARTS = 8  # pendulums of each member


@dataclass
class Pendulums:
    """The states of many pendulums: angle from upright and angular velocity, float32 [members, starts]."""

    angle: np.ndarray
    speed: np.ndarray

    @classmethod
    def anywhere(cls, members: int, seed: int) -> Pendulums:
        """Random starts, the same for all members."""
        start = np.random.default_rng(seed).uniform(-1, 1, (2, 1, STARTS)).astype(np.float32)
        angle, speed = np.repeat(start, members, axis=1)
        return cls(np.float32(np.pi) * angle, speed)

    def seen(self) -> np.ndarray:
        """The inputs of a controller, of magnitude about 1: float32 [members, starts, 3]."""
        parts = (np.cos(self.angle), np.sin(self.angle), self.speed / TOP_SPEED)
        return np.stack(parts, axis=-1).astype(np.float32)

    def turn(self, torque: np.ndarray) -> np.ndarray:
        """Do one time step with a torque. Returns the cost of the state before it, float [members, starts]."""
        off = (self.angle + np.pi) % (2 * np.pi) - np.pi
        cost = off**2 + 0.1 * self.speed**2 + 0.001 * torque**2
        pull = 1.5 * GRAVITY * np.sin(self.angle) + 3.0 * torque
        self.speed = np.clip(self.speed + STEP * pull, -TOP_SPEED, TOP_SPEED)
        self.angle = self.angle + STEP * self.speed
        return cost


def fitness_of(outputs, members: int, steps: int, seed: int) -> np.ndarray:
    """Minus the mean cost of every member, float32 [members].

    outputs: a function from states [members, starts, 3] to [members, starts, 1].
    """
    pendulums = Pendulums.anywhere(members, seed)
    cost = np.zeros((members, STARTS))
    for _ in range(steps):
        cost += pendulums.turn(TORQUE * np.tanh(outputs(pendulums.seen())[..., 0]))
    return (-cost.mean(axis=1) / steps).astype(np.float32)


def member_outputs(population: fpes.Population):
    """Outputs of every member for its own states.

    forward() evaluates all members of a group on the same batch. So each group is a pair, and its batch holds the
    states of both members. Only the outputs of each member for its own states are kept.
    """
    pairs = population.size // 2

    def outputs(states: np.ndarray) -> np.ndarray:
        both = population.forward(states.reshape(pairs, 2 * STARTS, -1))
        halves = both.reshape(pairs, 2, 2, STARTS, -1)  # [pair, member, whose states, start, output]
        return halves[:, [0, 1], [0, 1]].reshape(2 * pairs, STARTS, -1)

    return outputs


def train(generations: int, steps: int = 200, size: int = 512, seed: int = 0) -> tuple[float, float, float]:
    """Train a controller.

    Returns:
        The fitness of the centre on new starts: before training, after it, and after it without underflow.
    """
    net = fpes.LinearNetwork([3, 32, 32, 1])
    es = fpes.ES(
        net,
        net.init(seed),
        size=size,
        sigma=0.05,
        learning_rate=fpes.Cosine(0.05),
        shaping="sign",  # compares the two members of a pair; with ranks among all members fitness ends at -4, not -1
        steps=generations,
        seed=seed,
    )

    def centre(flush: str = "boundary") -> float:
        run = net.with_flush(flush)
        trials = [fitness_of(lambda states: run(es.theta, states[0])[None], 1, steps, 10**6 + i)[0] for i in range(8)]
        return float(np.mean(trials))

    before = centre()
    for generation in range(generations):
        es.tell(fitness_of(member_outputs(es.ask()), size, steps, seed=generation))
        if (generation + 1) % max(1, generations // 10) == 0:
            print(f"generation {generation + 1:4d}: fitness of the centre {centre():.2f}", flush=True)
    return before, centre(), centre("never")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    before, after, linear = train(60, steps=100, size=128) if parser.parse_args().quick else train(120)
    print(f"fitness of the centre: {before:.2f} before, {after:.2f} after (0: upright and at rest all the time)")
    print(f"the same weights without underflow, so linear up to the limit of the torque: {linear:.2f}")


if __name__ == "__main__":
    main()
