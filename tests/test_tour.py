"""The tour: each script says what is true, and draws its picture in two themes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest

import fpes

EXAMPLES = Path(__file__).parent.parent / "examples"
STOPS = {
    "number_line": "number-line",
    "identities": "identities",
    "hard_shrink": "hard-shrink",
    "linear_again": "linear-again",
    "threshold": "threshold",
    "other_arithmetics": "other-arithmetics",
}


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    """Scripts find each other, as they do when they are run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def load(name):
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_the_tour_knows_its_stops():
    assert list(load("tour").STOPS) == list(STOPS)


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_prints_and_draws(stop, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", [f"{stop}.py", "--output", str(tmp_path)])
    script = load(stop)
    if hasattr(script, "train"):
        monkeypatch.setattr(script, "train", lambda train=script.train: train(2))
    script.main()
    pictures = [tmp_path / f"{STOPS[stop]}-{theme}.png" for theme in ("light", "dark")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert str(pictures[0]) in capsys.readouterr().out


def test_the_hole_has_as_many_numbers_as_there_are_subnormals():
    assert load("number_line").flushed_to_zero() == 2 * (2**23 - 1)


def test_what_the_number_line_shows_is_what_the_oracle_says():
    script = load("number_line")
    numbers = script.from_bits(np.arange(0, 2 * script.SMALLEST, script.SHOWN))
    for flush in oracle.FLUSH_MODES:
        want = oracle.widen(oracle.multiply(numbers, np.float32(1), flush=flush)) * 2.0**126
        np.testing.assert_array_equal(script.kept(numbers, flush), want)


def test_identities_hold_where_nothing_flushes_and_only_there():
    script = load("identities")
    found = {(identity.law, flush): identity.holds(flush) for identity in script.IDENTITIES for flush in script.MODES}
    assert all(found[identity.law, "never"] for identity in script.IDENTITIES)
    assert not any(found[identity.law, "always"] for identity in script.IDENTITIES)
    products = {law for law, flush in found if flush == "boundary" and found[law, flush]}
    assert products == {"[x] · [½] = x / 2", "[x x] · [½ ½] = x"}


def test_both_sides_of_the_associative_law():
    script = load("identities")
    (law,) = [identity for identity in script.IDENTITIES if identity.law.startswith("(a + b)")]
    assert law.sides("never") == (1.5, 1.5)
    assert law.sides("boundary") == law.sides("always") == (1.25, 1.5)
    assert "boundary: NO, 1.25 u for 1.5 u" in script.sentence(law)


def test_two_units_are_a_hard_shrink():
    script = load("hard_shrink")
    found = script.outputs(*script.two_units())
    x = script.X
    for flush, threshold in (("never", 0.0), ("boundary", 0.5), ("always", 1.0)):
        np.testing.assert_array_equal(found[flush] == 0, (abs(x) < threshold) | (x == 0))
        # Half of a number below 1 is subnormal, and has a bit less.
        np.testing.assert_allclose(found[flush], np.where(abs(x) >= threshold, x, 0), atol=2.0**-23)


def test_many_units_bend_the_line():
    script = load("hard_shrink")
    bent = {flush: script.distance_from_a_line(y) for flush, y in script.outputs(*script.many_units()).items()}
    assert bent["never"] < 1e-5
    assert min(bent["boundary"], bent["always"]) > 0.1


def test_the_network_is_dead_then_computes_then_is_linear():
    script = load("linear_again")
    dead, between, linear = (script.measure(gain) for gain in (2.0**-4, 1.0, 64.0))
    assert (dead.active, np.isnan(dead.unexplained)) == (0.0, True)
    assert between.unexplained > 0.1
    assert linear.unexplained < 1e-3
    assert linear.active > 0.98
    assert script.measure(1.0, flush="never").unexplained < 1e-5


def test_what_goes_into_the_units_decides_which_are_zero():
    script = load("threshold")
    net = fpes.LinearNetwork([2, 64, 64, 2])
    theta = net.init(0)
    x = script.spirals().x_test
    hidden = script.activations(net, theta, x)[:-1]
    for values, outputs in zip(script.preactivations(net, theta, x), hidden, strict=True):
        certain = abs(abs(values) - script.THRESHOLD) > 1e-6
        np.testing.assert_array_equal((outputs == 0)[certain], (abs(values) < script.THRESHOLD)[certain])
        assert 0.3 < script.flushed(values) < 0.8


def test_underflow_is_what_draws_the_spirals():
    script = load("other_arithmetics")
    net, theta = script.train()
    found = script.accuracies(script.arithmetics(net, theta))
    assert found["boundary, as trained"] > 0.98
    assert found["a hard shrink, no underflow"] == found["boundary, as trained"]
    assert found["never: IEEE 754"] == found["float64"] < 0.8


def test_other_libraries_differ_where_they_are_said_to(monkeypatch):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("NOT TESTED: PyTorch is not installed")
    script = load("other_libraries")
    net = fpes.LinearNetwork([16, 32, 32, 10])
    es = fpes.ES(net, net.init(0), size=32, sigma=0.05, learning_rate=0.02)
    found = {name: differing for name, _, differing in script.compare(es, fpes.datasets.load("digits"))}
    assert found["PyTorch, S(S(h W) + S(b))"] == 0
    assert found["PyTorch at 2^-125, off around products, 1 thread(s)"] == 0
    assert found["PyTorch at 2^-125, flush_denormal everywhere, 1 thread(s)"] > 100
