"""Arrays between the host and the device that a population is computed on.

The trainer keeps its state on the host, where the optimisers are, so that every backend gives the same bits; theta and
minibatches go to the device, fitness and gradients come back.
"""

from __future__ import annotations

import re
from typing import Any


def checked_device(device: str) -> str:
    """`device`, if it is "cpu", "cuda" (CuPy's current device) or "cuda:" and a number.

    Raises:
        TypeError: no string.
        ValueError: another name.
        ImportError: a GPU is asked for, and CuPy is missing.
    """
    if not isinstance(device, str):
        raise TypeError(f"device is {device!r}, expected a string such as 'cpu', 'cuda' or 'cuda:1'")
    if device != "cpu":
        if not re.fullmatch(r"cuda(:\d+)?", device):
            raise ValueError(f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:' and a number")
        _cupy()
    return device


def to_device(array: Any, device: str) -> Any:
    """A NumPy array as it is for "cpu", or copied to the GPU as a CuPy array."""
    if device == "cpu":
        return array
    cupy = _cupy()
    _, _, index = device.partition(":")
    with cupy.cuda.Device(int(index) if index else None):
        return cupy.asarray(array)


def to_host(array: Any) -> Any:
    """An array from a GPU as a NumPy array; anything else as it is."""
    if not hasattr(array, "__cuda_array_interface__"):
        return array
    return _cupy().asnumpy(array)


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f"training on a GPU needs CuPy, which can't be imported ({error})") from error
    return cupy
