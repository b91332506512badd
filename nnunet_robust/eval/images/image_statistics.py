"""A whole image in a few numbers, to compare it with those of a calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_robust.eval.images.complexity import SWEEP_SLICES, slice_axis
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.images.normalisation import PERCENTILES, NetworkView

DETAIL_PIXELS = (2.0, 4.0)
"""Standard deviations of the two Gaussian blurs whose difference is an image's details."""


@dataclass(frozen=True)
class ImageStatistics:
    """An image in a few numbers.

    Attributes:
        percentiles: for each channel the 0.5th, 50th and 99.5th percentile of all voxels.
        noise_sigma: see `image_quality`; None where there is nothing to measure it by.
        blur: likewise.
        polarity: for each channel whether bright details prevail; see `polarity`.
        network: what the network sees of it; None: it was not measured, as by earlier versions.
    """

    percentiles: tuple[tuple[float, float, float], ...]
    noise_sigma: float | None
    blur: float | None
    polarity: tuple[float | None, ...]
    network: NetworkView | None = None

    @classmethod
    def of(cls, image: NDArray[np.floating], spacing_mm: Sequence[float]) -> ImageStatistics:
        """Measure the statistics of an image, without `network`.

        Args:
            image: (C, *spatial), finite.
            spacing_mm: the voxel's size along each axis.
        """
        found = [np.percentile(channel, PERCENTILES) for channel in image]
        quality = image_quality(image, spacing_mm)
        return cls(
            tuple((float(low), float(median), float(high)) for low, median, high in found),
            None if math.isnan(quality.noise_sigma) else quality.noise_sigma,
            None if math.isnan(quality.blur) else quality.blur,
            polarity(image, spacing_mm),
        )


def polarity(image: NDArray[np.floating], spacing_mm: Sequence[float]) -> tuple[float | None, ...]:
    """Measure whether bright or dark details prevail: the skewness of a difference of Gaussians, slice by slice.

    Inverting the grey values changes its sign; adding to them, or a gain, changes nothing.

    Args:
        image: (C, *spatial), finite raw intensities, 2d or 3d.
        spacing_mm: per spatial axis; slices lie across the coarsest, at most `SWEEP_SLICES` of them, evenly spaced.

    Returns:
        For each channel the third standardised moment of the details, which are cut at their 0.5th and 99.5th
        percentile; above 0 bright ones prevail. None where all details are alike.
    """
    slices = np.moveaxis(image, slice_axis(spacing_mm) + 1, 1) if image.ndim == 4 else image[:, None]
    if slices.shape[1] > SWEEP_SLICES:
        slices = slices[:, np.linspace(0, slices.shape[1] - 1, SWEEP_SLICES).round().astype(int)]
    return tuple(_skewness(np.concatenate([_details(one).ravel() for one in channel])) for channel in slices)


def _details(pixels: NDArray[np.floating]) -> NDArray[np.float64]:
    fine, coarse = (ndimage.gaussian_filter(pixels, sigma, output=np.float64) for sigma in DETAIL_PIXELS)
    return np.asarray(fine - coarse)


def _skewness(values: NDArray[np.float64]) -> float | None:
    low, high = np.percentile(values, (PERCENTILES[0], PERCENTILES[2]))
    if low == high:
        return None
    centred = np.clip(values, low, high)
    centred -= centred.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)
