"""Noise with a texture of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nnunet_robust.perturbations.axes import computable, long_axes
from nnunet_robust.perturbations.row import Perturbation

SCALE = 2.0  # standard deviation of the filter, in voxels of the finest axis


def correlated_noise(
    image: torch.Tensor, level: float, generator: torch.Generator, *, spacing_mm: Sequence[float]
) -> torch.Tensor:
    """Textural noise: y = x + level * t, with t a correlated Gaussian field of mean 0 and standard deviation 1.

    White noise is filtered with a Gaussian whose standard deviation s is 2 voxels of the finest axis, and as many mm
    along every other: slices that lie far apart have nearly independent textures. The correlation at a distance d is
    exp(-d**2 / (4 s**2)). Fields are periodic, and each channel has its own.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: standard deviation of the noise, in units of the robust range; >= 0, 0 is the identity.
        generator: the source of randomness; noise is drawn on its device and moved to the image's.
        spacing_mm: size of a voxel along each spatial axis.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: after Chai, Rueckert, Fetit, arXiv 2011.15093; the filter and its scale are ours.

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> flat = torch.zeros(1, 256, 256)
        >>> texture = correlated_noise(flat, 0.1, torch_generator(0), spacing_mm=(1.0, 1.0))[0]
        >>> round(texture.std().item(), 1)
        0.1
        >>> neighbours = torch.stack([texture[:, :-2].flatten(), texture[:, 2:].flatten()])  # exp(-4 / 16) = 0.78
        >>> round(torch.corrcoef(neighbours)[0, 1].item(), 1)
        0.8
    """
    if not level >= 0:
        raise ValueError(f"The standard deviation of the noise must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    values = computable(image)
    return (values + level * _field(image, generator, spacing_mm).to(values.dtype)).to(image.dtype)


def _field(image: torch.Tensor, generator: torch.Generator, spacing_mm: Sequence[float]) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=generator, device=generator.device).to(image.device)
    axes = long_axes(image)
    if not axes:
        return noise
    spectrum = torch.fft.rfftn(noise, dim=axes)
    finest = min(spacing_mm[axis - 1] for axis in axes)
    variance = 1.0
    for axis in axes:
        scale, length = SCALE * finest / spacing_mm[axis - 1], image.shape[axis]
        gain = torch.exp(-2 * (math.pi * scale * torch.fft.fftfreq(length, dtype=torch.float64)) ** 2)
        variance *= gain.square().mean().item()
        kept = gain[: spectrum.shape[axis]].to(device=image.device, dtype=noise.dtype)
        spectrum *= kept.view([-1 if a == axis else 1 for a in range(image.ndim)])
    return torch.fft.irfftn(spectrum, s=[image.shape[axis] for axis in axes], dim=axes) / math.sqrt(variance)


ROWS = (
    Perturbation(
        name="correlated_noise",
        function=correlated_noise,
        levels=(0.02, 0.05, 0.1, 0.2, 0.4),
        maximum=100.0,
        unit="standard deviation / robust range",
        modality="any",
        reference="after Chai et al., arXiv 2011.15093",
        stochastic=True,
        uses_spacing=True,
    ),
)
