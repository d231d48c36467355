"""The report of `fpes train`: a table, files, and notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fpes import _config, plots
from fpes._signals import signals_wait
from fpes.controls import Accuracy
from fpes.es import ES
from fpes.files import written_whole
from fpes.presets import Preset


@dataclass
class Result:
    """The result of one seed. An interrupted seed has no comparison."""

    seed: int
    es: ES
    trained: Accuracy
    backprop: Accuracy | None = None
    controls: list[Accuracy] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the run has reached the end of its plan."""
        return self.es.generation == self.es.steps


def print_table(console: Console, preset: Preset, results: Sequence[Result]) -> None:
    """The table: backprop, the trained network, and the same weights in other arithmetics."""
    table = Table()
    table.add_column("", overflow="fold")
    table.add_column("train, %", justify="right")
    table.add_column("test, %", justify="right")
    if len(results) > 1:
        table.add_column("test, by seed", justify="right")
    for name, accuracies in _rows(results):
        trained = name.startswith("trained")
        cells = [
            name,
            f"{100 * np.mean([a.train for a in accuracies]):.2f}",
            f"{100 * np.mean([a.test for a in accuracies]):.2f}",
            "  ".join(f"{100 * a.test:.2f}" for a in accuracies),
        ]
        table.add_row(*cells[: len(table.columns)], style="bold" if trained else None, end_section=trained)
    network = "-".join(map(str, preset.sizes))
    # Printed separately, because a title of the table itself would wrap at the table's width.
    title = f"{preset.name}: deep linear network {network}, no activation function"
    console.print(title, style="bold", highlight=False)
    console.print(table)
    console.print(f"Trained by {preset.algorithm}.", highlight=False)


def _rows(results: Sequence[Result]) -> list[tuple[str, list[Accuracy]]]:
    """The rows of the table: a name, and the accuracy for each seed that has one."""
    compared = [result for result in results if result.backprop is not None]
    rows = [
        ("backprop: linear", [result.backprop for result in results if result.backprop is not None]),
        ('trained: flush "boundary"', [result.trained for result in results]),
    ]
    for i, control in enumerate(compared[0].controls if compared else []):
        rows.append((f"the same weights, {control.name}", [result.controls[i] for result in compared]))
    return [row for row in rows if row[1]]


def doubts(preset: Preset, results: Sequence[Result]) -> Iterator[str]:
    """Notes on results that don't show the effect of underflow, and on runs that reached a time limit."""
    compared = [result for result in results if result.backprop is not None]
    if compared:
        trained = 100 * float(np.mean([result.trained.test for result in compared]))
        linear = 100 * float(np.mean([result.backprop.test for result in compared if result.backprop is not None]))
        if trained < linear:
            more = "--steps" if preset.max_minutes is None else "time (--max-minutes), or --steps without a limit"
            yield (
                f"The trained network is below backprop on the test part, by {linear - trained:.1f} %: "
                f"{_generations(compared)} were too few, or the settings don't suit. Give it more {more}."
            )
    for result in results:
        if result.finished and preset.max_minutes is not None and result.es.generation < preset.steps:
            yield (
                f"Seed {result.seed} is finished, with {result.es.generation} generations of at most {preset.steps}, "
                f"for the limit was {preset.max_minutes:g} minute{'' if preset.max_minutes == 1 else 's'}."
            )


def _generations(results: Sequence[Result]) -> str:
    numbers = sorted({result.es.generation for result in results})
    return f"{' to '.join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))} generations"


def summary(preset: Preset, results: Sequence[Result]) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "preset": preset.name,
        "algorithm": preset.algorithm,
        "network": list(preset.sizes),
        "settings": {name: _config.to_json(value) for name, value in vars(preset).items()},
        "seeds": [
            {
                "seed": result.seed,
                "finished": result.finished,
                "seconds": result.es.run.seconds,
                "generations": result.es.generation,
                "steps": result.es.steps,
                "plan": result.es.run.plan,
                "evaluations": result.es.evaluations,
                "backprop": None if result.backprop is None else asdict(result.backprop),
                "trained": asdict(result.trained),
                "controls": [asdict(control) for control in result.controls],
                "records": [record.as_json() for record in result.es.records],
            }
            for result in results
        ],
    }


def write_summary(preset: Preset, results: Sequence[Result], path: Path) -> None:
    """Write the report to a file."""
    with written_whole(path) as aside:
        aside.write_text(json.dumps(summary(preset, results), indent=2) + "\n")


def write_thetas(results: Sequence[Result], path: Path) -> None:
    """The parameters of each seed, as `seed_N`."""
    thetas: dict[str, Any] = {f"seed_{result.seed}": result.es.solution for result in results}
    with signals_wait(), written_whole(path) as aside, aside.open("wb") as stream:
        np.savez(stream, **thetas)


def draw_curves(preset: Preset, results: Sequence[Result], path: Path) -> None:
    """The training curves of each seed."""
    baselines = [result.backprop.test for result in results if result.backprop is not None]
    linear = float(np.mean(baselines)) if baselines else None
    curves = {f"seed {result.seed}": result.es.records for result in results}
    with written_whole(path) as aside:
        plots.training_curves(f"{preset.name}: {preset.algorithm}", curves, linear, aside)
