"""Settings as JSON: the small frozen dataclasses that describe a run, written with their names and read back."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from fpes.datasets import Augmentation, ImportanceSampling
from fpes.optimisers import SGD, Adam, ClipUp
from fpes.perturbations import FullRank, LowRank, NodePerturbation, OneUnit
from fpes.schedules import Constant, Cosine, Exponential, WarmUp

_TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Adam,
        Augmentation,
        ClipUp,
        Constant,
        Cosine,
        Exponential,
        FullRank,
        ImportanceSampling,
        LowRank,
        NodePerturbation,
        OneUnit,
        SGD,
        WarmUp,
    )
}


def plain(value: Any) -> Any:
    """The same description with Python's own numbers in place of NumPy's and others.

    They go on as they come back from a checkpoint: a float32 in a formula would make it float32, and the float that is
    read wouldn't.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, Decimal | Fraction):
        return float(value)
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    if type(value) in _TYPES.values():
        return replace(value, **{f.name: plain(getattr(value, f.name)) for f in fields(value)})
    return value


def number_to_json(value: float | None) -> float | str | None:
    """JSON has no infinity and no NaN."""
    return value if value is None or math.isfinite(value) else str(value)


def number_from_json(value: Any) -> float | None:
    """What number_to_json() was given.

    Raises:
        TypeError, ValueError: no number.
    """
    if value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if value in ("inf", "-inf", "nan"):
        return float(value)
    raise ValueError(f"{value!r} is no number")


def to_json(value: Any) -> Any:
    """A description as plain JSON values; other values are themselves."""
    if is_dataclass(value) and type(value) in _TYPES.values():
        return {"type": type(value).__name__} | {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """What to_json() was given; tuples inside descriptions come back as tuples.

    Raises:
        ValueError: a description of a type that this version doesn't know.
        TypeError: a description with other fields than its type has.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    rest = {key: from_json(item) for key, item in value.items()}
    name = rest.pop("type", None)
    if name not in _TYPES:
        raise ValueError(f"unknown setting {name!r}, expected one of {', '.join(sorted(_TYPES))}")
    return _TYPES[name](**rest)
