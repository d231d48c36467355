"""Controls: the weights that ES found, run in other arithmetics.

If underflow is the nonlinearity, accuracy must fall without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fpes._checks import FloatArray, IntArray
from fpes.datasets import Dataset
from fpes.network import LinearNetwork
from fpes.primitives import bias_add, gemm, multiply

DoubleArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.floating]

_SAMPLES_AT_A_TIME = 4096


@dataclass(frozen=True)
class Accuracy:
    """Fractions of samples whose largest logit is at the label."""

    name: str
    train: float
    test: float


def evaluate_controls(net: LinearNetwork, theta: FloatArray, data: Dataset) -> list[Accuracy]:
    """Accuracies of theta under flush "never" and "always", in float64, and collapsed into one matrix in float64."""
    controls = [measured(f'flush "{flush}"', net.with_flush(flush), theta, data) for flush in ("never", "always")]
    controls.append(_measured("float64", lambda x: _layer_by_layer(net, theta, x), data))
    matrix, bias = collapse(net, theta)
    controls.append(_measured("one matrix", lambda x: x.astype(np.float64) @ matrix + bias, data))
    return controls


def evaluate_boundaries(net: LinearNetwork, theta: FloatArray, data: Dataset) -> list[Accuracy]:
    """Accuracies of theta if the boundary of one layer doesn't flush, for each layer in turn.

    Raises:
        ValueError: the network's flush mode isn't "boundary".
    """
    if net.flush != "boundary":
        raise ValueError(f'the network has flush "{net.flush}", expected "boundary": only there a boundary can be off')
    return [
        _measured(f"boundary of layer {off} off", partial(forward_with, net, theta, off={off}), data)
        for off in range(1, net.layers + 1)
    ]


def forward_with(net: LinearNetwork, theta: FloatArray, x: FloatArray, off: Collection[int]) -> FloatArray:
    """Logits of a network in flush mode "boundary", by the primitives, with the boundaries of some layers off.

    Args:
        net: the network.
        theta: its parameters, float32 [net.parameters].
        x: float32 [batch, net.features].
        off: layers whose results aren't flushed after the product, counted from 1.

    Returns:
        float32 [batch, net.classes].
    """
    inverse = 1.0 / net.scaling
    h = x
    for layer, (weight, bias) in enumerate(net.unpack(theta), start=1):
        flush = "never" if layer in off else "boundary"
        product = gemm(h, weight, flush="boundary")
        if layer == 1:
            h = multiply(bias_add(product, bias, flush=flush), inverse, flush=flush)
        else:
            h = bias_add(product, multiply(bias, inverse, flush=flush), flush=flush)
    logits: FloatArray = multiply(h, net.scaling, flush=flush)
    return logits


def collapse(net: LinearNetwork, theta: FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """The network in real arithmetic, as an affine map: matrix [features, classes] and bias [classes], float64."""
    matrix: DoubleArray = np.eye(net.features)
    bias: DoubleArray = np.zeros(net.features)
    for weight, layer_bias in net.unpack(theta):
        wide = weight.astype(np.float64)
        matrix, bias = matrix @ wide, bias @ wide + layer_bias
    return matrix, bias


def measured(name: str, net: LinearNetwork, theta: FloatArray, data: Dataset) -> Accuracy:
    """Accuracies of a network with parameters theta on both parts of the data."""
    return _measured(name, partial(net, theta), data)


def _measured(name: str, logits: Callable[[FloatArray], Logits], data: Dataset) -> Accuracy:
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    return Accuracy(name, _accuracy_of(logits, *train), _accuracy_of(logits, *test))


def _accuracy_of(logits: Callable[[FloatArray], Logits], x: FloatArray, labels: IntArray) -> float:
    """Compute some samples at a time, so that Ctrl-C takes effect soon and float64 needs little memory."""
    right = 0
    for begin in range(0, len(x), _SAMPLES_AT_A_TIME):
        part = slice(begin, begin + _SAMPLES_AT_A_TIME)
        right += int(np.count_nonzero(np.argmax(logits(x[part]), axis=1) == labels[part]))
    return right / len(x)


def _layer_by_layer(net: LinearNetwork, theta: FloatArray, x: FloatArray) -> DoubleArray:
    """The network's formula in float64, where nothing underflows."""
    layers = net.unpack(theta)
    weight, bias = layers[0]
    h: DoubleArray = (x.astype(np.float64) @ weight + bias) / net.scaling
    for weight, bias in layers[1:]:
        h = h @ weight.astype(np.float64) + bias.astype(np.float64) / net.scaling
    return h * net.scaling
