"""What `fpes train` has to say at the end: a table, files, and what isn't finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fpes import _config, plots
from fpes.controls import Accuracy
from fpes.es import ES
from fpes.files import written_whole
from fpes.presets import Preset


@dataclass
class Result:
    """What one seed came to. There is nothing to compare with yet where an interrupt came before it was measured."""

    seed: int
    es: ES
    backprop: Accuracy | None = None
    trained: Accuracy | None = None
    controls: list[Accuracy] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the plan is done."""
        return self.es.generation == self.es.steps

    @property
    def compared(self) -> bool:
        """Whether it is in the table."""
        return self.trained is not None


def print_table(console: Console, preset: Preset, results: Sequence[Result]) -> None:
    """The story: backprop, what was trained, and the same weights in other arithmetics; nothing if nothing is known."""
    results = [result for result in results if result.compared]
    if not results:
        return
    table = Table()
    table.add_column("", overflow="fold")
    table.add_column("train, %", justify="right")
    table.add_column("test, %", justify="right")
    if len(results) > 1:
        table.add_column("test, by seed", justify="right")
    for number, (name, accuracies) in enumerate(_rows(results)):
        cells = [
            name,
            f"{100 * np.mean([a.train for a in accuracies]):.2f}",
            f"{100 * np.mean([a.test for a in accuracies]):.2f}",
            "  ".join(f"{100 * a.test:.2f}" for a in accuracies),
        ]
        table.add_row(*cells[: len(table.columns)], style="bold" if number == 1 else None, end_section=number == 1)
    network = "-".join(map(str, preset.sizes))
    console.print(f"{preset.name}: deep linear network {network}, no activation function", style="bold")
    console.print(table)
    console.print(f"Trained by {preset.algorithm}.", highlight=False)


def print_doubts(console: Console, preset: Preset, results: Sequence[Result]) -> None:
    """Where the table doesn't show what it is there to show: too little training, and what isn't finished."""
    compared = [result for result in results if result.compared]
    trained, linear = (
        100 * np.mean([getattr(result, name).test for result in compared]) if compared else 0.0
        for name in ("trained", "backprop")
    )
    if trained < linear:
        console.print(
            f"The trained network is below backprop on the test part, by {linear - trained:.1f} %: "
            f"{_generations(compared)} were too few, or the settings don't suit. {_more(preset)}",
            style="yellow",
            highlight=False,
        )
    for result in results:
        if result.es.steps is None:
            console.print(f"Seed {result.seed} had not begun.", highlight=False)
        elif not result.finished:
            console.print(
                f"Seed {result.seed} is not finished: generation {result.es.generation} of {result.es.steps}. The same "
                "command with --resume goes on.",
                highlight=False,
            )
        elif not result.compared:
            console.print(
                f"Seed {result.seed} is trained, and not yet compared with backprop. The same command with --resume "
                "does that.",
                highlight=False,
            )
        elif preset.steps is not None and result.es.steps < preset.steps:
            console.print(
                f"Seed {result.seed} is finished with {result.es.steps} generations of at most {preset.steps}, for the "
                f"limit of {_minutes(preset)}.",
                highlight=False,
            )


def _generations(results: Sequence[Result]) -> str:
    numbers = sorted({result.es.generation for result in results})
    return f"{' to '.join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))} generations"


def _more(preset: Preset) -> str:
    if preset.max_minutes is None:
        return "Give it more --steps."
    return "Give it more time (--max-minutes), or --steps without a limit."


def _minutes(preset: Preset) -> str:
    return f"{preset.max_minutes:g} minute{'' if preset.max_minutes == 1 else 's'}"


def _rows(results: Sequence[Result]) -> list[tuple[str, list[Any]]]:
    """The table, row by row: what it is, and its accuracy for each seed."""
    rows: list[tuple[str, list[Any]]] = [
        ("backprop: linear", [result.backprop for result in results]),
        ('trained: flush "boundary"', [result.trained for result in results]),
    ]
    for i, control in enumerate(results[0].controls):
        rows.append((f"the same weights, {control.name}", [result.controls[i] for result in results]))
    return rows


def summary(preset: Preset, results: Sequence[Result]) -> dict[str, Any]:
    """All of it as plain values."""
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
                "trained": None if result.trained is None else asdict(result.trained),
                "controls": [asdict(control) for control in result.controls],
                "records": [record.as_json() for record in result.es.records],
            }
            for result in results
        ],
    }


def save(folder: Path, preset: Preset, results: Sequence[Result], plot: bool) -> list[str]:
    """Write what there is; returns the files' names."""
    with written_whole(folder / "result.json") as path:
        path.write_text(json.dumps(summary(preset, results), indent=2) + "\n")
    with written_whole(folder / "theta.npz") as path:
        thetas: dict[str, Any] = {f"seed_{result.seed}": result.es.solution for result in results}
        np.savez(path, **thetas)
    if not plot:
        return ["result.json", "theta.npz"]
    linear = float(np.mean([result.backprop.test for result in results if result.backprop is not None]))
    curves = {f"seed {result.seed}": result.es.records for result in results}
    with written_whole(folder / "curves.png") as path:
        plots.training_curves(f"{preset.name}: {preset.algorithm}", curves, linear, path)
    return ["result.json", "theta.npz", "curves.png"]
