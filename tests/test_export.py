"""Networks for other libraries: the same class for every sample, and the formula to the last zero."""

from __future__ import annotations

import importlib.util

import click.testing
import numpy as np
import oracle
import pytest

import fpes
from fpes import export
from fpes.cli.commands import cli as command
from fpes.cli.export import TARGETS

SIZES = (20, 24, 16, 7)
# Sums in another order, and products that keep digits which a subnormal hasn't: 2^-24 of the threshold's unit each.
TOLERANCE = 1e-5


def need(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} is not installed (pip install onnx onnxruntime torch)")


PACKAGES = {"onnx": ("onnx", "onnxruntime"), "torch": ("torch",), "npz": ()}
every_target = pytest.mark.parametrize("target", TARGETS)


def network(flush="boundary", sizes=SIZES, seed=0, scaling=2.0**125):
    """With biases on both sides of the threshold."""
    net = fpes.LinearNetwork(sizes, flush=flush, scaling=scaling)
    theta = net.init(seed)
    rng = np.random.default_rng(seed)
    for _, bias in net.unpack(theta):
        bias[...] = rng.uniform(-1, 1, bias.shape)
    return net, theta


def images(count, features, seed=1):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((count, features)) < 0.4, rng.random((count, features)), 0).astype(np.float32)


def exported(target, net, theta, x, folder):
    path = folder / f"network{TARGETS[target].suffix}"
    TARGETS[target].write(export.formula_of(net, theta), path)
    return TARGETS[target].run(path, x)


@every_target
@pytest.mark.parametrize("flush", ["boundary", "never"])
@pytest.mark.parametrize("sizes", [SIZES, (20, 7), (20, 8, 8, 8, 8, 7)], ids=str)
def test_every_class_is_the_same(target, flush, sizes, tmp_path):
    need(*PACKAGES[target])
    net, theta = network(flush, sizes)
    x = images(500, 20)
    ours, theirs = net(theta, x), exported(target, net, theta, x, tmp_path)
    assert theirs.shape == ours.shape
    assert theirs.dtype == np.float32
    assert abs(theirs - ours).max() < TOLERANCE
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
    np.testing.assert_array_equal(theirs == 0, ours == 0)
    if flush == "boundary":
        assert (ours == 0).any(), "a test of shrinking in which nothing is shrunk"


@every_target
def test_any_batch_will_do(target, tmp_path):
    need(*PACKAGES[target])
    net, theta = network()
    for count in (1, 2, 33):
        x = images(count, 20)
        assert abs(exported(target, net, theta, x, tmp_path) - net(theta, x)).max() < TOLERANCE


@every_target
def test_another_scaling_is_another_threshold(target, tmp_path):
    need(*PACKAGES[target])
    net, theta = network(scaling=2.0**124)
    x = images(300, 20)
    ours, theirs = net(theta, x), exported(target, net, theta, x, tmp_path)
    assert export.formula_of(net, theta).threshold == 0.25
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
    assert (ours != fpes.LinearNetwork(SIZES)(theta, x)).any()


@every_target
@pytest.mark.parametrize("value", [0.5, -0.5, 0.49999997, -0.49999997, 1.0])
def test_exactly_the_threshold_is_kept(target, value, tmp_path):
    """1-1-1 with weights 1: the first layer's sum, the second one's product and its sum are all the value itself."""
    need(*PACKAGES[target])
    net = fpes.LinearNetwork([1, 1, 1])
    theta = np.array([1, 0, 1, 0], np.float32)
    x = np.array([[value]], np.float32)
    want = net(theta, x)
    assert want[0, 0] == (np.float32(value) if abs(np.float32(value)) >= 0.5 else 0)
    np.testing.assert_array_equal(exported(target, net, theta, x, tmp_path), want)


@every_target
def test_a_bias_below_the_threshold_does_nothing_after_the_first_layer(target, tmp_path):
    need(*PACKAGES[target])
    net = fpes.LinearNetwork([1, 1, 1])
    theta = np.array([1, 0.25, 1, 0.375], np.float32)
    x = np.array([[1.0]], np.float32)
    np.testing.assert_array_equal(exported(target, net, theta, x, tmp_path), [[1.25]])
    oracle.assert_bitwise_equal(net(theta, x), np.array([[1.25]], np.float32))


def test_flushing_everywhere_has_no_counterpart():
    net, theta = network("always")
    with pytest.raises(ValueError, match=r'flush "always", expected "boundary" or "never"'):
        export.formula_of(net, theta)


def test_theta_is_checked():
    net, theta = network()
    for wrong, error, words in (
        (theta[:3], ValueError, rf"theta has shape \(3,\), expected \[{net.parameters}\]"),
        (theta.astype(np.float64), TypeError, "theta has dtype float64"),
        (np.full_like(theta, np.inf), ValueError, "theta has .* values that are NaN or infinite"),
    ):
        with pytest.raises(error, match=words):
            export.formula_of(net, wrong)


def test_the_archive_is_read_by_numpy_alone(tmp_path):
    net, theta = network()
    export.write_npz(export.formula_of(net, theta), tmp_path / "n.npz")
    with np.load(tmp_path / "n.npz") as archive:
        entries = dict(archive)
    layers = [f"{kind}_{layer}" for layer in (1, 2, 3) for kind in ("weight", "bias")]
    assert sorted(entries) == sorted(["threshold", "formula", *layers])
    for (weight, _), layer in zip(net.unpack(theta), (1, 2, 3), strict=True):
        oracle.assert_bitwise_equal(entries[f"weight_{layer}"], weight)
    oracle.assert_bitwise_equal(entries["bias_1"], net.unpack(theta)[0][1])
    later = entries["bias_2"]
    assert (abs(later[later != 0]) >= 0.5).all()
    assert (later == 0).any()


def test_missing_packages_are_named(monkeypatch):
    formula = export.formula_of(*network())
    for package, write in (("onnx", export.to_onnx), ("torch", export.to_torch)):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(ImportError, match=rf"needs .*{package}|needs PyTorch.*{package}"):
            write(formula)


class TestCommand:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        net = fpes.LinearNetwork([16, 12, 10])
        es = fpes.ES(net, net.init(0), size=64, sigma=0.05, learning_rate=0.05)
        es.fit(fpes.datasets.load("digits"), steps=3, batch=64)
        es.save(tmp_path / "checkpoint.npz")
        return tmp_path / "checkpoint.npz"

    def invoke(self, *arguments):
        return click.testing.CliRunner().invoke(command, ["export", *map(str, arguments)])

    @every_target
    def test_writes_a_file_and_checks_it(self, checkpoint, target, tmp_path):
        need(*PACKAGES[target])
        result = self.invoke(checkpoint, "--to", target)
        assert result.exit_code == 0, result.output
        data = fpes.datasets.load("digits")
        words = " ".join(result.output.split())
        assert result.stderr == ""
        assert f"{len(data.x_test):,} of {len(data.x_test):,} samples get the same class" in words
        assert "Checked on the test part of digits" in words
        path = tmp_path / f"network{TARGETS[target].suffix}"
        es = fpes.ES.load(checkpoint)
        theirs = TARGETS[target].run(path, data.x_test)
        np.testing.assert_array_equal(theirs.argmax(1), es.net(es.solution, data.x_test).argmax(1))

    def test_a_difference_is_an_exit_status(self, checkpoint, monkeypatch):
        broken = TARGETS["npz"].run
        monkeypatch.setitem(
            TARGETS, "npz", type(TARGETS["npz"])(".npz", export.write_npz, lambda path, x: -broken(path, x))
        )
        result = self.invoke(checkpoint, "--to", "npz")
        assert result.exit_code == 1
        assert "50 of 719 samples get the same class" in " ".join(result.output.split())

    def test_of_a_run_of_ones_own_it_is_checked_on_random_inputs(self, tmp_path):
        net = fpes.LinearNetwork([5, 4, 3])
        fpes.ES(net, net.init(0), size=4, sigma=0.1, learning_rate=0.1).save(tmp_path / "own.npz")
        result = self.invoke(tmp_path / "own.npz", "--to", "npz", "--output", tmp_path / "to" / "own.npz")
        assert result.exit_code == 0, result.output
        assert "Checked on random inputs: 2,000 of 2,000" in " ".join(result.output.split())
        assert (tmp_path / "to" / "own.npz").exists()

    def test_a_checkpoint_is_not_replaced(self, checkpoint):
        before = checkpoint.read_bytes()
        result = self.invoke(checkpoint, "--to", "npz", "--output", checkpoint)
        assert result.exit_code == 2
        assert "is the checkpoint itself" in result.output
        assert checkpoint.read_bytes() == before

    def test_what_is_no_checkpoint(self, tmp_path):
        (tmp_path / "x.npz").write_bytes(b"no")
        result = self.invoke(tmp_path / "x.npz", "--to", "npz")
        assert result.exit_code == 2
        assert "no checkpoint of fpes" in result.output
