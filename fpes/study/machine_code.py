"""Reads the code in the CUDA modules: PTX as text, and machine code (SASS) with NVIDIA's disassemblers.

This needs no GPU. cuobjdump and nvdisasm come with the CUDA toolkit, or from PyPI: nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from fpes._backends import cuda_modules

# A line of PTX: a predicate, the instruction with its modifiers, operands.
_PTX = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)[\s;]", re.ASCII)
_PTX_ENTRY = re.compile(r"\.(?:entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)")
# A line of SASS: its address, a predicate, the instruction, operands; then its encoding.
_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_SASS_TEXT = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
# The higher half of the encoding has its own line. It contains the cycles to wait before the next instruction.
_SASS_REST = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
_STALL_SHIFT, _STALL_MASK = 41, 0xF
_SASS_FUNCTION = re.compile(r"Function : ([\w$]+)")
_ARCHITECTURE = re.compile(r"^arch = (\w+)")
_RESOURCES_OF = re.compile(r"^\s*Function ([\w$]+):")
_RESOURCE = re.compile(r"\b(REG|STACK|SHARED|LOCAL):(\d+)")
_QUALIFIER = re.compile(r"(?:\b\w+|\(anonymous namespace\))::")


@dataclass
class Kernel:
    """One kernel of one architecture.

    Args:
        name: its mangled name.
        architecture: such as "sm_90".
        instructions: the instructions with their modifiers, in order, such as "FFMA.FTZ".
        lines: for machine code, the instructions with predicates and operands; for PTX empty.
        addresses: for machine code, the address of each instruction, as in branches.
        stalls: for machine code, the minimum number of cycles that a warp waits after each instruction.
    """

    name: str
    architecture: str = ""
    instructions: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)

    def using(self, pattern: str) -> list[str]:
        """Instructions whose start matches a regular expression."""
        return [i for i in self.instructions if re.match(pattern, i)]


@dataclass(frozen=True)
class Resources:
    """The resources of a kernel.

    Args:
        registers: registers of a thread.
        shared: bytes of a block's shared memory that are fixed at compile time. A launch may add more.
        stack: bytes of a thread's stack.
        local: bytes of a thread's local memory.
    """

    registers: int
    shared: int
    stack: int
    local: int


def disassembler() -> str | None:
    """Path of cuobjdump, from PyPI's nvidia-cuda-cuobjdump or from PATH; None if it isn't installed."""
    namespace = importlib.util.find_spec("nvidia")
    places = (namespace.submodule_search_locations if namespace is not None else None) or []
    folders = [Path(place) / "cu13" / "bin" for place in places]
    found = [str(folder / "cuobjdump") for folder in folders if (folder / "cuobjdump").exists()]
    return found[0] if found else shutil.which("cuobjdump")


def module_file(build: str) -> Path | None:
    """The shared library of a build, "ftz" or "ieee"; None if it isn't installed."""
    spec = importlib.util.find_spec(cuda_modules.MODULES[build])
    return None if spec is None or spec.origin is None else Path(spec.origin)


@lru_cache
def ptx(file: Path) -> list[Kernel]:
    """All kernels in the PTX of a library or object file.

    Raises:
        FileNotFoundError: cuobjdump isn't installed.
        subprocess.CalledProcessError: cuobjdump can't read the file.
    """
    return _parsed(_dump("-ptx", file), _PTX_ENTRY, _PTX)


@lru_cache
def sass(file: Path) -> list[Kernel]:
    """All kernels in the machine code of a library or object file. Raises what `ptx` raises."""
    return _parsed(_dump("-sass", file), _SASS_FUNCTION, _SASS, _SASS_TEXT)


@lru_cache
def resources(file: Path) -> dict[tuple[str, str], Resources]:
    """Resources of the kernels of a file, by (architecture, mangled name). Raises what `ptx` raises."""
    found: dict[tuple[str, str], Resources] = {}
    architecture = name = ""
    for line in _dump("-res-usage", file).splitlines():
        if match := _ARCHITECTURE.match(line):
            architecture = match[1]
        elif match := _RESOURCES_OF.match(line):
            name = match[1]
        elif name and (numbers := dict(_RESOURCE.findall(line))):
            found[architecture, name] = Resources(
                *(int(numbers.get(key, 0)) for key in ("REG", "SHARED", "STACK", "LOCAL"))
            )
            name = ""
    return found


def readable(mangled: str) -> str:
    """A kernel's name as in its source, without namespaces and parameters: "gemm_kernel<Tile<2, 2>, Ieee, 4>"."""
    name = _demangled(mangled)
    name = _QUALIFIER.sub("", name.removeprefix("void "))
    return _without_parameters(name)


def _demangled(mangled: str) -> str:
    """The demangled name, by the C++ library, as c++filt does it. Without the library, the name itself."""
    demangle = _demangler()
    if demangle is None:
        return mangled
    status = ctypes.c_int(-1)
    address = demangle(mangled.encode(), None, None, ctypes.byref(status))
    if status.value != 0 or not address:
        return mangled
    try:
        return ctypes.string_at(address).decode()
    finally:
        _free()(address)


@lru_cache
def _demangler() -> Any:
    library = ctypes.util.find_library("stdc++") or "libstdc++.so.6"
    try:
        function = ctypes.CDLL(library).__cxa_demangle
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    return function


@lru_cache
def _free() -> Any:
    function = ctypes.CDLL(None).free
    function.argtypes = [ctypes.c_void_p]
    function.restype = None
    return function


def _without_parameters(name: str) -> str:
    """The name without its list of parameters, which starts at the first parenthesis outside angle brackets."""
    depth = 0
    for i, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:i]
    return name


def _dump(option: str, file: Path) -> str:
    tool = disassembler()
    if tool is None:
        raise FileNotFoundError("cuobjdump is not installed: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return subprocess.run([tool, option, str(file)], check=True, capture_output=True, text=True).stdout


def _parsed(
    text: str, begin: re.Pattern[str], instruction: re.Pattern[str], whole: re.Pattern[str] | None = None
) -> list[Kernel]:
    kernels: list[Kernel] = []
    architecture = ""
    inside = False
    for line in text.splitlines():
        if entry := _ARCHITECTURE.match(line):
            architecture, inside = entry[1], False
        elif entry := begin.search(line):
            kernels.append(Kernel(entry[1], architecture))
            inside = True
        elif inside and (found := instruction.match(line)):
            kernels[-1].instructions.append(found[1])
            if whole is not None and (full := whole.match(line)):
                kernels[-1].addresses.append(int(full[1], 16))
                kernels[-1].lines.append(re.sub(r"\s+", " ", full[2]))
        elif inside and whole is not None and (rest := _SASS_REST.match(line)):
            kernels[-1].stalls.append(int(rest[1], 16) >> _STALL_SHIFT & _STALL_MASK)
    return kernels
