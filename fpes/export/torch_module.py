"""A formula as a PyTorch module, and as a file of torch.export that needs neither fpes nor this source."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from fpes.export.formula import Formula
from fpes.files import written_whole

_EXAMPLE_ROWS = 2  # torch.export treats a batch of 1 as a constant


def to_torch(formula: Formula) -> Any:
    """A torch.nn.Module from x, float32 [batch, features], to logits [batch, classes]. Weights are its parameters.

    Tied layers share one parameter, as usual in PyTorch.

    Raises:
        ImportError: PyTorch isn't installed.
    """
    torch = _torch()

    base: Any = torch.nn.Module

    class Network(base):  # type: ignore[misc]
        """h = S(x W1 + b1), then h = S(S(h W) + b), S the hard shrink."""

        def __init__(self) -> None:
            super().__init__()
            self.weights = _parameters(torch, formula.weights)
            self.biases = _parameters(torch, formula.biases)

        def forward(self, x: Any) -> Any:
            h = self._shrink(x @ self.weights[0] + self.biases[0])
            for weight, bias in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
                h = self._shrink(self._shrink(h @ weight) + bias)
            return h

        def _shrink(self, v: Any) -> Any:
            if formula.threshold == 0.0:
                return v
            # Not hardshrink(v, threshold), which replaces a value equal to the threshold by 0.
            return torch.nn.functional.hardshrink(v, formula.below_threshold)

    return Network()


def write_torch(formula: Formula, path: str | os.PathLike[str]) -> None:
    """Write a file for torch.export.load(), for batches of any size. If writing fails, the old file remains.

    Raises:
        ImportError: PyTorch isn't installed.
        OSError: it can't be written.
    """
    torch = _torch()
    example = torch.zeros(_EXAMPLE_ROWS, formula.features)
    program = torch.export.export(
        to_torch(formula).eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    contents = io.BytesIO()
    torch.export.save(program, contents)
    with written_whole(Path(path)) as aside:
        aside.write_bytes(contents.getvalue())


def _parameters(torch: Any, arrays: tuple[Any, ...]) -> Any:
    made = {id(array): torch.nn.Parameter(torch.from_numpy(array.copy())) for array in arrays}
    return torch.nn.ParameterList([made[id(array)] for array in arrays])


def _torch() -> Any:
    try:
        import torch
        import torch.export
    except ImportError as error:
        raise ImportError(f"a PyTorch module needs PyTorch ({error}): pip install torch") from None
    return torch
