"""The results of runs of `fpes train`, for the tables of the documentation.

    fpes train --preset mnist-es --seed 0 --output runs/0
    fpes train --preset mnist-es --seed 1 --output runs/1
    python benchmarks/store_runs.py runs/0 runs/1 --out benchmarks/results/2026-11-27-mnist-es.json

It notes for each seed the accuracies, the time of the training and the day, and of this process the processor, the
threads and the commit: so it is called on the machine of the runs, with their FPES_THREADS, before the sources change.
Runs with other settings than the preset's are refused.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench_machine import machine

from fpes import _config
from fpes.files import written_whole
from fpes.presets import PRESETS

_MACHINE = ("processor", "threads", "isa", "compiler", "commit")
_SEED = ("seed", "seconds", "generations", "evaluations", "backprop", "trained", "controls")


def stored(runs: Sequence[Path]) -> dict[str, Any]:
    """What is stored of run folders, the seeds of all of them in order.

    Raises:
        OSError: a folder has no results.
        ValueError: they aren't those of a whole run with the settings of a preset, or two are of one seed.
    """
    seeds = [seed for run in runs for seed in _seeds(run)]
    seeds.sort(key=lambda seed: (seed["preset"], seed["seed"]))
    for one, other in itertools.pairwise(seeds):
        if (one["preset"], one["seed"]) == (other["preset"], other["seed"]):
            raise ValueError(f"two runs of {one['preset']} have seed {one['seed']}: expected one")
    return {"machine": {name: machine()[name] for name in _MACHINE}, "seeds": seeds}


def _seeds(run: Path) -> Iterator[dict[str, Any]]:
    path = run / "result.json"
    result = json.loads(path.read_text())
    _check_settings(result, path)
    day = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).date().isoformat()
    for seed in result["seeds"]:
        if not seed["finished"] or seed["backprop"] is None:
            raise ValueError(f"{path}: seed {seed['seed']} is not finished and compared; --resume does that")
        yield {"preset": result["preset"], "date": day} | {name: seed[name] for name in _SEED}


def _check_settings(result: dict[str, Any], path: Path) -> None:
    """How many seeds there are is no setting of a run."""
    preset = vars(PRESETS[result["preset"]])
    different = [
        f"{name} {result['settings'].get(name)!r} and not {_config.to_json(value)!r}"
        for name, value in preset.items()
        if name != "seeds" and result["settings"].get(name) != json.loads(json.dumps(_config.to_json(value)))
    ]
    if different:
        raise ValueError(f"{path} has other settings than preset {result['preset']}: {'; '.join(different)}")


def main() -> None:
    """Read the folders that the command line names, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="an output folder of fpes train")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    options = parser.parse_args()
    try:
        found = stored(options.runs)
        with written_whole(options.out) as aside:
            aside.write_text(json.dumps(found, indent=1) + "\n")
    except (OSError, ValueError) as error:
        sys.exit(f"store_runs: {error}")


if __name__ == "__main__":
    main()
