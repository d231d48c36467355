"""`fpes compare-builds`: the effect of flush-to-zero on results, on time, and on the code of the kernels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fpes.cli.parameters import FOLDER
from fpes.cli.process import user_errors
from fpes.devices import checked_device
from fpes.files import writable_folder, written_whole
from fpes.study import report, terminal

_EPILOG = (
    "bits: compares results on the same operands in every flush mode, bit by bit. cost: times the same kernels in "
    "turns, on normal and subnormal numbers. code: compares PTX and machine code of the CUDA builds; it needs no GPU."
)


@click.command("compare-builds", epilog=_EPILOG)
@click.option(
    "--only",
    "parts",
    multiple=True,
    type=click.Choice(report.PARTS),
    help="One part of the report; repeat the option for more.",
)
@click.option("--kernel", metavar="WORD", help="Kernels whose names contain this word.")
@click.option("--quick", is_flag=True, help="Smaller operands and fewer rounds: under a minute.")
@click.option("--device", help="cpu, cuda or cuda:1; by default a GPU, if one can be used.")
@click.option(
    "--output",
    type=FOLDER,
    default=Path("runs/compare-builds"),
    help="Folder for report.html and report.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the tables.")
def command(**options: Any) -> None:
    """Compare flush-to-zero on and off: bits, cost, and the code of the CUDA builds."""
    user_errors(lambda: run(Options(**options)))


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    parts: tuple[str, ...]
    kernel: str | None
    quick: bool
    device: str | None
    output: Path
    as_json: bool


def run(options: Options) -> int:
    """Run the studies, print the report, and write it as a page and as JSON."""
    from fpes.study import page  # imports matplotlib, which other commands don't need

    device = report.usable_device() if options.device is None else checked_device(options.device)
    folder = writable_folder(options.output)
    progress = Console(stderr=True)
    made = report.make(
        options.parts or report.PARTS,
        options.kernel,
        options.quick,
        device=device,
        say=lambda words: progress.print(words, highlight=False),
    )
    _refuse_empty(made, options.kernel)
    text = json.dumps(made, indent=2)
    for name, contents in (("report.json", text), ("report.html", page.html(made))):
        with written_whole(folder / name) as aside:
            aside.write_text(contents, encoding="utf-8")
    if options.as_json:
        print(text)
        return 0
    console = Console(markup=False)
    terminal.show(made, console)
    console.print(f"Page with pictures: {folder / 'report.html'}", highlight=False)
    return 0


def _refuse_empty(made: dict[str, Any], kernel: str | None) -> None:
    """Refuse a word that no kernel's name contains."""
    if kernel is None:
        return
    found = made["bits"] or made["code"].get("kernels") or any(cost["kernels"] for cost in made["cost"])
    unread = made["parts"] == ["code"] and made["code"]["reason"]
    if not found and not unread:
        raise ValueError(f"no kernel has {kernel!r} in its name; there are: {', '.join(report.kernel_names())}")
