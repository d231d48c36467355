"""The code inside the installed CUDA modules, for tests; where it can't be read, a test is skipped and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpes._backends import cuda_modules
from fpes.study import machine_code
from fpes.study.machine_code import ptx, sass

__all__ = ["module_file", "ptx", "sass"]


def module_file(build: str) -> Path:
    """The shared library of a build; the test is skipped, and says so, where there is none."""
    file = machine_code.module_file(build)
    if file is None:
        pytest.skip(f"NOT INSPECTED: no CUDA build {build!r}: {cuda_modules.why_absent()}")
    if machine_code.disassembler() is None:
        pytest.skip(
            "NOT INSPECTED: cuobjdump is not installed (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)"
        )
    return file
