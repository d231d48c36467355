"""Settings as JSON: writes and reads the small frozen dataclasses that describe a run, by name."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from fpes._modes import ieee_mode

_Class = TypeVar("_Class", bound=type)
_classes: dict[str, type] = {}


def register(cls: _Class) -> _Class:
    """Class decorator: checkpoints store objects of this class by the name of the class and its fields, without pickle.

        @fpes.register
        @dataclass(frozen=True)
        class Lion:
            beta1: float = 0.9
            ...

    Before you load such a checkpoint, register the class: import the module that defines it.

    Args:
        cls: a frozen dataclass whose fields are numbers, text, True, False, None, tuples of these, and objects of
            registered classes. A class with the same module and name replaces the earlier class, for example when a
            notebook's cell runs again.

    Returns:
        cls itself.

    Raises:
        TypeError: cls isn't a frozen dataclass, or a field isn't an argument of its constructor.
        ValueError: another class is registered under this name; a field is called "type".
    """
    if not (isinstance(cls, type) and is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise TypeError(f"{cls!r} can't be registered, expected a frozen dataclass: write @dataclass(frozen=True)")
    for field in fields(cls):
        if not field.init:
            raise TypeError(f"{cls.__name__}.{field.name} is no argument of {cls.__name__}(), expected init=True")
        if field.name == "type":
            raise ValueError(f"{cls.__name__} has a field called type, the word for its own name in a checkpoint")
    other = _classes.get(cls.__name__, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{cls.__name__} is registered already, as {other.__module__}.{other.__qualname__}")
    _classes[cls.__name__] = cls
    return cls


def is_registered(value: Any) -> bool:
    """Whether the class of an object is registered."""
    return _classes.get(type(value).__name__) is type(value)


@ieee_mode()  # the numbers must not depend on the caller's rounding mode
def setting(name: str, value: Any, protocol: type, expected: str) -> Any:
    """A description with Python's own numbers, of a registered class that follows a protocol.

    Raises:
        TypeError: the value doesn't follow the protocol, or a checkpoint couldn't store it.
    """
    if isinstance(value, type) or not isinstance(value, protocol):
        raise TypeError(f"{name} is {value!r}, expected {expected}")
    if not is_registered(value):
        raise TypeError(
            f"{name} is {value!r}, expected an object of a class that checkpoints know: put @fpes.register above class "
            f"{type(value).__name__}"
        )
    value = plain(value)
    try:
        restored = from_json(json.loads(json.dumps(to_json(value))))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {value!r}, which a checkpoint can't hold: {error}") from error
    if restored != value:
        raise TypeError(f"{name} is {value!r}, and would come back from a checkpoint as {restored!r}")
    return value


def plain(value: Any) -> Any:
    """The same description with Python's own numbers instead of NumPy's and others.

    A run must continue with the numbers that a checkpoint returns: a float32 makes a formula float32, and the float
    that is read back doesn't.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, Decimal | Fraction):
        return float(value)
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    if is_registered(value):
        return replace(value, **{f.name: plain(getattr(value, f.name)) for f in fields(value)})
    return value


def number_to_json(value: float | None) -> float | str | None:
    """JSON has no infinity and no NaN."""
    return value if value is None or math.isfinite(value) else str(value)


def number_from_json(value: Any) -> float | None:
    """The inverse of number_to_json().

    Raises:
        TypeError, ValueError: the value is no number.
    """
    if value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if value in ("inf", "-inf", "nan"):
        return float(value)
    raise ValueError(f"{value!r} is no number")


def to_json(value: Any) -> Any:
    """A description as plain JSON values; other values are unchanged."""
    if is_registered(value):
        return {"type": type(value).__name__} | {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of to_json(). Tuples inside descriptions come back as tuples.

    Raises:
        ValueError: a description of a class that isn't registered.
        TypeError: a description whose fields aren't those of its type.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    rest = {key: from_json(item) for key, item in value.items()}
    name = rest.pop("type", None)
    if not isinstance(name, str) or name not in _classes:
        raise ValueError(
            f"unknown setting {name!r}, expected one of {', '.join(sorted(_classes))}; a class of your own "
            "is known once the module that registers it is imported"
        )
    cls = _classes[name]
    upgraded = getattr(cls, "_from_older", dict)  # fields that earlier versions wrote
    return cls(**upgraded(rest))
