"""How noisy and how blurred is an image? Measured without a reference, slice by slice, for images that have no label.

Noise is what changes from one pixel to the next without any pattern; blur is how slowly an image's structure changes.
The measure of blur does not see such noise: an image can be both. It is torch code, on the device of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from nnunet_robust.eval.images import complexity
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, slice_axis
from nnunet_robust.perturbations import ROBUST_PERCENTILES

FEWEST_COEFFICIENTS = 100
"""Wavelet coefficients of a channel; with fewer there is no estimate of the noise."""

MOST_SATURATED = 3
"""Of the 16 pixels that a coefficient sees; with more of them saturated it says nothing of the noise."""

LAGS = (1, 2, 8)
"""Pixels: the finest distance, the next, and one at which blur of a few pixels no longer counts."""

_PIXELS_AT_ONCE = 1 << 20
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
    image: np.ndarray | torch.Tensor,
    spacing_mm: Sequence[float],
    max_slices: int | None = SWEEP_SLICES,
    region: np.ndarray | torch.Tensor | None = None,
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
        image: (C, *spatial), finite raw intensities, 2d or 3d; an array, or a tensor on any device.
        spacing_mm: per spatial axis; slices lie across the coarsest.
        max_slices: the largest number of slices of a volume, evenly spaced; None takes all.
        region: bool (*spatial), the voxels that are measured, their neighbours with them, on the image's device; None:
            all.

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
    image: np.ndarray | torch.Tensor,
    spacing_mm: Sequence[float],
    max_slices: int | None = SWEEP_SLICES,
    region: np.ndarray | torch.Tensor | None = None,
) -> list[float]:
    """Measure the noise of each channel; NaN where that cannot be done. `mean_of` them is `ImageQuality.noise_sigma`.

    Args:
        image: as for `image_quality`, as the other arguments.
    """
    channels, inside = _channels(image, spacing_mm, max_slices, region)
    return [_noise(channel, inside) for channel in channels]


def _channels(
    image: np.ndarray | torch.Tensor,
    spacing_mm: Sequence[float],
    max_slices: int | None,
    region: np.ndarray | torch.Tensor | None,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Each channel's slices (n, rows, columns), float32, of those that hold the region; and the region in them."""
    slices, inside = (
        None if one is None else torch.as_tensor(one).movedim(slice_axis(spacing_mm) + 1, 1)
        if image.ndim == 4 else torch.as_tensor(one)[:, None]
        for one in (image, None if region is None else region[None])
    )  # fmt: skip
    assert slices is not None
    there = slices.shape[1]
    held = np.arange(there) if inside is None else np.flatnonzero(inside[0].flatten(1).any(dim=1).cpu().numpy())
    if max_slices is not None and len(held) > max_slices:
        held = held[np.linspace(0, len(held) - 1, max_slices).round().astype(int)]
    if len(held) < there:
        index = torch.from_numpy(held).to(slices.device)
        slices, inside = slices[:, index], None if inside is None else inside[:, index]
    return [channel.float().contiguous() for channel in slices], None if inside is None else inside[0].contiguous()


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan


def _noise(slices: torch.Tensor, inside: torch.Tensor | None) -> float:
    """Of one channel (n, rows, columns)."""
    values = slices.flatten() if inside is None else slices[inside]
    lowest, highest = torch.stack(values.aminmax()).cpu().tolist()
    if min(slices.shape[1:]) < len(_WAVELET) or lowest == highest:
        return math.nan
    constant = _ROUNDING * max(abs(lowest), abs(highest))
    details = torch.cat(
        [
            _details(some, lowest, highest, constant, None if inside is None else inside[where])
            for where, some in _groups(slices)
        ]
    )
    if len(details) < FEWEST_COEFFICIENTS:
        return math.nan
    low, high = _percentiles(values, ROBUST_PERCENTILES)
    span = high - low if high > low else highest - lowest
    return _percentiles(details, (50,))[0] / _MAD_OF_NORMAL / span


def _groups(slices: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """A few slices at a time: what is at work then fits into a processor's cache."""
    step = max(1, _PIXELS_AT_ONCE // slices[0].numel())
    for start in range(0, len(slices), step):
        where = slice(start, start + step)
        yield where, slices[where]


def _percentiles(values: torch.Tensor, percents: Sequence[float]) -> list[float]:
    """Interpolated linearly between neighbours in order: by NumPy on a CPU, where it is twice as fast."""
    if complexity.on_a_device(values):
        return [_percentile(values, percent) for percent in percents]
    return [float(found) for found in np.percentile(values.numpy(), percents)]


def _percentile(values: torch.Tensor, percent: float) -> float:
    """As NumPy's, on any device; `torch.quantile` takes no more than 2**24 values."""
    n = len(values)
    from_below = percent <= 50
    at = (n - 1) * (percent if from_below else 100 - percent) / 100
    ranks = (math.floor(at) + 1, min(math.floor(at) + 2, n))  # from 1, from the nearer end
    if ranks[1] < n / 16:
        nearest = values.topk(ranks[1], largest=not from_below).values[-2:]
    else:
        nearest = torch.stack([values.kthvalue(rank if from_below else n + 1 - rank).values for rank in ranks])
    first, second = nearest.cpu().tolist()
    return float(first + (at - math.floor(at)) * (second - first))


def _details(
    slices: torch.Tensor, lowest: float, highest: float, constant: float, inside: torch.Tensor | None
) -> torch.Tensor:
    """Absolute diagonal wavelet coefficients of some slices, those that count."""
    found = _weighted(_weighted(slices, 1), 2).abs()
    counts = (_counted((slices == lowest) | (slices == highest)) <= MOST_SATURATED) & (found > constant)
    if inside is not None:
        counts &= _counted(~inside) == 0
    return found[counts]


def _counted(pixels: torch.Tensor) -> torch.Tensor:
    """How many of the pixels that a coefficient sees are True."""
    size = len(_WAVELET)
    return functional.avg_pool2d(pixels.float()[:, None], size, stride=2, divisor_override=1)[:, 0]


def _weighted(slices: torch.Tensor, axis: int) -> torch.Tensor:
    """Weighted sums of neighbours along an axis, at every other pixel, where all neighbours are inside."""
    places = (slices.shape[axis] - len(_WAVELET)) // 2 + 1
    near = [slices[(slice(None),) * axis + (slice(k, k + 2 * places - 1, 2),)] for k in range(len(_WAVELET))]
    found = near[0] * _WAVELET[0]
    for tap, other in zip(_WAVELET[1:], near[1:], strict=True):
        found.add_(other, alpha=tap)
    return found


def _blur(slices: torch.Tensor, inside: torch.Tensor | None) -> float:
    """Of one channel (n, rows, columns)."""
    if min(slices.shape[1:]) <= LAGS[-1]:
        return math.nan
    finest, next_finest, coarse = _mean_squared_differences(slices, inside)
    if not coarse > finest:  # nothing that goes beyond one pixel
        return math.nan
    return min(1.0, max(0.0, 1 - (next_finest - finest) / (coarse - finest)))


def _mean_squared_differences(slices: torch.Tensor, inside: torch.Tensor | None) -> list[float]:
    """Of pixels that lie so far apart as each of `LAGS`, mean over both axes; NaN where no two do."""
    sums = [
        torch.stack([_squares(some, None if inside is None else inside[where], lag, axis)
                     for lag in LAGS for axis in (1, 2)])
        for where, some in _groups(slices)
    ]  # fmt: skip
    total, count = torch.cat(sums, dim=-1).cpu().double().sum(dim=-1).unbind(dim=1)
    means: list[list[float]] = (total / count).view(len(LAGS), 2).tolist()
    return [(rows + columns) / 2 for rows, columns in means]


def _squares(slices: torch.Tensor, inside: torch.Tensor | None, lag: int, axis: int) -> torch.Tensor:
    """The sum of squared differences (first row) and their number (second) in each slice."""
    length = slices.shape[axis] - lag
    squares = (slices.narrow(axis, lag, length) - slices.narrow(axis, 0, length)).square_()
    if inside is None:
        number = torch.full((len(slices),), float(squares[0].numel()), device=slices.device)
        return torch.stack([squares.sum(dim=(1, 2)), number])
    both = inside.narrow(axis, lag, length) & inside.narrow(axis, 0, length)
    return torch.stack([(squares * both).sum(dim=(1, 2)), both.sum(dim=(1, 2)).float()])
