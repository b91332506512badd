"""What perturbations of the sampling grid share: which axis, and products along it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def long_axes(image: torch.Tensor) -> list[int]:
    """The spatial axes of an image (C, *spatial) that are longer than one voxel, counted from the channel's 0."""
    return [axis for axis in range(1, image.ndim) if image.shape[axis] > 1]


def lowest_resolution_axis(image: torch.Tensor, spacing_mm: Sequence[float]) -> int:
    """The axis with the largest spacing, of those longer than one voxel; the first of several.

    nnU-Net reads a 2d picture as (C, 1, H, W) with spacing (999, 1, 1): its first long axis, the rows, is taken.
    """
    return max(long_axes(image), key=lambda axis: spacing_mm[axis - 1], default=1)


def multiply_along(image: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """The matrix times every line of the image along an axis; the result has as many voxels there as matrix rows."""
    matrix = matrix.to(device=image.device, dtype=image.dtype)
    if axis == image.ndim - 1:
        return image @ matrix.T
    # the axes after it as one: products of matrices, without a copy that puts the axis first
    return (matrix @ image.flatten(axis + 1)).unflatten(axis + 1, image.shape[axis + 1 :])


def computable(image: torch.Tensor) -> torch.Tensor:
    """The image in float64 if it is, else in float32: half precision lacks the range, and on a CPU the speed."""
    return image if image.dtype == torch.float64 else image.float()
