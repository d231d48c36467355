"""The primitives of the network, one operation each: for looking at what the flush modes do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fpes import _checks, _cpu, _settings
from fpes._checks import FloatArray


def gemm(a: FloatArray, b: FloatArray, flush: str = "boundary") -> FloatArray:
    """Matrix product a b in float32: for each element one accumulator and fused multiply-adds over k in order.

    Args:
        a: float32 [m, k].
        b: float32 [k, n].
        flush: "never" and "boundary" keep subnormals; "always" flushes every multiply-add.

    Returns:
        float32 [m, n].

    Raises:
        TypeError: an argument isn't a float32 array.
        ValueError: wrong rank, empty axis, inner extents that differ, unknown flush mode.
    """
    left = _checks.float_array("a", a, ("m", "k"))
    right = _checks.float_array("b", b, (left.shape[1], "n"))
    result = np.empty((left.shape[0], right.shape[1]), np.float32)
    _cpu.gemm(
        _settings.execution(),
        _flush(flush),
        left.ctypes.data,
        right.ctypes.data,
        result.ctypes.data,
        *result.shape,
        left.shape[1],
    )
    return result


def bias_add(v: FloatArray, b: FloatArray, flush: str = "boundary") -> FloatArray:
    """Add b to every row of v: an elementwise operation, which flushes in every mode but "never".

    Args:
        v: float32 [rows, n].
        b: float32 [n].
        flush: the flush mode.

    Returns:
        float32 [rows, n].

    Raises:
        TypeError: an argument isn't a float32 array.
        ValueError: wrong rank, empty axis, extents that differ, unknown flush mode.
    """
    values = _checks.float_array("v", v, ("rows", "n"))
    bias = _checks.float_array("b", b, (values.shape[1],))
    result = np.empty_like(values)
    _cpu.bias_add(
        _settings.execution(),
        _flush(flush),
        values.ctypes.data,
        bias.ctypes.data,
        result.ctypes.data,
        *values.shape,
    )
    return result


def multiply(v: FloatArray, s: float, flush: str = "boundary") -> FloatArray:
    """Multiply every element of v by s: an elementwise operation, which flushes in every mode but "never".

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
    values = _checks.float_array("v", v)
    if values.size == 0:
        raise ValueError(f"v has shape {values.shape}, expected an array that isn't empty")
    result = np.empty_like(values)
    _cpu.multiply(
        _settings.execution(),
        _flush(flush),
        values.ctypes.data,
        _factor(s),
        result.ctypes.data,
        values.size,
    )
    return result


def _flush(flush: str) -> _cpu.Flush:
    return _cpu.Flush.__members__[_checks.flush_mode(flush)]


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
    if math.isfinite(factor) and abs(factor) > float(np.finfo(np.float32).max):
        raise ValueError(f"s is {factor!r}, expected a number that float32 can hold")
    return factor
