"""Perturbations of raw images: one table, one function that applies a row of it, and what it did in decibels.

Every perturbation is a pure function `f(image, level, generator)` of a float tensor (C, *spatial) in units of the
image's robust range (0 is its 0.5th percentile, 1 its 99.5th, per channel). A new one is a function and a row beside it
in its module's `ROWS`. Attacks on a model are no natural perturbations: tests, command line and docs go over the table
of `eval.attacks.rows`, which has both.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.perturbations import (
    blur,
    ct,
    histology,
    intensity,
    kspace,
    mri,
    noise,
    occlusion,
    photons,
    resolution,
    texture,
    ultrasound,
)
from nnunet_robust.perturbations.combination import combined
from nnunet_robust.perturbations.eight_bit import is_eight_bit, snapped
from nnunet_robust.perturbations.region import continued, kept_nonzero
from nnunet_robust.perturbations.row import Perturbation

__all__ = [
    "PERTURBATIONS",
    "PRESETS",
    "ROBUST_PERCENTILES",
    "Extra",
    "Perturbation",
    "check_level",
    "measure",
    "perturb",
    "perturbation",
    "robust_range",
]

ROBUST_PERCENTILES = (0.5, 99.5)
"""The percentiles of an image's intensities that are the ends of its robust range."""

Extra = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], Mapping[str, Any]]
"""(from an image in units of the robust range to the raw one, width of each channel's range) -> further keywords."""

# The order is that of lists and docs. Levels have generous maxima: they only keep arithmetic and kernels finite.
_ROWS = (
    *noise.ROWS,
    *photons.ROWS,
    *texture.ROWS,
    *blur.ROWS,
    *resolution.ROWS,
    *intensity.ROWS,
    *occlusion.ROWS,
    *kspace.ROWS,
    *mri.ROWS,
    *ct.ROWS,
    *ultrasound.ROWS,
    *histology.ROWS,
)
PERTURBATIONS: dict[str, Perturbation] = {row.name: row for row in _ROWS}

# What a modality's images suffer from, beside the rows that are meant for it alone.
_ALSO = {
    "mri": ("gaussian_blur", "contrast", "slice_thickness", "missing_slices"),
    "ct": ("poisson_noise", "gaussian_noise", "gaussian_blur", "window_shift", "slice_thickness"),
    "ultrasound": ("speckle_noise", "gaussian_blur", "contrast", "brightness"),
    "histology": ("poisson_noise", "brightness", "contrast", "pixelation"),
}
_NOISE = (*noise.ROWS, *photons.ROWS, *texture.ROWS)

PRESETS: dict[str, dict[str, tuple[float, ...]]] = {
    # with the clean images, the five conditions of both papers
    "kamath2025": {"speckle_noise_8bit": (0.1**0.5, 0.3**0.5), "background_blur_8bit": (3.0, 7.0)},
    **{
        modality: {row.name: row.levels for row in _ROWS if row.modality == modality or row.name in also}
        for modality, also in _ALSO.items()
    },
    "noise": {row.name: row.levels for row in _NOISE if not row.uses_eight_bit},
    "all": {row.name: row.levels for row in _ROWS},
}


def perturbation(name: str, table: Mapping[str, Perturbation] = PERTURBATIONS) -> Perturbation:
    """The row of that name, or the one made for a combination such as `gaussian_noise+gaussian_blur`.

    Args:
        name: of a row, or names with "+" between, see `combination.combined`.
        table: name -> row.

    Raises:
        UserError: there is none; the message has the nearest name and the list.
    """
    return combined(name, partial(_single, table=table)) if "+" in name else _single(name, table)


def _single(name: str, table: Mapping[str, Perturbation]) -> Perturbation:
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name, table, n=1)
    hint = f"Did you mean '{nearest[0]}'? " if nearest else ""
    raise UserError(f"There is no perturbation '{name}'. {hint}Choose from: {', '.join(table)}")


def check_level(row: Perturbation, level: float) -> None:
    """Make sure that `perturb` takes this level of a row.

    Raises:
        UserError: a level outside of [0, maximum], infinite or NaN.
    """
    if not (0 <= level <= row.maximum and math.isfinite(level)):
        limit = f"in [0, {row.maximum:g}]" if math.isfinite(row.maximum) else "finite and >= 0"
        raise UserError(f"The level of {row.name} ({row.unit}) must be {limit}, got {level}")


def perturb(
    image: torch.Tensor,
    what: str | Perturbation,
    level: float,
    generator: torch.Generator,
    mask: torch.Tensor | None = None,
    spacing_mm: Sequence[float] | None = None,
    bounds: tuple[torch.Tensor, torch.Tensor] | None = None,
    extra: Extra | None = None,
    region: torch.Tensor | None = None,
    colour: bool = False,
) -> torch.Tensor:
    """Perturb a raw image: scale to its robust range, apply, scale back, clip.

    Each channel is clipped to the values that it had, [min, max]: a stored image saturates. (Rows on the 8-bit scale
    saturate at 0 and 255, where the image has 8 bits.) Values that the perturbation leaves alone keep their bits; so
    does a constant channel, and at level 0 the whole image.

    With a region everything is of that region alone: the robust range, [min, max], and what the row takes the image's
    mean, median or extent for. What lies outside keeps its bits. The row sees it replaced by a continuation of the
    region (`region.continued`), so that no filter brings it in. A voxel does not become background either, see
    `region.kept_nonzero`: what nnU-Net takes for not zero is the same as before.

    Args:
        image: float tensor (C, *spatial) of finite raw values, not modified; two or three spatial axes, any device.
        what: a key of `PERTURBATIONS`, a combination of them, as in `gaussian_noise+gaussian_blur`, or a row of any
            table.
        level: in the row's unit, in [0, maximum]; 0 is the identity, bit for bit.
        generator: the source of randomness (`nnunet_robust.common.seeding.torch_generator`), freshly made for each
            call: the levels of a perturbation share one field only if each starts from the same state.
        mask: bool tensor (*spatial), True in the foreground (any label > 0). Needed by rows with `uses_mask`,
            ignored by the others.
        spacing_mm: size of a voxel along each spatial axis, as nnU-Net's `properties["spacing"]`; None is 1 mm each.
            Only rows with `uses_spacing` look at it.
        bounds: `robust_range(image, region)`, where it is at hand already.
        extra: makes the keywords with which an attack's row is handed its model, see `attacks.rows.against`; ignored
            by the others.
        region: bool tensor (*spatial), where to perturb; None: everywhere.
        colour: whether the three channels are red, green and blue.

    Returns:
        A new tensor with the shape, dtype and device of `image`; computed in float32.

    Raises:
        UserError: unknown name, level out of range, no mask or a wrong one, an attack without a model, a spacing that
            is none, an image that is no such tensor, a region that is none of this image.
    """
    row = perturbation(what) if isinstance(what, str) else what
    check_level(row, level)
    if not image.is_floating_point() or image.ndim not in (3, 4):
        raise UserError(
            f"An image must be a float tensor (C, *spatial) with 2 or 3 spatial axes, "
            f"got {image.dtype} of shape {tuple(image.shape)}"
        )
    if row.uses_mask:
        _check_mask(row.name, image, mask)
    given: dict[str, Any] = {"mask": mask, "colour": colour}
    if row.uses_spacing:
        given["spacing_mm"] = _checked_spacing(row.name, image, spacing_mm)
    if row.uses_victim and extra is None:
        needs = "needs a model with the image's reference: give both, or leave it out"
        raise UserError(f"{row.name} is an attack and {needs}")
    region = _checked_region(image, region)
    if level == 0:
        return image.clone()
    low, high = (_per_channel(bound, image) for bound in bounds or robust_range(image, region))
    span = high - low
    width = torch.where(span > 0, span, 1.0)
    scaled = (image.float() - low) / width
    if region is not None:
        scaled = continued(scaled, region)
    minimum, maximum = (_per_channel(bound, image) for bound in _values(image, region).aminmax(dim=1))
    eight_bit = (row.uses_eight_bit or (row.uses_colour and colour)) and is_eight_bit(image)
    if eight_bit:
        minimum, maximum = torch.zeros_like(minimum), torch.full_like(maximum, 255)

    def raw(changed: torch.Tensor) -> torch.Tensor:
        found = (changed * span + low).to(image.dtype).clamp(minimum, maximum)
        # scaling there and back rounds: without this the untouched foreground of background_blur would change
        found = torch.where((changed == scaled) | (span == 0), image, snapped(found) if eight_bit else found)
        return found if region is None else kept_nonzero(torch.where(region, found, image), image)

    given |= {"region": region, "eight_bit": (low / 255, width / 255) if eight_bit else None}
    keywords = row.selected(given)
    if extra is not None and row.uses_victim:
        keywords |= extra(raw, span)
    return raw(row.function(scaled, level, generator, **keywords))


def robust_range(image: torch.Tensor, region: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The 0.5th and 99.5th percentile of each channel, linearly interpolated.

    A channel nearly all of whose voxels are equal, so that the two coincide, gets its minimum and maximum instead;
    a constant channel has low == high.

    Args:
        image: float tensor (C, *spatial) of finite values, on any device.
        region: bool (*spatial), the voxels that count; None: all.

    Returns:
        (low, high): float32 tensors (C,) on the image's device, in raw units. They are found on the CPU, so that
        the device does not change them.
    """
    values = _values(image.detach(), region).cpu()
    # not torch.quantile, which refuses more than 2**24 values
    channels = (values if values.dtype == torch.float64 else values.float()).numpy()
    low, high = np.percentile(channels, ROBUST_PERCENTILES, axis=1)
    narrow = low == high
    low, high = np.where(narrow, channels.min(axis=1), low), np.where(narrow, channels.max(axis=1), high)
    return (
        torch.from_numpy(low.astype(np.float32)).to(image.device),
        torch.from_numpy(high.astype(np.float32)).to(image.device),
    )


def measure(
    clean: torch.Tensor,
    perturbed: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor] | None = None,
    region: torch.Tensor | None = None,
) -> dict[str, float]:
    """What a perturbation did to an image, pooled over channels, in units of the clean image's robust range.

    psnr_db = 10 log10(1 / mse) and snr_db = 10 log10(var / mse), where mse is the mean squared difference and var the
    variance within channels, averaged over them. Both are inf for equal images. A constant channel, which `perturb`
    leaves alone, has no range: its differences count in raw units, and its variance is 0, so that a wholly constant
    image that did change has snr_db = -inf. Never NaN for finite images.

    Args:
        clean: float tensor (C, *spatial), raw values.
        perturbed: the same shape and device.
        bounds: `robust_range(clean, region)`, where it is at hand already.
        region: bool (*spatial), the voxels that count; None: all.

    Returns:
        {"psnr_db": ..., "snr_db": ...}
    """
    low, high = (_per_channel(bound, clean) for bound in bounds or robust_range(clean, region))
    span = high - low
    scale = torch.where(span > 0, span, 1.0)
    difference = (perturbed.float() - clean.float()) / scale
    mse = (difference if region is None else difference[:, region]).square().mean(dtype=torch.float64).item()
    # the shift by low keeps the digits of the variance; a constant channel becomes zeros
    scaled = _values((clean.float() - low) / scale, region).double()
    variance = scaled.var(dim=1, correction=0).mean().item()
    return {"psnr_db": _decibels(1.0, mse), "snr_db": _decibels(variance, mse)}


def _values(image: torch.Tensor, region: torch.Tensor | None) -> torch.Tensor:
    """(C, voxels): those of the region."""
    return image.flatten(1) if region is None else image[:, region]


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _per_channel(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """(C,) -> (C, 1, ...), to be broadcast over the image."""
    return values.view(-1, *[1] * (image.ndim - 1))


def _check_mask(name: str, image: torch.Tensor, mask: torch.Tensor | None) -> None:
    if mask is None:
        raise UserError(f"{name} needs the reference segmentation, and there is none: give labels, or leave {name} out")
    if mask.dtype != torch.bool or mask.shape != image.shape[1:]:
        raise UserError(
            f"The mask of {name} must be bool of shape {tuple(image.shape[1:])}, as the image, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _checked_region(image: torch.Tensor, region: torch.Tensor | None) -> torch.Tensor | None:
    """The region on the image's device; None where it is the whole image."""
    if region is None:
        return None
    if region.dtype != torch.bool or region.shape != image.shape[1:] or not region.any():
        raise UserError(
            f"A region must be bool of shape {tuple(image.shape[1:])}, as the image, and not empty, "
            f"got {region.dtype} of shape {tuple(region.shape)}"
        )
    return None if region.all() else region.to(image.device)


def _checked_spacing(name: str, image: torch.Tensor, spacing_mm: Sequence[float] | None) -> tuple[float, ...]:
    if spacing_mm is None:
        return (1.0,) * (image.ndim - 1)
    spacing = tuple(float(s) for s in spacing_mm)
    if len(spacing) != image.ndim - 1 or not all(0 < s < math.inf for s in spacing):
        raise UserError(
            f"The spacing for {name} must be a positive length in mm for each of the {image.ndim - 1} spatial axes, "
            f"got {spacing}"
        )
    return spacing
