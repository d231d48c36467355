"""Where a call runs: one backend for each device, chosen by the arrays of the call.

CuPy is imported only when an array on a GPU, or a device named "cuda", is seen.
"""

from __future__ import annotations

from typing import Any

from fpes._backends.base import Backend
from fpes._backends.cpu import CpuBackend
from fpes._backends.cuda_arrays import gpu_of
from fpes._backends.description import (
    Array,
    NetworkCall,
    PerturbationSpec,
    PopulationCall,
    Targets,
    UnitCall,
    UnitState,
)
from fpes._backends.minibatch import Minibatch

__all__ = [
    "CPU",
    "Array",
    "Backend",
    "Minibatch",
    "NetworkCall",
    "PerturbationSpec",
    "PopulationCall",
    "Targets",
    "UnitCall",
    "UnitState",
    "backend_named",
    "backend_of",
]

CPU = CpuBackend()


def backend_of(**arrays: Any) -> Backend:
    """The backend of the device on which all of these arguments lie.

    What isn't on a GPU counts as on the CPU, whose backend says what is wrong with it if it is no array.

    Raises:
        ValueError: they lie on different devices.
        ImportError: they lie on a GPU, and CuPy or the CUDA build is missing.
        RuntimeError: the GPU can't be used.
    """
    gpus = {name: gpu for name, value in arrays.items() if (gpu := gpu_of(value)) is not None}
    if not gpus:
        return CPU
    devices = {name: f"cuda:{gpus[name]}" if name in gpus else "the CPU" for name in arrays}
    if len(set(devices.values())) > 1:
        raise ValueError(_mixed(devices))
    from fpes._backends.cuda import cuda_backend

    return cuda_backend(next(iter(gpus.values())))


def backend_named(device: str) -> Backend:
    """The backend of "cpu", "cuda" (the current CUDA device) or "cuda:1".

    Raises:
        TypeError: no string.
        ValueError: another name, or a device that this machine doesn't have.
        ImportError, RuntimeError: as for backend_of.
    """
    if not isinstance(device, str):
        raise TypeError(f"device is {device!r}, expected a string such as 'cpu', 'cuda' or 'cuda:1'")
    if device == "cpu":
        return CPU
    kind, colon, index = device.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise ValueError(f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:' and a number")
    from fpes._backends.cuda import cuda_backend

    return cuda_backend(int(index) if colon else None)


def _mixed(devices: dict[str, str]) -> str:
    first, *rest = devices
    other = next(name for name in rest if devices[name] != devices[first])
    return (
        f"{first} is on {devices[first]} and {other} on {devices[other]}, expected all arrays on one device: move one "
        "of them, with cupy.asarray() or cupy.asnumpy() for instance"
    )
