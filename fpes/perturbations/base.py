"""What a population, a strategy and a trainer ask of a perturbation, whatever its family."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from fpes.members import Centre, Members


@runtime_checkable
class Perturbation(Protocol):
    """A family of perturbations, with its settings: a frozen dataclass that fpes.register() knows."""

    @property
    def per_sample(self) -> bool:
        """Whether noise is drawn for each sample.

        Then a fitness for each sample makes the better estimate, weights of the gradient are floats, and a member has
        no parameters of its own.
        """

    @property
    def needs_batch(self) -> bool:
        """Whether the gradient depends on the batch that fitness belongs to, and so on its Evaluation."""

    @property
    def weights_samples(self) -> bool:
        """Whether evaluate() takes weights of samples, and keeps losses of the unperturbed network."""

    @property
    def takes_tied_layers(self) -> bool:
        """Whether it perturbs networks of which several layers share their weights."""

    @property
    def default_shaping(self) -> str:
        """Of fitness, unless ES is told: "centred_ranks"; "none" where the gradient needs differences themselves."""

    @property
    def gradient_work(self) -> float:
        """What a pair costs in the gradient, in units of drawing noise for every parameter."""

    def around(self, centre: Centre) -> Members:
        """The members around a network.

        Raises:
            TypeError, ValueError: settings that don't fit the network or the number of members.
        """


def checked_perturbation(perturbation: Any) -> Perturbation:
    """What it says.

    Raises:
        TypeError: it is none.
    """
    if isinstance(perturbation, type) or not isinstance(perturbation, Perturbation):
        raise TypeError(f"perturbation is {perturbation!r}, expected a FullRank, LowRank, NodePerturbation or OneUnit")
    return perturbation


class OfWeights:
    """The attributes of a perturbation of the weights, the same for all samples."""

    per_sample: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = False
    weights_samples: ClassVar[bool] = False
    default_shaping: ClassVar[str] = "centred_ranks"

    @property
    def takes_tied_layers(self) -> bool:
        """Noise goes by weights, wherever they are used."""
        return True

    @property
    def gradient_work(self) -> float:
        """Drawing noise for every parameter."""
        return 1.0


class OfSamples:
    """The attributes of a perturbation by noise of each sample."""

    per_sample: ClassVar[bool] = True
    needs_batch: ClassVar[bool] = True
    weights_samples: ClassVar[bool] = False
    takes_tied_layers: ClassVar[bool] = False
    default_shaping: ClassVar[str] = "none"
    gradient_work: ClassVar[float] = 1.0
