"""`fpes compare`: the weights of a checkpoint, with underflow and without."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fpes import plots
from fpes.controls import Accuracy, evaluate_boundaries, evaluate_controls, measured
from fpes.datasets import Dataset, load
from fpes.es import ES
from fpes.files import writable_folder, written_whole
from fpes.training.run import fingerprint


def run(checkpoint: Path, data_dir: Path | None, output: Path | None, as_json: bool) -> int:
    """Evaluate every control, print a table or JSON, and draw a bar chart."""
    plots.require()
    es = ES.load(checkpoint)
    data = _data(es, checkpoint, data_dir)
    folder = writable_folder(checkpoint.parent if output is None else output)
    controls = _controls(es, data)
    chart = folder / "controls.png"
    chance = float(np.bincount(data.y_test).max() / len(data.y_test))
    title = f"{data.name}, {'-'.join(map(str, es.net.sizes))}, generation {es.generation}"
    with written_whole(chart) as path:
        plots.control_bars(title, controls, chance, path)
    if as_json:
        print(
            json.dumps({"checkpoint": str(checkpoint), "controls": [asdict(control) for control in controls]}, indent=2)
        )
        return 0
    _print_table(title, controls)
    Console(markup=False).print(f"Bar chart: {chart}", highlight=False)
    return 0


def _data(es: ES, checkpoint: Path, data_dir: Path | None) -> Dataset:
    """The data set that the checkpoint's run was trained on."""
    seen = es.run.data
    if seen is None:
        raise ValueError(f"{checkpoint} was not written by fit(), so it doesn't say what it was trained on")
    data = load(seen["name"], data_dir=data_dir, seed=es.seed)
    if fingerprint(data) != seen:
        raise ValueError(f"{checkpoint} was trained on {seen}, and the data found is {fingerprint(data)}")
    return data


def _controls(es: ES, data: Dataset) -> list[Accuracy]:
    theta = es.solution
    trained = measured(f'as trained: flush "{es.net.flush}"', es.net, theta, data)
    controls = [trained, *evaluate_controls(es.net, theta, data)]
    return [*controls, *evaluate_boundaries(es.net, theta, data)] if es.net.flush == "boundary" else controls


def _print_table(title: str, controls: list[Accuracy]) -> None:
    table = Table()
    table.add_column("", overflow="fold")
    table.add_column("train, %", justify="right")
    table.add_column("test, %", justify="right")
    for number, control in enumerate(controls):
        table.add_row(
            control.name,
            f"{100 * control.train:.2f}",
            f"{100 * control.test:.2f}",
            style="bold" if number == 0 else None,
            end_section=number == 0,
        )
    console = Console(markup=False)
    console.print(f"{title}: the same weights in other arithmetics", style="bold", highlight=False)
    console.print(table)
