"""`fpes train`: the main job, from data to one table that tells the whole story."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fpes import plots
from fpes.baseline import train_by_backprop
from fpes.cli.process import INTERRUPTED
from fpes.cli.progress import training_progress
from fpes.cli.report import Result, print_doubts, print_table, save, summary
from fpes.cli.tensorboard import TensorBoard
from fpes.controls import evaluate_controls, measured
from fpes.datasets import Dataset, load
from fpes.es import ES, SETTINGS
from fpes.files import writable_folder
from fpes.fitting import Terminated
from fpes.presets import PRESETS, Preset
from fpes.records import write_csv
from fpes.schedules import with_start

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


def run(options: Options) -> int:
    """Train one network for each seed, save what came out, and print it."""
    preset = _overridden(PRESETS[options.preset], options)
    seeds = range(options.seed, options.seed + preset.seeds)
    for seed in seeds:
        preset.es(seed, options.device)  # a wrong setting is known before any time is spent
    if options.plot:
        plots.require()
    writable_folder(options.folder)
    session = _Session(options, preset)
    status = 0
    try:
        for seed in seeds:
            session.train(seed)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Terminated as end:
        status = int(str(end.code))
    session.report(complete=status == 0)
    return status


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
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


class _Session:
    """One call of the command."""

    def __init__(self, options: Options, preset: Preset) -> None:
        self.options = options
        self.preset = preset
        self.console = Console(stderr=options.as_json, markup=False)
        self.results: list[Result] = []
        self.seconds = 0.0

    def train(self, seed: int) -> None:
        """The run of one seed, from its beginning or from its checkpoint, and its controls."""
        data = load(self.preset.dataset, data_dir=self.options.data_dir, seed=seed)
        folder = writable_folder(self.options.folder / f"seed-{seed}")
        result = Result(seed, self.beginning(seed, folder))
        self.results.append(result)
        self.trained(result, data, folder)
        with nullcontext() if self.options.quiet else _working("baseline by backprop, and controls"):
            self.compare(result, data)

    def trained(self, result: Result, data: Dataset, folder: Path) -> None:
        """The training, with its bar and its log."""
        started = time.monotonic()
        label = f"{self.preset.name}, seed {result.seed}"
        try:
            with training_progress(label, self.options.quiet) as progress, self.observers(folder) as observers:
                self.fit(result.es, data, folder, lambda es: [observe(es) for observe in (progress, *observers)])
        finally:
            self.seconds += time.monotonic() - started
        write_csv(result.es.records, folder / _LOG)

    def compare(self, result: Result, data: Dataset) -> None:
        """Put what was trained beside the linear baseline and the controls."""
        es = result.es
        theta = train_by_backprop(es.net, data, steps=self.preset.baseline_steps, seed=result.seed)
        backprop = measured("backprop", es.net.with_flush("never"), theta, data)
        trained = measured("trained", es.net, es.solution, data)
        controls = evaluate_controls(es.net, es.solution, data)
        result.backprop, result.trained, result.controls = backprop, trained, controls

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

    def report(self, complete: bool) -> None:
        """Files, and the table or JSON. After an interrupt there is no picture, which would take too long."""
        if not self.results:
            return
        files = save(self.options.folder, self.preset, self.results, self.options.plot and complete)
        if self.options.as_json:
            print(json.dumps(summary(self.preset, self.results), indent=2))
        else:
            print_table(self.console, self.preset, self.results)
            evaluations = sum(result.es.evaluations for result in self.results)
            self.console.print(
                f"{evaluations:.3g} evaluations (member x sample), {self.seconds:.0f} s of training in this session; "
                f"results in {self.options.folder}/ ({', '.join(files)}, and a checkpoint for each seed)",
                highlight=False,
            )
        print_doubts(self.console, self.preset, self.results)


def _working(text: str) -> Any:
    """A spinner of plain characters, for terminals that have no others."""
    return Console(stderr=True).status(text, spinner="line")


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
