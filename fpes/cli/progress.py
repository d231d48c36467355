"""The progress of training on the screen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status

from fpes.es import ES
from fpes.health import TrainingWarning


@contextmanager
def training_progress(label: str, quiet: bool) -> Iterator[Callable[[ES], None]]:
    """A progress bar with the remaining time, called after every generation. Warnings appear above it."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        disable=quiet,
    )
    with progress, _warnings_on(console):
        yield _Bar(progress, progress.add_task(label, total=None, numbers="starting")).update


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress = progress
        self.task = task
        self.started = False

    def update(self, es: ES) -> None:
        """Update the bar after a generation of `es`."""
        if not self.started:
            # The steps before a resume say nothing about the present speed.
            self.progress.reset(self.task, total=es.steps, completed=es.generation)
            self.started = True
        loss = math.nan if es.fitness is None else -es.fitness
        numbers = f"loss {loss:.3f}  test {es.records[-1].test:.1%}"
        self.progress.update(self.task, total=es.steps, completed=es.generation, numbers=numbers)


@contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """Show a TrainingWarning as one line, without file and line number."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: object) -> None:
            if issubclass(category, TrainingWarning):
                console.print(f"[yellow]Warning:[/yellow] {message}", highlight=False, soft_wrap=True)
            else:
                usual(message, category, *place)  # type: ignore[arg-type]

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def working(text: str) -> Status:
    """A spinner of ASCII characters, which every terminal can show."""
    return Console(stderr=True).status(text, spinner="line")
