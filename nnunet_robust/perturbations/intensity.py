"""Changes of the mapping from tissue to intensity."""

from __future__ import annotations

import math

import torch

from nnunet_robust.perturbations.row import Perturbation


def contrast(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Gamma correction: y = sign(x) * |x| ** gamma with gamma = exp(level).

    Mid intensities darken; 0 and 1, the ends of the robust range, stay where they are.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: ln(gamma); >= 0, 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: TorchIO `RandomGamma`, whose `log_gamma` the level is.

    Example:
        >>> import math, torch
        >>> contrast(torch.tensor([[[0.0, 0.5, 1.0]]]), math.log(2), torch.Generator())  # squares
        tensor([[[0.0000, 0.2500, 1.0000]]])
    """
    if not level >= 0:
        raise ValueError(f"The logarithm of gamma must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return image.abs().pow_(math.exp(level)).copysign_(image)


def brightness(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Shift: y = x + level. What would pass the channel's maximum saturates there (`perturb` clips).

    nnU-Net's z-score normalisation undoes the shift itself, but not the saturation.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: the shift, in units of the robust range; >= 0, 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: MONAI `ShiftIntensity`; "brightness" of Hendrycks and Dietterich, ICLR 2019.
    """
    if not level >= 0:
        raise ValueError(f"The shift of the brightness must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return image + level


def window_shift(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Clip to a shifted window: y = min(max(x, level), 1 + level).

    The window [0, 1] is the robust range. Moved up, it loses what is dark: all below `level` becomes one grey. The
    tails outside of [0, 1], at most one voxel in a hundred, are cut at the smallest level already.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: shift of the window, in units of the robust range, which is also its width; >= 0, 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: the windowing of CT viewers (DICOM PS3.3 C.11.2), without its rescaling; TorchIO `Clamp`.

    Example:
        >>> import torch
        >>> window_shift(torch.tensor([[[0.0, 0.5, 1.5]]]), 0.2, torch.Generator())
        tensor([[[0.2000, 0.5000, 1.2000]]])
    """
    if not level >= 0:
        raise ValueError(f"The shift of the window must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return image.clamp(level, 1 + level)


def histogram_compression(
    image: torch.Tensor, level: float, generator: torch.Generator, *, region: torch.Tensor | None = None
) -> torch.Tensor:
    """Pull all values towards the channel's median m: y = m + (1 - level) (x - m).

    nnU-Net's z-score normalisation undoes it (not so the normalisation of CT): a drop there is one of precision only.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: share of the distance that is lost, in [0, 1]; 0 is the identity.
        generator: not used; nothing is random here.
        region: bool (*spatial), the voxels that the median is of; None: all.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: "contrast" of Hendrycks and Dietterich, ICLR 2019, about the median in place of the mean.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The compression must be in [0, 1], got {level}")
    if level == 0:
        return image.clone()
    # the lower one of two middle values, in float32: half precision has no median on some devices
    values = image.flatten(1) if region is None else image[:, region]
    median = values.float().median(dim=1).values.to(image.dtype).view(-1, *[1] * (image.ndim - 1))
    return torch.lerp(image, median, level)


def inverted_contrast(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Mix with the negative: y = (1 - level) x + level (1 - x) = x + level (1 - 2 x).

    At 0.5 the image is grey, and at 1 its own negative. nnU-Net's z-score normalisation undoes levels below 0.5, and
    makes all above 0.5 the negative.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: share of the negative, in [0, 1]; 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: the negative is scikit-image `util.invert` on an image in [0, 1]; the mix is ours.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The share of the negative must be in [0, 1], got {level}")
    if level == 0:
        return image.clone()
    return image.mul(1 - 2 * level).add_(level)


ROWS = (
    Perturbation(
        name="contrast",
        function=contrast,
        levels=(0.1, 0.3, 0.5, 0.8, 1.2),
        maximum=5.0,
        unit="ln(gamma)",
        modality="any",
        reference="TorchIO RandomGamma (log_gamma)",
    ),
    Perturbation(
        name="brightness",
        function=brightness,
        levels=(0.05, 0.1, 0.2, 0.35, 0.5),
        maximum=100.0,
        unit="shift / robust range",
        modality="any",
        reference="MONAI ShiftIntensity",
    ),
    Perturbation(
        name="window_shift",
        function=window_shift,
        levels=(0.05, 0.1, 0.2, 0.35, 0.5),
        maximum=100.0,
        unit="shift of the window / robust range",
        modality="any",
        reference="window of CT viewers; TorchIO Clamp",
    ),
    Perturbation(
        name="histogram_compression",
        function=histogram_compression,
        levels=(0.2, 0.4, 0.6, 0.8, 0.95),
        maximum=1.0,
        unit="share of the distance to the median",
        modality="any",
        reference="Hendrycks & Dietterich, ICLR 2019 (contrast)",
        uses_region=True,
    ),
    Perturbation(
        name="inverted_contrast",
        function=inverted_contrast,
        levels=(0.1, 0.3, 0.6, 0.8, 1.0),
        maximum=1.0,
        unit="share of the negative",
        modality="any",
        reference="scikit-image invert, mixed",
    ),
)
