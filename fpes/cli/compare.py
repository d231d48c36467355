"""`fpes compare`: the weights of a checkpoint, with underflow and without."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fpes import plots
from fpes.controls import Accuracy, accuracy, evaluate_boundaries, evaluate_controls
from fpes.datasets import Dataset, load
from fpes.es import ES
from fpes.files import writable_folder, written_whole
from fpes.fitting import fingerprint


def run(checkpoint: Path, data_dir: Path | None, output: Path | None, as_json: bool) -> int:
    """Evaluate every control, print a table or JSON, and draw a bar chart."""
    es = ES.load(checkpoint)
    data = _data(es, checkpoint, data_dir)
    folder = writable_folder(checkpoint.parent if output is None else output)
    controls = _controls(es, data)
    chart = folder / "controls.png"
    title = f"{data.name}, {'-'.join(map(str, es.net.sizes))}, generation {es.generation}"
    with written_whole(chart) as path:
        plots.control_bars(title, controls, path)
    if as_json:
        print(
            json.dumps({"checkpoint": str(checkpoint), "controls": [asdict(control) for control in controls]}, indent=2)
        )
        return 0
    _print_table(title, controls)
    Console(markup=False).print(f"Bar chart: {chart}", highlight=False)
    return 0


def _data(es: ES, checkpoint: Path, data_dir: Path | None) -> Dataset:
    """What the checkpoint's run was trained on."""
    seen = es.run.data
    if seen is None:
        raise ValueError(f"{checkpoint} was not written by fit(), so it doesn't say what it was trained on")
    data = load(seen["name"], data_dir=data_dir, seed=es.seed)
    if fingerprint(data) != seen:
        raise ValueError(f"{checkpoint} was trained on {seen}, and the data found is {fingerprint(data)}")
    return data


def _controls(es: ES, data: Dataset) -> list[Accuracy]:
    theta = es.solution
    train, test = es.net(theta, data.x_train), es.net(theta, data.x_test)
    trained = Accuracy(
        f'as trained: flush "{es.net.flush}"', accuracy(train, data.y_train), accuracy(test, data.y_test)
    )
    controls = [trained, *evaluate_controls(es.net, theta, data)]
    return [*controls, *evaluate_boundaries(es.net, theta, data)] if es.net.flush == "boundary" else controls


def _print_table(title: str, controls: list[Accuracy]) -> None:
    table = Table(title=title, caption="The same weights, in other arithmetics.")
    table.add_column("")
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
    Console(markup=False).print(table)
