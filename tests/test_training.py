"""What training must come to: past the linear ceiling with underflow, up to it without."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import fpes
from fpes.baseline import train_by_backprop
from fpes.controls import accuracy, collapse


def test_centred_ranks_are_those_of_the_oracle():
    rng = np.random.default_rng(0)
    for values in (rng.standard_normal(50), rng.integers(0, 4, 64), np.zeros(6), [0.0, -0.0, -np.inf, np.inf]):
        fitness = np.asarray(values, np.float32)
        np.testing.assert_array_equal(fpes.centred_ranks(fitness), oracle.centred_ranks(fitness))


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


@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.LowRank(2, noise="rademacher")])
def test_training_gives_the_same_bits_on_every_isa_and_any_number_of_threads(perturbation):
    data = fpes.datasets.load("digits")
    results = []
    isa, threads = fpes.get_isa(), fpes.get_threads()
    try:
        for name, count in [*((name, 2) for name in fpes.supported_isas()), (isa, 1), (isa, 5)]:
            fpes.set_isa(name)
            fpes.set_threads(count)
            net = fpes.LinearNetwork([16, 12, 10])
            es = fpes.ES(net, net.init(0), size=16, sigma=0.1, learning_rate=0.1, perturbation=perturbation)
            for _ in range(5):
                es.tell(es.ask().evaluate(data.x_train[:70], data.y_train[:70]))
            results.append(es.theta)
    finally:
        fpes.set_isa(isa)
        fpes.set_threads(threads)
    for theta in results[1:]:
        oracle.assert_bitwise_equal(theta, results[0])
