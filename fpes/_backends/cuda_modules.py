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


def device_names() -> list[str]:
    """The GPUs that can be used now, in CUDA's order; none where there is no driver."""
    module = any_module()
    return [module.device_properties(index)["name"] for index in range(module.device_count())]


def module_for(flush: str) -> ModuleType:
    """The module that runs a flush mode.

    Raises:
        ImportError: it wasn't built, or doesn't load.
    """
    build = _BUILD_OF[flush]
    module = _module(build)
    if module is None:
        raise ImportError(
            f"flush={flush!r} on a GPU runs in the build {build!r}, which this installation of fpes lacks: "
            f"{why_absent()}"
        )
    return module


def any_module() -> ModuleType:
    """A module for what is the same in every build: noise, gradients of weights, questions about the machine.

    Raises:
        ImportError: none was built, or it doesn't load.
    """
    for build in MODULES:
        module = _module(build)
        if module is not None:
            return module
    raise ImportError(f"this installation of fpes has no CUDA build: {why_absent()}")


def _module(build: str) -> ModuleType | None:
    name = MODULES[build]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
