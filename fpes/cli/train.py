"""`fpes train`: the main job, from data to one table that tells the whole story."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fpes import _config, plots
from fpes.baseline import train_by_backprop
from fpes.cli.progress import training_progress
from fpes.cli.tensorboard import TensorBoard
from fpes.controls import Accuracy, accuracy, evaluate_controls
from fpes.datasets import Dataset, load
from fpes.es import ES, SETTINGS
from fpes.files import writable_folder, written_whole
from fpes.fitting import Terminated
from fpes.presets import PRESETS, Preset
from fpes.records import write_csv
from fpes.schedules import with_start

_INTERRUPTED = 130  # exit status of a program that SIGINT ended
_CHECKPOINT, _LOG = "checkpoint.npz", "log.csv"


@dataclass(frozen=True)
class Options:
    """The options of the command, by name. None: what the preset says."""

    preset: str
    seed: int
    seeds: int | None
    steps: int | None
    max_minutes: float | None
    population: int | None
    batch: int | None
    sigma: float | None
    lr: float | None
    weight_decay: float | None
    device: str
    data_dir: Path | None
    output: Path | None
    resume: bool
    plot: bool
    tensorboard: bool
    quiet: bool
    as_json: bool

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path("runs") / self.preset if self.output is None else self.output


@dataclass
class Result:
    """What one seed came to."""

    seed: int
    es: ES
    backprop: Accuracy
    trained: Accuracy
    controls: list[Accuracy]

    @property
    def finished(self) -> bool:
        """Whether the plan is done."""
        return self.es.generation == self.es.steps


def run(options: Options) -> int:
    """Train one network for each seed, save what came out, and print it."""
    preset = _overridden(PRESETS[options.preset], options)
    seeds = range(options.seed, options.seed + preset.seeds)
    for seed in seeds:
        preset.es(seed, options.device)  # a wrong setting is known before any time is spent
    writable_folder(options.folder)
    session = _Session(options, preset)
    for seed in seeds:
        session.train(seed)
        if session.status:
            break
    session.report()
    return session.status


def _overridden(preset: Preset, options: Options) -> Preset:
    """The preset with what the command line says otherwise."""
    given: dict[str, Any] = {
        "seeds": options.seeds,
        "steps": options.steps,
        "max_minutes": options.max_minutes,
        "size": options.population,
        "batch": options.batch,
        "sigma": None if options.sigma is None else with_start(preset.sigma, options.sigma),
        "learning_rate": None if options.lr is None else with_start(preset.learning_rate, options.lr),
        "weight_decay": None if options.weight_decay is None else with_start(preset.weight_decay, options.weight_decay),
    }
    if options.steps is not None and options.max_minutes is None:
        preset = replace(preset, max_minutes=None)
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


class _Session:
    """One call of the command."""

    def __init__(self, options: Options, preset: Preset) -> None:
        self.options = options
        self.preset = preset
        self.console = Console(stderr=options.as_json, markup=False)
        self.results: list[Result] = []
        self.status = 0
        self.seconds = 0.0

    def train(self, seed: int) -> None:
        """The run of one seed, from its beginning or from its checkpoint, and its controls."""
        data = load(self.preset.dataset, data_dir=self.options.data_dir, seed=seed)
        folder = writable_folder(self.options.folder / f"seed-{seed}")
        es = self.beginning(seed, folder)
        started = time.monotonic()
        label = f"{self.preset.name}, seed {seed}"
        with training_progress(label, self.options.quiet) as progress, self.observers(folder) as observers:
            try:
                self.fit(es, data, folder, lambda es: [observe(es) for observe in (progress, *observers)])
            except KeyboardInterrupt:
                self.status = _INTERRUPTED
            except Terminated as end:
                self.status = int(str(end.code))
        self.seconds += time.monotonic() - started
        write_csv(es.records, folder / _LOG)
        with nullcontext() if self.options.quiet else Console(stderr=True).status("baseline by backprop, and controls"):
            self.results.append(self.compared(seed, es, data))

    def compared(self, seed: int, es: ES, data: Dataset) -> Result:
        """What was trained, beside the linear baseline and the controls."""
        backprop = train_by_backprop(es.net, data, steps=self.preset.baseline_steps, seed=seed)
        return Result(
            seed,
            es,
            _of(es.net.with_flush("never"), backprop, data, "backprop"),
            _of(es.net, es.solution, data, "trained"),
            evaluate_controls(es.net, es.solution, data),
        )

    def beginning(self, seed: int, folder: Path) -> ES:
        """A new run; or with --resume the one in the folder, if there is one."""
        checkpoint = folder / _CHECKPOINT
        if not checkpoint.exists():
            return self.preset.es(seed, self.options.device)
        if self.options.resume:
            es = ES.load(checkpoint, device=self.options.device)
            _check_same(es, self.preset.es(seed), self.preset, checkpoint)
            return es
        older = checkpoint.with_name("checkpoint-before.npz")
        checkpoint.replace(older)
        self.console.print(f"{checkpoint} of an earlier run is now {older.name}. (--resume would go on with it.)")
        return self.preset.es(seed, self.options.device)

    def fit(self, es: ES, data: Dataset, folder: Path, after_step: Callable[[ES], Any]) -> None:
        """The training itself."""
        preset, minutes = self.preset, self.preset.max_minutes
        resumed = es.generation > 0
        es.fit(
            data,
            steps=None if resumed else preset.steps,
            batch=preset.batch,
            groups=preset.groups,
            augmentation=preset.augmentation,
            importance=preset.importance,
            max_seconds=None if minutes is None else 60.0 * minutes,
            checkpoint=folder / _CHECKPOINT,
            after_step=after_step,
        )

    @contextmanager
    def observers(self, folder: Path) -> Iterator[list[Callable[[ES], None]]]:
        """What writes logs as the run goes."""
        with TensorBoard(folder / "tensorboard") if self.options.tensorboard else nullcontext() as board:
            yield [_Log(folder / _LOG).update, *([] if board is None else [board.update])]

    def report(self) -> None:
        """Files, and the table or JSON."""
        _save(self.options, self.preset, self.results)
        if self.options.as_json:
            print(json.dumps(_summary(self.preset, self.results), indent=2))
            return
        _print_table(self.console, self.preset, self.results)
        evaluations = sum(result.es.evaluations for result in self.results)
        self.console.print(
            f"{evaluations:.3g} evaluations (member x sample), {self.seconds:.0f} s of training in this session; "
            f"results in {self.options.folder}/ ({', '.join(_files(self.options))}, and a checkpoint for each seed)",
            highlight=False,
        )
        unfinished = [result for result in self.results if not result.finished]
        for result in unfinished:
            self.console.print(
                f"Seed {result.seed} is not finished: generation {result.es.generation} of {result.es.steps}. The same "
                "command with --resume goes on."
            )


class _Log:
    """The CSV file: written anew whenever there is a new record, so that it always fits the checkpoint's past."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0

    def update(self, es: ES) -> None:
        """After a generation of `es`."""
        if len(es.records) != self.written:
            write_csv(es.records, self.path)
            self.written = len(es.records)


def _check_same(es: ES, asked: ES, preset: Preset, checkpoint: Path) -> None:
    """Resuming with other settings would be neither the old run nor a new one."""
    settings = [(name, getattr(es, name), getattr(asked, name)) for name in SETTINGS if name != "steps"]
    settings += [
        (name, getattr(es.run, name), getattr(preset, name))
        for name in ("batch", "groups", "augmentation", "importance")
    ]
    settings.append(("network", repr(es.net), repr(asked.net)))
    different = [f"{name} {there!r} and not {here!r}" for name, there, here in settings if there != here]
    if different:
        raise ValueError(
            f"{checkpoint} is from a run with {'; '.join(different)}: resume it with the settings that it was started "
            "with, or choose another --output for a new run"
        )


def _of(net: Any, theta: Any, data: Dataset, name: str) -> Accuracy:
    return Accuracy(
        name,
        accuracy(net(theta, data.x_train), data.y_train),
        accuracy(net(theta, data.x_test), data.y_test),
    )


def _rows(results: list[Result]) -> list[tuple[str, list[Accuracy]]]:
    """The table, row by row: what it is, and its accuracy for each seed."""
    rows = [
        ("backprop: linear", [result.backprop for result in results]),
        ('trained: flush "boundary"', [result.trained for result in results]),
    ]
    for i, control in enumerate(results[0].controls):
        rows.append((f"the same weights, {control.name}", [result.controls[i] for result in results]))
    return rows


def _print_table(console: Console, preset: Preset, results: list[Result]) -> None:
    table = Table(
        title=f"{preset.name}: deep linear network {'-'.join(map(str, preset.sizes))}, no activation function",
        caption=f"Trained by {preset.algorithm}.",
    )
    table.add_column("")
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
    console.print(table)


def _summary(preset: Preset, results: list[Result]) -> dict[str, Any]:
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
                "backprop": asdict(result.backprop),
                "trained": asdict(result.trained),
                "controls": [asdict(control) for control in result.controls],
                "records": [record.as_json() for record in result.es.records],
            }
            for result in results
        ],
    }


def _files(options: Options) -> list[str]:
    return ["result.json", "theta.npz", *(["curves.png"] if options.plot else [])]


def _save(options: Options, preset: Preset, results: list[Result]) -> None:
    with written_whole(options.folder / "result.json") as path:
        path.write_text(json.dumps(_summary(preset, results), indent=2) + "\n")
    with written_whole(options.folder / "theta.npz") as path:
        thetas: dict[str, Any] = {f"seed_{result.seed}": result.es.solution for result in results}
        np.savez(path, **thetas)
    if options.plot:
        linear = float(np.mean([result.backprop.test for result in results]))
        curves = {f"seed {result.seed}": result.es.records for result in results}
        with written_whole(options.folder / "curves.png") as path:
            plots.training_curves(f"{preset.name}: {preset.algorithm}", curves, linear, path)
