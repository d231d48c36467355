"""Minibatches: the samples of each step of a training run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fpes import _checks

from .augmentation import Augmentation
from .dataset import Dataset
from .streams import Stream, permutation

_Number = TypeVar("_Number", bound=np.generic)

_LARGEST_SEED = 2**64 - 1
_MOST_STEPS = 2**32 - 1
_MOST_SAMPLES = 2**27  # of a step; more than any memory has room for their pixels


class Minibatches:
    """The training part of a data set, epoch after epoch, each in its own order.

    The samples of a step depend only on (seed, step): steps may be taken in any order, and repeated.

        minibatches = fpes.datasets.Minibatches(data, batch=512, seed=0)
        for step in range(1000):
            x, y = minibatches.at(step)

    Args:
        data: data set whose training part has the samples.
        batch: samples in a minibatch, at most all samples.
        groups: minibatches for each step: one that all members share (1), or one for each group of members.
        seed: 0 ... 2**64 - 1.
        augmentation: deforms the images, differently each time.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a number out of its range, images that differ from the augmentation in size.
    """

    def __init__(
        self, data: Dataset, batch: int, *, groups: int = 1, seed: int = 0, augmentation: Augmentation | None = None
    ) -> None:
        if not isinstance(data, Dataset):
            raise TypeError(f"data is a {type(data).__name__}, expected a fpes.datasets.Dataset")
        self.data = data
        self.batch = _checks.integer("batch", batch, 1, len(data.x_train))
        self.groups = _checks.integer("groups", groups, 1, _checks.LARGEST_INDEX)
        count = self.groups * self.batch
        if count > _MOST_SAMPLES:
            raise ValueError(
                f"groups is {self.groups} and batch {self.batch}, which make {count} samples for each step, expected "
                f"at most {_MOST_SAMPLES}"
            )
        self.seed = _checks.integer("seed", seed, 0, _LARGEST_SEED)
        self.augmentation = augmentation
        if augmentation is not None and augmentation.features != data.features:
            raise ValueError(
                f"augmentation is for images of {augmentation.height} x {augmentation.width} pixels, and a sample has "
                f"{data.features} features"
            )
        self._epoch: tuple[int, npt.NDArray[np.int64]] | None = None

    def at(self, step: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """The minibatch of a step.

        Returns:
            x float32 [batch, features] and y int32 [batch] or float32 [batch, outputs]; with a first axis [groups] if
            there is more than one group.
        """
        return self.samples(self.rows(step), step)

    def samples(
        self, rows: npt.NDArray[np.int64], step: int, strength: float = 1.0
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """As at(), with given samples, int64 [groups * batch], and a given strength of the augmentation."""
        if self.augmentation is None:
            x = self.data.x_train[rows]
        else:
            x = self.augmentation.apply(self.data.x_train, rows, self.seed, step, strength)
        y = self.data.y_train[rows]
        return (x if self.groups == 1 else x.reshape(self.groups, self.batch, -1)), self.shaped(y)

    def for_training_only(self) -> Minibatches:
        """The same minibatches without the validation part and all but one test sample: what other processes need."""
        data = self.data
        slim = replace(data, x_test=data.x_test[:1], y_test=data.y_test[:1], x_valid=None, y_valid=None)
        return Minibatches(slim, self.batch, groups=self.groups, seed=self.seed, augmentation=self.augmentation)

    def shaped(self, values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """Values of a step's samples, [groups * batch, ...], in its shape: [batch, ...] or [groups, batch, ...]."""
        return values if self.groups == 1 else values.reshape(self.groups, self.batch, *values.shape[1:])

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """The indices of the samples of a step: int64 [groups * batch]."""
        _checks.integer("step", step, 0, _MOST_STEPS)
        samples, count = len(self.data.x_train), self.groups * self.batch
        parts = []
        position, end = step * count, (step + 1) * count
        while position < end:
            epoch, first = divmod(position, samples)
            part = self._order(epoch)[first : first + end - position]
            parts.append(part)
            position += len(part)
        return np.concatenate(parts)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, permutation(Stream.ORDER, self.seed, epoch, len(self.data.x_train))
        return self._epoch[1]
