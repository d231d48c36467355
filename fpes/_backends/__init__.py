"""Backends: one for each device. The arrays of a call choose its backend.

CuPy is imported only for an array on a GPU or a device named "cuda".
"""

from __future__ import annotations

from typing import Any

from fpes._backends.base import Backend
from fpes._backends.cpu import CpuBackend
from fpes._backends.cuda_arrays import gpu_of
from fpes._backends.cuda_streams import Moments
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
    "Moments",
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
    """The backend of the device that holds all of these arguments.

    Anything that isn't on a GPU belongs to the CPU. The CPU's backend raises the error if it isn't an array.

    Raises:
        ValueError: they are on different devices.
        ImportError: they are on a GPU, and CuPy or the CUDA build is missing.
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
        TypeError: the name isn't a string.
        ValueError: an unknown name, or a device that this machine doesn't have.
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
