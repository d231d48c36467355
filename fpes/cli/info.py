"""`fpes info`."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from fpes import build_config

_ISAS = ("baseline", "avx2", "avx512", "avx512vnni")


def run(as_json: bool) -> int:
    """Print what this installation has and will use."""
    config = build_config()
    if as_json:
        print(json.dumps(config, indent=2))
        return 0
    table = Table(title=f"fpes {config['version']}", show_header=False)
    for isa in _ISAS:
        table.add_row(f"CPU {isa}", _isa_state(isa, config["cpu"]))
    table.add_row("threads", str(config["cpu"]["threads"]))
    for build, modes in (("ftz", "boundary, always"), ("ieee", "never")):
        table.add_row(f"CUDA {build}: flush {modes}", _cuda_state(build, config["cuda"]))
    table.add_row("GPUs", ", ".join(config["cuda"]["devices"]) or "none that can be used")
    table.add_row("CuPy", _package_state("cupy"))
    Console(markup=False).print(table)  # cells hold names with brackets
    return 0


def _isa_state(isa: str, cpu: dict[str, object]) -> str:
    if isa == cpu["isa"]:
        return "in use"
    isas = cpu["isas"]
    return "available" if isinstance(isas, list) and isa in isas else "absent: this CPU doesn't have it"


def _cuda_state(build: str, cuda: dict[str, Any]) -> str:
    if build in cuda["builds"]:
        return f"built by nvcc {cuda['compiler']} for {', '.join(cuda['architectures'])}"
    return f"absent: {cuda['reason']}"


def _package_state(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return "absent: not installed; only arrays on a GPU need it: pip install 'fpes[cuda]'"
    return "installed"
