"""The training curves as logs for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fpes.es import ES
from fpes.health import warn


class TensorBoard:
    """Writes every new record of a run as scalars, against the generation.

    Raises:
        ImportError: neither tensorboardX nor torch's own writer is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.writer = tensorboard_writer()(str(folder))
        self.folder = folder
        self.written = 0
        self.failing = False

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self._try(self.writer.close)

    def update(self, es: ES) -> None:
        """Write new records after a generation of `es`. A full disk doesn't end the run."""
        self._try(lambda: self._add(es))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self.failing:
                warn(f"can't write {self.folder}: {error}; training goes on")
            self.failing = True
        else:
            self.failing = False

    def _add(self, es: ES) -> None:
        for record in es.records[self.written :]:
            for name, value in record.row().items():
                if name != "generation" and value is not None:
                    group, _, layer = name.rpartition("_")
                    tag = f"{group}/layer {layer}" if layer.isdigit() else name
                    self.writer.add_scalar(tag, value, record.generation)
        self.written = len(es.records)


def tensorboard_writer() -> Any:
    """The writer class of an installed package.

    Raises:
        ImportError: no such package is installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"--tensorboard needs tensorboardX ({error}): pip install tensorboardX") from None
    return SummaryWriter
