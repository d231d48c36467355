"""The training curves for TensorBoard, where it is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fpes.es import ES


class TensorBoard:
    """Writes every new record of a run as scalars, against the generation.

    Raises:
        ImportError: neither tensorboardX nor torch's own writer is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.writer = _writer(folder)
        self.written = 0

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def update(self, es: ES) -> None:
        """After a generation of `es`."""
        for record in es.records[self.written :]:
            for name, value in record.row().items():
                if name != "generation" and value is not None:
                    group, _, layer = name.rpartition("_")
                    tag = f"{group}/layer {layer}" if layer.isdigit() else name
                    self.writer.add_scalar(tag, value, record.generation)
        self.written = len(es.records)


def _writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"--tensorboard needs tensorboardX ({error}): pip install tensorboardX") from None
    return SummaryWriter(str(folder))
