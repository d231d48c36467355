"""Augmentation: random deformations of training images, which depend only on the seed and the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpes import _checks, _config, _cpu, _settings
from fpes._modes import ieee_mode

from .streams import Stream, uniform

_FEWEST_POINTS, _MOST_POINTS = 2, 64
_LARGEST = 2.0**24  # of displacements: beyond the edge of any image, and far from where float32 ends


@_config.register
@dataclass(frozen=True)
class Augmentation:
    """Random shifts, linear maps and elastic deformations of grey images (Simard, Steinkraus & Platt 2003, section 2).

    All three displace the control points of a grid over the image. Displacements between the control points are
    interpolated bilinearly, and so are pixels. Pixels from outside the image are 0.

    Args:
        height: rows of an image.
        width: columns of an image; a sample has height * width features.
        shift: largest shift along either axis, in pixels.
        linear: largest deviation of each entry of the 2 x 2 matrix from the identity. The matrix combines rotation,
            scaling and shear about the centre; 0.1 rotates by up to 6 degrees.
        elastic: largest individual displacement of each control point along either axis, in pixels.
        points: control points along each side, 2 ... 64. Without elastic deformations, 2 are enough.
        fade: the fraction of a training run, 0 ... 1, over which the deformations shrink to 0, so that the run ends
            with the original images; 0: they don't shrink.

    Raises:
        TypeError, ValueError: a number of the wrong type or out of its range.
    """

    height: int
    width: int
    shift: float = 0.0
    linear: float = 0.0
    elastic: float = 0.0
    points: int = 5
    fade: float = 0.0

    def __post_init__(self) -> None:
        _checks.integer("height", self.height, 1, _checks.LARGEST_INDEX)
        _checks.integer("width", self.width, 1, _checks.LARGEST_INDEX)
        for name in ("shift", "linear", "elastic"):
            _checks.at_most(name, getattr(self, name), _LARGEST)
        if _checks.not_negative("fade", self.fade) > 1.0:
            raise ValueError(f"fade is {self.fade}, expected a fraction from 0 to 1")
        _checks.integer("points", self.points, _FEWEST_POINTS, _MOST_POINTS)

    @property
    def features(self) -> int:
        """The number of pixels of an image."""
        return self.height * self.width

    @ieee_mode()
    def strength(self, step: int, steps: int) -> float:
        """The factor of the deformations in a step of `steps` planned steps: from 1 down to 0."""
        return max(0.0, 1.0 - step / (self.fade * steps)) if self.fade else 1.0

    def apply(
        self,
        images: npt.NDArray[np.float32],
        chosen: npt.NDArray[np.int64],
        seed: int,
        step: int,
        strength: float = 1.0,
    ) -> npt.NDArray[np.float32]:
        """The chosen images, each with its own deformation.

        Args:
            images: float32 [n, features].
            chosen: indices of images, integers [count], each in 0 ... n - 1.
            seed: 0 ... 2**64 - 1.
            step: 0 ... 2**32 - 1; every step has different deformations.
            strength: factor of the deformations, 0 ... 2**24.

        Returns:
            float32 [count, features].

        Raises:
            TypeError: images aren't float32, chosen aren't integers.
            ValueError: images of another size, an index or a number out of its range.
        """
        pixels = _checks.float_array("images", images, ("n", self.features))
        rows = _checks.indices("chosen", chosen, None, len(pixels))
        with ieee_mode():
            factor = np.float32(_checks.at_most("strength", strength, _LARGEST))
            displacements = factor * self.displacements(len(rows), seed, step)
        result = np.empty((len(rows), self.features), np.float32)
        _cpu.warp(
            _settings.execution(),
            pixels.ctypes.data,
            (self.height, self.width),
            rows.ctypes.data,
            len(rows),
            displacements.ctypes.data,
            (self.points, self.points),
            result.ctypes.data,
        )
        return result

    @ieee_mode()
    def displacements(self, count: int, seed: int, step: int) -> npt.NDArray[np.float32]:
        """The displacements of the control points of `count` images: float32 [count, points, points, 2].

        The last axis is (down, right), in pixels.
        """
        _checks.integer("count", count, 1, _checks.LARGEST_INDEX)
        shape = (self.points, self.points, 2)
        free = math.prod(shape)
        draws = uniform(Stream.AUGMENTATION, seed, step, count * (6 + free)).reshape(count, 6 + free)
        shifts, matrices, bends = draws[:, :2], draws[:, 2:6], draws[:, 6:]
        # Distances of the control points from the centre, in pixels.
        down = np.linspace(-0.5, 0.5, self.points, dtype=np.float32) * np.float32(self.height - 1)
        right = np.linspace(-0.5, 0.5, self.points, dtype=np.float32) * np.float32(self.width - 1)
        result: npt.NDArray[np.float32] = np.float32(self.elastic) * bends.reshape(count, *shape)
        linear = np.float32(self.linear) * matrices[:, :, None, None]
        for axis in (0, 1):
            result[..., axis] += np.float32(self.shift) * shifts[:, axis, None, None]
            result[..., axis] += linear[:, 2 * axis] * down[:, None] + linear[:, 2 * axis + 1] * right
        return result
