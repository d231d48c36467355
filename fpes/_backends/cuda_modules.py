"""The CUDA builds: which of them are there, which one a flush mode runs in, and why one is missing.

The same sources are compiled twice, with -ftz=true and with -ftz=false: the flag belongs to a compilation, not to a
call.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from fpes import _build_info

MODULES = {"ftz": "fpes._cuda_ftz", "ieee": "fpes._cuda_ieee"}
_BUILD_OF = {"never": "ieee", "boundary": "ftz", "always": "ftz"}


def builds() -> list[str]:
    """Builds that are installed: "ftz", "ieee"."""
    return [build for build, module in MODULES.items() if importlib.util.find_spec(module) is not None]


def why_absent() -> str:
    """Why no build, or not every one, is there."""
    if _build_info.CUDA_REASON:
        return _build_info.CUDA_REASON
    return f"FPES_CUDA_BUILDS was {';'.join(_build_info.CUDA_BUILDS)!r} when it was built"


def module_for(flush: str) -> ModuleType:
    """The module that runs a flush mode.

    Raises:
        ImportError: it wasn't built.
    """
    build = _BUILD_OF[flush]
    if build not in builds():
        raise ImportError(
            f"flush={flush!r} on a GPU runs in the build {build!r}, which this installation of fpes lacks: "
            f"{why_absent()}"
        )
    return importlib.import_module(MODULES[build])


def any_module() -> ModuleType:
    """A module for what is the same in every build: noise, gradients of weights, questions about the machine.

    Raises:
        ImportError: none was built.
    """
    present = builds()
    if not present:
        raise ImportError(f"this installation of fpes has no CUDA build: {why_absent()}")
    return importlib.import_module(MODULES[present[0]])
