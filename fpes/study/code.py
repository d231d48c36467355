"""The effect of -ftz=true on the machine code of the CUDA kernels, kernel by kernel.

Both builds come from the same sources. "never" runs in the build `ieee`; "boundary" and "always" run in the build
`ftz`. A kernel whose product differs between "boundary" and "always" exists twice in the ftz build: as `Ieee`, whose
multiply-adds keep subnormals, and as `Plain`, whose multiply-adds flush.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fpes._backends import cuda_modules
from fpes.study import machine_code
from fpes.study.machine_code import Kernel, Resources, readable

_SHOWN_LINES = 6
_FLUSHES = re.compile(r"\.FTZ\b")


@dataclass(frozen=True)
class Listing:
    """Counts of one kernel in one build.

    Args:
        instructions: instructions of machine code.
        multiply_adds: FFMA instructions, which keep subnormals.
        flushing_multiply_adds: FFMA.FTZ instructions.
        flushing: all instructions with .FTZ.
        registers: registers of a thread.
        shared: bytes of shared memory that are fixed at compile time.
        spills: loads from and stores to local memory.
        ptx_instructions: instructions of PTX; 0 if the file holds no PTX of this kernel.
        ptx_flushing: PTX instructions with .ftz.
    """

    instructions: int
    multiply_adds: int
    flushing_multiply_adds: int
    flushing: int
    registers: int
    shared: int
    spills: int
    ptx_instructions: int
    ptx_flushing: int


@dataclass(frozen=True)
class KernelComparison:
    """One kernel of the ftz build beside its counterpart in the ieee build.

    Args:
        kernel: its name, without namespaces.
        architecture: such as "sm_90".
        modes: the flush modes that use it in the ftz build.
        ftz: counts in the ftz build.
        ieee: counts in the ieee build.
        different: number of lines of machine code that differ; None if the two listings have different lengths.
        only_by_ftz: number of lines that differ only by the modifier .FTZ; None in the same case.
        first: the first lines that differ: (number, ftz, ieee).
    """

    kernel: str
    architecture: str
    modes: str
    ftz: Listing
    ieee: Listing
    different: int | None
    only_by_ftz: int | None
    first: list[tuple[int, str, str]]


def study(only: str | None = None) -> dict[str, Any]:
    """Compare the installed builds.

    Args:
        only: a word that the names of the kernels must contain.

    Returns:
        {"kernels": [...], "unmatched": [...], "reason": ""}. If nothing can be compared, the reason says why.
    """
    reason = _why_unreadable()
    if reason:
        return {"kernels": [], "unmatched": [], "reason": reason}
    files = {build: machine_code.module_file(build) for build in cuda_modules.MODULES}
    assert files["ftz"] is not None
    assert files["ieee"] is not None
    return compare_files([files["ftz"]], [files["ieee"]], only)


def compare_files(ftz: list[Path], ieee: list[Path], only: str | None = None) -> dict[str, Any]:
    """Compare the kernels of two sets of library or object files; see `study`."""
    of_ieee = {(kernel.architecture, _key(kernel)): (kernel, file) for file in ieee for kernel in _kernels(file)}
    comparisons, unmatched = [], []
    for file in ftz:
        for kernel in _kernels(file):
            name = readable(kernel.name)
            if only is not None and only not in name:
                continue
            found = of_ieee.get((kernel.architecture, _key(kernel)))
            if found is None:
                unmatched.append(name)
            else:
                comparisons.append(_compared(name, kernel, file, *found))
    comparisons.sort(key=lambda comparison: (comparison.kernel, comparison.architecture))
    return {"kernels": [asdict(comparison) for comparison in comparisons], "unmatched": unmatched, "reason": ""}


def _why_unreadable() -> str:
    missing = [build for build in cuda_modules.MODULES if machine_code.module_file(build) is None]
    if missing:
        builds = " and ".join(repr(build) for build in missing)
        return f"this installation lacks the CUDA build {builds}: {cuda_modules.why_absent()}"
    if machine_code.disassembler() is None:
        return "cuobjdump is not installed: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    return ""


def _kernels(file: Path) -> list[Kernel]:
    return machine_code.sass(file)


def _key(kernel: Kernel) -> str:
    """A key that a kernel shares with its counterpart in the other build."""
    return re.sub(r"\bPlain\b", "Ieee", readable(kernel.name))


def _modes(name: str) -> str:
    if re.search(r"\bPlain\b", name):
        return "always"
    return "boundary" if re.search(r"\bIeee\b", name) else "boundary, always"


def _compared(name: str, ftz: Kernel, ftz_file: Path, ieee: Kernel, ieee_file: Path) -> KernelComparison:
    differing = [
        (number, left, right)
        for number, (left, right) in enumerate(zip_longest(ftz.lines, ieee.lines, fillvalue=""))
        if left != right
    ]
    same_length = len(ftz.lines) == len(ieee.lines)
    return KernelComparison(
        kernel=name,
        architecture=ftz.architecture,
        modes=_modes(name),
        ftz=_listing(ftz, ftz_file),
        ieee=_listing(ieee, ieee_file),
        different=len(differing) if same_length else None,
        only_by_ftz=sum(_FLUSHES.sub("", a) == _FLUSHES.sub("", b) for _, a, b in differing) if same_length else None,
        first=differing[:_SHOWN_LINES],
    )


def _listing(kernel: Kernel, file: Path) -> Listing:
    occupied = machine_code.resources(file).get((kernel.architecture, kernel.name), Resources(0, 0, 0, 0))
    intermediate = next((k for k in machine_code.ptx(file) if k.name == kernel.name), Kernel(kernel.name))
    multiply_adds = kernel.using(r"FFMA\b")
    flushing = [i for i in multiply_adds if _FLUSHES.search(i)]
    return Listing(
        instructions=len(kernel.instructions),
        multiply_adds=len(multiply_adds) - len(flushing),
        flushing_multiply_adds=len(flushing),
        flushing=sum(bool(_FLUSHES.search(i)) for i in kernel.instructions),
        registers=occupied.registers,
        shared=occupied.shared,
        spills=len(kernel.using(r"(STL|LDL)\b")),
        ptx_instructions=len(intermediate.instructions),
        ptx_flushing=len(intermediate.using(r".*\.ftz")),
    )
