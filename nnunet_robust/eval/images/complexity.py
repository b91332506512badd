"""Task complexity: how alike are foreground and background? Texture divergence and boundary contrast of a case.

The texture around each pixel is one of 26 local binary patterns (Ojala et al. 2002: 24 points on a circle of radius 3,
"uniform" codes). Their histograms inside and outside the mask are compared; the smaller the divergence, the harder the
task (Kamath et al., MICCAI 2023). Volumes are looked at slice by slice, and the histograms are pooled over the slices.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
import torch
from scipy import ndimage
from skimage.feature import local_binary_pattern
from skimage.transform import resize

from nnunet_robust.eval.images.texture_codes import shrunk, uniform_patterns

Variant = Literal["symmetric", "published"]

RADIUS = 3
POINTS = 8 * RADIUS
BINS = POINTS + 2
"""Uniform codes 0 to 24, and one for all patterns that are not uniform."""

SIDE = 256
"""Pixels: the papers bring every image to 256 x 256."""

PSEUDO_CODES = BINS / 2
"""Smoothing: half a code per bin, shared out as the mean of both histograms is."""

FEWEST_CODES = 100
"""On either side of the border; with fewer there is no symmetric divergence."""

BAND = 3
"""Pixels on either side of the border whose intensities make the boundary contrast."""

SWEEP_SLICES = 32
"""The largest number of slices of a volume, evenly spaced, in a sweep, which measures every perturbed input."""

# What a code's circle and its centre lie in, bilinear interpolation included: the 7 x 7 pixels.
_FOOTPRINT: np.ndarray = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), bool)


@dataclass(frozen=True)
class Complexity:
    """How hard one label of one image is to tell from all that is around it.

    Attributes:
        texture_divergence_bits: mean over channels; NaN where the mask is empty, leaves nothing outside, or (symmetric)
            leaves fewer than `FEWEST_CODES` codes on a side. Symmetric: in [0, 1]. Published: of any sign.
        boundary_contrast: contrast-to-noise ratio across the border, mean over channels, >= 0; NaN without a border.
        inside_codes: pixels whose codes make the histogram of the label.
        outside_codes: the same for its surround.
        slices: slices that were looked at.
    """

    texture_divergence_bits: float
    boundary_contrast: float
    inside_codes: int
    outside_codes: int
    slices: int


def symmetric_divergence(inside: np.ndarray, outside: np.ndarray) -> float:
    """Compute the Jensen-Shannon divergence of two histograms in bits, smoothed, less what chance alone would give.

    JSD = 1/2 KL(p || m) + 1/2 KL(q || m), m = (p + q) / 2: what one code tells of the side that it comes from, were
    both sides equally large; 0 for equal histograms, 1 for disjoint ones. Each histogram gets `PSEUDO_CODES` more
    codes, spread as m is. Samples of one distribution differ by chance: of n and k codes in b occupied bins, by
    (b - 1) (1/n + 1/k) / (8 ln 2) on average, which is taken off.

    Args:
        inside: (BINS,) counts, not all 0.
        outside: (BINS,) counts, not all 0.

    Returns:
        Bits in [0, 1].

    Reference: Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 1991; its bias: Grosse
    et al., Phys. Rev. E 65, 041905 (2002).

    Example:
        >>> import numpy as np
        >>> dots, lines = np.bincount([0] * 100_000, minlength=BINS), np.bincount([1] * 100_000, minlength=BINS)
        >>> round(symmetric_divergence(dots, lines), 2), symmetric_divergence(dots, dots)  # disjoint, and the same
        (1.0, 0.0)
    """
    n, k = float(inside.sum()), float(outside.sum())
    p, q = inside / n, outside / k
    m = (p + q) / 2
    keep_p, keep_q = n / (n + PSEUDO_CODES), k / (k + PSEUDO_CODES)
    p, q = m + keep_p * (p - m), m + keep_q * (q - m)
    m = (p + q) / 2
    divergence = (_kullback_leibler(p, m) + _kullback_leibler(q, m)) / 2
    occupied = int(np.count_nonzero(m))
    by_chance = ((keep_p + keep_q) / 2) ** 2 * (occupied - 1) * (1 / n + 1 / k) / (8 * math.log(2))
    return max(0.0, divergence - by_chance)


def published_divergence(inside: np.ndarray, outside: np.ndarray) -> float:
    """Compute the Kullback-Leibler divergence of two histograms in bits, as the papers' code has it.

    Bins that are empty on either side are left out of the sum: it can be negative, and of disjoint textures it is 0.

    Args:
        inside: (BINS,) counts, not all 0.
        outside: (BINS,) counts, not all 0.

    Reference: Kamath et al. 2023, `compute_texture_similarity` of their `to_skip_or_not`.

    Example:
        >>> import numpy as np
        >>> even, uneven = np.array([2, 2]), np.array([3, 1])
        >>> round(published_divergence(even, uneven), 3)  # 0.5 log2(0.5 / 0.75) + 0.5 log2(0.5 / 0.25)
        0.208
    """
    both = (inside > 0) & (outside > 0)
    return _kullback_leibler((inside / inside.sum())[both], (outside / outside.sum())[both])


def _kullback_leibler(p: np.ndarray, q: np.ndarray) -> float:
    """Sum of p log2(p / q); q is 0 only where p is."""
    there = p > 0
    return float(np.sum(p[there] * np.log2(p[there] / q[there])))


def grey_range(image: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Find what becomes black and white: (0, 255) for 8-bit images, else each channel's 0.5th and 99.5th percentile.

    Args:
        image: (C, *spatial), finite.
        region: bool (*spatial), the voxels that the percentiles are of; None: all.

    Returns:
        (C, 2), low and high; high > low.
    """
    if image.min() >= 0 and image.max() <= 255 and np.array_equal(image, np.rint(image)):
        return np.tile([0.0, 255.0], (len(image), 1))
    values = image.reshape(len(image), -1) if region is None else image[:, region]
    low, high = np.percentile(values, (0.5, 99.5), axis=1)
    return np.stack([low, np.where(high > low, high, low + 1)], axis=1)


def to_grey(image: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Bring an image (C, *spatial) to 8-bit grey: black and white at `bounds` (C, 2), clipped, rounded."""
    low, high = (side.reshape(-1, *[1] * (image.ndim - 1)) for side in bounds.T)
    return np.rint(np.clip((image - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)


def slice_axis(spacing_mm: Sequence[float]) -> int:
    """Find the axis across which the slices lie: that of the coarsest spacing, the first of equals."""
    return int(np.argmax(spacing_mm))


def _published_codes(grey: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Applying `local_binary_pattern`")  # to floats: as the papers do
        shrunk = resize(grey, (SIDE, SIDE), anti_aliasing=True)
        return local_binary_pattern(shrunk, POINTS, RADIUS, "uniform").astype(np.uint8)


def _published_sides(mask: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = resize(mask.astype(np.uint8), (SIDE, SIDE), anti_aliasing=False) > 0
    # all that is not inside; what belongs to neither, an ignored label, goes by the nearest pixel
    ignored = resize(~(mask | rest), (SIDE, SIDE), order=0, anti_aliasing=False)
    return inside & ~ignored, ~inside & ~ignored


def _symmetric_codes(grey: np.ndarray) -> np.ndarray:
    if max(grey.shape) > SIDE:
        shrunk = resize(grey, _at_most_side(grey.shape), anti_aliasing=True, preserve_range=True)
        grey = np.rint(shrunk).astype(np.uint8)
    return local_binary_pattern(grey, POINTS, RADIUS, "uniform").astype(np.uint8)


def _symmetric_sides(mask: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _pure(mask), _pure(rest)


def _pure(region: np.ndarray) -> np.ndarray:
    """The pixels whose codes come from this region alone: neither from across the border nor from beyond the image."""
    if max(region.shape) > SIDE:
        region = resize(region.astype(np.float32), _at_most_side(region.shape), anti_aliasing=True) > 0.99
    return ndimage.binary_erosion(region, _FOOTPRINT)


def _at_most_side(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, round(size * SIDE / max(shape))) for size in shape)


class _Way(NamedTuple):
    """A variant: codes of an 8-bit slice, which of them count as inside and outside, how the histograms compare."""

    codes: Callable[[np.ndarray], np.ndarray]
    sides: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    divergence: Callable[[np.ndarray, np.ndarray], float]
    fewest_codes: int


_WAYS: dict[Variant, _Way] = {
    "symmetric": _Way(_symmetric_codes, _symmetric_sides, symmetric_divergence, FEWEST_CODES),
    "published": _Way(_published_codes, _published_sides, published_divergence, 1),
}
VARIANTS = tuple(_WAYS)


def on_a_device(image: np.ndarray | torch.Tensor) -> TypeGuard[torch.Tensor]:
    """Tell whether texture codes and percentiles are found by torch: on a CPU scikit-image and NumPy are faster."""
    return isinstance(image, torch.Tensor) and image.device.type != "cpu"


class _Band(NamedTuple):
    """The pixels within `BAND` of the border in one slice, in the window that holds them."""

    window: tuple[slice, slice]
    inside: np.ndarray
    outside: np.ndarray


class _Region(NamedTuple):
    """What the reference says of one label; the keys are slices that hold it."""

    sides: dict[int, tuple[np.ndarray, np.ndarray]]
    bands: dict[int, _Band]


class ComplexityMeter:
    """Measures images of one case: what depends on the reference alone is worked out once.

    Args:
        clean: (C, *spatial), raw intensities, 2d or 3d; sets the grey scale for every image that is measured.
        label: (*spatial), integers.
        regions: name -> the values that belong to it; everything else is its surround.
        spacing_mm: per spatial axis; slices lie across the coarsest.
        ignore: the value that is neither inside nor outside of anything.
        variant: "symmetric", or "published" as in the papers' code.
        max_slices: the largest number of slices, evenly spaced, of those that hold a region; None takes all.
        region: bool (*spatial), the voxels that count: what lies outside is as one to be ignored; None: all.
    """

    def __init__(
        self,
        clean: np.ndarray,
        label: np.ndarray,
        regions: Mapping[str, Collection[int]],
        spacing_mm: Sequence[float],
        *,
        ignore: int | None = None,
        variant: Variant = "symmetric",
        max_slices: int | None = None,
        region: np.ndarray | None = None,
    ) -> None:
        self._way = _WAYS[variant]
        self._axis = slice_axis(spacing_mm)
        self._grey = grey_range(clean, region)
        counted = np.ones(label.shape, bool) if ignore is None else label != ignore
        if region is not None:
            counted &= region
        slices, counted = (
            np.moveaxis(one, self._axis, 0) if label.ndim == 3 else one[None] for one in (label, counted)
        )
        masks = {name: np.isin(slices, list(values)) for name, values in regions.items()}
        if region is not None:
            masks = {name: mask & counted for name, mask in masks.items()}
        held = np.flatnonzero(np.any([mask.any(axis=(1, 2)) for mask in masks.values()], axis=0))
        if max_slices is not None and len(held) > max_slices:
            held = held[np.linspace(0, len(held) - 1, max_slices).round().astype(int)]
        self._slices = [int(z) for z in held]
        self._regions = {name: self._region(mask, counted) for name, mask in masks.items()}

    def _region(self, mask: np.ndarray, counted: np.ndarray) -> _Region:
        sides, bands = {}, {}
        for z in self._slices:
            if mask[z].any():
                rest = ~mask[z] & counted[z]
                sides[z] = self._way.sides(mask[z], rest)
                bands[z] = _band(mask[z], rest)
        return _Region(sides, bands)

    def measure(self, image: np.ndarray | torch.Tensor) -> dict[str, Complexity]:
        """Measure the complexity of each region.

        Args:
            image: the clean one or a perturbed version of it, of its shape; a tensor on any device, of which only the
                slices that are looked at come to the CPU.
        """
        in_slices = self._in_slices(image)
        arrays = in_slices.cpu().numpy() if isinstance(in_slices, torch.Tensor) else in_slices
        of_channels: Any = (
            self._codes_on_device(in_slices)
            if on_a_device(in_slices) and self._slices and self._way.codes is _symmetric_codes
            else [[self._way.codes(grey) for grey in channel] for channel in to_grey(arrays, self._grey)]
        )
        codes = [dict(zip(self._slices, channel, strict=True)) for channel in of_channels]
        raw = [dict(zip(self._slices, channel, strict=True)) for channel in arrays]
        return {name: self._complexity(region, codes, raw) for name, region in self._regions.items()}

    def _codes_on_device(self, in_slices: torch.Tensor) -> np.ndarray:
        """The codes of slices (C, n, rows, columns), found on their device; but for rounding those of the CPU."""
        low, high = torch.from_numpy(self._grey).to(in_slices.device).view(-1, 2, 1, 1, 1).unbind(dim=1)
        grey = ((in_slices - low) * (255.0 / (high - low))).clamp(0, 255).round().to(torch.uint8).flatten(0, 1)
        if max(grey.shape[1:]) > SIDE:
            rows, columns = _at_most_side(tuple(grey.shape[1:]))
            grey = shrunk(grey, (rows, columns))
        codes = uniform_patterns(grey, POINTS, RADIUS).unflatten(0, tuple(in_slices.shape[:2]))
        found: np.ndarray = codes.cpu().numpy()
        return found

    def _in_slices(self, image: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """(C, n, rows, columns): the slices that are looked at."""
        if image.ndim == 3:
            return image[:, None][:, : len(self._slices)]  # its only slice, where that holds a region
        axis, held = self._axis + 1, np.array(self._slices, np.int64)
        if isinstance(image, torch.Tensor):
            return image.index_select(axis, torch.from_numpy(held).to(image.device)).movedim(axis, 1)
        return np.moveaxis(image.take(held, axis), axis, 1)

    def _complexity(
        self, region: _Region, codes: list[dict[int, np.ndarray]], raw: list[dict[int, np.ndarray]]
    ) -> Complexity:
        inside, outside = (sum(int(sides[i].sum()) for sides in region.sides.values()) for i in (0, 1))
        divergence = contrast = math.nan
        if min(inside, outside) >= self._way.fewest_codes:
            divergence = float(np.mean([self._way.divergence(*_histograms(region, of_one)) for of_one in codes]))
        if any(band.inside.any() for band in region.bands.values()):
            contrast = float(np.mean([_contrast(region, of_one) for of_one in raw]))
        return Complexity(divergence, contrast, inside, outside, len(region.sides))


def _histograms(region: _Region, codes: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the codes inside and outside, pooled over slices."""
    counts: np.ndarray = np.zeros((2, BINS), np.int64)
    for z, sides in region.sides.items():
        for i, side in enumerate(sides):
            counts[i] += np.bincount(codes[z][side], minlength=BINS)
    return counts[0], counts[1]


def _band(mask: np.ndarray, rest: np.ndarray) -> _Band:
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    window = tuple(slice(max(0, s.start - BAND), s.stop + BAND) for s in (rows, columns))
    mask, rest = mask[window], rest[window]
    offsets = np.arange(-BAND, BAND + 1)
    disk = offsets[:, None] ** 2 + offsets**2 <= BAND**2
    near_rest, near_mask = (ndimage.binary_dilation(side, disk) for side in (rest, mask))
    return _Band((window[0], window[1]), mask & near_rest, rest & near_mask)


def _contrast(region: _Region, raw: dict[int, np.ndarray]) -> float:
    """|mean inside - mean outside| / sqrt(variance inside + variance outside), in the bands of all slices.

    The contrast-to-noise ratio of Patterson & Foster, "The improvement and quantitative assessment of B-mode images
    produced by an annular array/cone hybrid", Ultrasonic Imaging 1983. Without any noise: inf, or 0 without contrast.
    """
    inside = np.concatenate([raw[z][band.window][band.inside] for z, band in region.bands.items()]).astype(np.float64)
    outside = np.concatenate([raw[z][band.window][band.outside] for z, band in region.bands.items()]).astype(np.float64)
    difference, noise = abs(inside.mean() - outside.mean()), math.sqrt(inside.var() + outside.var())
    if noise == 0:
        return math.inf if difference else 0.0
    return float(difference / noise)
