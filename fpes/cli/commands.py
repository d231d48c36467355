"""Commands and their options. The file of the same name has the work of each command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fpes import __version__
from fpes._checks import FLUSH_MODES
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
@click.option("--preset", type=click.Choice(list(PRESETS)), default="digits", help="Settings of the run, listed below.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Seed of weights, noise and minibatches.")
@click.option("--seeds", type=click.IntRange(1, 100), help="Number of runs, with seeds from --seed on.")
@click.option("--steps", type=click.IntRange(1), help="Generations of each run.")
@click.option(
    "--max-minutes",
    type=Finite(0, min_open=True),
    help="Time limit of each run; the plan is fitted to it.",
)
@click.option("--population", type=click.IntRange(2), callback=even, help="Number of members, even.")
@click.option("--batch", type=click.IntRange(1), help="Samples in a minibatch.")
@click.option("--sigma", type=Finite(0, min_open=True), help="Initial standard deviation of the perturbation.")
@click.option("--lr", type=Finite(0, min_open=True), help="Initial learning rate.")
@click.option(
    "--weight-decay", type=Finite(0), help="A step removes this fraction of the weights, times the learning rate."
)
@click.option("--device", default="cpu", help="Device: cpu, cuda or cuda:1; the bits are the same.")
@click.option(
    "--workers", type=click.IntRange(1, 1024), help="Number of processes that share the work; the bits are the same."
)
@click.option("--data-dir", type=FOLDER, help="Folder with MNIST's IDX files; FPES_DATA also sets it.")
@click.option(
    "--output", type=FOLDER, help="Folder for results; by default runs/PRESET, or runs/PRESET-2 if that has a run."
)
@click.option("--resume", is_flag=True, help="Continue the run in the output folder, or the preset's last run.")
@click.option(
    "--overwrite", is_flag=True, help="Remove the run in the output folder, or the preset's last run, and start again."
)
@click.option("--plot/--no-plot", default=True, help="Draw the training curves.")
@click.option("--tensorboard", is_flag=True, help="Also write logs for TensorBoard.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@threads
def train_command(**options: Any) -> None:
    """Train a deep linear network with underflow, and compare it with backprop and with the controls.

    The preset sets all options that aren't given. A run with a given number of steps has the same bits on any machine.
    --max-minutes lowers the number of steps if necessary, so that the learning rate reaches its end in time. To
    continue an interrupted run, repeat the command with --resume. Under mpiexec, the ranks share the work.
    """
    user_errors(lambda: train.run(train.Options(**options)))


@cli.command("compare")
@click.argument("checkpoint", type=FILE)
@click.option("--data-dir", type=FOLDER, help="Folder with MNIST's IDX files; FPES_DATA also sets it.")
@click.option("--output", type=FOLDER, help="Folder for the chart; by default that of the checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@threads
def compare_command(checkpoint: Path, data_dir: Path | None, output: Path | None, as_json: bool) -> None:
    """Run the weights of a checkpoint in other arithmetics, to show the effect of underflow."""
    user_errors(lambda: compare.run(checkpoint, data_dir, output, as_json))


@cli.command("demo")
@click.option("--seconds", type=Finite(0, min_open=True), help="Time limit of the training.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of weights and noise.")
@click.option("--output", type=FOLDER, default=Path("runs/demo"), help="Folder for the picture.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@threads
def demo_command(seconds: float | None, seed: int, output: Path, quiet: bool) -> None:
    """Train on two spirals, and draw the decision regions of the network with ftz on and off."""
    user_errors(lambda: demo.run(seconds, seed, output, quiet))


@cli.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@threads
def info_command(as_json: bool) -> None:
    """Show builds, instruction set and threads, and the reason for each missing build."""
    user_errors(lambda: info.run(as_json))


@cli.command("bench")
@click.option(
    "--from",
    "stored",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show stored results, without measuring.",
)
@click.option("--path", type=click.Path(exists=True, path_type=Path), help="Your own benchmarks: a file or a folder.")
@click.option("--long", is_flag=True, help="More networks and families: half an hour.")
@click.option("--flush", type=click.Choice([*FLUSH_MODES, "all"]), help="Flush mode; boundary unless given.")
@click.option(
    "--only", metavar="WORDS", help="Run only benchmarks whose names match: words with and, or, not, as for pytest -k."
)
@click.option("--list", "names", is_flag=True, help="Show the names without measuring.")
@click.option("--json", "json_file", type=FILE, help="File for the results.")
@click.option("--csv", "csv_file", type=FILE, help="File for the results as a table.")
@click.option("--roofline", type=FILE, help="PNG file for a roofline plot of the results.")
@click.option(
    "--compare", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Compare with stored results."
)
@click.option("--other-machine", is_flag=True, help="Allow a comparison with results of another machine.")
@threads
def bench_command(**options: Any) -> None:
    """Measure the kernels as fractions of the machine's peak, and compare them with PyTorch, JAX and NumPy.

    --from shows the file of an earlier --json: its tables, and what --csv, --roofline and --compare make of it.
    """
    user_errors(lambda: bench.run(bench.Options(**options)))


cli.add_command(threads(compare_builds.command))
cli.add_command(threads(export.command))
