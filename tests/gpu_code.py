"""Reads the code inside the CUDA modules: PTX as text, machine code by NVIDIA's disassemblers."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pytest

from fpes._backends import cuda_modules

# A line of PTX: a predicate, the instruction with its modifiers, operands.
_PTX = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)[\s;]", re.ASCII)
_PTX_ENTRY = re.compile(r"\.(?:entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)")
# A line of SASS: its address, a predicate, the instruction, operands.
_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_SASS_FUNCTION = re.compile(r"Function : ([\w$]+)")


@dataclass
class Kernel:
    """One kernel: its mangled name, and its instructions with their modifiers, in order."""

    name: str
    instructions: list[str] = field(default_factory=list)

    def using(self, pattern: str) -> list[str]:
        """Instructions that match a regular expression from their beginning."""
        return [i for i in self.instructions if re.match(pattern, i)]


def disassembler() -> str | None:
    """cuobjdump, of the PATH or of PyPI's nvidia-cuda-cuobjdump."""
    namespace = importlib.util.find_spec("nvidia")
    folders = [] if namespace is None else [Path(p) / "cu13" / "bin" for p in namespace.submodule_search_locations]
    found = [str(folder / "cuobjdump") for folder in folders if (folder / "cuobjdump").exists()]
    return found[0] if found else shutil.which("cuobjdump")


def module_file(build: str) -> Path:
    """The shared library of a build; the test is skipped, and says so, where there is none."""
    spec = importlib.util.find_spec(cuda_modules.MODULES[build])
    if spec is None or spec.origin is None:
        pytest.skip(f"NOT INSPECTED: no CUDA build {build!r}: {cuda_modules.why_absent()}")
    if disassembler() is None:
        pytest.skip("NOT INSPECTED: cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")
    return Path(spec.origin)


@lru_cache
def ptx(file: Path) -> list[Kernel]:
    """Every kernel of every PTX in a shared library."""
    return _parsed(_dump("-ptx", file), _PTX_ENTRY, _PTX)


@lru_cache
def sass(file: Path) -> list[Kernel]:
    """Every kernel of every machine code in a shared library."""
    return _parsed(_dump("-sass", file), _SASS_FUNCTION, _SASS)


def _dump(option: str, file: Path) -> str:
    result = subprocess.run([str(disassembler()), option, str(file)], check=True, capture_output=True, text=True)
    return result.stdout


def _parsed(text: str, begin: re.Pattern, instruction: re.Pattern) -> list[Kernel]:
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if entry := begin.search(line):
            kernels.append(Kernel(entry[1]))
        elif kernels and (found := instruction.match(line)):
            kernels[-1].instructions.append(found[1])
    return kernels
