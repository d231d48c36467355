"""What the build says of CUDA: whether it is there, and if not why."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fpes
from fpes._backends import cuda_modules

ROOT = Path(__file__).parents[1]
# The part of CMakeLists.txt that decides, up to where it would need a project.
SCRIPT = """
cmake_minimum_required(VERSION 3.22)
set(CMAKE_BINARY_DIR "{folder}")
set(Python_EXECUTABLE "{python}")
set(FPES_CUDA {wanted})
set(FPES_CUDA_BUILDS {builds})
include("{root}/cmake/cuda.cmake")
configure_file("{root}/cmake/_build_info.py.in" "{folder}/_build_info.py" @ONLY)
"""


def configure(folder: Path, wanted: str, compiler: str | None = None, builds: str = "ftz ieee"):
    """Run it, with a CUDA compiler that is a shell script, and return the process."""
    if shutil.which("cmake") is None:
        pytest.skip("NOT TESTED: cmake is not installed")
    script = folder / "decide.cmake"
    script.write_text(SCRIPT.format(folder=folder, python=sys.executable, wanted=wanted, builds=builds, root=ROOT))
    environment = {"PATH": "/usr/bin:/bin", "CUDACXX": str(folder / "nvcc")}
    if compiler is not None:
        (folder / "nvcc").write_text(f"#!/bin/sh\n{compiler}\n")
        (folder / "nvcc").chmod(0o755)
    command = [shutil.which("cmake"), "-P", str(script)]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


def build_info(folder: Path) -> dict:
    namespace: dict = {}
    exec((folder / "_build_info.py").read_text(), namespace)
    return namespace


BROKEN = 'echo "ld: can\'t find -lcudart_static in \\"lib64\\"" >&2; exit 1'


def test_a_compiler_that_cannot_link_is_named_with_its_words(tmp_path):
    result = configure(tmp_path, "AUTO", BROKEN)
    assert result.returncode == 0, result.stderr
    assert "fpes: no CUDA modules" in result.stdout
    info = build_info(tmp_path)
    assert info["CUDA_BUILDS"] == []
    assert f"{tmp_path}/nvcc can't build a program" in info["CUDA_REASON"]
    assert 'can\'t find -lcudart_static in "lib64"' in info["CUDA_REASON"]


def test_on_insists(tmp_path):
    result = configure(tmp_path, "ON", BROKEN)
    assert result.returncode != 0
    assert "FPES_CUDA=ON, but" in result.stderr
    assert "lcudart_static" in result.stderr


def test_off_needs_no_compiler(tmp_path):
    assert configure(tmp_path, "OFF", "exit 1").returncode == 0
    assert build_info(tmp_path)["CUDA_REASON"] == "it was built with FPES_CUDA=OFF"


def test_a_compiler_that_is_not_there(tmp_path):
    assert configure(tmp_path, "AUTO").returncode == 0
    assert "nvcc can't build a program: " in build_info(tmp_path)["CUDA_REASON"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"wanted": "MAYBE"}, "FPES_CUDA is 'MAYBE'"),
        ({"wanted": "ON", "builds": "ftz fast"}, "FPES_CUDA_BUILDS has 'fast'"),
    ],
)
def test_unknown_settings_are_refused(tmp_path, arguments, words):
    result = configure(tmp_path, **arguments)
    assert result.returncode != 0
    assert words in result.stderr


def test_build_config_agrees_with_what_is_there():
    cuda = fpes.build_config()["cuda"]
    assert cuda["builds"] == cuda_modules.builds()
    assert cuda["built"] == bool(cuda["builds"])
    assert (cuda["reason"] == "") == (sorted(cuda["builds"]) == ["ftz", "ieee"])
    assert bool(cuda["compiler"]) == bool(cuda["architectures"]) == cuda["built"]


@pytest.mark.parametrize("build", ["ftz", "ieee"])
def test_a_build_knows_what_it_is(build):
    if build not in cuda_modules.builds():
        pytest.skip(f"NOT TESTED: {cuda_modules.why_absent()}")
    module = importlib.import_module(f"fpes._cuda_{build}")
    assert module.ftz() == (build == "ftz")
    assert module.architectures().split() == fpes.build_config()["cuda"]["architectures"]
    assert module.device_count() >= 0  # no exception where there is no driver
