"""How noisy and how blurred is an image? Measured without a reference, slice by slice, for images that have no label.

Noise is what changes from one pixel to the next without any pattern; blur is how slowly an image's structure changes.
The measure of blur does not see such noise: an image can be both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_robust.eval.images.complexity import SWEEP_SLICES, slice_axis
from nnunet_robust.perturbations import ROBUST_PERCENTILES

FEWEST_COEFFICIENTS = 100
"""Wavelet coefficients of a channel; with fewer there is no estimate of the noise."""

MOST_SATURATED = 3
"""Of the 16 pixels that a coefficient sees; with more of them saturated it says nothing of the noise."""

LAGS = (1, 2, 8)
"""Pixels: the finest distance, the next, and one at which blur of a few pixels no longer counts."""

_ROUNDING = 1e-6  # of the largest value: smaller coefficients are those of a constant
_MAD_OF_NORMAL = 0.6744897501960817  # median of |n|, n ~ N(0, 1)
_ROOT3 = math.sqrt(3)
# Daubechies' wavelet with two vanishing moments ("db2", four taps): blind to flat and to evenly rising grey.
_WAVELET = tuple(
    tap / (4 * math.sqrt(2)) for tap in (1 - _ROOT3, -(3 - _ROOT3), 3 + _ROOT3, -(1 + _ROOT3))
)  # fmt: skip


@dataclass(frozen=True)
class ImageQuality:
    """What was measured of one image; NaN where there is nothing to measure.

    Attributes:
        noise_sigma: standard deviation of the noise as a share of the image's robust range, mean over channels, >= 0.
            Fine texture counts as noise: compare images of one kind only.
        blur: 1 minus the finest part of the image's changes, mean over channels, in [0, 1]; higher is more blurred.
    """

    noise_sigma: float
    blur: float


def image_quality(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    max_slices: int | None = SWEEP_SLICES,
    region: np.ndarray | None = None,
) -> ImageQuality:
    """Measure the noise and the blur of an image.

    Noise: 1.4826 times the median of the absolute finest diagonal wavelet coefficients (Daubechies, four taps), divided
    by the range from the 0.5th to the 99.5th percentile. Left out are coefficients with more than `MOST_SATURATED`
    pixels at the channel's lowest or highest value, and those of constant surroundings: where an image is black, white
    or padded there is no noise to see, and the median would be that of the background.

    Blur: 1 - (D(2) - D(1)) / (D(8) - D(1)), D(h) the mean squared difference of pixels h apart along either axis. Noise
    that is independent from pixel to pixel adds the same to every D, and so cancels; but where *all* that the image has
    is of that kind, only what is left of it decides. Clipped to [0, 1].

    Args:
        image: (C, *spatial), finite raw intensities, 2d or 3d.
        spacing_mm: per spatial axis; slices lie across the coarsest.
        max_slices: the largest number of slices of a volume, evenly spaced; None takes all.
        region: bool (*spatial), the voxels that are measured, their neighbours with them; None: all.

    Returns:
        The means over the channels that can be measured: noise needs `FEWEST_COEFFICIENTS` coefficients, blur a
        slice of more than 8 pixels along both axes and changes in it.

    References: Donoho & Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994, section 4.2;
    Cressie, "Statistics for Spatial Data", 1993, section 2.4 (the variogram and its nugget, which is what noise is).
    """
    channels, inside = _channels(image, spacing_mm, max_slices, region)
    return ImageQuality(
        mean_of([_noise(channel, inside) for channel in channels]),
        mean_of([_blur(channel, inside) for channel in channels]),
    )


def noise_sigmas(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    max_slices: int | None = SWEEP_SLICES,
    region: np.ndarray | None = None,
) -> list[float]:
    """Measure the noise of each channel; NaN where that cannot be done. `mean_of` them is `ImageQuality.noise_sigma`.

    Args:
        image: as for `image_quality`, as the other arguments.
    """
    channels, inside = _channels(image, spacing_mm, max_slices, region)
    return [_noise(channel, inside) for channel in channels]


def _channels(
    image: np.ndarray, spacing_mm: Sequence[float], max_slices: int | None, region: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Each channel's slices (n, rows, columns), float32, of those that hold the region; and the region in them."""
    slices, inside = (
        None if one is None else np.moveaxis(one, slice_axis(spacing_mm) + 1, 1) if image.ndim == 4 else one[:, None]
        for one in (image, None if region is None else region[None])
    )
    assert slices is not None
    held = np.arange(slices.shape[1]) if inside is None else np.flatnonzero(inside[0].any(axis=(1, 2)))
    if max_slices is not None and len(held) > max_slices:
        held = held[np.linspace(0, len(held) - 1, max_slices).round().astype(int)]
    if len(held) < slices.shape[1]:
        slices, inside = slices[:, held], None if inside is None else inside[:, held]
    channels = [np.ascontiguousarray(channel, dtype=np.float32) for channel in slices]
    return channels, None if inside is None else np.ascontiguousarray(inside[0])


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan


def _noise(slices: np.ndarray, inside: np.ndarray | None) -> float:
    """Of one channel (n, rows, columns)."""
    values = slices if inside is None else slices[inside]
    lowest, highest = float(values.min()), float(values.max())
    if min(slices.shape[1:]) < len(_WAVELET) or lowest == highest:
        return math.nan
    constant = _ROUNDING * max(abs(lowest), abs(highest))
    # one by one: what is at work then fits into the processor's cache
    details = np.concatenate(
        [
            _details(one, lowest, highest, constant, None if inside is None else inside[number])
            for number, one in enumerate(slices)
        ]
    )
    if details.size < FEWEST_COEFFICIENTS:
        return math.nan
    low, high = np.percentile(values, ROBUST_PERCENTILES)
    span = float(high - low) if high > low else highest - lowest
    return float(np.median(details)) / _MAD_OF_NORMAL / span


def _details(
    pixels: np.ndarray, lowest: float, highest: float, constant: float, inside: np.ndarray | None
) -> np.ndarray:
    """Absolute diagonal wavelet coefficients of one slice, those that count."""
    saturated = ((pixels == lowest) | (pixels == highest)).view(np.uint8)
    found = np.abs(_weighted(_weighted(pixels, _WAVELET, 0), _WAVELET, 1))
    counts = (_counted(saturated) <= MOST_SATURATED) & (found > constant)
    if inside is not None:
        counts &= _counted((~inside).view(np.uint8)) == 0
    return np.asarray(found[counts])


def _counted(pixels: np.ndarray) -> np.ndarray:
    """How many of the pixels that a coefficient sees are 1."""
    ones = (1,) * len(_WAVELET)
    return _weighted(_weighted(pixels, ones, 0), ones, 1)


def _weighted(pixels: np.ndarray, taps: Sequence[float], axis: int) -> np.ndarray:
    """Weighted sums of neighbours along an axis, at every other pixel, where all neighbours are inside."""
    places = (pixels.shape[axis] - len(taps)) // 2 + 1
    first, *others = (
        tap * pixels[(slice(None),) * axis + (slice(k, k + 2 * places - 1, 2),)] for k, tap in enumerate(taps)
    )
    for other in others:
        first += other
    return first


def _blur(slices: np.ndarray, inside: np.ndarray | None) -> float:
    """Of one channel (n, rows, columns)."""
    if min(slices.shape[1:]) <= LAGS[-1]:
        return math.nan
    finest, next_finest, coarse = (_mean_squared_difference(slices, inside, lag) for lag in LAGS)
    if not coarse > finest:  # nothing that goes beyond one pixel
        return math.nan
    return min(1.0, max(0.0, 1 - (next_finest - finest) / (coarse - finest)))


def _mean_squared_difference(slices: np.ndarray, inside: np.ndarray | None, lag: int) -> float:
    """Of pixels that lie so far apart, mean over both axes; NaN where no two do."""
    if inside is not None:
        rows, columns = (
            _mean_square((slices[far] - slices[near])[inside[far] & inside[near]])
            for far, near in (
                (np.s_[:, lag:], np.s_[:, :-lag]),
                (np.s_[:, :, lag:], np.s_[:, :, :-lag]),
            )
        )
        return (rows + columns) / 2
    along_rows = np.mean([_mean_square(one[lag:] - one[:-lag]) for one in slices])
    along_columns = np.mean([_mean_square(one[:, lag:] - one[:, :-lag]) for one in slices])
    return float(along_rows + along_columns) / 2


def _mean_square(values: np.ndarray) -> float:
    return float(np.mean(np.square(values, out=values), dtype=np.float64)) if values.size else math.nan
