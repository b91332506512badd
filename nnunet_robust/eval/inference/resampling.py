"""nnU-Net's resampling of images, backwards: from a gradient on the plans' grid to one on the image's own.

`resample_data_or_seg_to_shape` is, but for one thing, linear and separable: a matrix for each axis, whose transpose
takes gradients back. The exception is that scikit-image's `resize` clips what splines overshoot to the extremes of the
values that it was given. A value that was clipped gets no gradient; that it moves with the extreme voxel itself is left
out. So the gradient is exact where the case has the spacing of the plans, where nothing is clipped, and where the
extremes are those of CT normalisation, which do not move; else it is exact but for the extreme voxels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from scipy import ndimage

FUNCTION = "resample_data_or_seg_to_shape"
"""nnU-Net's name of the only resampling that is known here."""

_ROUNDING = 1e-4  # of the values' range: less than that is not clipping


class Resampling:
    """The matrices of one change of grid.

    Args:
        shape: (*old) of the image before; three axes.
        new_shape: (*new), after.
        spacing_mm: of the image before, along each axis.
        new_spacing_mm: after.
        options: `resampling_fn_data_kwargs` of the plans.
    """

    def __init__(
        self,
        shape: Sequence[int],
        new_shape: Sequence[int],
        spacing_mm: Sequence[float],
        new_spacing_mm: Sequence[float],
        options: dict[str, Any],
    ) -> None:
        separate, apart = determine_do_sep_z_and_axis(
            options.get("force_separate_z", False), spacing_mm, new_spacing_mm
        )
        order, order_z = options.get("order", 3), options.get("order_z", 0)
        self._matrices = {
            axis + 1: torch.from_numpy(_matrix(old, new, order_z if separate and axis == apart else order)).float()
            for axis, (old, new) in enumerate(zip(shape, new_shape, strict=True))
            if old != new
        }

    def unclipped(self, image: torch.Tensor) -> torch.Tensor:
        """Resample without clipping: float32 (C, *old) -> (C, *new)."""
        for axis, matrix in self._matrices.items():
            image = _along(image, matrix, axis)
        return image

    def back(self, gradient: torch.Tensor, image: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
        """The gradient with respect to the image before.

        Args:
            gradient: float32 (C, *new), with respect to the image after.
            image: float32 (C, *old), before.
            resampled: float32 (C, *new), what nnU-Net made of it.
        """
        if not self._matrices:
            return gradient
        clipped = (self.unclipped(image) - resampled).abs() > _ROUNDING * (image.max() - image.min())
        gradient = gradient.masked_fill(clipped, 0.0)
        for axis, matrix in self._matrices.items():
            gradient = _along(gradient, matrix.T, axis)
        return gradient


def _along(image: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.tensordot(image, matrix, dims=([axis], [1])).movedim(-1, axis)


@functools.lru_cache(maxsize=16)  # every step of an attack asks again
def _matrix(old: int, new: int, order: int) -> np.ndarray:
    """The matrix (new, old) of one axis: splines of an order, edges repeated, the voxels' outer borders aligned."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    return np.stack([ndimage.map_coordinates(unit, at[None], order=order, mode="nearest") for unit in np.eye(old)], 1)
