"""The baseline: the same deep linear network, trained by backprop, which assumes real arithmetic.

Its gradients are those of a product of matrices, so it can only find a linear classifier.
"""

from __future__ import annotations

import math

import numpy as np

from fpes._checks import FloatArray, IntArray
from fpes.datasets import Dataset
from fpes.network import LinearNetwork
from fpes.primitives import gemm

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def train_by_backprop(
    net: LinearNetwork,
    data: Dataset,
    *,
    steps: int = 1500,
    batch: int = 512,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> FloatArray:
    """Minimise the cross-entropy of the network as a linear map, by Adam with cosine decay.

    Args:
        net: the network. Its scaling and flush mode don't matter.
        data: the data set; x_train and y_train are used.
        steps: number of updates, each on `batch` samples drawn without replacement.
        batch: samples in a minibatch, at most all samples.
        learning_rate: learning rate of the first step.
        seed: seed of the initial weights and the minibatches.

    Returns:
        theta, float32 [net.parameters].
    """
    theta: FloatArray = net.init(seed)
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        rows = rng.choice(len(data.x_train), min(batch, len(data.x_train)), replace=False)
        gradient = _gradient(net, theta, data.x_train[rows], data.y_train[rows])
        mean += (1 - _BETA1) * (gradient - mean)
        square += (1 - _BETA2) * (gradient**2 - square)
        rate = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        theta -= rate * (mean / (1 - _BETA1**step)) / (np.sqrt(square / (1 - _BETA2**step)) + _EPSILON)
    return theta


def _gradient(net: LinearNetwork, theta: FloatArray, x: FloatArray, labels: IntArray) -> FloatArray:
    """The gradient of the mean cross-entropy with respect to theta, by the chain rule from the last layer."""
    layers = net.unpack(theta)
    inputs = [x]
    for weight, bias in layers:
        inputs.append(gemm(inputs[-1], weight, "never") + bias)
    logits = inputs.pop()
    error = np.exp(logits - logits.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1.0
    error /= np.float32(len(labels))
    gradient = np.zeros_like(theta)
    for (weight, _), (g_weight, g_bias), h in reversed(list(zip(layers, net.unpack(gradient), inputs, strict=True))):
        g_weight[...] += gemm(h.T, error, "never")  # tied layers add up
        g_bias[...] += error.sum(axis=0)
        error = gemm(error, weight.T, "never")
    return gradient
