"""Transfer of arrays between the host and the device that computes a population.

The trainer keeps its state on the host, and optimisers run there, so every backend gives the same bits. theta and
minibatches go to the device; fitness and gradients come back.
"""

from __future__ import annotations

from typing import Any

from fpes._backends import backend_named
from fpes._backends.cuda_arrays import as_cupy, gpu_of, import_cupy


def checked_device(device: str) -> str:
    """`device`, if it is "cpu", "cuda" (CuPy's current device) or "cuda:" and a number, and can be used.

    Raises:
        TypeError: device isn't a string.
        ValueError: an unknown name, or a device that doesn't exist.
        ImportError, RuntimeError: device is a GPU, and CuPy, the CUDA build or the GPU is missing.
    """
    backend_named(device)
    return device


def to_device(array: Any, device: str) -> Any:
    """A NumPy array: unchanged for "cpu", otherwise copied to the GPU as a CuPy array."""
    return backend_named(device).copied_to_device(array)


def to_host(array: Any) -> Any:
    """An array from a GPU as a NumPy array; anything else unchanged."""
    return array if gpu_of(array) is None else import_cupy().asnumpy(as_cupy("array", array))
