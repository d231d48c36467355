"""Settings as JSON: the small frozen dataclasses that describe a run, written with their names and read back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

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


def to_json(value: Any) -> Any:
    """A description as plain JSON values; other values are themselves."""
    if is_dataclass(value) and type(value).__name__ in _TYPES:
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
