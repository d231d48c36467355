"""Evolution strategies: ask for a population, tell its fitness, and the centre moves."""

from __future__ import annotations

import numpy as np

from fpes import _checks
from fpes._checks import FloatArray
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_SEED
from fpes.perturbations import FullRank, NodePerturbation, Perturbation
from fpes.population import Population
from fpes.shaping import centred_ranks

_BETA1, _BETA2, _EPSILON = np.float32(0.9), np.float32(0.99), np.float32(1e-8)


class ES:
    """Evolution strategies with antithetic pairs, centred ranks and AdamW.

    Salimans et al. 2017 for the estimate; Kingma & Ba 2015, algorithm 1, with betas 0.9 and 0.99, for the step;
    Loshchilov & Hutter 2019 for the weight decay, which is applied to theta and not to the gradient.

    ::

        es = fpes.ES(net, net.init(seed=0), size=512, sigma=0.05, learning_rate=0.02)
        for x, y in batches:
            es.tell(es.ask().evaluate(x, y))

    Args:
        net: the network.
        theta: initial parameters, float32 [net.parameters], finite. Copied.
        size: members of a population, even.
        sigma: standard deviation of the perturbation, above 0.
        perturbation: FullRank() (default) or LowRank(rank).
        learning_rate: step size of Adam, above 0; may be assigned between generations.
        weight_decay: fraction of theta that a step takes away, times the learning rate.
        seed: of the noise, 0 ... 2**64 - 1.

    Raises:
        TypeError, ValueError: as Population does; node perturbation, whose gradient needs fitness for each sample.
    """

    def __init__(
        self,
        net: LinearNetwork,
        theta: FloatArray,
        *,
        size: int,
        sigma: float,
        perturbation: Perturbation | None = None,
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        if isinstance(perturbation, NodePerturbation):
            raise ValueError("ES ranks members, and node perturbation wants fitness for each sample: use Population")
        self.net = net
        self.size = size
        self.sigma = sigma
        self.perturbation = FullRank() if perturbation is None else perturbation
        self.learning_rate = _checks.positive("learning_rate", learning_rate)
        self.weight_decay = _checks.not_negative("weight_decay", weight_decay)
        self.seed = _checks.integer("seed", seed, 0, LARGEST_SEED)
        self.generation = 0
        self.theta = np.array(theta)
        self.ask()  # checks the rest
        self._momentum = np.zeros_like(self.theta)
        self._second_moment = np.zeros_like(self.theta)

    def ask(self) -> Population:
        """The population of the present generation. Asking again gives the same one."""
        return Population(
            self.net,
            self.theta,
            size=self.size,
            sigma=self.sigma,
            perturbation=self.perturbation,
            seed=self.seed,
            generation=self.generation,
        )

    def tell(self, fitness: FloatArray) -> None:
        """Move theta towards the fitter members, and go on to the next generation.

        Args:
            fitness: float32 [size], higher is better; only the ranks count.

        Raises:
            TypeError: fitness isn't float32.
            ValueError: wrong shape, or NaN: theta has diverged, or was no good to begin with.
        """
        _checks.float_array("fitness", fitness, (self.size,))
        ranks = centred_ranks(fitness)
        # Ranks from -(n - 1) to n - 1 become weights from -1/2 to 1/2, whatever the size of the population.
        scale = np.float32(1.0 / (2.0 * max(1, self.size - 1)))
        self._step(self.ask().gradient(ranks) * scale)
        self.generation += 1

    def _step(self, gradient: FloatArray) -> None:
        steps = self.generation + 1
        self._momentum += (np.float32(1) - _BETA1) * (gradient - self._momentum)
        self._second_moment += (np.float32(1) - _BETA2) * (gradient * gradient - self._second_moment)
        momentum = self._momentum / (np.float32(1) - _BETA1**steps)
        second_moment = self._second_moment / (np.float32(1) - _BETA2**steps)
        rate = np.float32(self.learning_rate)
        step = rate * momentum / (np.sqrt(second_moment) + _EPSILON)
        self.theta = self.theta * (np.float32(1) - rate * np.float32(self.weight_decay)) + step
