"""The health of a network: its active units, the size of its weights, and their diagnosis."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import cast

from fpes._checks import FloatArray
from fpes._modes import ieee_mode
from fpes.network import LinearNetwork
from fpes.optimisers import norm

# A layer that flushes nothing is linear. Trained networks keep a third to two thirds of their units active; at 97 %
# they were measured to be no better than linear ones.
_NEARLY_LINEAR = 0.97


class TrainingWarning(UserWarning):
    """Training continues, but it may not lead to a useful result."""


class DivergedError(ValueError):
    """Training can't continue from its present state."""


def warn(message: str) -> None:
    """A TrainingWarning, for the line of the user's program that led here."""
    level, frame = 1, cast("FrameType | None", sys._getframe())
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fpes":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, TrainingWarning, stacklevel=level)


@ieee_mode()
def active_fractions(net: LinearNetwork, theta: FloatArray, x: FloatArray) -> list[float]:
    """The fraction of nonzero outputs of each layer, over a batch x [batch, features].

    In a flushing mode, a flushed output is zero. The last number is for the logits.
    """
    fractions = []
    for layer in range(1, net.layers + 1):
        part = net.up_to(layer)
        outputs = part(theta[: part.parameters], x)
        fractions.append(float((outputs != 0.0).mean()))
    return fractions


@ieee_mode()
def weight_norms(net: LinearNetwork, theta: FloatArray) -> list[float]:
    """The root mean square of each layer's weights, in multiples of the initial sqrt(2 / fan_in)."""
    return [norm(weight.ravel()) / (weight.size * 2.0 / weight.shape[0]) ** 0.5 for weight, _ in net.unpack(theta)]


def diagnose(net: LinearNetwork, active: Sequence[float], generation: int) -> dict[str, str]:
    """A diagnosis of the active fractions, with advice; empty if all is well.

    Returns:
        findings: descriptions, by a name that stays the same as long as the finding does.
    """
    if net.flush == "never":
        return {}
    findings = {}
    hidden = active[:-1]
    for layer, fraction in enumerate(hidden, start=1):
        if fraction == 0.0:
            findings[f"dead {layer}"] = (
                f"layer {layer} is dead: every activation is flushed to zero, so nothing that comes in gets through. "
                "Start from larger weights, or lower the weight decay"
            )
    if hidden and min(hidden) > _NEARLY_LINEAR:
        # Before the first step nothing has drifted, so the cause is the data or the initial weights.
        advice = (
            "Raise the weight decay, or lower the learning rate"
            if generation
            else "Scale the inputs to numbers of about 1, or start from smaller weights"
        )
        findings["nearly linear"] = (
            f"at least {min(hidden):.1%} of the units of every hidden layer are active: hardly anything is flushed, "
            f"and the network is nearly linear. {advice}"
        )
    return findings
