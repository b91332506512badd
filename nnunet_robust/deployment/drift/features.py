"""An image and what a model made of it, in a few named numbers: what a test of drift looks at.

What is not defined for an image (the blur of a constant one, the texture of an object that was not found) is NaN, and
stays so: see `ordered`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.uncertainty.uncertainty import StructureScores
from nnunet_robust.perturbations import ROBUST_PERCENTILES

DIGITS = 6
"""Significant ones: the last bits depend on the processor, and where many images have one value they must not count."""


def image_features(
    image: NDArray[np.floating], spacing_mm: Sequence[float], channels: Sequence[str]
) -> dict[str, float]:
    """Measure an image, whatever a model makes of it.

    Args:
        image: (C, *spatial), finite raw intensities, 2d or 3d.
        spacing_mm: the voxel's size along each axis, in mm.
        channels: their names, in order.

    Returns:
        For each channel: "noise" (a share of the robust range, >= 0) and "blur" (in [0, 1]) as in `image_quality`,
        "median" and "range" (from the 0.5th to the 99.5th percentile), both in the image's own units. To `DIGITS`
        digits; NaN: not defined.

    Raises:
        UserError: the names are not as many as the channels.
    """
    if len(channels) != len(image):
        raise UserError(f"the image has {len(image)} channels and there are names for {len(channels)}: give one each")
    found = {}
    for name, channel in zip(channels, image, strict=True):
        quality = image_quality(channel[None], spacing_mm)
        low, high = np.percentile(channel, ROBUST_PERCENTILES)
        found[f"noise of {name}"] = quality.noise_sigma
        found[f"blur of {name}"] = quality.blur
        found[f"median of {name}"] = float(np.median(channel))
        found[f"range of {name}"] = float(high - low)
    return _rounded(found)


def prediction_features(
    image: NDArray[np.floating],
    spacing_mm: Sequence[float],
    masks: Mapping[str, NDArray[np.bool_]],
    scores: Mapping[str, StructureScores] | None = None,
) -> dict[str, float]:
    """Measure what a model made of an image.

    Args:
        image: (C, *spatial), finite raw intensities.
        spacing_mm: the voxel's size along each axis, in mm.
        masks: structure -> bool (*spatial), what the model calls it.
        scores: structure -> its uncertainty scores; None where members were not told apart.

    Returns:
        "texture divergence" between all that is called foreground and the rest (bits, in [0, 1], mean over channels);
        for each structure its "share" of the voxels (in [0, 1]) and, with `scores`, its "entropy" (mean bits around it)
        and "predicted Dice" (in [0, 1]; of a single member, who has none, the soft Dice). To `DIGITS` digits; NaN: not
        defined.
    """
    foreground = np.any([*masks.values()], axis=0)
    meter = ComplexityMeter(
        image, foreground.astype(np.uint8), {"foreground": [1]}, spacing_mm, max_slices=SWEEP_SLICES
    )
    found = {"texture divergence": meter.measure(image)["foreground"].texture_divergence_bits}
    for name, mask in masks.items():
        found[f"share of {name}"] = float(np.mean(mask))
    for name, score in (scores or {}).items():
        found[f"entropy of {name}"] = score.entropy_bits
        overlap = score.overlap
        single = math.isnan(overlap.predicted_dice)
        found[f"predicted Dice of {name}"] = overlap.soft_dice if single else overlap.predicted_dice
    return _rounded(found)


def mean_activation(activations: NDArray[np.floating]) -> tuple[float, ...]:
    """Reduce a layer's output to a number per channel: its mean over space.

    Args:
        activations: (channels, *spatial) of one image; of several tiles, stack them along a spatial axis.

    Returns:
        (channels,), to `DIGITS` digits.

    Raises:
        ValueError: a number that is not finite.
    """
    means = activations.reshape(len(activations), -1).mean(axis=1, dtype=np.float64)
    if not np.isfinite(means).all():
        raise ValueError("activations must be finite: the network's output is broken")
    return tuple(to_digits(value) for value in means)


def ordered(values: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Order features as the tests of drift do: undefined is lower than any number, and equal to any other undefined.

    So a feature that is undefined as often as it was in the reference is no drift, one that is more often or more
    rarely undefined is, and no image is left out.
    """
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(array), -np.inf, array)


def to_digits(value: float) -> float:
    """Round a number to `DIGITS` significant digits; what is not finite is undefined, NaN."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else math.nan


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {name: to_digits(value) for name, value in found.items()}
