"""The forward pass of the scaled linear network, bit for bit."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest

import fpes

MODES = oracle.FLUSH_MODES
every_mode = pytest.mark.parametrize("flush", MODES)
BATCHES = (1, 63, 65, 130)
NETWORKS = [
    (33, 10),
    (1, 7),
    (65, 1),
    (7, 33, 10),
    (10, 65, 7, 33),
    (33, 1, 10, 65, 1),
    (65, 33, 10, 7, 33, 10),
]


def random_theta(rng: np.random.Generator, network: oracle.Network) -> np.ndarray:
    """Weights as they start; biases on both sides of 0.5, the boundary in the units of a layer."""
    theta = np.empty(network.parameters, np.float32)
    for weight, bias in network.unpack(theta):
        weight[...] = rng.standard_normal(weight.shape) * np.sqrt(2 / weight.shape[0])
        bias[...] = rng.choice([0.0, -0.0, 0.5, -0.5, 0.49999997, 0.50000006, 0.3, -0.8, 1e-30], bias.shape)
    return theta


def images(rng: np.random.Generator, batch: int, inputs: int) -> np.ndarray:
    x = rng.random((batch, inputs), np.float32)
    x[rng.random(x.shape) < 0.3] = 0.0
    return x


@functools.lru_cache
def case(sizes: tuple[int, ...], flush: str, scaling: float = 2.0**125):
    rng = np.random.default_rng(sum(sizes))
    network = oracle.Network(sizes, scaling, flush)
    theta, x = random_theta(rng, network), images(rng, BATCHES[-1], sizes[0])
    return theta, x, oracle.forward(network, theta, x)


@every_mode
@pytest.mark.parametrize("sizes", NETWORKS, ids=str)
def test_forward(isa, sizes, flush):
    theta, x, expected = case(sizes, flush)
    net = fpes.LinearNetwork(sizes, flush=flush)
    for batch in BATCHES:
        oracle.assert_bitwise_equal(net(theta, x[:batch]), expected[:batch], f"{sizes}, {batch}, {flush}, {isa}")


@every_mode
@pytest.mark.parametrize("exponent", [-126, 0, 100, 124, 126])
def test_other_scalings(isa, exponent, flush):
    sizes = (10, 65, 7, 33)
    theta, x, expected = case(sizes, flush, 2.0**exponent)
    net = fpes.LinearNetwork(sizes, scaling=2.0**exponent, flush=flush)
    oracle.assert_bitwise_equal(net(theta, x), expected, f"scaling 2^{exponent}, {flush}, {isa}")


def test_forward_does_not_depend_on_threads(isa, threads):
    for flush in MODES:
        theta, x, expected = case((65, 33, 10, 7, 33, 10), flush)
        net = fpes.LinearNetwork((65, 33, 10, 7, 33, 10), flush=flush)
        oracle.assert_bitwise_equal(net(theta, x), expected, f"{threads} threads, {flush}")


@pytest.mark.parametrize("flush", ["boundary", "always"])
def test_first_layer_is_a_hard_shrink(isa, flush):
    """One layer: logits are its pre-activations where those are at least 0.5, else zeros of the same sign."""
    rng = np.random.default_rng(1)
    theta, x = random_theta(rng, oracle.Network((33, 65))), images(rng, 130, 33)
    linear = fpes.LinearNetwork((33, 65), scaling=1.0, flush=flush)(theta, x)
    got = fpes.LinearNetwork((33, 65), flush=flush)(theta, x)
    shrunk = np.where(np.abs(linear) >= 0.5, linear, np.copysign(np.float32(0), linear))
    oracle.assert_bitwise_equal(got, shrunk)
    assert 0.1 < np.mean(got == 0) < 0.9


def test_without_flushing_the_network_is_linear(isa):
    """Up to the rounding of subnormals, which have fewer bits."""
    theta, x, _ = case((10, 65, 7, 33), "never")
    expected = x.astype(np.float64)
    for weight, bias in oracle.Network((10, 65, 7, 33)).unpack(theta):
        expected = expected @ weight + bias
    got = fpes.LinearNetwork((10, 65, 7, 33), flush="never")(theta, x)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_initial_network_of_2017(isa):
    """All-zero logits if the product flushes too, as TensorFlow's on a CPU does; not if it keeps subnormals."""
    sizes = (784, 512, 512, 10)
    x = np.random.default_rng(2).random((8, 784), np.float32)
    theta = fpes.LinearNetwork(sizes).init(0)
    assert not fpes.LinearNetwork(sizes, flush="always")(theta, x).any()
    boundary = fpes.LinearNetwork(sizes, flush="boundary")(theta, x)
    assert np.mean(boundary != 0) > 0.5
    assert np.abs(boundary).max() < 100
    assert fpes.LinearNetwork(sizes, flush="never")(theta, x).all()


def test_init(isa):
    sizes = (400, 300, 10)
    net = fpes.LinearNetwork(sizes)
    theta = net.init(3)
    assert theta.dtype == np.float32
    assert theta.shape == (net.parameters,)
    for (weight, bias), fan_in in zip(net.unpack(theta), sizes, strict=False):
        deviation = np.sqrt(2 / fan_in)
        assert abs(weight.mean()) < 5 * deviation / np.sqrt(weight.size)
        assert abs(weight.std() / deviation - 1) < 5 / np.sqrt(2 * weight.size)
        assert not bias.any()
    oracle.assert_bitwise_equal(net.init(3), theta)
    assert np.mean(net.init(4) != theta) > 0.9
    fpes.set_isa("baseline")
    oracle.assert_bitwise_equal(net.init(3), theta, f"{isa} against baseline")


def test_unpack_gives_views():
    net = fpes.LinearNetwork((3, 5, 2))
    assert net.parameters == 3 * 5 + 5 + 5 * 2 + 2
    theta = np.arange(net.parameters, dtype=np.float32)
    parts = net.unpack(theta)
    for (weight, bias), (w, b) in zip(parts, oracle.Network((3, 5, 2)).unpack(theta), strict=True):
        oracle.assert_bitwise_equal(weight, w)
        oracle.assert_bitwise_equal(bias, b)
        assert np.shares_memory(weight, theta)
        assert np.shares_memory(bias, theta)
    parts[1][0][2, 1] = 99
    assert np.count_nonzero(theta == 99) == 1


def test_any_layout_is_accepted(isa):
    theta, x, expected = case((33, 10), "boundary")
    net = fpes.LinearNetwork((33, 10))
    oracle.assert_bitwise_equal(net(theta, x[::2]), expected[::2])
    oracle.assert_bitwise_equal(net(np.repeat(theta, 2)[::2], np.asfortranarray(x)), expected)


class TestRefusals:
    net = fpes.LinearNetwork((4, 3))
    theta = np.ones(15, np.float32)
    x = np.ones((2, 4), np.float32)

    def test_types(self):
        with pytest.raises(TypeError, match="float64"):
            self.net(self.theta.astype(np.float64), self.x)
        with pytest.raises(TypeError, match="float64"):
            self.net(self.theta, self.x.astype(np.float64))

    def test_shapes(self):
        with pytest.raises(ValueError, match="14"):
            self.net(self.theta[:-1], self.x)
        with pytest.raises(ValueError, match="3"):
            self.net(self.theta, self.x[:, :-1])
        with pytest.raises(ValueError, match=r"."):
            self.net(self.theta, self.x[0])
        with pytest.raises(ValueError, match="14"):
            self.net.unpack(self.theta[:-1])

    @pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)], ids=str)
    def test_sizes(self, sizes):
        with pytest.raises(ValueError, match=r"."):
            fpes.LinearNetwork(sizes)

    @pytest.mark.parametrize("scaling", [0.0, 3.0, -2.0, 2.0**127, 2.0**-127, np.inf, np.nan])
    def test_scalings(self, scaling):
        with pytest.raises(ValueError, match="scaling"):
            fpes.LinearNetwork((4, 3), scaling=scaling)

    def test_modes(self):
        with pytest.raises(ValueError, match="sometimes"):
            fpes.LinearNetwork((4, 3), flush="sometimes")
