"""`fpes train`: the main command, from the data to a table of results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fpes import plots
from fpes._signals import Terminated, terminating_raises
from fpes.baseline import train_by_backprop
from fpes.cli.helpers import follow, helping, ranks_of_job
from fpes.cli.process import HUNG_UP, INTERRUPTED, TERMINATED
from fpes.cli.progress import training_progress, working
from fpes.cli.report import Result, doubts, draw_curves, print_table, summary, write_summary, write_thetas
from fpes.cli.run_folder import CHECKPOINT, LOG, TENSORBOARD, RunFolder, owned_folder, resumed
from fpes.cli.tensorboard import TensorBoard, tensorboard_writer
from fpes.controls import evaluate_controls, measured
from fpes.datasets import Dataset, load
from fpes.distributed import Ranks, Workers
from fpes.es import ES
from fpes.files import writable_folder
from fpes.health import warn
from fpes.presets import PRESETS, Preset
from fpes.records import write_csv
from fpes.schedules import with_start
from fpes.strategy import SETTINGS
from fpes.training.preparation import prepare
from fpes.training.saver import NotSavedError
from fpes.training.settings import Session
from fpes.training.trainer import Trainer

_NOT_WRITTEN = 1  # exit status if training is done but a file could not be written
_FEW = 10_000  # training samples that measure an interrupted run
_RETRY_SECONDS = 5.0  # between a failure to write the log and the next try


@dataclass(frozen=True)
class Options:
    """The options of the command, by name. None: the value of the preset."""

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
    workers: int | None
    data_dir: Path | None
    output: Path | None
    resume: bool
    overwrite: bool
    plot: bool
    tensorboard: bool
    quiet: bool
    as_json: bool

    @property
    def default_folder(self) -> Path:
        """The folder of the results without --output."""
        return Path("runs") / self.preset


def run(options: Options) -> int:
    """Train one network for each seed, save the results, and print them.

    All checks that are possible in advance come before anything is written or moved.
    """
    ranks = ranks_of_job()
    if ranks is not None and ranks.rank:
        return follow(ranks)
    with helping(options.workers, ranks) as helpers:
        return _lead(options, helpers)


def _lead(options: Options, helpers: Workers | Ranks | None) -> int:
    if options.resume and options.overwrite:
        raise ValueError("--resume goes on with a run, and --overwrite removes it: expected one of them")
    preset = _overridden(PRESETS[options.preset], options)
    seeds = range(options.seed, options.seed + preset.seeds)
    resume = resumed(options.output, options.default_folder, seeds) if options.resume else None
    session = _Session(options, preset, seeds, helpers)
    session.check(resume)
    with (
        terminating_raises(),
        owned_folder(options.output, options.default_folder, resume, options.overwrite) as folder,
    ):
        session.run(folder)
    return session.status


def _overridden(preset: Preset, options: Options) -> Preset:
    """The preset, changed by the options of the command line."""
    given: dict[str, Any] = {
        "seeds": options.seeds,
        "steps": options.steps,
        "max_minutes": options.max_minutes,
        "size": options.population,
        "training": preset.training.changed(batch=options.batch),
        "sigma": None if options.sigma is None else with_start(preset.sigma, options.sigma),
        "learning_rate": None if options.lr is None else with_start(preset.learning_rate, options.lr),
        "weight_decay": None if options.weight_decay is None else with_start(preset.weight_decay, options.weight_decay),
    }
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


class _Session:
    """One call of the command."""

    def __init__(self, options: Options, preset: Preset, seeds: Sequence[int], helpers: Workers | Ranks | None) -> None:
        self.options = options
        self.helpers = helpers
        self.preset = preset
        self.seeds = seeds
        self.console = Console(stderr=options.as_json, markup=False)
        self.results: list[Result] = []
        self.status = 0
        self.seconds = 0.0
        self.loaded: tuple[int, Dataset] | None = None

    def check(self, resume: RunFolder | None) -> None:
        """Check everything that could fail later.

        Raises:
            TypeError, ValueError: an invalid setting; a checkpoint of another run.
            ImportError: a package is missing.
        """
        first = self.preset.es(self.seeds[0], self.options.device)
        self.preset.es(self.seeds[-1])
        data = self.data(self.seeds[0])
        prepare(first, first.run, data, self.preset.training, self.session(None, loaded=False))
        if self.options.tensorboard:
            tensorboard_writer()
        if self.options.plot:
            plots.require()
        if resume is not None:
            self.check_resumed(resume)

    def check_resumed(self, folder: RunFolder) -> None:
        """Check that the run in the folder can continue with these options."""
        for seed in folder.seeds:
            checkpoint = folder.checkpoint(seed)
            es = ES.load(checkpoint, device=self.options.device)
            _check_same(es, self.preset.es(seed), self.preset, checkpoint)
            if self.options.steps is not None and self.options.steps < es.generation:
                raise ValueError(
                    f"--steps is {self.options.steps}, and seed {seed} has {es.generation} generations behind it: "
                    "expected at least as many, because steps are counted from the beginning of the run"
                )

    def run(self, folder: RunFolder) -> None:
        """Train all seeds, and report the finished ones, whatever ends the command."""
        self.folder = folder
        if self.options.output is None and folder.path != self.options.default_folder and not self.options.resume:
            self.console.print(f"{self.options.default_folder} has a run already: this one goes to {folder.path}.")
        if self.helpers is not None:
            self.console.print(f"{self.helpers}.", highlight=False, soft_wrap=True)
        try:
            for seed in self.seeds:
                self.train(seed)
        except KeyboardInterrupt:
            self.status = INTERRUPTED
        except Terminated as end:
            self.status = int(str(end.code))
        except Exception:
            if self.results:
                self.report(complete=False)
            raise
        self.report(complete=self.status not in (INTERRUPTED, TERMINATED, HUNG_UP))

    def data(self, seed: int) -> Dataset:
        """The data of a seed. The split may depend on the seed."""
        if self.loaded is None or self.loaded[0] != seed:
            self.loaded = seed, load(self.preset.dataset, data_dir=self.options.data_dir, seed=seed)
        return self.loaded[1]

    def train(self, seed: int) -> None:
        """Train one seed, from its start or from its checkpoint, and evaluate its controls."""
        data, folder = self.data(seed), writable_folder(self.folder.seed(seed))
        es = self.beginning(seed)
        started = time.monotonic()
        label = f"{self.preset.name}, seed {seed}"
        try:
            with training_progress(label, self.options.quiet) as progress, self.observers(folder) as observers:
                self.fit(es, data, folder, lambda es: [observe(es) for observe in (progress, *observers)])
        except NotSavedError as error:
            self.failed(error)
        except (KeyboardInterrupt, Terminated):
            if es.generation:
                # Measured on few samples: a user who interrupts doesn't want to wait.
                few = replace(data, x_train=data.x_train[:_FEW], y_train=data.y_train[:_FEW])
                self.results.append(Result(seed, es, measured("trained", es.net, es.solution, few)))
                self.attempt(lambda: write_csv(es.records, folder / LOG))
            raise
        finally:
            self.seconds += time.monotonic() - started
        self.attempt(lambda: write_csv(es.records, folder / LOG))
        with nullcontext() if self.options.quiet else working("baseline by backprop, and controls"):
            self.compare(seed, es, data)

    def compare(self, seed: int, es: ES, data: Dataset) -> None:
        """The trained network, the linear baseline and the controls."""
        result = Result(seed, es, measured("trained", es.net, es.solution, data))
        self.results.append(result)
        theta = train_by_backprop(es.net, data, steps=self.preset.baseline_steps, seed=seed)
        backprop = measured("backprop", es.net.with_flush("never"), theta, data)
        result.controls = evaluate_controls(es.net, es.solution, data)
        result.backprop = backprop

    def beginning(self, seed: int) -> ES:
        """A new run, or with --resume the run in the folder, if there is one."""
        checkpoint = self.folder.checkpoint(seed)
        if not (self.options.resume and checkpoint.exists()):
            return self.preset.es(seed, self.options.device)
        es, steps = ES.load(checkpoint, device=self.options.device), self.options.steps
        if steps is None or steps == es.steps:
            if es.generation == es.steps:
                words = f"is finished: generation {es.generation} of {es.steps}. --steps with a larger number goes on"
            else:
                words = f"goes on from generation {es.generation} of {es.steps}"
        else:
            rate = (
                es.learning_rate if isinstance(es.learning_rate, float) else es.learning_rate.at(es.generation, steps)
            )
            words = (
                f"goes on from generation {es.generation} of {steps}, and had {es.steps} planned: schedules follow the "
                f"new number, so the learning rate is {rate:.3g} now"
            )
        self.console.print(f"Seed {seed} {words}.", highlight=False)
        return es

    def fit(self, es: ES, data: Dataset, folder: Path, after_step: Callable[[ES], Any]) -> None:
        """Train a run that isn't finished."""
        loaded = es.run.data is not None
        if es.generation and es.generation == (self.steps(loaded) or es.steps):
            return
        session = self.session(folder / CHECKPOINT, loaded=loaded, after_step=after_step)
        Trainer(es, es.run, data, self.preset.training, session).train()

    def steps(self, loaded: bool) -> int | None:
        """The requested number of steps. A loaded run keeps its plan unless an option changes it."""
        return self.options.steps if loaded else self.preset.steps

    def session(
        self, checkpoint: Path | None, *, loaded: bool, after_step: Callable[[ES], Any] | None = None
    ) -> Session:
        """The arguments for the trainer."""
        minutes = self.preset.max_minutes
        return Session(
            steps=self.steps(loaded),
            max_seconds=None if minutes is None else 60.0 * minutes,
            checkpoint=checkpoint,
            after_step=after_step,
            executor=self.helpers,
        )

    @contextmanager
    def observers(self, folder: Path) -> Iterator[list[Callable[[ES], None]]]:
        """The callbacks that write logs during the run."""
        with TensorBoard(folder / TENSORBOARD) if self.options.tensorboard else nullcontext() as board:
            yield [_Log(folder / LOG).update, *([] if board is None else [board.update])]

    def report(self, complete: bool) -> None:
        """Write the files, and print the table or JSON. An interrupted run gets no picture, which takes a second."""
        files = self.save(self.options.plot and complete) if self.results else []
        if self.options.as_json:
            print(json.dumps(summary(self.preset, self.results), indent=2))
        elif self.results:
            print_table(self.console, self.preset, self.results)
            evaluations = sum(result.es.evaluations for result in self.results)
            self.console.print(
                f"{evaluations:.3g} evaluations (member x sample), {self.seconds:.0f} s of training in this session; "
                f"results in {self.folder.path}/ ({', '.join(files)}, and a checkpoint for each seed)",
                highlight=False,
            )
        for line in (*doubts(self.preset, self.results), *self.unfinished()):
            self.console.print(line, highlight=False)

    def unfinished(self) -> Iterator[str]:
        """The remaining work, and how to continue."""
        command = "--resume in place of --overwrite" if self.options.overwrite else "--resume"
        for result in self.results:
            if not result.finished:
                yield (
                    f"Seed {result.seed} is not finished: generation {result.es.generation} of {result.es.steps}. The "
                    f"same command with {command} goes on."
                )
            elif result.backprop is None:
                yield (
                    f"Seed {result.seed} is trained, and not compared with backprop and the controls. The same command "
                    f"with {command} does that."
                )
        missing = [str(seed) for seed in self.seeds if seed not in [result.seed for result in self.results]]
        if missing and self.results:
            yield f"Seed {', '.join(missing)} has not begun. The same command with {command} goes on."
        elif missing:
            yield "Interrupted before the first generation was done: there is nothing to keep."

    def save(self, plot: bool) -> list[str]:
        """Write the results of all seeds. Returns the names of the files."""
        folder, preset, results = self.folder.path, self.preset, self.results
        self.attempt(lambda: write_summary(preset, results, folder / "result.json"))
        self.attempt(lambda: write_thetas(results, folder / "theta.npz"))
        if plot:
            self.attempt(lambda: draw_curves(preset, results, folder / "curves.png"))
        return ["result.json", "theta.npz", *(["curves.png"] if plot else [])]

    def attempt(self, write: Callable[[], None]) -> None:
        """Write a file of results. A failure doesn't prevent the other files and the table."""
        try:
            write()
        except OSError as error:
            self.failed(error)

    def failed(self, error: OSError) -> None:
        """Report a file that could not be written, at once and in the exit status."""
        Console(stderr=True, markup=False).print(f"Warning: {error}", highlight=False, soft_wrap=True)
        self.status = self.status or _NOT_WRITTEN


class _Log:
    """The CSV file. It is rewritten for each new record, so it always agrees with the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self.failed_at: float | None = None

    def update(self, es: ES) -> None:
        """Write new records after a generation of `es`. A failure doesn't end the run; the next call tries again."""
        if len(es.records) == self.written:
            return
        if self.failed_at is not None and time.monotonic() - self.failed_at < _RETRY_SECONDS:
            return
        try:
            write_csv(es.records, self.path)
        except OSError as error:
            if self.failed_at is None:
                warn(f"{error}; training goes on, and it is tried again")
            self.failed_at = time.monotonic()
        else:
            self.written, self.failed_at = len(es.records), None


def _check_same(es: ES, asked: ES, preset: Preset, checkpoint: Path) -> None:
    """Refuse to resume with other settings: the result would be neither the old run nor a new one."""
    settings = [(name, getattr(es, name), getattr(asked, name)) for name in SETTINGS if name != "steps"]
    settings += [
        (name, getattr(es.run.settings, name), getattr(preset.training, name))
        for name in ("batch", "groups", "augmentation", "importance")
    ]
    settings.append(("network", repr(es.net), repr(asked.net)))
    different = [f"{name} {there!r} and not {here!r}" for name, there, here in settings if there != here]
    if different:
        raise ValueError(
            f"{checkpoint} is from a run with {'; '.join(different)}: resume it with the settings that it was started "
            "with, or choose another --output for a new run"
        )
