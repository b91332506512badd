"""Artefacts of computed tomography, slice by slice.

Slices are perpendicular to the first axis of a volume: the axial ones in nnU-Net's order of axes. Pixels are taken for
squares, as they are in CT, and the middle of the image for the axis of rotation. Nothing lies outside of the slice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from nnunet_robust.perturbations.axes import computable
from nnunet_robust.perturbations.radon import (
    at_radius,
    detector_length,
    filtered_back_projection,
    full_response,
    point_response,
    radon,
    ramp_filter,
)
from nnunet_robust.perturbations.row import Perturbation
from nnunet_robust.perturbations.slices import by_slices

_DENSE = 0.9  # of the robust range; what lies above hardens the beam
_SIZE = 160  # of the grid, at most, on which streaks are computed: they are smooth


def streaks(
    image: torch.Tensor, level: float, generator: torch.Generator, *, region: torch.Tensor | None = None
) -> torch.Tensor:
    """Dark bands between dense voxels, as of beam hardening: y = x - level f / p, f = FBP(R(d)^2), p its peak.

    d = max(x - 0.9, 0) is the dense part, bone and metal; R the Radon transform of each slice. A polychromatic beam
    attenuates less the more dense matter it has passed: p' = p - beta R(d)^2 in second order. The product of two
    objects in the square makes the bands between them. The peak is the largest |f| in the volume where d = 0, of each
    channel; inside of the dense voxels, which darken too, |f| is larger. f is computed on at most 160 x 160 pixels a
    slice, with as many views, and interpolated.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified; slices are the last two axes.
        level: largest change outside of the dense voxels, in units of the robust range; >= 0, 0 is the identity.
        generator: not used; nothing is random here.
        region: bool (*spatial), where dense voxels and the peak are sought; None: over the image.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Joseph and Spital, J. Comput. Assist. Tomogr. 1978; De Man et al., IEEE TNS 1999.

    Example:
        >>> import torch
        >>> bones = torch.zeros(1, 64, 64)
        >>> bones[0, 28:36, 12:20] = bones[0, 28:36, 44:52] = 1.0
        >>> change = streaks(bones, 0.2, torch.Generator())
        >>> between, above = change[0, 32, 32].item(), change[0, 10, 32].item()
        >>> round(between, 2), abs(above) < 0.01  # dark between them, and only there
        (-0.2, True)
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The size of the streaks must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    work = computable(image)
    height, width = image.shape[-2:]
    shrink = max(height, width, _SIZE) / _SIZE
    size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    angles = torch.arange(max(size), dtype=torch.float64) * (math.pi / max(size))
    result = torch.empty_like(work, memory_format=torch.contiguous_format)
    counted = torch.ones_like(work[0], dtype=torch.bool) if region is None else region
    for channel, target in zip(work, result, strict=True):
        slices = channel.reshape(-1, height, width)
        fields, peak = [], work.new_zeros(())
        for batch, inside in zip(slices.split(32), counted.reshape(-1, height, width).split(32), strict=True):
            dense = F.adaptive_avg_pool2d((batch - _DENSE).clamp(min=0) * inside, size)
            seen = F.adaptive_avg_pool2d(inside.to(work.dtype), size) > 0
            field = filtered_back_projection(radon(dense, angles).square(), angles, *size)
            peak = torch.maximum(peak, torch.where((dense == 0) & seen, field, 0).abs().amax())
            fields.append(field)
        factor = -level / torch.where(peak > 0, peak, 1.0)
        for part, batch, out in zip(fields, slices.split(32), target.view_as(slices).split(32), strict=True):
            shape = (height, width)
            out.copy_(F.interpolate(part[:, None], shape, mode="bilinear", align_corners=False)[:, 0])
            out.mul_(factor).add_(batch)
    return result.to(image.dtype)


def ring_artefact(
    image: torch.Tensor, level: float, generator: torch.Generator, *, region: torch.Tensor | None = None
) -> torch.Tensor:
    """Rings about the middle of each slice, from wrong gains of detector elements: y = x + level FBP(e).

    e is the error of the logarithm of an element's gain, the same at every angle of a full turn. Every row of the
    detector (slice) has its own: cubes of normal numbers, so that a few elements are far off. FBP(e) depends on the
    radius alone, and is computed exactly as such; it is scaled to standard deviation 1 in each slice. All channels
    share it.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified; slices are the last two axes.
        level: standard deviation over a slice, in units of the robust range; >= 0, 0 is the identity.
        generator: the source of randomness.
        region: bool (*spatial), over which the standard deviation is taken; None: over the image.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Sijbers and Postnov, Phys. Med. Biol. 2004; Kak and Slaney 1988, chapter 3 (back-projection).

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> rings = ring_artefact(torch.zeros(1, 64, 64), 0.02, torch_generator(0))
        >>> round(rings.std(correction=0).item(), 4)
        0.02
        >>> torch.allclose(rings, rings.transpose(1, 2), atol=1e-6)  # it depends on the radius alone
        True
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The standard deviation of the rings must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    height, width = image.shape[-2:]
    work = computable(image)
    count = work[0].numel() // (height * width)
    half = detector_length(height, width) // 2
    error = torch.randn(count, half + 2, generator=generator, device=generator.device) ** 3
    # over a full turn an element and its mirror image see the same rays: the error is even in t
    error = torch.cat([error.flip(1), error[:, 1:]], dim=1).to(work)
    filtered = ramp_filter(error)[:, half + 1 :]
    result = work.clone(memory_format=torch.contiguous_format)
    stack = result.view(-1, count, height, width)
    counted = None if region is None else region.reshape(count, height, width)
    for number, (part, slices) in enumerate(zip(filtered.split(16), stack.split(16, dim=1), strict=True)):
        rings = at_radius(part, height, width)
        if counted is None:
            deviation = rings.std(dim=(1, 2), correction=0, keepdim=True)
        else:
            deviation = _deviation(rings, counted[16 * number : 16 * (number + 1)])
        slices += rings * (level / deviation.clamp(min=1e-12))
    return result.to(image.dtype)


def _deviation(slices: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Standard deviation (S, 1, 1) of each slice (S, H, W), over the pixels that count; 1 where none does."""
    pixels = counted.sum(dim=(1, 2), keepdim=True)
    mean = (slices * counted).sum(dim=(1, 2), keepdim=True) / pixels.clamp(min=1)
    squares = ((slices - mean).square() * counted).sum(dim=(1, 2), keepdim=True)
    return torch.where(pixels > 0, (squares / pixels.clamp(min=1)).sqrt(), 1.0)


def sparse_views(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Too few views: y = x + FBP_n(R_n(x)) - FBP(R(x)), n = (1 - level) N views.

    N = pi / 2 times the slice's diagonal in pixels is what a full scan needs (1137 at 512 x 512), so that a level means
    the same at any size. R_n is the parallel-beam projection of each slice at n angles, evenly over half a turn, FBP_n
    its reconstruction with the ramp filter (Ram-Lak); FBP(R(x)), of very many views, is taken off so that only the
    effect of the missing views remains. Projection and reconstruction do not depend on the place: both together are a
    convolution, which is how it is computed. The first angle is half a step, lest rays run along rows and columns of
    pixels.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified; slices are the last two axes.
        level: share of the views that is left out, in [0, 1), at least one is kept; 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1) or NaN.

    Reference: Crowther et al., Proc. R. Soc. A 1970 (the number of views); Kak and Slaney 1988, chapter 5 (aliasing);
    scikit-image `radon` and `iradon`.
    """
    if not 0 <= level < 1:
        raise ValueError(f"The share of views left out must be in [0, 1), got {level}")
    if level == 0:
        return image.clone()
    height, width = image.shape[-2:]
    views = max(1, round(math.pi / 2 * math.hypot(height, width) * (1 - level)))
    missing = point_response(views, height, width, image.device) - full_response(height, width, image.device)
    shape = (2 * height, 2 * width)
    transfer = torch.fft.rfft2(missing)

    def reconstruct(slices: torch.Tensor) -> torch.Tensor:
        change = torch.fft.irfft2(torch.fft.rfft2(slices, s=shape) * transfer, s=shape)
        return slices + change[:, :height, :width]

    return by_slices(image, reconstruct)


ROWS = (
    Perturbation(
        name="streaks",
        function=streaks,
        levels=(0.1, 0.2, 0.4, 0.8, 1.6),
        maximum=100.0,
        unit="largest change / robust range, outside of bone",
        modality="ct",
        reference="Joseph and Spital 1978 (beam hardening); scikit-image radon, iradon",
        uses_region=True,
    ),
    Perturbation(
        name="ring_artefact",
        function=ring_artefact,
        levels=(0.005, 0.01, 0.02, 0.04, 0.08),
        maximum=100.0,
        unit="standard deviation / robust range",
        modality="ct",
        reference="Sijbers and Postnov 2004",
        stochastic=True,
        uses_region=True,
    ),
    Perturbation(
        name="sparse_views",
        function=sparse_views,
        levels=(0.7, 0.8, 0.9, 0.95, 0.97),
        maximum=0.995,
        unit="share of views left out",
        modality="ct",
        reference="scikit-image radon, iradon",
    ),
)
