"""The protocol of a perturbation: what populations, strategies and trainers use of every family."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from fpes.members import Centre, Members


@runtime_checkable
class Perturbation(Protocol):
    """A family of perturbations with its settings: a frozen dataclass, registered by fpes.register()."""

    @property
    def per_sample(self) -> bool:
        """Whether noise is drawn for each sample.

        If so, a fitness for each sample gives a better estimate, weights of the gradient are floats, and a member has
        no parameters of its own.
        """

    @property
    def needs_batch(self) -> bool:
        """Whether the gradient depends on the batch of the fitness, and therefore needs its Evaluation."""

    @property
    def weights_samples(self) -> bool:
        """Whether evaluate() takes sample_weights, and keeps the losses of the unperturbed network."""

    @property
    def takes_tied_layers(self) -> bool:
        """Whether it can perturb networks with tied layers."""

    @property
    def default_shaping(self) -> str:
        """Default shaping of ES: "centred_ranks", or "none" if the gradient needs the differences of fitness."""

    @property
    def gradient_work(self) -> float:
        """The cost of a pair in the gradient, or of a pair and a sample if noise is drawn for each sample.

        The unit is the cost of drawing noise for every parameter. Measured for 784-512-512-10.
        """

    def around(self, centre: Centre) -> Members:
        """The members around a network.

        Raises:
            TypeError, ValueError: settings that don't fit the network or the number of members.
        """


def checked_perturbation(perturbation: Any) -> Perturbation:
    """The argument, if it is a perturbation.

    Raises:
        TypeError: it isn't.
    """
    if isinstance(perturbation, type) or not isinstance(perturbation, Perturbation):
        raise TypeError(f"perturbation is {perturbation!r}, expected a FullRank, LowRank, NodePerturbation or OneUnit")
    return perturbation


class OfWeights:
    """Attributes of a family that perturbs weights, the same way for all samples."""

    per_sample: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = False
    weights_samples: ClassVar[bool] = False
    default_shaping: ClassVar[str] = "centred_ranks"

    @property
    def takes_tied_layers(self) -> bool:
        """Noise belongs to a weight, in every layer that uses it."""
        return True

    @property
    def gradient_work(self) -> float:
        """A pair draws noise for every parameter."""
        return 1.0


class OfSamples:
    """Attributes of a family that draws noise for each sample."""

    per_sample: ClassVar[bool] = True
    needs_batch: ClassVar[bool] = True
    weights_samples: ClassVar[bool] = False
    takes_tied_layers: ClassVar[bool] = False
    default_shaping: ClassVar[str] = "none"
