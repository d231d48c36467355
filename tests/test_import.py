"""`import fpes` where it can't work: from sources that nobody has built, or built for another Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fpes

PACKAGE = Path(fpes.__file__).parent
ROOT = Path(__file__).parents[1]


@pytest.fixture
def sources(tmp_path):
    """A folder with the sources of the package, and no C++ module."""
    shutil.copytree(PACKAGE, tmp_path / "fpes", ignore=shutil.ignore_patterns("*.so", "_build_info.py", "__pycache__"))
    return tmp_path


def start(folder, *arguments, path=()):
    """Python in a folder, without the installed fpes: NumPy and what `path` has."""
    numpy = Path(__import__("numpy").__file__).parents[1]
    script = f"import sys; sys.path[:0] = {[str(folder), *map(str, path), str(numpy)]!r}; "
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", script + arguments[0]],
        cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip


def refusal(run):
    """The last line of a traceback, which isn't Python's guess."""
    assert run.returncode == 1
    assert "circular import" not in run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith("ImportError: fpes ")
    return line


def test_sources_alone(sources):
    line = refusal(start(sources, "import fpes"))
    assert f"imported from {sources / 'fpes'}, where its C++ module isn't" in line
    assert "pip install" in line
    assert refusal(start(sources, "import fpes.cli")) == line


def test_a_checkout_says_how_to_build_there(sources):
    (sources / "csrc").mkdir()
    (sources / "CMakeLists.txt").touch()
    line = refusal(start(sources, "import fpes"))
    assert f"{sys.executable} -m pip install --editable {sources}" in line
    assert "`make run`" in line


def test_sources_that_hide_an_installed_package(sources):
    installed = sources / "site-packages"
    (installed / "fpes").mkdir(parents=True)
    (installed / "fpes" / f"_cpu{EXTENSION_SUFFIXES[0]}").touch()
    line = refusal(start(sources, "import fpes", path=[installed]))
    assert f"They hide the one installed in {installed / 'fpes'}: start Python in another folder" in line


def test_another_pythons_module(sources):
    (sources / "fpes" / "_cpu.cpython-39-x86_64-linux-gnu.so").touch()
    line = refusal(start(sources, "import fpes"))
    assert "was built for another Python: its C++ module is _cpu.cpython-39-x86_64-linux-gnu.so" in line


def test_a_module_that_can_not_be_loaded(sources):
    (sources / "fpes" / f"_cpu{EXTENSION_SUFFIXES[0]}").write_bytes(b"half a file")
    assert "can't load its C++ module: " in refusal(start(sources, "import fpes"))


def test_in_the_checkouts_folder_the_installed_package_is_found_or_named(sources):
    """What README's first screen says to do there."""
    for arguments in (["-c", "import fpes"], ["-m", "fpes", "--version"]):
        run = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0 or refusal(run)


def test_benchmarks_are_found_wherever_it_is_installed():
    run = subprocess.run(
        [sys.executable, "-m", "fpes", "bench", "--list"], cwd="/", capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "test_gradient" in run.stdout
