"""Several hosts, imitated: the same bits, though the link of one is cut in the middle of a run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
from distributed_run import train

FOLDER = Path(__file__).parent
UNSHARE = ["unshare", "--net", "--mount"]


def _why_not() -> str | None:
    if importlib.util.find_spec("distributed") is None:
        return 'Dask isn\'t there (pip install "fpes[dask]")'
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "there is no ip, or no unshare (apt install iproute2 util-linux)"
    made = subprocess.run([*UNSHARE, "ip", "link", "add", "bridge", "type", "bridge"], capture_output=True, check=False)
    return None if made.returncode == 0 else "this user can't make network namespaces with bridges"


def test_links_of_the_documentation_can_be_measured():
    reason = "there is no tc (apt install iproute2)" if shutil.which("tc") is None else _why_not()
    if reason is not None:
        pytest.skip(f"NOT TESTED: {reason}")
    script = FOLDER.parent / "benchmarks" / "links.py"
    command = [
        *UNSHARE,
        sys.executable,
        str(script),
        "--steps",
        "1",
        "--one",
        "1 Gbit/s",
        "1",
        "node of one layer, 512",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["sent"] > 0
    assert row["replayed"] > 0


def test_a_link_that_is_cut_changes_no_bit(tmp_path):
    reason = _why_not()
    if reason is not None:
        pytest.skip(f"NOT TESTED: {reason}")
    path = tmp_path / "theta.npy"
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    command = [*UNSHARE, sys.executable, str(FOLDER / "namespaces_run.py"), str(path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    hosts, cut, *noticed = run.stdout.splitlines()
    assert (hosts, cut) == ("['10.77.0.2', '10.77.0.3']", "cut")
    assert any("computed elsewhere" in line or "a worker was lost" in line for line in noticed)
    oracle.assert_bitwise_equal(np.load(path), train("full", 12).theta)
