"""What training must come to: past the linear ceiling with underflow, up to it without."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import fpes
from fpes.baseline import train_by_backprop
from fpes.controls import collapse, evaluate_boundaries, forward_with
from fpes.losses import accuracy


def test_backprop_is_a_linear_classifier():
    data = fpes.datasets.load("digits")
    net = fpes.LinearNetwork([16, 32, 10], flush="never")
    theta = train_by_backprop(net, data, steps=600)
    matrix, bias = collapse(net, theta)
    logits = data.x_test @ matrix + bias
    np.testing.assert_allclose(net(theta, data.x_test), logits, rtol=1e-3, atol=1e-3)
    assert 0.86 < accuracy(logits, data.y_test) < 0.92


def test_es_passes_the_linear_ceiling_with_underflow_only():
    """Two spirals: every linear classifier stays near chance on one half of each arm."""
    data = fpes.datasets.two_spirals(turns=1.0, seed=0)
    net = fpes.LinearNetwork([2, 32, 32, 2])
    es = fpes.ES(net, net.init(1), size=128, sigma=0.05, learning_rate=0.03, seed=1)
    for _ in range(400):
        es.tell(es.ask().evaluate(data.x_train[:500], data.y_train[:500]))
    assert accuracy(net(es.theta, data.x_test), data.y_test) > 0.93
    assert accuracy(net.with_flush("never")(es.theta, data.x_test), data.y_test) < 0.85


def test_a_boundary_by_hand_is_the_networks_own():
    """Every layer's boundary on: the network itself, bit for bit. Every one off: the network that never flushes."""
    net = fpes.LinearNetwork([16, 30, 20, 10])
    theta, x = net.init(0), fpes.datasets.load("digits").x_test
    for _, bias in net.unpack(theta):
        bias[...] = np.random.default_rng(0).standard_normal(bias.size)
    oracle.assert_bitwise_equal(forward_with(net, theta, x, ()), net(theta, x))
    oracle.assert_bitwise_equal(forward_with(net, theta, x, (1, 2, 3)), net.with_flush("never")(theta, x))
    each = [forward_with(net, theta, x, (layer,)) for layer in (1, 2, 3)]
    assert all((one != net(theta, x)).any() for one in each)


def test_each_boundary_alone_matters_less_than_all():
    data = fpes.datasets.two_spirals(turns=1.0, seed=0)
    net = fpes.LinearNetwork([2, 32, 32, 2])
    es = fpes.ES(net, net.init(1), size=128, sigma=0.05, learning_rate=0.03, seed=1)
    es.fit(data, steps=300, batch=500)
    trained = accuracy(net(es.theta, data.x_test), data.y_test)
    boundaries = [control.test for control in evaluate_boundaries(net, es.theta, data)]
    assert len(boundaries) == 3
    assert min(boundaries) < trained - 0.1
    with pytest.raises(ValueError, match='flush "always", expected "boundary"'):
        evaluate_boundaries(net.with_flush("always"), es.theta, data)
