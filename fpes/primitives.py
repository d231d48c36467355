"""The primitives of the network, one operation each, to study the flush modes.

NumPy arrays are computed on the CPU. CuPy arrays, and other GPU arrays with DLPack or __cuda_array_interface__, are
computed asynchronously on their device and CuPy's current stream, into a CuPy array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fpes import _checks
from fpes._backends import Array, backend_of


def gemm(a: Array, b: Array, flush: str = "boundary") -> Array:
    """Matrix product a b in float32, with one accumulator for each element and fused multiply-adds over k in order.

    Args:
        a: float32 [m, k].
        b: float32 [k, n].
        flush: "never" and "boundary" keep subnormals; "always" flushes every multiply-add.

    Returns:
        float32 [m, n].

    Raises:
        TypeError: an argument isn't a float32 array.
        ValueError: wrong rank, empty axis, different inner extents, unknown flush mode, arrays on several devices.
    """
    mode = _checks.flush_mode(flush)
    backend = backend_of(a=a, b=b)
    left = backend.floats("a", a, ("m", "k"))
    right = backend.floats("b", b, (left.shape[1], "n"))
    result = backend.empty((left.shape[0], right.shape[1]))
    backend.gemm(mode, left, right, result)
    return result


def bias_add(v: Array, b: Array, flush: str = "boundary") -> Array:
    """Add b to every row of v. This elementwise operation flushes in every mode except "never".

    Args:
        v: float32 [rows, n].
        b: float32 [n].
        flush: the flush mode.

    Returns:
        float32 [rows, n].

    Raises:
        TypeError: an argument isn't a float32 array.
        ValueError: wrong rank, empty axis, different extents, unknown flush mode, arrays on several devices.
    """
    mode = _checks.flush_mode(flush)
    backend = backend_of(v=v, b=b)
    values = backend.floats("v", v, ("rows", "n"))
    bias = backend.floats("b", b, (values.shape[1],))
    result = backend.empty(values.shape)
    backend.bias_add(mode, values, bias, result)
    return result


def multiply(v: Array, s: float, flush: str = "boundary") -> Array:
    """Multiply every element of v by s. This elementwise operation flushes in every mode except "never".

    Args:
        v: float32, any shape that isn't empty.
        s: a number; rounded to float32 first.
        flush: the flush mode.

    Returns:
        float32, of v's shape.

    Raises:
        TypeError: v isn't a float32 array, or s isn't a number.
        ValueError: v is empty, s is beyond float32, unknown flush mode.
    """
    mode = _checks.flush_mode(flush)
    factor = _factor(s)
    backend = backend_of(v=v)
    values = backend.floats("v", v)
    if values.size == 0:
        raise ValueError(f"v has shape {values.shape}, expected an array that isn't empty")
    result = backend.empty(values.shape)
    backend.multiply(mode, values, factor, result)
    return result


def _factor(s: Any) -> float:
    """The value of s as a double, which can hold it exactly."""
    if isinstance(s, np.float32) and not int(s.view(np.uint32)) & 0x7F800000:
        # A zero or subnormal: float() would lose it in a thread whose mode flushes.
        bits = int(s.view(np.uint32))
        return math.copysign(math.ldexp(bits & 0x7FFFFF, -149), -1.0 if bits >> 31 else 1.0)
    try:
        factor = float(s)
    except (TypeError, ValueError):
        raise TypeError(f"s is {s!r}, expected a number") from None
    except OverflowError:
        raise ValueError("s is beyond what a float can hold, expected a number that float32 can hold") from None
    if math.isfinite(factor) and abs(factor) > float(np.finfo(np.float32).max):
        raise ValueError(f"s is {factor!r}, expected a number that float32 can hold")
    return factor
