"""Families of perturbations: how the members of a population differ from its centre. Each family has a file."""

from fpes.perturbations.allocation import AllLayers, Allocation, OneLayer
from fpes.perturbations.base import Perturbation, checked_perturbation
from fpes.perturbations.full_rank import FullRank
from fpes.perturbations.low_rank import LowRank
from fpes.perturbations.node import NodePerturbation
from fpes.perturbations.one_unit import OneUnit

__all__ = [
    "AllLayers",
    "Allocation",
    "FullRank",
    "LowRank",
    "NodePerturbation",
    "OneLayer",
    "OneUnit",
    "Perturbation",
    "checked_perturbation",
]
