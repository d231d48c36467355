"""Commands and their options. What they do is in the file of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fpes import __version__
from fpes.cli import bench, compare, compare_builds, demo, export, info, train
from fpes.cli.parameters import FILE, FOLDER, Finite, even, threads
from fpes.cli.process import user_errors
from fpes.presets import PRESETS


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
@threads
def cli() -> None:
    """Floating-point evolution strategies: networks whose only nonlinearity is float32 underflow."""


def _preset_list() -> str:
    """The presets for the help text; \\b keeps click from joining the lines."""
    lines = [
        f"{preset.name}: {preset.dataset}, {'-'.join(map(str, preset.sizes))}; {preset.algorithm}."
        for preset in PRESETS.values()
    ]
    return "Presets:\n\n" + "\n\n".join(lines)


@cli.command("train", epilog=_preset_list())
@click.option("--preset", type=click.Choice(list(PRESETS)), default="digits", help="Which settings, listed below.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Of weights, noise and minibatches.")
@click.option("--seeds", type=click.IntRange(1, 100), help="How many runs, with seeds from --seed on.")
@click.option("--steps", type=click.IntRange(1), help="Generations of each run.")
@click.option(
    "--max-minutes",
    type=Finite(0, min_open=True),
    help="Limit to the time of each run: its plan is made to fit.",
)
@click.option("--population", type=click.IntRange(2), callback=even, help="Members, an even number.")
@click.option("--batch", type=click.IntRange(1), help="Samples in a minibatch.")
@click.option("--sigma", type=Finite(0, min_open=True), help="Of the perturbation, at first.")
@click.option("--lr", type=Finite(0, min_open=True), help="Learning rate, at first.")
@click.option("--weight-decay", type=Finite(0), help="Fraction of the weights, times the learning rate.")
@click.option("--device", default="cpu", help="Where to compute: cpu, cuda or cuda:1; the bits are the same.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes that share the work; the bits are the same.")
@click.option("--data-dir", type=FOLDER, help="Folder with MNIST's IDX files; also FPES_DATA.")
@click.option(
    "--output", type=FOLDER, help="Where results go; unless told runs/PRESET, or runs/PRESET-2 where that has a run."
)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder, or the last of the preset.")
@click.option("--overwrite", is_flag=True, help="Remove the run in the output folder, or the last of the preset.")
@click.option("--plot/--no-plot", default=True, help="Draw the training curves.")
@click.option("--tensorboard", is_flag=True, help="Write logs for TensorBoard too.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@threads
def train_command(**options: Any) -> None:
    """Train a deep linear network with underflow, and compare with backprop and with the controls.

    What isn't told is as the preset has it. A run of so many steps is the same to the bit on any machine. With
    --max-minutes there are fewer of them if need be, so that the learning rate comes to its end in time. An interrupted
    run goes on with the same command and --resume. Under mpiexec its ranks share the work.
    """
    user_errors(lambda: train.run(train.Options(**options)))


@cli.command("compare")
@click.argument("checkpoint", type=FILE)
@click.option("--data-dir", type=FOLDER, help="Folder with MNIST's IDX files; also FPES_DATA.")
@click.option("--output", type=FOLDER, help="Where the chart goes; beside the checkpoint unless told.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@threads
def compare_command(checkpoint: Path, data_dir: Path | None, output: Path | None, as_json: bool) -> None:
    """Run the weights of a checkpoint in other arithmetics: what happens when underflow is taken away."""
    user_errors(lambda: compare.run(checkpoint, data_dir, output, as_json))


@cli.command("demo")
@click.option("--seconds", type=Finite(0, min_open=True), help="Limit to the time of training.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of weights and noise.")
@click.option("--output", type=FOLDER, default=Path("runs/demo"), help="Where the picture goes.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@threads
def demo_command(seconds: float | None, seed: int, output: Path, quiet: bool) -> None:
    """Two spirals: draw the decision regions of one network with ftz on and off."""
    user_errors(lambda: demo.run(seconds, seed, output, quiet))


@cli.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@threads
def info_command(as_json: bool) -> None:
    """Show builds, instruction set and threads, and why what is absent is absent."""
    user_errors(lambda: info.run(as_json))


@cli.command("bench")
@click.option(
    "--path", type=click.Path(exists=True, path_type=Path), help="Benchmarks of your own: a file or a folder."
)
@click.option("--long", is_flag=True, help="More networks and families: half an hour.")
@click.option(
    "--flush", type=click.Choice(["never", "boundary", "always", "all"]), default="boundary", help="Flush mode."
)
@click.option("--only", metavar="WORDS", help="Those whose names match: words with and, or, not, as pytest's -k.")
@click.option("--list", "names", is_flag=True, help="Show the names, and measure nothing.")
@click.option("--json", "json_file", type=FILE, help="Store the results there.")
@click.option("--csv", "csv_file", type=FILE, help="Store them there as a table, too.")
@click.option("--roofline", type=FILE, help="Draw them under the roofs of the machine, as a PNG.")
@click.option("--compare", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="With stored results.")
@click.option("--other-machine", is_flag=True, help="Compare with those of another machine all the same.")
@threads
def bench_command(**options: Any) -> None:
    """Measure the kernels: fractions of the machine's peak, and PyTorch, JAX and NumPy beside them."""
    user_errors(lambda: bench.run(bench.Options(**options)))


cli.add_command(threads(compare_builds.command))
cli.add_command(threads(export.command))
