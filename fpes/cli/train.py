"""`fpes train`: the main job, from data to one table that tells the whole story."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fpes import plots
from fpes.baseline import train_by_backprop
from fpes.cli.runs import Run
from fpes.controls import Accuracy, accuracy, evaluate_controls
from fpes.datasets import Dataset, load
from fpes.es import ES
from fpes.files import writable_folder, written_whole
from fpes.network import LinearNetwork

_HIDDEN = {"digits": (64, 64), "mnist": (64, 64)}
_INTERRUPTED = 130  # exit status of a program that SIGINT ended


@dataclass(frozen=True)
class Options:
    """The options of the command, by name."""

    dataset: str
    data_dir: Path | None
    seeds: int
    seconds: float
    population: int
    batch: int
    sigma: float
    lr: float
    weight_decay: float
    output: Path
    plot: bool
    quiet: bool
    as_json: bool


@dataclass
class Result:
    """What one seed came to."""

    seed: int
    run: Run
    backprop: Accuracy
    es: Accuracy
    controls: list[Accuracy]


def run(options: Options) -> int:
    """Train one network for each seed, save what came out, and print it."""
    writable_folder(options.output)
    results: list[Result] = []
    for seed in range(options.seeds):
        results.append(_train(options, load(options.dataset, data_dir=options.data_dir, seed=seed), seed))
        if results[-1].run.interrupted:
            break
    _save(options, results)
    if options.as_json:
        print(json.dumps(_summary(results), indent=2))
    else:
        _print_table(options, results)
    return _INTERRUPTED if results[-1].run.interrupted else 0


def _train(options: Options, data: Dataset, seed: int) -> Result:
    net = LinearNetwork([data.features, *_HIDDEN[options.dataset], data.classes])
    es = ES(
        net,
        net.init(seed),
        size=options.population,
        sigma=options.sigma,
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        seed=seed,
    )
    run = Run(es, data, options.batch, options.lr, options.seconds)
    run.train(f"seed {seed}", options.quiet)
    backprop = train_by_backprop(net, data, seed=seed)
    return Result(
        seed,
        run,
        _of(net.with_flush("never"), backprop, data, "backprop"),
        _of(net, es.theta, data, "ES"),
        evaluate_controls(net, es.theta, data),
    )


def _of(net: LinearNetwork, theta: Any, data: Dataset, name: str) -> Accuracy:
    return Accuracy(
        name,
        accuracy(net(theta, data.x_train), data.y_train),
        accuracy(net(theta, data.x_test), data.y_test),
    )


def _rows(results: list[Result]) -> list[tuple[str, list[Accuracy]]]:
    """The table, row by row: what it is, and its accuracy for each seed."""
    rows = [
        ("backprop: linear, whatever it does", [result.backprop for result in results]),
        ('ES with underflow: flush "boundary"', [result.es for result in results]),
    ]
    for i, control in enumerate(results[0].controls):
        rows.append((f"the same weights, {control.name}", [result.controls[i] for result in results]))
    return rows


def _print_table(options: Options, results: list[Result]) -> None:
    net = results[0].run.net
    table = Table(
        title=f"{options.dataset}: deep linear network {'-'.join(map(str, net.sizes))}, no activation function"
    )
    table.add_column("")
    table.add_column("train, %", justify="right")
    table.add_column("test, %", justify="right")
    table.add_column("test, by seed", justify="right")
    for number, (name, accuracies) in enumerate(_rows(results)):
        table.add_row(
            name,
            f"{100 * np.mean([a.train for a in accuracies]):.1f}",
            f"{100 * np.mean([a.test for a in accuracies]):.1f}",
            "  ".join(f"{100 * a.test:.1f}" for a in accuracies),
            style="bold" if number == 1 else None,
            end_section=number == 1,
        )
    console = Console()
    console.print(table)
    evaluations = sum(result.run.evaluations for result in results)
    seconds = sum(result.run.elapsed for result in results)
    console.print(
        f"{evaluations:.3g} evaluations (member x sample) in {seconds:.0f} s; "
        f"results in {options.output}/ ({', '.join(_files(options))})"
    )
    if results[-1].run.interrupted:
        console.print(f"Interrupted in seed {results[-1].seed}: this is what was reached so far.")


def _summary(results: list[Result]) -> dict[str, Any]:
    return {
        "network": list(results[0].run.net.sizes),
        "interrupted": results[-1].run.interrupted,
        "seeds": [
            {
                "seed": result.seed,
                "seconds": result.run.elapsed,
                "generations": result.run.es.generation,
                "evaluations": result.run.evaluations,
                "backprop": asdict(result.backprop),
                "es": asdict(result.es),
                "controls": [asdict(control) for control in result.controls],
                "curve": asdict(result.run.curve),
            }
            for result in results
        ],
    }


def _files(options: Options) -> list[str]:
    return ["result.json", "theta.npz", *(["curve.png"] if options.plot else [])]


def _save(options: Options, results: list[Result]) -> None:
    with written_whole(options.output / "result.json") as path:
        path.write_text(json.dumps(_summary(results), indent=2) + "\n")
    with written_whole(options.output / "theta.npz") as path:
        thetas: dict[str, Any] = {f"seed_{result.seed}": result.run.es.theta for result in results}
        np.savez(path, **thetas)
    if options.plot:
        linear = float(np.mean([result.backprop.test for result in results]))
        with written_whole(options.output / "curve.png") as path:
            plots.training_curves({f"seed {r.seed}": r.run.curve for r in results}, linear, path)
