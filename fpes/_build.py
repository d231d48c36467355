"""The builds of this installation."""

from __future__ import annotations

from typing import Any

from fpes import _build_info, _settings
from fpes._backends import cuda_modules
from fpes._version import __version__


def build_config() -> dict[str, Any]:
    """The builds of this installation, and how they run.

    Returns:
        version: str.
        cpu: {isas, isa, threads, compiler}; the compiler with its flags.
        cuda: {built, builds, reason, compiler, architectures, devices}: whether there is a CUDA build; its names
        ("ftz" runs flush "boundary" and "always", "ieee" runs "never"); why one is missing, "" if none is; the version
        of nvcc; the architectures, with the names of CMake; the names of the usable GPUs.
    """
    return {
        "version": __version__,
        "cpu": {
            "isas": _settings.supported_isas(),
            "isa": _settings.get_isa(),
            "threads": _settings.get_threads(),
            "compiler": _build_info.CPU_COMPILER,
        },
        "cuda": _cuda(),
    }


def _cuda() -> dict[str, Any]:
    builds = cuda_modules.builds()
    return {
        "built": bool(builds),
        "builds": builds,
        "reason": "" if len(builds) == len(cuda_modules.MODULES) else cuda_modules.why_absent(),
        "compiler": _build_info.CUDA_COMPILER,
        "architectures": list(_build_info.CUDA_ARCHITECTURES),
        "devices": cuda_modules.device_names() if builds else [],
    }
