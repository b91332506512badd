"""Gaussian blurs, of the image and of its background."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from nnunet_robust.perturbations.axes import computable, long_axes, multiply_along
from nnunet_robust.perturbations.eight_bit import Scale, in_eight_bits
from nnunet_robust.perturbations.row import Perturbation

TRUNCATE = 4.0  # standard deviations; scipy.ndimage.gaussian_filter's default
_BLOCK = 32  # output rows made by one matrix product, at least; more multiply zeros, fewer repeat the kernel's reach
_VALUES_KEPT = 1 << 20  # of one blur's matrices along an axis


def gaussian_blur(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian blur with the same sigma, in voxels, along every spatial axis that is longer than one voxel.

    Equals `scipy.ndimage.gaussian_filter(channel, level, mode="reflect", truncate=4.0)`: a sampled, normalised
    kernel of radius round(4 * level), the image continued by reflection about its outer edge (d c b a | a b c d),
    as often as a kernel larger than the image needs. Axes of length 1 (the first of a 2d image stored as
    (C, 1, H, W)) stay as they are.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: standard deviation of the Gaussian in voxels; >= 0, 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: scipy.ndimage.gaussian_filter.

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> point = torch.zeros(1, 9, 9)
        >>> point[0, 4, 4] = 1.0
        >>> blurred = gaussian_blur(point, 1.0, torch_generator(0))
        >>> round(blurred.sum().item(), 4), round(blurred[0, 4, 4].item(), 3)  # 1 / (2 pi) = 0.159
        (1.0, 0.159)
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The sigma of the blur must be finite and >= 0, got {level}")
    axes = long_axes(image)
    if level == 0 or not axes:
        return image.clone()
    blurred = computable(image).contiguous()
    for axis in axes:
        blurred = _blur_axis(blurred, axis, level)
    return blurred.to(image.dtype)


def background_blur(image: torch.Tensor, level: float, generator: torch.Generator, mask: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of the background only: the whole image is blurred, then the original foreground put back.

    As in the published experiments, the blur does not know the mask: the foreground leaks into the background
    near it (and only the foreground's own voxels keep their values, bit for bit).

    Args:
        image: float tensor (C, *spatial), not modified.
        level: standard deviation of the Gaussian in voxels; >= 0, 0 is the identity. The papers' 3 and 7 pixels,
            which they call variances, are standard deviations.
        generator: not used; nothing is random here.
        mask: bool tensor (*spatial), True in the foreground (any label > 0), on any device.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Kamath et al. 2023, "easier" (3) and "easiest" (7).
    """
    return torch.where(mask.to(image.device), image, gaussian_blur(image, level, generator))


def background_blur_8bit(
    image: torch.Tensor,
    level: float,
    generator: torch.Generator,
    mask: torch.Tensor,
    *,
    eight_bit: Scale | None = None,
) -> torch.Tensor:
    """The papers' blur of the background: the image continued by its edge (a a a a | a b c d), the result in 8 bits.

    As `background_blur` but for the border and the storage. An image without 8 bits is brought there first: its robust
    range becomes 0 to 255; the foreground keeps its values.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: standard deviation of the Gaussian in voxels; >= 0, 0 is the identity.
        generator: not used; nothing is random here.
        mask: bool tensor (*spatial), True in the foreground (any label > 0), on any device.
        eight_bit: how these units stand for 8-bit values; None: they do not.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Kamath et al. 2023, `skimage.filters.gaussian(image, level)` (mode "nearest"), cut to uint8.
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The sigma of the blur must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()

    def blur(grey: torch.Tensor) -> torch.Tensor:
        for axis in long_axes(image):
            matrix = _edge_matrix(level, image.shape[axis]).to(device=grey.device, dtype=grey.dtype)
            grey = multiply_along(grey, matrix, axis)
        return grey

    return torch.where(mask.to(image.device), image, in_eight_bits(image, eight_bit, blur))


def foreground_blur(image: torch.Tensor, level: float, generator: torch.Generator, mask: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of the foreground only: the whole image is blurred, then the original background put back.

    The mirror image of `background_blur`: the background leaks into the foreground near their border.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: standard deviation of the Gaussian in voxels; >= 0, 0 is the identity.
        generator: not used; nothing is random here.
        mask: bool tensor (*spatial), True in the foreground (any label > 0), on any device.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: the counterpart of Kamath et al. 2023's blur of the background.
    """
    return torch.where(mask.to(image.device), gaussian_blur(image, level, generator), image)


class _Block(NamedTuple):
    """Rows start to stop of the blur's matrix; outside of the columns first to last they are zero."""

    start: int
    stop: int
    first: int
    last: int
    rows: torch.Tensor


def _blur_axis(image: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    """Blur a contiguous image along one axis by products with the blur's matrix: far faster than a convolution."""
    length = image.shape[axis]
    small = length * min(length, _BLOCK + 2 * _radius(sigma)) <= _VALUES_KEPT
    blocks = (_blocks if small else _blocks.__wrapped__)(sigma, length, image.dtype, image.device)
    lines = image.view(math.prod(image.shape[:axis]), length, -1)
    blurred = torch.empty_like(lines)
    for start, stop, first, last, rows in blocks:
        if lines.shape[2] == 1:  # plain matrices are written where they belong
            torch.mm(lines[:, first:last, 0], rows.T, out=blurred[:, start:stop, 0])
        elif len(lines) == 1:
            torch.mm(rows, lines[0, first:last], out=blurred[0, start:stop])
        else:
            blurred[:, start:stop] = rows @ lines[:, first:last]
    return blurred.view(image.shape)


@functools.lru_cache(maxsize=16)  # of the images of a dataset many have one size
def _blocks(sigma: float, length: int, dtype: torch.dtype, device: torch.device) -> list[_Block]:
    radius = _radius(sigma)
    kernel = _periodic_kernel(sigma, length)
    blocks = []
    step = max(_BLOCK, radius)
    for start in range(0, length, step):
        stop = min(start + step, length)
        # reflected positions fall inside of this window too
        first, last = max(0, start - radius), min(length, stop + radius)
        offsets = torch.arange(first, last) - torch.arange(start, stop)[:, None]
        reflected = -1 - torch.arange(first, last) - torch.arange(start, stop)[:, None]
        # voxel j of the continued image stands at j + 2 n z and at -1 - j + 2 n z, for every integer z
        matrix = kernel[offsets % (2 * length)] + kernel[reflected % (2 * length)]
        blocks.append(_Block(start, stop, first, last, matrix.to(device=device, dtype=dtype)))
    return blocks


def _edge_matrix(sigma: float, length: int) -> torch.Tensor:
    """The blur's matrix (length, length) along an axis that goes on as its edges are, whatever the kernel's reach."""
    offsets, weights = _kernel(sigma)
    rows = torch.arange(length)[:, None]
    places = (torch.arange(length) - rows).clamp(-len(weights), len(weights)) + len(weights) // 2
    inside = (places >= 0) & (places < len(weights))
    matrix = torch.where(inside, weights[places.clamp(0, len(weights) - 1)], 0.0)
    # the first and the last voxel stand for all beyond them, too
    matrix[:, 0] = torch.where(offsets <= -rows, weights, 0.0).sum(dim=1)
    matrix[:, -1] = torch.where(offsets >= length - 1 - rows, weights, 0.0).sum(dim=1)
    return matrix


def _kernel(sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets and normalised weights of the Gaussian kernel."""
    radius = _radius(sigma)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    return offsets, weights / weights.sum()


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


def _periodic_kernel(sigma: float, length: int) -> torch.Tensor:
    """The Gaussian kernel wrapped to the period 2 * length of a reflected axis; entry k is the weight of offset k."""
    offsets, weights = _kernel(sigma)
    return torch.zeros(2 * length, dtype=torch.float64).index_add_(0, offsets % (2 * length), weights)


ROWS = (
    Perturbation(
        name="gaussian_blur",
        display_name="Gaussian blur",
        function=gaussian_blur,
        levels=(0.5, 1.0, 2.0, 3.0, 5.0),
        maximum=1000.0,
        unit="sigma in voxels",
        modality="any",
        reference="scipy.ndimage.gaussian_filter(mode='reflect', truncate=4)",
    ),
    Perturbation(
        name="background_blur",
        function=background_blur,
        levels=(1.0, 2.0, 3.0, 5.0, 7.0),
        maximum=1000.0,
        unit="sigma in voxels",
        modality="any",
        reference="Kamath et al., MICCAI 2023 (standard deviations 3 and 7)",
        uses_mask=True,
    ),
    Perturbation(
        name="background_blur_8bit",
        display_name="background blur of 8 bits",
        function=background_blur_8bit,
        levels=(1.0, 2.0, 3.0, 5.0, 7.0),
        maximum=1000.0,
        unit="sigma in voxels",
        modality="any",
        reference="Kamath et al., MICCAI 2023 (scikit-image gaussian, standard deviations 3 and 7)",
        uses_mask=True,
        uses_eight_bit=True,
    ),
    Perturbation(
        name="foreground_blur",
        function=foreground_blur,
        levels=(1.0, 2.0, 3.0, 5.0, 7.0),
        maximum=1000.0,
        unit="sigma in voxels",
        modality="any",
        reference="the counterpart of Kamath et al., MICCAI 2023",
        uses_mask=True,
    ),
)
