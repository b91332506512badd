"""Loss of resolution other than blur: thick slices, coarse pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nnunet_robust.perturbations.axes import computable, long_axes, lowest_resolution_axis, multiply_along
from nnunet_robust.perturbations.row import Perturbation


def slice_thickness(
    image: torch.Tensor, level: float, generator: torch.Generator, *, spacing_mm: Sequence[float]
) -> torch.Tensor:
    """Thick slices: contiguous slabs of `level` mm are averaged along one axis, and interpolated back linearly.

    The axis is the one of lowest resolution, of those longer than one voxel; of several the first: the slices of a
    volume, the rows of a 2d image with square pixels. Slabs start at the image's first voxel, so that the last one may
    be partly filled; voxels beyond the first and last slab's centre take that slab's value. A voxel that two slabs
    share counts in both by the share.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: thickness of a slice in mm; >= 0. Up to the image's own spacing along the axis it is the identity.
        generator: not used; nothing is random here.
        spacing_mm: size of a voxel along each spatial axis.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: a rectangular slice profile; TorchIO's RandomAnisotropy resamples likewise, but without averaging.

    Example:
        >>> import torch
        >>> rows = torch.arange(8.0).view(1, 8, 1).expand(1, 8, 8)
        >>> slabs = slice_thickness(rows, 4.0, torch.Generator(), spacing_mm=(2.0, 1.0))  # of two rows each
        >>> slabs[0, :, 0]
        tensor([0.5000, 1.0000, 2.0000, 3.0000, 4.0000, 5.0000, 6.0000, 6.5000])
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The slice thickness must be finite and >= 0, got {level}")
    axis = lowest_resolution_axis(image, spacing_mm)
    spacing, length = spacing_mm[axis - 1], image.shape[axis]
    if level <= spacing or length == 1:
        return image.clone()
    average, interpolate = _slabs(length, level / spacing)
    slabs = multiply_along(computable(image), average, axis)
    return multiply_along(slabs, interpolate, axis).to(image.dtype).contiguous()


def pixelation(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Every voxel gets the mean of its block of level x level (x level) voxels.

    Blocks start at the image's first voxel; those at the far end are smaller where they do not fit. For a level that is
    no whole number, block b has the voxels whose centres lie in [b level, (b + 1) level). Axes of length 1 stay.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: edge of a block in voxels, along every axis; >= 0. Up to 1 it is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: scikit-image `downscale_local_mean`, repeated back; "pixelate" of Hendrycks and Dietterich, ICLR 2019.

    Example:
        >>> import torch
        >>> pixelation(torch.arange(16.0).view(1, 4, 4), 2.0, torch.Generator())[0]
        tensor([[ 2.5000,  2.5000,  4.5000,  4.5000],
                [ 2.5000,  2.5000,  4.5000,  4.5000],
                [10.5000, 10.5000, 12.5000, 12.5000],
                [10.5000, 10.5000, 12.5000, 12.5000]])
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The edge of a block must be finite and >= 0, got {level}")
    if level <= 1:
        return image.clone()
    blocks = {axis: _blocks(image.shape[axis], level) for axis in long_axes(image)}
    result = computable(image)
    for axis, block in blocks.items():
        members = torch.nn.functional.one_hot(block).T.double()
        result = multiply_along(result, members / members.sum(dim=1, keepdim=True), axis)
    for axis, block in blocks.items():
        result = result.index_select(axis, block.to(image.device))
    return result.to(image.dtype, copy=True).contiguous()


def _slabs(length: int, thickness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices that average voxels to slabs (slabs, voxels) and interpolate back; thickness in voxels, > 1."""
    count = math.ceil(length / thickness - 1e-9)
    starts = thickness * torch.arange(count, dtype=torch.float64)[:, None]
    voxels = torch.arange(length, dtype=torch.float64)
    overlap = (torch.minimum(starts + thickness, voxels + 1) - torch.maximum(starts, voxels)).clamp(min=0)
    average = overlap / overlap.sum(dim=1, keepdim=True)
    if count == 1:
        return average, torch.ones(length, 1, dtype=torch.float64)
    # the centre of what a slab holds: a partly filled one would stand too far out otherwise
    centres = average @ voxels
    left = (torch.searchsorted(centres, voxels) - 1).clamp(0, count - 2)
    share = ((voxels - centres[left]) / (centres[left + 1] - centres[left])).clamp(0, 1)
    interpolate = torch.zeros(length, count, dtype=torch.float64)
    interpolate.scatter_(1, left[:, None], (1 - share)[:, None])
    interpolate.scatter_(1, left[:, None] + 1, share[:, None])
    return average, interpolate


def _blocks(length: int, edge: float) -> torch.Tensor:
    """The number of each voxel's block, from 0 without gaps."""
    return torch.unique(((torch.arange(length, dtype=torch.float64) + 0.5) / edge).long(), return_inverse=True)[1]


ROWS = (
    Perturbation(
        name="slice_thickness",
        function=slice_thickness,
        levels=(2.0, 3.0, 5.0, 8.0, 12.0),
        maximum=10000.0,
        unit="slice thickness in mm",
        modality="any",
        reference="rectangular slice profile; cf. TorchIO RandomAnisotropy",
        uses_spacing=True,
    ),
    Perturbation(
        name="pixelation",
        function=pixelation,
        levels=(2.0, 3.0, 4.0, 8.0, 16.0),
        maximum=10000.0,
        unit="block edge in voxels",
        modality="any",
        reference="Hendrycks & Dietterich, ICLR 2019; scikit-image downscale_local_mean",
    ),
)
