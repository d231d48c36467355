"""Replays: workers take the steps of a run themselves, so theta needn't be sent to them in every generation.

Theta after a step depends on theta and the optimiser's memory before it, and on little else: the fitness, the samples
and the scheduled settings. The process that trains remembers these for the last steps. A task carries them, and a
worker that has theta from before one of these steps takes the steps from there on. Digests of theta, before and after
each step, show whether it has come to the same bits. A worker that is new, too far behind or came to other bits is sent
theta with the optimiser's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpes._checks import FloatArray
from fpes.datasets import Minibatches
from fpes.devices import to_device
from fpes.distributed.messages import ThetaParcel, digest_of
from fpes.engine import Samples
from fpes.optimisers import Memory
from fpes.steps import State
from fpes.strategy import Strategy

# A pool gives its tasks to whoever is free, so a worker may miss a generation or two.
_STEPS_SENT = 4

# Theta below this size is sent in a few milliseconds, even at 1 Gbit/s.
_SMALL_BYTES = 2**18

# The longest gradient of a replay, in pairs whose noise is drawn for every parameter. It takes about as long as sending
# theta at 10 Gbit/s, whatever the size of the network (docs/machines.md). Over slower links a replay gains.
_PAIRS_WORTH_THETA = 64

_SCHEDULED = ("sigma", "learning_rate", "weight_decay")
_SETTINGS = ("net", "size", "perturbation", "optimiser", "clip", "shaping", "seed")


def replay_pays(strategy: Strategy, minibatches: Minibatches) -> bool:
    """Whether workers of other machines should replay steps. The answer depends only on sizes and settings.

    They should if theta isn't small, what tasks carry for a replay is smaller, and the gradient is cheap. An optimiser
    or a shaping of the user's own may exist only in the process that trains, so theta is sent then.
    """
    each = minibatches.batch if strategy.perturbation.per_sample else 1
    theta = 4 * strategy.net.parameters
    carried = _STEPS_SENT * (4 * strategy.size * each + 8 * minibatches.groups * minibatches.batch)
    work = strategy.size // 2 * each * strategy.perturbation.gradient_work
    return theta > max(_SMALL_BYTES, carried) and work <= _PAIRS_WORTH_THETA and _ours(strategy)


def _ours(strategy: Strategy) -> bool:
    """Whether every worker that has this package has the classes that a step needs."""
    parts = (strategy.optimiser, strategy.shaping)
    return all(isinstance(part, str) or type(part).__module__.partition(".")[0] == "fpes" for part in parts)


def scheduled_values(strategy: Strategy) -> dict[str, float]:
    """The values of the settings that may have a schedule, in the present generation."""
    return {name: strategy.value(name, strategy.generation) for name in _SCHEDULED}


def settle(strategy: Strategy, values: Mapping[str, float]) -> None:
    """Take over the scheduled settings of the process that leads: the clock may have changed its plan."""
    for name, value in values.items():
        setattr(strategy, name, value)


def settings_of(strategy: Strategy) -> dict[str, Any]:
    """What a step depends on, the same in all generations."""
    return {name: getattr(strategy, name) for name in _SETTINGS}


@dataclass(frozen=True, eq=False)
class TakenStep:
    """All that a step depends on, besides the settings, theta and the optimiser's memory.

    Args:
        generation: its number.
        before: digest of theta before the step.
        after: digest of theta after the step.
        samples: the minibatch.
        fitness: as the strategy was told, on the host.
        scheduled: values of the scheduled settings.
    """

    generation: int
    before: str
    after: str
    samples: Samples
    fitness: FloatArray
    scheduled: Mapping[str, float]


class History:
    """In the process that trains: the last steps."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._steps: deque[TakenStep] = deque(maxlen=_STEPS_SENT)
        self._proposed: dict[str, Any] | None = None
        self._digest = ""

    def steps(self, theta: ThetaParcel) -> list[TakenStep]:
        """The last steps up to the present generation, whose theta this is."""
        proposed, self._proposed = self._proposed, None
        if proposed is not None and proposed["generation"] + 1 == self._strategy.generation:
            self._steps.append(TakenStep(after=theta.digest, **proposed))
        self._digest = theta.digest
        return list(self._steps)

    def propose(self, samples: Samples, fitness: FloatArray) -> None:
        """What the next step depends on. Whether it is taken, the next generation tells."""
        strategy = self._strategy
        self._proposed = {
            "generation": strategy.generation,
            "before": self._digest,
            "samples": samples,
            "fitness": fitness,
            "scheduled": scheduled_values(strategy),
        }


class OtherBitsError(Exception):
    """A replay has come to other bits than the process that trains."""


class Replica:
    """In a worker: a copy of the strategy, which takes the steps that the process that trains has taken.

    Args:
        settings: of settings_of().
        generation, theta, memory: the state to begin with.
        device: the device that computes gradients.
    """

    def __init__(
        self, settings: Mapping[str, Any], generation: int, theta: FloatArray, memory: Memory, device: str
    ) -> None:
        self._strategy = Strategy(theta=theta, sigma=1.0, device=device, **settings)
        self._strategy.accept(State(generation, self._strategy.theta, memory))
        self._digest = digest_of(theta)

    def reach(self, digest: str, steps: Sequence[TakenStep], minibatches: Minibatches) -> FloatArray | None:
        """Theta of this digest, after the steps that are missing here; None if they aren't among `steps`.

        Raises:
            OtherBitsError: a step has led to other bits.
        """
        place = (self._strategy.generation, self._digest)
        first = next((i for i, step in enumerate(steps) if (step.generation, step.before) == place), len(steps))
        for step in steps[first:]:
            self._take(step, minibatches)
        return self._strategy.theta if self._digest == digest else None

    def _take(self, step: TakenStep, minibatches: Minibatches) -> None:
        strategy = self._strategy
        settle(strategy, step.scheduled)
        x, _ = step.samples.arrays(minibatches, strategy.device)
        evaluation = strategy.ask().evaluated(x, to_device(step.fitness, strategy.device))
        strategy.accept(strategy.proposed(evaluation))
        self._digest = digest_of(strategy.theta)
        if (strategy.generation, self._digest) != (step.generation + 1, step.after):
            raise OtherBitsError(
                f"the step of generation {step.generation} leads to theta with digest {self._digest[:12]}, expected "
                f"{step.after[:12]}"
            )
