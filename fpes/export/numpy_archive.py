"""A formula as a NumPy archive, for users who write the few lines of the computation themselves.

The entries are `weight_1`, `bias_1`, `weight_2`, ... as float32, with biases after the first already shrunk;
`threshold`; and `formula`, which explains the computation in words. Tied layers have separate, equal entries.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fpes.export.formula import Formula
from fpes.files import written_whole

_WORDS = (
    "S(v) = v where abs(v) >= threshold, else 0.  h = S(x @ weight_1 + bias_1);  then for each further layer "
    "h = S(S(h @ weight) + bias).  h are the logits."
)


def write_npz(formula: Formula, path: str | os.PathLike[str]) -> None:
    """Write the archive. If writing fails, the old file remains.

    Raises:
        OSError: it can't be written.
    """
    entries: dict[str, np.ndarray] = {
        "threshold": np.array(formula.threshold, np.float32),
        "formula": np.array(_WORDS),
    }
    for layer, (weight, bias) in enumerate(zip(formula.weights, formula.biases, strict=True), start=1):
        entries[f"weight_{layer}"], entries[f"bias_{layer}"] = weight, bias
    with written_whole(Path(path)) as aside, aside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **entries)


def read_npz(path: str | os.PathLike[str]) -> Formula:
    """Read a file that `write_npz` wrote.

    Raises:
        OSError: it can't be read.
        KeyError: it isn't such an archive.
    """
    with np.load(path, allow_pickle=False) as entries:
        layers = sum(name.startswith("weight_") for name in entries.files)
        weights, biases = (
            tuple(entries[f"{kind}_{layer}"] for layer in range(1, layers + 1)) for kind in ("weight", "bias")
        )
        return Formula(weights, biases, float(entries["threshold"]))
