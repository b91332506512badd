"""Parallel-beam projection and filtered back-projection of slices, on the image's device.

Pixels are squares of side 1, the axis of rotation passes through the middle of the slice, detector elements have the
pitch of the pixels. A ray at angle a and position t runs through the points with x cos a + y sin a = t, x along the
columns and y along the rows, from the middle.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

_FINE = 16  # entries per pixel in the table over the radius


def detector_length(height: int, width: int) -> int:
    """The number of detector elements, odd, that see all of a slice at every angle."""
    return 2 * math.ceil(math.hypot(height, width) / 2) + 1


def radon(slices: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Line integrals: the slice is turned (bilinear) and its columns are summed.

    Args:
        slices: (S, H, W), float32 or float64.
        angles: (A,), in radians.

    Returns:
        (S, A, T), T = `detector_length(H, W)`; element j is at t = j - T // 2.
    """
    height, width = slices.shape[-2:]
    length = detector_length(height, width)
    line = torch.arange(length, dtype=slices.dtype, device=slices.device) - length // 2
    t, s = line, line[:, None]  # along the detector, along the ray
    projections = []
    for cosine, sine in zip(angles.cos().tolist(), angles.sin().tolist(), strict=True):
        x, y = t * cosine - s * sine, t * sine + s * cosine
        # align_corners=False: -1 and 1 are the outer edges of the slice
        grid = torch.stack([x * (2 / width), y * (2 / height)], dim=-1)
        projections.append(F.grid_sample(slices[None], grid[None], align_corners=False)[0].sum(1))
    return torch.stack(projections, dim=1)


def filtered_back_projection(sinogram: torch.Tensor, angles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Reconstruction with the ramp filter (Ram-Lak) and linear interpolation between detector elements.

    Args:
        sinogram: (S, A, T) as `radon` returns it.
        angles: (A,), in radians, evenly spaced over half a turn.
        height: rows of the slices.
        width: their columns.

    Returns:
        (S, height, width).
    """
    count, length = sinogram.shape[1:]
    filtered = ramp_filter(sinogram)
    x, y = _middle_out(width, sinogram), _middle_out(height, sinogram)[:, None]
    # slices last: a look-up then copies whole rows
    result = sinogram.new_zeros(height * width, sinogram.shape[0])
    for angle, row in zip(angles.tolist(), filtered.permute(1, 2, 0).contiguous(), strict=True):
        place = (x * math.cos(angle) + y * math.sin(angle)).flatten() + length // 2
        below = place.floor().clamp(0, length - 2)
        index, share = below.long(), (place - below)[:, None]
        result += torch.lerp(row[index], row[index + 1], share)
    return (result * (math.pi / count)).T.reshape(-1, height, width)


def ramp_taps(length: int) -> torch.Tensor:
    """The band-limited ramp filter at offsets 0 to length - 1, float64: 1/4, then -1 / (pi k)^2 where k is odd."""
    offset = torch.arange(length, dtype=torch.float64)
    taps = torch.where(offset % 2 == 1, -1 / (math.pi * offset.clamp(min=1)) ** 2, 0.0)
    taps[0] = 0.25
    return taps


def ramp_filter(projections: torch.Tensor) -> torch.Tensor:
    """The ramp filter along the last axis, zero outside.

    Args:
        projections: (..., T).

    Returns:
        The same shape.
    """
    length = projections.shape[-1]
    taps = ramp_taps(length)
    kernel = torch.cat([taps, taps.new_zeros(1), taps[1:].flip(0)]).to(projections)
    product = torch.fft.rfft(projections, n=2 * length) * torch.fft.rfft(kernel)
    return torch.fft.irfft(product, n=2 * length)[..., :length]


def at_radius(profiles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Back-projection, from all around, of filtered projections that are the same at every angle: rings.

    f(r) = integral over a half turn of g(|r cos a|), g interpolated linearly between detector elements. The integral
    over each element is known in closed form: with G(c) = integral of max(u - c, 0) / sqrt(r^2 - u^2) from u = 0 to r,
    the weight of element j is the second difference of G at c = j.

    Args:
        profiles: (S, T), g at t = 0, 1, ..., T - 1; T > hypot(height, width) / 2 + 1.
        height: rows of the slices.
        width: their columns.

    Returns:
        (S, height, width).
    """
    count = profiles.shape[1]
    largest = math.hypot(height - 1, width - 1) / 2
    radii = torch.arange(math.ceil(largest * _FINE) + 2, dtype=torch.float64)[:, None] / _FINE
    start = torch.arange(-1, count + 1, dtype=torch.float64)
    ratio = torch.where(radii > 0, start / radii.clamp(min=1e-9), math.inf).clamp(max=1)
    inside = (radii**2 - start**2).clamp(min=0).sqrt() - start * ratio.clamp(min=0).arccos()
    integral = torch.where(start < 0, radii - start * (math.pi / 2), inside)
    weights = 2 * (integral[:, 2:] - 2 * integral[:, 1:-1] + integral[:, :-2])
    table = profiles @ weights.T.to(profiles)
    place = _FINE * torch.hypot(_middle_out(height, profiles)[:, None], _middle_out(width, profiles))
    index = place.long()
    return torch.lerp(table[:, index], table[:, index + 1], place - index)


def point_response(views: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    """What projection at a few evenly spaced angles and reconstruction make of a point of weight 1.

    (pi / views) sum_a q(x cos a + y sin a), with the band-limited ramp filter q(t) = sinc(t) / 2 - sinc(t / 2)^2 / 4.
    Projection and reconstruction do not depend on the place: the reconstruction of a slice is its convolution with
    this, and no sinogram is needed.

    Args:
        views: number of angles, over half a turn; half a step beside the rows and columns, whose pixels would line up.
        height: rows of the slices.
        width: their columns.
        device: of the result.

    Returns:
        float32 (2 height, 2 width), the offset (0, 0) first, as a transform of that size wants it.
    """
    y, x = (offsets.float().to(device) for offsets in _offsets(height, width))
    response = torch.zeros(2 * height, 2 * width, device=device)
    for view in range(views):
        angle = math.pi * (view + 0.5) / views
        place = x * math.cos(angle) + y * math.sin(angle)
        response += torch.sinc(place).div_(2)
        response -= torch.sinc(place.div_(2)).square_().div_(4)
    return response * (math.pi / views)


def full_response(height: int, width: int, device: torch.device) -> torch.Tensor:
    """`point_response` in the limit of very many views: J_1(pi r) / (2 r), a spectrum of 1 up to Nyquist."""
    y, x = _offsets(height, width)
    radius = torch.hypot(y, x)
    radius[0, 0] = 1
    response = torch.special.bessel_j1(math.pi * radius) / (2 * radius)
    response[0, 0] = math.pi / 4
    return response.float().to(device)


def _offsets(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (2 height, 1) and columns (2 width,) of a transform of twice the size, as offsets from 0; float64."""
    rows, columns = (torch.fft.fftfreq(2 * n, dtype=torch.float64) * (2 * n) for n in (height, width))
    return rows[:, None], columns


def _middle_out(length: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(length, dtype=like.dtype, device=like.device) - (length - 1) / 2
