"""The filter: total variation, as strong as the image's own noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from skimage import restoration

from nnunet_robust.perturbations import ROBUST_PERCENTILES
from nnunet_robust.perturbations.region import continued, kept_nonzero

STRENGTH = 0.7
"""Weight of the total variation / standard deviation of the noise."""

ANISOTROPY = 3.0
"""Voxels that are longer than this times their next longest edge are denoised slice by slice, as nnU-Net resamples."""


def denoise(
    image: np.ndarray, spacing_mm: Sequence[float], noise_sigmas: Sequence[float], region: np.ndarray | None = None
) -> np.ndarray:
    """Denoise a raw image, channel by channel.

    y = argmin TV(y) + |y - x|^2 / (2 w), TV the sum over voxels of the gradient's length: noise is smoothed away, edges
    are kept, fine texture is lost. w = `STRENGTH` times the standard deviation of the channel's noise, in units of its
    robust range (0.5th to 99.5th percentile). Nothing is drawn at random.

    Args:
        image: (C, *spatial), raw intensities, 2d or 3d; not modified.
        spacing_mm: per spatial axis. A volume is denoised in three dimensions; slices that lie apart by more than
            `ANISOTROPY` times the next coarsest spacing, each for itself.
        noise_sigmas: per channel, standard deviation of its noise as a share of its robust range; a channel without
            noise (0 or NaN), or with a single value, stays as it is.
        region: bool (*spatial), the voxels that are denoised, in whose robust range; outside of it nothing changes, and
            the filter sees a continuation (`perturbations.region.continued`); None: all.

    Returns:
        An array of the image's shape and dtype, each channel within its own minimum and maximum. Integers are rounded.

    Reference: Chambolle, "An algorithm for total variation minimization and applications", J. Math. Imaging Vis. 2004;
    scikit-image's `denoise_tv_chambolle`.
    """
    found = image.copy()
    for channel, sigma in enumerate(noise_sigmas):
        values = image[channel] if region is None else image[channel][region]
        lowest, highest = float(values.min()), float(values.max())
        if not sigma > 0 or lowest == highest:
            continue
        low, high = np.percentile(values, ROBUST_PERCENTILES)
        span = float(high - low) if high > low else highest - lowest
        scaled = ((image[channel] - low) / span).astype(np.float32)
        if region is not None:
            scaled = continued(torch.from_numpy(scaled[None]), torch.from_numpy(region))[0].numpy()
        smooth = _smooth(scaled, spacing_mm, STRENGTH * sigma) * span + low
        if image.dtype.kind in "iu":
            smooth = np.rint(smooth)
        smooth = np.clip(smooth, lowest, highest)
        found[channel] = smooth if region is None else np.where(region, smooth, image[channel])
    if region is not None and image.dtype.kind == "f":
        found = kept_nonzero(torch.from_numpy(found), torch.from_numpy(image)).numpy()
    return found


def _smooth(scaled: np.ndarray, spacing_mm: Sequence[float], weight: float) -> np.ndarray:
    """One channel (*spatial), in units of its robust range."""
    axis = int(np.argmax(spacing_mm))
    others = [spacing for i, spacing in enumerate(spacing_mm) if i != axis]
    smooth: np.ndarray = np.empty_like(scaled)
    if scaled.ndim == 2 or spacing_mm[axis] <= ANISOTROPY * max(others, default=math.inf):
        smooth[...] = restoration.denoise_tv_chambolle(scaled, weight=weight)
    else:
        for k in range(scaled.shape[axis]):
            place = (slice(None),) * axis + (k,)
            smooth[place] = restoration.denoise_tv_chambolle(scaled[place], weight=weight)
    return smooth
