"""The package's types, from a user's side."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "typed_program.py"


def test_it_runs(tmp_path):
    subprocess.run([sys.executable, PROGRAM, tmp_path / "run.npz"], check=True, timeout=120, capture_output=True)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="NOT TESTED: mypy is not installed")
def test_mypy_strict_has_nothing_to_say(tmp_path):
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path), str(PROGRAM)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
