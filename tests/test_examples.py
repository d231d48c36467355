"""The examples run, and come to what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import fpes

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_swing_up_gets_better(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["swing_up.py", "--quick"])
    runpy.run_path(str(EXAMPLES / "swing_up.py"), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1].split()
    before, after = float(last[5]), float(last[7])
    assert after > before + 0.1


def test_swing_up_gives_each_member_its_own_states():
    swing_up = runpy.run_path(str(EXAMPLES / "swing_up.py"))
    net = fpes.LinearNetwork([6, 20, 1])
    population = fpes.Population(net, net.init(0), size=8, sigma=0.3, seed=1)
    states = np.random.default_rng(0).standard_normal((8, 4, 6)).astype(np.float32)
    outputs = swing_up["member_outputs"](population)(states)
    for member in range(8):
        np.testing.assert_array_equal(outputs[member], net(population.member(member), states[member]))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_say_how_to_run_them(path):
    assert f"python examples/{path.name}" in path.read_text().split('"""')[1]
