"""The folder of a training command: its choice, its lock, and the run that it holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fpes import checkpoint
from fpes.files import owned, writable_folder

CHECKPOINT, LOG, TENSORBOARD = "checkpoint.npz", "log.csv", "tensorboard"
RESULTS = ("result.json", "theta.npz", "curves.png")


@dataclass(frozen=True)
class RunFolder:
    """The folder for a command's results: some files, and a folder for each seed."""

    path: Path

    def seed(self, seed: int) -> Path:
        """The folder of a seed."""
        return self.path / f"seed-{seed}"

    def checkpoint(self, seed: int) -> Path:
        """The checkpoint of a seed."""
        return self.seed(seed) / CHECKPOINT

    @property
    def seeds(self) -> list[int]:
        """The seeds that have a checkpoint."""
        names = (re.fullmatch(r"seed-(\d+)", path.parent.name) for path in self.path.glob(f"seed-*/{CHECKPOINT}"))
        return sorted(int(name[1]) for name in names if name)

    def contents(self) -> list[str]:
        """The results that a new run would replace, in words. A checkpoint of generation 0 doesn't count."""
        found = [name for name in RESULTS if (self.path / name).exists()]
        for folder in sorted(self.path.glob("seed-*")):
            if (folder / LOG).exists():
                found.append(f"{folder.name}/{LOG}")
            if (folder / CHECKPOINT).exists():
                found += _described(folder / CHECKPOINT)
        return found

    def clear(self) -> None:
        """Remove the files of a run. Other files stay."""
        for name in RESULTS:
            (self.path / name).unlink(missing_ok=True)
        for folder in self.path.glob("seed-*"):
            for name in (CHECKPOINT, LOG):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)


def resumed(output: Path | None, default: Path, seeds: Sequence[int]) -> RunFolder:
    """The folder whose run continues: `output`, or the last of the default folders.

    Raises:
        ValueError: there is nothing to resume, or more seeds than requested.
    """
    folder = RunFolder(_last(default) or default) if output is None else RunFolder(output)
    there = folder.seeds
    if not set(there) & set(seeds):
        has = f"it has seed {', '.join(map(str, there))}" if there else f"it has no {CHECKPOINT}"
        raise ValueError(
            f"there is nothing to resume in {folder.path}: {has}, expected a checkpoint of seed "
            f"{', '.join(map(str, seeds))}. Without --resume a new run begins"
        )
    more = sorted(set(there) - set(seeds))
    if more:
        raise ValueError(
            f"{folder.path} has a run with seed {', '.join(map(str, there))}, and seed {', '.join(map(str, more))} "
            f"would be missing from its results: resume all of them, with --seed {there[0]} --seeds "
            f"{there[-1] - there[0] + 1}, or use another --output"
        )
    return folder


@contextmanager
def owned_folder(output: Path | None, default: Path, resume: RunFolder | None, overwrite: bool) -> Iterator[RunFolder]:
    """The folder, created if necessary, and locked while the block runs.

    Args:
        output: the user's folder. A run in it stays, unless `overwrite` is set.
        default: the folder without `output`. If it holds a run, a number is added.
        resume: the folder whose run continues, if there is one.
        overwrite: remove the run in the folder.

    Raises:
        FileExistsError: the folder holds a run.
        BlockingIOError: another command is using the folder.
        OSError: the folder can't be created.
    """
    with ExitStack() as stack:
        if resume is not None:
            folder = _entered(stack, resume.path)
        elif overwrite:
            folder = _entered(stack, output or _last(default) or default)
            folder.clear()
        elif output is not None:
            folder = _entered(stack, output)
            found = folder.contents()
            if found:
                raise FileExistsError(
                    f"{output} has a run already: {', '.join(found)}. --resume goes on with it, --overwrite removes "
                    "it, and another --output leaves it alone"
                )
        else:
            folder = _first_free(stack, default)
        yield folder


def _entered(stack: ExitStack, path: Path) -> RunFolder:
    stack.enter_context(owned(writable_folder(path)))
    return RunFolder(path)


def _first_free(stack: ExitStack, default: Path) -> RunFolder:
    """The folder after the last one that holds a run. A folder where another run has just started isn't free."""
    last = _last(default)
    number = 1 if last is None else _number(last, default) + 1
    while True:
        path = _numbered(default, number)
        try:
            folder = _entered(stack, path)
        except BlockingIOError:
            number += 1
            continue
        if not folder.contents():
            return folder
        number += 1


def _numbered(default: Path, number: int) -> Path:
    return default if number == 1 else default.with_name(f"{default.name}-{number}")


def _number(path: Path, default: Path) -> int:
    """The number in the name of a folder; 0 if it isn't one of the default folders."""
    if path.name == default.name:
        return 1
    rest = re.fullmatch(r"-(\d+)", path.name.removeprefix(default.name))
    return int(rest[1]) if rest and path.name.startswith(default.name) else 0


def _last(default: Path) -> Path | None:
    """The default folder with the highest number that holds a run."""
    numbered = [(_number(path, default), path) for path in default.parent.glob(f"{default.name}*")]
    candidates = sorted(((number, path) for number, path in numbered if number), reverse=True)
    return next((path for _, path in candidates if RunFolder(path).contents()), None)


def _described(path: Path) -> list[str]:
    """A checkpoint in words; empty for a checkpoint of generation 0."""
    name = f"{path.parent.name}/{path.name}"
    try:
        description, _ = checkpoint.read(path)
        generation = description["generation"]
    except (checkpoint.CheckpointError, KeyError):
        return [f"{name}, which isn't whole"]
    return [f"{name} of generation {generation}"] if generation else []
