"""Parts of the image that are hidden or missing. What is hidden at one level is hidden at every higher one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunet_robust.perturbations.axes import long_axes, lowest_resolution_axis
from nnunet_robust.perturbations.boxes import TIE, first_reached
from nnunet_robust.perturbations.row import Perturbation

BOXES = 3


def cutout(
    image: torch.Tensor, level: float, generator: torch.Generator, *, region: torch.Tensor | None = None
) -> torch.Tensor:
    """Hide a share of the image behind three rectangles (boxes in 3d), in all channels: y = 0 there.

    Their centres are uniform over the image, and their edges relative to the image's are drawn from [0.5, 2] up to a
    common factor, which grows until they cover the share: each level's rectangles lie within the next one's.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: share of the area (volume) that is hidden, in [0, 1]; 0 is the identity.
        generator: the source of randomness.
        region: bool (*spatial), the voxels that the share is of; None: all.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: DeVries and Taylor, arXiv 1708.04552, with three rectangles.

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> hidden = cutout(torch.ones(1, 10, 10), 0.2, torch_generator(0)) == 0
        >>> int(hidden.sum())
        20
        >>> more = cutout(torch.ones(1, 10, 10), 0.4, torch_generator(0)) == 0
        >>> bool((more >= hidden).all())  # hidden at one level, hidden at every higher one
        True
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The share that is hidden must be in [0, 1], got {level}")
    axes = long_axes(image) or [1]
    uniform = torch.rand(BOXES, 2, len(axes), generator=generator, device=generator.device).cpu()
    centres, edges = uniform[:, 0], 4 ** (uniform[:, 1] - 0.5)
    hidden = round(level * (image[0].numel() if region is None else int(region.sum())))
    if hidden == 0:
        return image.clone()
    if region is not None:
        factor = _factor(image, axes, centres.to(image.device), edges.to(image.device))
        return image.masked_fill(factor <= factor[region].kthvalue(hidden).values, 0.0)
    lengths = [image.shape[axis] for axis in axes]
    boxes, places = first_reached(centres.numpy(), edges.numpy(), lengths, hidden)
    result = image.clone(memory_format=torch.contiguous_format)
    for box in boxes:
        inside = (slice(None), *(slice(*ends) for ends in box))
        result.view(-1, *lengths)[inside] = 0.0
    result.flatten(1).index_fill_(1, torch.from_numpy(places).to(image.device), 0.0)
    return result


def _factor(image: torch.Tensor, axes: Sequence[int], centres: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """The factor at which each voxel disappears, (*spatial): see `boxes.first_reached`."""
    factor = torch.full((), torch.inf, device=image.device)
    for centre, edge in zip(centres, edges, strict=True):
        box, total = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
        for number, axis in enumerate(axes):
            length = image.shape[axis]
            positions = (torch.arange(length, device=image.device) + 0.5) / length
            distance = ((positions - centre[number]).abs() / edge[number]).view(
                [-1 if a == axis else 1 for a in range(1, image.ndim)]
            )
            box, total = torch.maximum(box, distance), total + distance
        factor = torch.minimum(factor, box + TIE * total)
    return factor.expand(image.shape[1:])


def missing_slices(
    image: torch.Tensor,
    level: float,
    generator: torch.Generator,
    *,
    spacing_mm: Sequence[float],
    region: torch.Tensor | None = None,
) -> torch.Tensor:
    """Replace a share of the slices by their nearest neighbour that remains.

    The slices are those along the axis of lowest resolution, of those longer than one voxel; of several the first:
    rows in a 2d image with square pixels. They go missing in a random order, the whole part of level n of n, and the
    next one in part: it is mixed with its neighbour by the remaining fraction, so that the share is exact. Of two
    neighbours as near, the earlier.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: share of the slices that is missing, in [0, 1]; 0 is the identity. One slice always stays.
        generator: the source of randomness.
        spacing_mm: size of a voxel along each spatial axis.
        region: bool (*spatial); slices that hold none of it are none; None: all count.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: ours.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The share of missing slices must be in [0, 1], got {level}")
    axis = lowest_resolution_axis(image, spacing_mm)
    order = torch.randperm(image.shape[axis], generator=generator, device=generator.device).cpu()
    if region is not None:
        held = region.movedim(axis - 1, 0).flatten(1).any(dim=1).cpu()
        order = order[held[order]]
    length = len(order)
    whole = min(int(level * length), length - 1)
    if level == 0 or whole == length - 1 == 0:
        return image.clone()
    part = min(level * length - whole, 1.0) if whole < length - 1 else 0.0
    gone = order[: whole + (part > 0)]
    left = order[len(gone) :].sort().values
    nearest = left[(gone[:, None] - left).abs().argmin(dim=1)]
    result = image.clone()
    weights = torch.ones(len(gone))
    if part > 0:
        weights[-1] = part
    shape = [-1 if a == axis else 1 for a in range(image.ndim)]
    gone, nearest = gone.to(image.device), nearest.to(image.device)
    weight = weights.to(device=image.device, dtype=image.dtype).view(shape)
    result.index_copy_(
        axis, gone, torch.lerp(image.index_select(axis, gone), image.index_select(axis, nearest), weight)
    )
    return result


ROWS = (
    Perturbation(
        name="cutout",
        function=cutout,
        levels=(0.02, 0.05, 0.1, 0.2, 0.4),
        maximum=1.0,
        unit="share of the area hidden",
        modality="any",
        reference="DeVries & Taylor, arXiv 1708.04552",
        stochastic=True,
        uses_region=True,
    ),
    Perturbation(
        name="missing_slices",
        function=missing_slices,
        levels=(0.05, 0.1, 0.2, 0.4, 0.6),
        maximum=1.0,
        unit="share of slices missing",
        modality="any",
        reference="ours: nearest remaining slice",
        stochastic=True,
        uses_region=True,
        uses_spacing=True,
    ),
)
