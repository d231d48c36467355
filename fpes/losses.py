"""Losses: the targets that each loss takes, and its metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from fpes._backends import Array, Backend, Targets, backend_of
from fpes._checks import FloatArray, IntArray
from fpes._modes import ieee_mode
from fpes.devices import to_host
from fpes.network import LinearNetwork

Outputs = npt.NDArray[np.floating]

_SUM_BLOCK = 64


@dataclass(frozen=True)
class Loss:
    """A loss of csrc/common/losses/, of the same name.

    Args:
        name: the name that users write.
        unit: name and unit of its values, for the axis of a plot.
        metric: the name of its metric.
        percent: whether the metric is a fraction, shown in per cent.
        targets: targets(backend, name, y, samples, outputs) returns `y` in the form for the kernels, for samples of
            this shape and this number of outputs. It raises an error with this name if `y` doesn't suit the loss.
        measured: measured(outputs, targets) returns the metric of outputs [batch, outputs]; higher is better.
    """

    name: str
    unit: str
    metric: str
    percent: bool
    targets: Callable[[Backend, str, Any, tuple[int, ...], int], Array]
    measured: Callable[[Outputs, npt.NDArray[Any]], float]


def _labels(backend: Backend, name: str, y: Any, samples: tuple[int, ...], outputs: int) -> Array:
    """One label for each sample, an integer from 0 to outputs - 1."""
    return backend.labels(name, y, samples, outputs)


def _numbers(backend: Backend, name: str, y: Any, samples: tuple[int, ...], outputs: int) -> Array:
    """A finite float32 for each output."""
    return backend.finite(name, y, (*samples, outputs))


def _probabilities(backend: Backend, name: str, y: Any, samples: tuple[int, ...], outputs: int) -> Array:
    """A float32 from 0 to 1 for each output."""
    array = backend.finite(name, y, (*samples, outputs))
    # Not checked on a GPU, because the check would wait. There a number outside the range gives NaN.
    if isinstance(array, np.ndarray) and not (array.min() >= 0.0 and array.max() <= 1.0):
        raise ValueError(f"{name} has numbers from {array.min()} to {array.max()}, expected 0 to 1")
    return array


@ieee_mode()
def accuracy(outputs: Outputs, labels: IntArray) -> float:
    """The fraction of rows of outputs [batch, classes] whose first largest element is at the label."""
    return float(np.mean(np.argmax(outputs, axis=1) == labels))


@ieee_mode()
def coefficient_of_determination(outputs: Outputs, targets: FloatArray) -> float:
    """R²: 1 minus the squared error divided by the squared error of each column's mean, over all columns.

    1 is perfect, 0 is no better than the means, and there is no lower bound. For constant targets, R² is 1 if all
    outputs are right, else 0.
    """
    wanted = targets.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.square(outputs.astype(np.float64) - wanted).sum())
        spread = float(np.square(wanted - wanted.mean(axis=0)).sum())
        if spread == 0.0:
            return float(error == 0.0)
        return 1.0 - error / spread


@ieee_mode()
def right_labels(outputs: Outputs, targets: FloatArray) -> float:
    """The fraction of outputs on the right side: above 0 if and only if the target is above one half."""
    return float(np.mean((outputs > 0.0) == (targets > 0.5)))


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", "cross-entropy, nats", "accuracy", True, _labels, accuracy),
        Loss("squared_error", "mean squared error", "R²", False, _numbers, coefficient_of_determination),
        Loss("binary_cross_entropy", "binary cross-entropy, nats", "right labels", True, _probabilities, right_labels),
    )
}


def loss_named(name: Any) -> Loss:
    """The loss of this name.

    Raises:
        TypeError: the name is no string.
        ValueError: there is no such loss.
    """
    if not isinstance(name, str):
        raise TypeError(f"loss is {name!r}, expected a string: {_names()}")
    if name not in LOSSES:
        raise ValueError(f"loss is {name!r}, expected {_names()}")
    return LOSSES[name]


def checked_targets(loss: Loss, backend: Backend, y: Any, shape: tuple[int, ...], outputs: int) -> Targets:
    """The targets of samples of this shape, in the form for a backend.

    Raises:
        TypeError, ValueError: as for the loss's targets().
    """
    return Targets(loss.name, loss.targets(backend, "y", y, shape, outputs))


@overload
def loss(
    net: LinearNetwork, theta: Array, x: Array, y: Any, loss: str = ..., *, per_sample: Literal[False] = ...
) -> float: ...
@overload
def loss(
    net: LinearNetwork, theta: Array, x: Array, y: Any, loss: str = ..., *, per_sample: Literal[True]
) -> Array: ...
def loss(
    net: LinearNetwork, theta: Array, x: Array, y: Any, loss: str = "cross_entropy", *, per_sample: bool = False
) -> float | Array:
    """The loss of one network, with the bits of a population: minus the fitness of a member with these parameters.

    Args:
        net: the network.
        theta: its parameters, float32 [net.parameters], finite.
        x: float32 [batch, features], on theta's device.
        y: as for Population.evaluate(), on theta's device.
        loss: "cross_entropy", "squared_error" or "binary_cross_entropy".
        per_sample: return the loss of each sample instead of the mean over the batch.

    Returns:
        a float that is a float32 number; with per_sample float32 [batch], a CuPy array on a GPU.

    Raises:
        TypeError, ValueError: as Population.evaluate().
    """
    backend = backend_of(theta=theta, x=x, y=y)
    outputs = net(theta, x)
    targets = checked_targets(loss_named(loss), backend, y, outputs.shape[:1], net.classes)
    losses = backend.empty(outputs.shape[:1])
    backend.losses(net.flush, outputs, targets, losses)
    return losses if per_sample else mean(to_host(losses))


def metric(net: LinearNetwork, theta: Array, x: Array, y: Any, loss: str = "cross_entropy") -> float:
    """The metric of one network that suits the loss; higher is better, and 1 is perfect.

    "cross_entropy": accuracy, the fraction of samples whose largest output is at the label. "squared_error": R², the
    coefficient of determination (1 minus the squared error divided by the squared error of each column's mean).
    "binary_cross_entropy": the fraction of right labels; an output above 0 means true.

    Args:
        net: as for fpes.loss().
        theta: as for fpes.loss().
        x: as for fpes.loss().
        y: as for fpes.loss().
        loss: as for fpes.loss().

    Raises:
        TypeError, ValueError: as Population.evaluate().
    """
    chosen, backend = loss_named(loss), backend_of(theta=theta, x=x, y=y)
    outputs = net(theta, x)
    targets = checked_targets(chosen, backend, y, outputs.shape[:1], net.classes)
    return chosen.measured(to_host(outputs), to_host(targets.numbers))


@ieee_mode()
def mean(losses: FloatArray) -> float:
    """The mean of losses [batch] as in populations: in float64, blocks of 64 samples in order, then the blocks."""
    total = 0.0
    for first in range(0, len(losses), _SUM_BLOCK):
        # numpy.cumsum adds one after the other.
        total += float(np.cumsum(losses[first : first + _SUM_BLOCK], dtype=np.float64)[-1])
    return float(np.float32(total / len(losses)))


def _names() -> str:
    *first, last = map(repr, LOSSES)
    return f"{', '.join(first)} or {last}"
