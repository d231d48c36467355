"""`fpes export`: writes a checkpoint's network for other libraries, and checks the file by running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from fpes._checks import FloatArray
from fpes.cli.parameters import FILE, FOLDER
from fpes.cli.process import user_errors
from fpes.datasets import load
from fpes.es import ES
from fpes.export import formula_of, read_npz, write_npz, write_onnx, write_torch
from fpes.files import writable_folder

_SAMPLES = 2000  # for the check, if the data of the run isn't available


@dataclass(frozen=True)
class Target:
    """A format: its suffix, a function that writes a file, and one that runs the file on x [batch, features]."""

    suffix: str
    write: Callable[..., None]
    run: Callable[[Path, FloatArray], FloatArray]


def _run_onnx(path: Path, x: FloatArray) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits: FloatArray = session.run(["logits"], {"x": x})[0]
    return logits


def _run_torch(path: Path, x: FloatArray) -> FloatArray:
    import torch

    with torch.no_grad():
        logits: FloatArray = torch.export.load(path).module()(torch.from_numpy(x)).numpy()
    return logits


def _run_npz(path: Path, x: FloatArray) -> FloatArray:
    return read_npz(path)(x)


TARGETS = {
    "onnx": Target(".onnx", write_onnx, _run_onnx),
    "torch": Target(".pt2", write_torch, _run_torch),
    "npz": Target(".npz", write_npz, _run_npz),
}


@click.command("export")
@click.argument("checkpoint", type=FILE)
@click.option("--to", "target", type=click.Choice(list(TARGETS)), required=True, help="Format of the file.")
@click.option(
    "--output",
    type=FILE,
    help="Output file; by default network.onnx, .pt2 or .npz beside the checkpoint.",
)
@click.option(
    "--data-dir",
    type=FOLDER,
    help="Folder with MNIST's IDX files; FPES_DATA also sets it.",
)
def command(**options: Any) -> None:
    """Export the network of a checkpoint to ONNX, PyTorch (torch.export) or NumPy, and check the file.

    Underflow becomes a hard shrink: h = S(x W1 + b1), then h = S(S(h W) + S(b)).
    """
    user_errors(lambda: run(**options))


def run(checkpoint: Path, target: str, output: Path | None, data_dir: Path | None) -> int:
    """Write the file, run it, and print the comparison. The exit status is 1 if a class differs."""
    es = ES.load(checkpoint)
    chosen = TARGETS[target]
    path = checkpoint.with_name(f"network{chosen.suffix}") if output is None else output
    if path.resolve() == checkpoint.resolve():
        raise ValueError(f"{path} is the checkpoint itself: choose another file with --output")
    writable_folder(path.parent)
    formula = formula_of(es.net, es.solution)
    chosen.write(formula, path)
    console = Console(markup=False)
    console.print(f"Written: {path}", highlight=False)
    what, x = _samples(es, data_dir)
    try:
        logits = chosen.run(path, x)
    except ImportError as error:
        console.print(f"Not checked: {error}.", highlight=False)
        return 0
    ours = es.net(es.solution, x)
    differ = int((np.argmax(logits, axis=1) != np.argmax(ours, axis=1)).sum())
    console.print(
        f"Checked on {what}: {len(x) - differ:,} of {len(x):,} samples get the same class; logits differ by at most "
        f"{abs(logits - ours).max():.1e}.",
        highlight=False,
    )
    return 1 if differ else 0


def _samples(es: ES, data_dir: Path | None) -> tuple[str, FloatArray]:
    """The samples that it was trained on, if they can be loaded; otherwise numbers like those of images."""
    if es.run.data is not None:
        try:
            data = load(es.run.data["name"], data_dir=data_dir, seed=es.seed)
        except (ValueError, OSError, ImportError):
            pass
        else:
            if data.features == es.net.features:
                return f"the test part of {data.name}", data.x_test
    rng = np.random.default_rng(0)
    shape = (_SAMPLES, es.net.features)
    return "random inputs", np.where(rng.random(shape) < 0.2, rng.random(shape), 0.0).astype(np.float32)
