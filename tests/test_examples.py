"""The examples run, and come to what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import fpes

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_pendulum_gets_better(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pendulum.py", "--quick"])
    runpy.run_path(str(EXAMPLES / "pendulum.py"), run_name="__main__")
    *_, last, linear = capsys.readouterr().out.splitlines()
    before, after = float(last.split()[4]), float(last.split()[6])
    assert after > before + 2.0
    assert after > float(linear.split()[-1]) + 1.0  # the same weights without underflow


def test_pendulum_gives_each_member_its_own_states():
    pendulum = runpy.run_path(str(EXAMPLES / "pendulum.py"))
    net = fpes.LinearNetwork([3, 20, 1])
    population = fpes.Population(net, net.init(0), size=8, sigma=0.3, seed=1)
    states = np.random.default_rng(0).standard_normal((8, 8, 3)).astype(np.float32)
    outputs = pendulum["member_outputs"](population)(states)
    for member in range(8):
        np.testing.assert_array_equal(outputs[member], net(population.member(member), states[member]))


def test_surface_is_more_than_a_plane(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    surface = runpy.run_path(str(EXAMPLES / "surface.py"))
    data = surface["task"]()
    es = surface["train"](data, steps=250)
    assert surface["worth"](es, data, "boundary") > 0.7
    assert surface["worth"](es, data, "never") < 0.1
    assert es.records[-1].test == surface["worth"](es, data, "boundary")


def test_surface_is_drawn(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    surface = runpy.run_path(str(EXAMPLES / "surface.py"))
    data = surface["task"]()
    es = surface["train"](data, steps=1)
    drawn = surface["save_both"](lambda f, t: surface["draw"](f, t, es, data), (13, 5), tmp_path, "surface")
    assert [path.read_bytes()[:4] for path in drawn] == [b"\x89PNG"] * 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_say_how_to_run_them(path):
    assert f"python examples/{path.name}" in path.read_text().split('"""')[1]
