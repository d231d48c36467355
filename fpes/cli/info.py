"""`fpes info`."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from fpes import build_config

_ISAS = ("baseline", "avx2", "avx512", "avx512vnni")


def run(as_json: bool) -> int:
    """Print the builds of this installation and the settings in use."""
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
    table.add_row("GPUs", _gpu_state(config["cuda"]))
    table.add_row("CuPy", _package_state("cupy"))
    Console(markup=False).print(table)  # names in cells may contain brackets
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


def _gpu_state(cuda: dict[str, Any]) -> str:
    if cuda["devices"]:
        return ", ".join(cuda["devices"])
    return f"none that can be used: {_why_no_gpu() if cuda['built'] else 'there is no CUDA build'}"


def _why_no_gpu() -> str:
    """The reason why no GPU can be used, from the driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"there is no NVIDIA driver ({error})"
    count, text = ctypes.c_int(), ctypes.c_char_p()
    for status in (driver.cuInit(0), driver.cuDeviceGetCount(ctypes.byref(count))):
        if status:
            driver.cuGetErrorString(status, ctypes.byref(text))
            return f"the NVIDIA driver answers with error {status}: {(text.value or b'unknown').decode()}"
    return f"the NVIDIA driver has {count.value}, and the CUDA runtime of fpes can't use them: is the driver too old?"


def _package_state(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return "absent: not installed; only arrays on a GPU need it: pip install cupy-cuda13x"
    return "installed"
