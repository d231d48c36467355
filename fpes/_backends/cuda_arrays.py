"""Arrays on GPUs, whoever made them, as CuPy arrays: no copy, no waiting, and the maker's stream respected."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fpes._backends.description import Array

# DLDeviceType of DLPack: memory of a CUDA device, and CUDA's managed memory.
_DLPACK_CUDA = (2, 13)


def import_cupy() -> Any:
    """CuPy, imported now if it wasn't yet.

    Raises:
        ImportError: it is missing or broken.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            f"arrays on a GPU need CuPy, which can't be imported ({error}): pip install cupy-cuda13x"
        ) from error
    return cupy


def gpu_of(value: Any) -> int | None:
    """The number of the CUDA device that holds an array, or None if it isn't on one."""
    if isinstance(value, np.ndarray):
        return None
    if _is_cupy_array(value):
        return int(value.device.id)
    if hasattr(value, "__dlpack_device__"):
        kind, index = value.__dlpack_device__()
        return int(index) if kind in _DLPACK_CUDA else None
    if hasattr(value, "__cuda_array_interface__"):
        address = value.__cuda_array_interface__["data"][0]
        return int(import_cupy().cuda.runtime.pointerGetAttributes(address).device)
    return None


def as_cupy(name: str, value: Any) -> Array:
    """A CuPy array over the same memory, ordered after the work that its maker has begun.

    DLPack is asked first, for there the maker orders its work before CuPy's current stream by itself. Of
    __cuda_array_interface__ the stream, where it names one, is waited for on the device.

    Raises:
        TypeError: it can't be shared: it needs gradients, has a mask or another type than CuPy's.
    """
    if _is_cupy_array(value):
        return value
    try:
        if hasattr(value, "__dlpack__"):
            array = import_cupy().from_dlpack(value)
            _tell_pytorch(value)
            return array
        return _from_interface(value.__cuda_array_interface__, value)
    except (AttributeError, BufferError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is a {type(value).__module__}.{type(value).__name__} that can't be shared with CuPy: {error}"
        ) from error


def _tell_pytorch(value: Any) -> None:
    """Tell PyTorch's allocator that CuPy's current stream uses a tensor.

    DLPack lets us wait for PyTorch, and not PyTorch for us: its allocator would give the memory of a tensor that is
    dropped after a call to later work on a stream of its own.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return
    handle, cuda = import_cupy().cuda.get_current_stream().ptr, torch.cuda
    value.record_stream(cuda.ExternalStream(handle, value.device) if handle else cuda.default_stream(value.device))


def _from_interface(interface: dict[str, Any], owner: Any) -> Array:
    """An array described by __cuda_array_interface__, version 2 or 3 (Numba's documentation defines it)."""
    cupy = import_cupy()
    if interface.get("mask") is not None:
        raise TypeError("it has a mask")
    shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    address, strides = interface["data"][0], interface.get("strides")
    if 0 in shape:
        return cupy.empty(shape, dtype)
    if strides is None:
        extent = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    else:
        extent = dtype.itemsize + sum((n - 1) * abs(stride) for n, stride in zip(shape, strides, strict=True))
    _wait_for(interface.get("stream"))
    memory = cupy.cuda.UnownedMemory(address, extent, owner)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0), strides)


def _wait_for(stream: int | None) -> None:
    """Let CuPy's current stream wait, on the device, for what was begun on another one."""
    if stream is None:
        return
    cuda = import_cupy().cuda
    begun = cuda.Event(disable_timing=True)
    begun.record(cuda.ExternalStream(stream))
    cuda.get_current_stream().wait_event(begun)


def _is_cupy_array(value: Any) -> bool:
    # Whoever holds a CuPy array has imported CuPy.
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)
