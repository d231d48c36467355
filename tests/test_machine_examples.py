"""The examples of several processes run, and come to the theta of one."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import fpes

EXAMPLES = Path(__file__).parent.parent / "examples" / "machines"
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
HOW = {
    "processes.py": (None, [], ["2"]),
    "ranks.py": ("mpi4py", [str(MPIEXEC), "-n", "2"], []),
    "dask_cluster.py": ("distributed", [], []),
    "ray_actors.py": ("ray", [], ["2"]),
}


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needed(package: str | None) -> None:
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"NOT TESTED: {package} isn't installed")
    if package == "mpi4py" and MPIEXEC is None:
        pytest.skip("NOT TESTED: there is no mpiexec")


@pytest.mark.parametrize("name", HOW)
def test_an_example_comes_to_the_theta_of_one_process(name):
    package, launcher, arguments = HOW[name]
    needed(package)
    net = fpes.LinearNetwork([16, 64, 64, 10])
    es = fpes.ES(net, net.init(seed=0), size=256, sigma=0.05, learning_rate=0.02)
    es.fit(fpes.datasets.load("digits"), steps=20, batch=64)
    said = run([*launcher, sys.executable, str(EXAMPLES / name), *arguments])
    assert said.splitlines()[-1] == f"theta {zlib.crc32(es.theta.data):08x}"


def test_the_figures_of_the_documentation_can_be_measured():
    command = [sys.executable, str(EXAMPLES.parent.parent / "benchmarks" / "sharing.py"), "--only", "node of one layer"]
    row = json.loads(run([*command, "--steps", "1"]))
    assert all(row[name] > 0 for name in ("generation", "evaluate", "gradient", "1 worker", "2 workers")), row
    weight = json.loads(run([*command, "--bytes"]))
    theta = 4 * fpes.LinearNetwork((784, 512, 512, 10)).parameters
    assert 2 * theta < weight["sent"] < 2.1 * theta  # two workers
    assert 0 < weight["replayed"] < 0.2 * theta
    assert 0 < weight["received"] < 0.1 * theta


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == set(HOW)


@pytest.mark.skipif(shutil.which("bash") is None, reason="NOT TESTED: there is no bash")
def test_the_slurm_script_starts_a_run_and_goes_on_with_it(tmp_path):
    """Without Slurm: what srun would start is a command that writes down its words."""
    fpes_command = tmp_path / "fpes"
    fpes_command.write_text('#!/bin/bash\necho "$@" >> "$(dirname "$0")/words"\n')
    fpes_command.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "LAUNCH": "env"}
    command = ["bash", str(EXAMPLES / "slurm.sh"), "mnist-es", str(tmp_path / "run")]
    run(command, **environment)
    (tmp_path / "run" / "seed-0").mkdir(parents=True)
    (tmp_path / "run" / "seed-0" / "checkpoint.npz").touch()
    run(command, **environment)
    first, second = (tmp_path / "words").read_text().splitlines()
    assert first == f"train --preset mnist-es --output {tmp_path / 'run'} --quiet"
    assert second == f"{first} --resume"
