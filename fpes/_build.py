"""What this installation is made of."""

from __future__ import annotations

from typing import Any

from fpes import _settings
from fpes._version import __version__


def build_config() -> dict[str, Any]:
    """Builds that are present and how they will run.

    Returns:
        version: str; cpu: {isas, isa, threads}; cuda: {built, reason}, the reason saying why where it isn't.
    """
    return {
        "version": __version__,
        "cpu": {
            "isas": _settings.supported_isas(),
            "isa": _settings.get_isa(),
            "threads": _settings.get_threads(),
        },
        "cuda": {
            "built": False,
            "reason": "this version of fpes has no CUDA kernels yet; the CPU backend gives the same bits",
        },
    }
