"""Commands and their options. What they do is in train.py, demo.py and info.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fpes import __version__, _settings
from fpes.cli import bench, demo, info, train

_FOLDER = click.Path(file_okay=False, path_type=Path)


def _user_errors(run: Callable[[], int]) -> None:
    """Turn what a user can mend into one line and exit status 2."""
    try:
        status = run()
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        click.echo(f"fpes: {error}", err=True)
        status = 2
    raise SystemExit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to use; all CPUs unless told.")
def cli(threads: int | None) -> None:
    """Floating-point evolution strategies: networks whose only nonlinearity is float32 underflow."""
    if threads is not None:
        _settings.set_threads(threads)


@cli.command("train")
@click.option("--dataset", type=click.Choice(["digits", "mnist"]), default="digits", help="What to learn.")
@click.option("--data-dir", type=_FOLDER, help="Folder with MNIST's IDX files; also FPES_DATA.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, help="How many runs, with seeds 0, 1, ...")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=17.0, help="Time for each run.")
@click.option("--population", type=click.IntRange(2), default=512, help="Members, an even number.")
@click.option("--batch", type=click.IntRange(1), default=512, help="Samples in a minibatch.")
@click.option("--sigma", type=click.FloatRange(0, min_open=True), default=0.03, help="Of the perturbation.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=0.02, help="Learning rate, decays to 0.")
@click.option("--weight-decay", type=click.FloatRange(0), default=0.1, help="Of AdamW.")
@click.option("--output", type=_FOLDER, default=Path("runs/train"), help="Where results go.")
@click.option("--plot/--no-plot", default=True, help="Draw the training curves.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def train_command(**options: Any) -> None:
    """Train a deep linear network by ES with underflow, and compare with backprop and with the controls."""
    _user_errors(lambda: train.run(train.Options(**options)))


@cli.command("demo")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=15.0, help="Time to train for.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of weights and noise.")
@click.option("--output", type=_FOLDER, default=Path("runs/demo"), help="Where the picture goes.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def demo_command(seconds: float, seed: int, output: Path, quiet: bool) -> None:
    """Two spirals: draw the decision regions of one network with ftz on and off."""
    _user_errors(lambda: demo.run(seconds, seed, output, quiet))


@cli.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def info_command(as_json: bool) -> None:
    """Show builds, instruction set and threads, and why what is absent is absent."""
    _user_errors(lambda: info.run(as_json))


@cli.command("bench")
@click.option("--long", "long_run", is_flag=True, help="More networks and families: half an hour.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Store the results there.")
@click.option("--compare", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="With stored results.")
@click.option("--only", metavar="WORDS", help="Benchmarks whose names match, as pytest's -k takes them.")
def bench_command(long_run: bool, json_file: Path | None, compare: Path | None, only: str | None) -> None:
    """Measure the kernels: fractions of the machine's peak, and PyTorch, JAX and NumPy beside them."""
    _user_errors(lambda: bench.run(long_run, json_file, compare, only))
