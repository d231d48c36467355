"""What a benchmark ran on: its figures are those of this machine, and of no other."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fpes
from fpes.optimisers import weighted_sum

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 2**25
_PACKAGES = ("fpes", "numpy", "torch", "jax")


@cache
def machine() -> dict[str, Any]:
    """Processor, caches in bytes, clock in GHz, threads and instruction set in use, packages, commit of the sources."""
    import cpuinfo  # it comes with pytest-benchmark, and who only shows stored results needs neither

    found = cpuinfo.get_cpu_info()
    return {
        "processor": f"{found.get('brand_raw', 'unknown')}, family {found.get('family')}, model {found.get('model')}",
        "caches": caches(),
        "clock": found.get("hz_actual", (0, 0))[0] / 1e9,
        "threads": fpes.get_threads(),
        "isa": fpes.get_isa(),
        "compiler": fpes.build_config()["cpu"]["compiler"],
        "packages": {name: version(name) for name in _PACKAGES if find_spec(name) is not None},
        "commit": _commit(),
    }


def caches() -> dict[str, int]:
    """The bytes of the first core's caches for data, by name, as Linux knows them; elsewhere nothing."""
    found = {}
    for place in sorted(_CACHES.glob("index*")):
        level, kind, size = ((place / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = 1024 * int(size[:-1])
    return found


class Caches:
    """An array larger than all caches: once it is written, they hold nothing else."""

    def __init__(self) -> None:
        self._array = np.zeros(2 * max([*caches().values(), _UNKNOWN_CACHE]), np.uint8)

    def flush(self) -> None:
        """Put everything else out of the caches."""
        np.add(self._array, 1, out=self._array)


def bandwidth(seconds_of: Any) -> float:
    """Bytes a second of x <- a x + b y from memory, the triad of STREAM (McCalpin 1995): the best of a few.

    Args:
        seconds_of: times a call.
    """
    count = max([*caches().values(), _UNKNOWN_CACHE]) // 2  # numbers: each array is twice the caches
    x, y = (np.ones(count, np.float32) for _ in range(2))
    out = np.empty_like(x)
    seconds = min(seconds_of(lambda: weighted_sum(1.0, x, 0.5, y, out=out)) for _ in range(4))
    return 3.0 * out.nbytes / seconds


def _commit() -> str:
    """Of the sources that the package was built from, if it lies in them; with a + where they were changed."""
    folder = Path(fpes.__file__).parent.parent
    if not (folder / ".git").exists():
        return ""
    try:
        run = [
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=10)
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return run[0].stdout.strip() + ("+" if run[1].stdout else "")
