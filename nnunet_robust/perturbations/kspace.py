"""Missing parts of k-space: truncation, and partial Fourier acquisition."""

from __future__ import annotations

import torch

from nnunet_robust.perturbations.axes import computable, long_axes
from nnunet_robust.perturbations.row import Perturbation


def gibbs_ringing(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Truncated k-space: frequencies f with |f| > (1 - level) / sqrt(2) cycles per voxel are set to zero.

    |f| is the length over all spatial axes, each in cycles per voxel (Nyquist at 0.5). At level 0 the sphere touches
    the corners of a 2d k-space; at 0.29 it touches Nyquist along the axes, and edges begin to ring; at 1 only the mean
    stays.

    On images with axes of one odd length this is MONAI's `GibbsNoise(alpha=level)`. Elsewhere MONAI centres its sphere
    half a sample beside the zero frequency and lets the longest axis decide; here it is centred, an ellipsoid.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: share of k-space's radius that is cut, in [0, 1]; 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: MONAI `GibbsNoise`; Morelli et al., RadioGraphics 31 (2011), 849.

    Example:
        >>> import torch
        >>> edge = torch.zeros(1, 64, 64)
        >>> edge[:, 32:] = 1.0
        >>> rings = gibbs_ringing(edge, 0.6, torch.Generator())
        >>> round(rings.max().item(), 2)  # the overshoot of a truncated Fourier series is about 9 % of the step
        1.09
        >>> gibbs_ringing(edge, 1.0, torch.Generator()).unique()  # only the mean stays
        tensor([0.5000])
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The share of k-space that is cut must be in [0, 1], got {level}")
    axes = long_axes(image)
    if level == 0 or not axes:
        return image.clone()
    spectrum = torch.fft.rfftn(computable(image), dim=axes)
    squared = torch.zeros((), device=image.device)
    for axis in axes:
        frequency = (torch.fft.rfftfreq if axis == axes[-1] else torch.fft.fftfreq)(
            image.shape[axis], device=image.device
        )
        squared = squared + (frequency**2).view([-1 if a == axis else 1 for a in range(image.ndim)])
    spectrum *= squared <= (1 - level) ** 2 / 2
    return torch.fft.irfftn(spectrum, s=[image.shape[axis] for axis in axes], dim=axes).to(image.dtype)


def partial_kspace(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Partial Fourier acquisition, zero-filled: phase-encode lines at one end of k-space are missing.

    The phase-encode axis is the last but one (the rows of each slice). Of its n lines, the round(level n) outermost
    ones with negative frequencies are set to zero, and the magnitude is taken: y = |z|, with z the inverse transform.
    A magnitude image starts at 0, so that what is transformed is x - min(x) per channel, and min(x) is added back.

    Args:
        image: float tensor (C, *spatial), not modified.
        level: share of the phase-encode lines that is missing, in [0, 0.5]; 0 is the identity. Scanners' partial
            Fourier factors of 7/8, 6/8 and 5/8 are 0.125, 0.25 and 0.375.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 0.5] or NaN.

    Reference: McGibney et al., Magnetic Resonance in Medicine 30 (1993), 51 (zero filling).
    """
    if not 0 <= level <= 0.5:
        raise ValueError(f"The share of missing lines must be in [0, 0.5], got {level}")
    if level == 0:
        return image.clone()
    axis = image.ndim - 2
    values = computable(image)
    lowest = values.amin(dim=tuple(range(1, image.ndim)), keepdim=True)
    spectrum = torch.fft.fft(values - lowest, dim=axis)
    length = image.shape[axis]
    negative = (length + 1) // 2  # where the negative frequencies begin, the largest first
    missing = min(round(level * length), length - negative)
    spectrum.narrow(axis, negative, missing).zero_()
    return (torch.fft.ifft(spectrum, dim=axis).abs() + lowest).to(image.dtype)


ROWS = (
    Perturbation(
        name="gibbs_ringing",
        display_name="Gibbs ringing",
        function=gibbs_ringing,
        levels=(0.3, 0.5, 0.6, 0.7, 0.8),
        maximum=1.0,
        unit="share of k-space's radius cut",
        modality="mri",
        reference="MONAI GibbsNoise (alpha)",
    ),
    Perturbation(
        name="partial_kspace",
        display_name="partial k-space",
        function=partial_kspace,
        levels=(0.1, 0.2, 0.3, 0.4, 0.47),
        maximum=0.5,
        unit="share of phase-encode lines missing",
        modality="mri",
        reference="McGibney et al., Magn Reson Med 1993 (zero filling)",
    ),
)
