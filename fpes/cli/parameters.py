"""Types of arguments that several commands share, with their checks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from fpes import _settings


class NamedPath(click.Path):
    """A path that isn't empty. An unset variable in a script would give an empty path, the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, if it is valid."""
        if not str(value):
            self.fail("it is empty, expected a path.", param, ctx)
        return super().convert(value, param, ctx)


class Finite(click.FloatRange):
    """A range of finite numbers. It refuses NaN too, which compares as neither below nor above any bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, if it is valid."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


FOLDER = NamedPath(file_okay=False, path_type=Path)
FILE = NamedPath(dir_okay=False, path_type=Path)


def even(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    """The callback of an option that is an even number."""
    if value is not None and value % 2:
        raise click.BadParameter(f"{value} is odd: members come in antithetic pairs, so the number is even.")
    return value


def _use_threads(_ctx: click.Context, _param: click.Parameter, value: int | None) -> None:
    if value is not None:
        _settings.set_threads(value)


# For the group and for each command: the option may stand before or after the command's name.
threads = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    callback=_use_threads,
    expose_value=False,
    help="Number of threads; by default one for each CPU.",
)
