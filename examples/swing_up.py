"""Cart-pole swing-up: a controller without an activation function, trained by ES on what happens to the pole.

Fitness is whatever you can compute from the outputs of the members. Here each member drives a cart of its own: at every
time step the population's outputs for the states of all carts are the forces, and at the end the fitness of a member is
how much of the time its pole stood upright. No gradient of the physics is needed, and none is there: a network that was
a linear map could push, but not swing up and then balance.

    python examples/swing_up.py            # some minutes: swings up and balances
    python examples/swing_up.py --quick    # a few seconds: better than it began
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

import fpes

FORCE = 10.0  # newtons, at most
STEP = 0.04  # seconds
STARTS = 4  # every member is judged from as many starts, the same for all
GRAVITY, CART, POLE, HALF_LENGTH = 9.81, 1.0, 0.1, 0.5
TRACK = 2.4  # metres to either side


@dataclass
class Carts:
    """The states of many carts: position, velocity, angle from upright, angular velocity; float32 [members, starts]."""

    position: np.ndarray
    velocity: np.ndarray
    angle: np.ndarray
    spin: np.ndarray

    @classmethod
    def hanging(cls, members: int, seed: int) -> Carts:
        """Poles that hang down, nearly at rest; each start differs a little, and is the same for all members."""
        noise = 0.1 * np.random.default_rng(seed).standard_normal((4, 1, STARTS)).astype(np.float32)
        position, velocity, angle, spin = np.repeat(noise, members, axis=1)
        return cls(position, velocity, angle + np.float32(np.pi), spin)

    def seen(self) -> np.ndarray:
        """What a controller sees, about 1 in size, and the constant 1: float32 [members, starts, 6]."""
        ones = np.ones_like(self.angle)
        parts = (self.position / 2, self.velocity / 3, np.cos(self.angle), np.sin(self.angle), self.spin / 6, ones)
        return np.stack(parts, axis=-1).astype(np.float32)

    def push(self, force: np.ndarray) -> None:
        """One time step (Barto, Sutton & Anderson 1983, appendix, no friction), by the semi-implicit Euler rule."""
        sine, cosine = np.sin(self.angle), np.cos(self.angle)
        total = CART + POLE
        thrust = (force + POLE * HALF_LENGTH * self.spin**2 * sine) / total
        turn = (GRAVITY * sine - cosine * thrust) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / total))
        shift = thrust - POLE * HALF_LENGTH * turn * cosine / total
        self.velocity = self.velocity + STEP * shift
        self.spin = np.clip(self.spin + STEP * turn, -15, 15)
        self.position = self.position + STEP * self.velocity
        self.angle = self.angle + STEP * self.spin
        outside = np.abs(self.position) > TRACK
        self.position = np.clip(self.position, -TRACK, TRACK)
        self.velocity = np.where(outside, 0.0, self.velocity)

    def reward(self) -> np.ndarray:
        """1 for an upright pole at rest in the middle, less for others: float [members, starts].

        Without the spin in it, whirling round and round would pay better than learning to balance.
        """
        calm = 1 / (1 + (self.spin / 2) ** 2)
        return (1 + np.cos(self.angle)) / 2 * (0.3 + 0.7 * calm) * (1 - 0.3 * (self.position / TRACK) ** 2)


def drive(outputs, members: int, steps: int, seed: int) -> np.ndarray:
    """Mean reward of every member, float32 [members]. outputs: states [members, starts, 6] -> [members, starts, 1]."""
    carts = Carts.hanging(members, seed)
    rewards = np.zeros((members, STARTS))
    for _ in range(steps):
        carts.push(FORCE * np.tanh(outputs(carts.seen())[..., 0]))
        rewards += carts.reward()
    return (rewards.mean(axis=1) / steps).astype(np.float32)


def member_outputs(population: fpes.Population):
    """Outputs of every member for states of its own.

    forward() shows one batch to all members of a group; so the states of a pair's two members are one batch, and each
    member's own half of the outputs is kept.
    """
    pairs = population.size // 2

    def outputs(states: np.ndarray) -> np.ndarray:
        both = population.forward(states.reshape(pairs, 2 * STARTS, -1))  # a group for each pair
        halves = both.reshape(pairs, 2, 2, STARTS, -1)  # [pair, member, whose states, start, output]
        return halves[:, [0, 1], [0, 1]].reshape(2 * pairs, STARTS, -1)

    return outputs


def train(generations: int, steps: int, size: int = 256, seed: int = 0) -> tuple[float, float]:
    """Train a controller; the mean reward of the centre on starts that it hasn't seen, before and after."""
    net = fpes.LinearNetwork([6, 32, 32, 1])
    es = fpes.ES(
        net,
        net.init(seed),
        size=size,
        sigma=0.1,
        learning_rate=fpes.Cosine(0.05),
        weight_decay=0.05,
        steps=generations,
        seed=seed,
    )

    def centre() -> float:
        return float(drive(lambda states: net(es.theta, states[0])[None], 1, steps, seed=10**6)[0])

    before = centre()
    for generation in range(generations):
        es.tell(drive(member_outputs(es.ask()), size, steps, seed=generation))
        if (generation + 1) % max(1, generations // 10) == 0:
            print(f"generation {generation + 1:4d}: mean reward {es.fitness:.3f}, of the centre {centre():.3f}")
    return before, centre()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    quick = parser.parse_args().quick
    before, after = train(*((15, 60, 64) if quick else (300, 250)))
    print(f"mean reward of the centre: {before:.3f} before, {after:.3f} after (1 is upright all the time)")


if __name__ == "__main__":
    main()
