"""Loads the C++ module before everything else. A failure raises an ImportError with the reason and the remedy.

Python's own message ("partially initialized module", "most likely due to a circular import") names a wrong cause.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_HERE = Path(__file__).parent


def _load() -> None:
    try:
        importlib.import_module("fpes._cpu")
    except ImportError as error:
        raise ImportError(_why(error), name="fpes._cpu", path=str(_HERE)) from None


def _why(error: ImportError) -> str:
    if _module_in(_HERE) is not None:
        return f"fpes can't load its C++ module: {error}. {_how_to_install()}"
    others = sorted(path.name for path in _HERE.glob("_cpu*") if path.suffix in (".so", ".pyd"))
    if others:
        return (
            f"fpes in {_HERE} was built for another Python: its C++ module is {', '.join(others)}, and this Python "
            f"expects _cpu{EXTENSION_SUFFIXES[0]}. {_how_to_install()}"
        )
    return (
        f"fpes was imported from {_HERE}, where its C++ module isn't: these are sources, not an installed package. "
        f"{_hidden()}{_how_to_install()}"
    )


def _module_in(folder: Path) -> Path | None:
    """The name of the module's file for this Python."""
    return next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_cpu{suffix}").exists()), None)


def _hidden() -> str:
    """Whether these sources hide an installed fpes, because they come first on the path."""
    for entry in sys.path:
        folder = Path(entry or ".").resolve() / "fpes"
        if folder != _HERE.resolve() and _module_in(folder) is not None:
            return f"They hide the one installed in {folder}: start Python in another folder to use that. "
    return ""


def _how_to_install() -> str:
    root, pip = _HERE.parent, f"{sys.executable} -m pip install"
    if (root / "CMakeLists.txt").exists() and (root / "csrc").is_dir():
        return f"To build it there: {pip} --editable {root} (or `make run`, which does so in {root / '.venv'})"
    return f"To build it: {pip} --force-reinstall FOLDER, where FOLDER is the one with fpes's pyproject.toml"


_load()
