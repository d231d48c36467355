"""Attributes that may be numbers or schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fpes import _config
from fpes.schedules import Schedule


class Scheduled:
    """An attribute that may be a number or a schedule. It is checked when assigned, and kept as Python numbers."""

    def __init__(self, checked: Callable[[str, Any], float]) -> None:
        self.checked = checked

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, cls: type) -> float | Schedule:
        value: float | Schedule = vars(owner)[self.name]
        return value

    def __set__(self, owner: Any, value: float | Schedule) -> None:
        if isinstance(value, Schedule):
            number = _config.setting(self.name, value, Schedule, "a number or a schedule")
            self.checked(self.name, number.at(0, 1))
        else:
            number = self.checked(self.name, _config.plain(value))
        vars(owner)[self.name] = number

    def at(self, owner: Any, generation: int, steps: int) -> float:
        """Its value in a generation."""
        value = self.__get__(owner, type(owner))
        return self.checked(self.name, value.at(generation, steps)) if isinstance(value, Schedule) else float(value)
