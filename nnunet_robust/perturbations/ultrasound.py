"""Artefacts of ultrasound. Depth runs along the second-to-last axis, the rows: the transducer is at the top."""

from __future__ import annotations

import math

import torch

from nnunet_robust.perturbations.axes import computable
from nnunet_robust.perturbations.row import Perturbation

_AXIAL, _LATERAL = 1.0, 2.0  # standard deviations of the point-spread function in voxels


def depth_attenuation(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Brightness falls exponentially with depth: y = x 10^(-level d / 20), d from 0 in the top row to 1 in the bottom.

    Depth is the second-to-last axis. As of a gain compensation set too low.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: attenuation of the displayed brightness over the image's depth, in dB; >= 0, 0 is the identity; 6 dB
            halve the bottom row. exp(-mu d) has level = 8.69 mu.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Beer-Lambert law; Singla et al., "Speckle and shadows", MIDL 2022.

    Example:
        >>> import torch
        >>> depth_attenuation(torch.ones(1, 3, 1), 20.0, torch.Generator()).flatten()  # 20 dB leave a tenth
        tensor([1.0000, 0.3162, 0.1000])
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The attenuation must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    work = computable(image)
    depth = torch.linspace(0, 1, image.shape[-2], dtype=work.dtype, device=image.device)[:, None]
    return (work * 10 ** (-level / 20 * depth)).to(image.dtype)


def acoustic_shadow(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """The shadow of a reflector: y = x (1 - level m), m = 1 inside of a wedge below a random place, 0 outside.

    The reflector lies in the upper tenth to half of the image, and is a tenth to a fifth of it wide; the wedge opens
    by up to 0.15 columns a row to either side, and its edges are soft, more so with depth. Along the first axis
    of a volume the reflector ends as an ellipse does. All channels share the shadow.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: share of the brightness that is lost, in [0, 1]; 0 is the identity.
        generator: the source of randomness.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: Singla et al., "Speckle and shadows", MIDL 2022.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The darkness of the shadow must be in [0, 1], got {level}")
    if level == 0:
        return image.clone()
    draws = torch.rand(6, generator=generator, device=generator.device).tolist()
    work = computable(image)
    height, width = image.shape[-2:]
    rows = torch.arange(height, dtype=work.dtype, device=image.device)[:, None]
    columns = torch.arange(width, dtype=work.dtype, device=image.device)
    below = rows - (0.1 + 0.4 * draws[0]) * height
    middle, half = (0.2 + 0.6 * draws[1]) * width, (0.05 + 0.05 * draws[2]) * width
    opening = 0.15 * draws[3]
    softness = 1 + 0.05 * half + 0.03 * below.clamp(min=0)
    size: torch.Tensor | float = 1.0
    if image.ndim == 4 and image.shape[1] > 1:
        slices = torch.arange(image.shape[1], dtype=work.dtype, device=image.device)[:, None, None]
        place, extent = (0.25 + 0.5 * draws[4]) * (image.shape[1] - 1), (0.2 + 0.2 * draws[5]) * image.shape[1]
        size = (1 - ((slices - place) / max(extent, 1.0)) ** 2).clamp(min=0).sqrt()
    inside = torch.sigmoid((size * (half + opening * below.clamp(min=0)) - (columns - middle).abs()) / softness)
    shadow = torch.as_tensor(size > 0) * inside * torch.sigmoid(below)
    return (work * (1 - level * shadow)).to(image.dtype)


def psf_speckle(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Speckle of a point-spread function: y = x (1 + level (r - 1)), r the envelope of a filtered complex noise.

    r = |h * (n_1 + i n_2)|, n_1 and n_2 white Gaussian, h a Gaussian of standard deviation 1 voxel along the depth
    (rows) and 2 across it (columns, and the first axis of a volume), over a periodic image; r is Rayleigh
    distributed, scaled to mean 1, so that its standard deviation is sqrt(4 / pi - 1) = 0.523. All channels share it.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: how far speckle has developed; >= 0, 0 is the identity, 1 fully developed.
        generator: the source of randomness; noise is drawn on its device and moved to the image's.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Wagner et al., IEEE Trans. Sonics Ultrason. 1983; Goodman, Speckle Phenomena in Optics.
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The share of speckle must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    spatial = image.shape[1:]
    work = computable(image)
    power = torch.zeros(spatial, dtype=work.dtype, device=image.device)
    for _ in range(2):
        noise = torch.randn(spatial, generator=generator, device=generator.device).to(power)
        power += _point_spread(noise).square()
    envelope = (power / (math.pi / 2)).sqrt_()  # the mean of sqrt(n_1^2 + n_2^2) is sqrt(pi / 2)
    return (work * (1 + level * (envelope - 1))).to(image.dtype)


ROWS = (
    Perturbation(
        name="depth_attenuation",
        function=depth_attenuation,
        levels=(2.0, 4.0, 8.0, 12.0, 20.0),
        maximum=300.0,
        unit="dB over the image's depth",
        modality="ultrasound",
        reference="Beer-Lambert law; Singla et al. 2022",
    ),
    Perturbation(
        name="acoustic_shadow",
        function=acoustic_shadow,
        levels=(0.2, 0.4, 0.6, 0.8, 1.0),
        maximum=1.0,
        unit="share of the brightness",
        modality="ultrasound",
        reference="Singla et al. 2022",
        stochastic=True,
    ),
    Perturbation(
        name="psf_speckle",
        display_name="PSF speckle",
        function=psf_speckle,
        levels=(0.1, 0.2, 0.4, 0.7, 1.0),
        maximum=100.0,
        unit="share of fully developed speckle",
        modality="ultrasound",
        reference="Wagner et al. 1983 (Rayleigh envelope)",
        stochastic=True,
    ),
)


def _point_spread(noise: torch.Tensor) -> torch.Tensor:
    """White noise of variance 1 through the point-spread function; its variance stays 1."""
    spectrum = torch.fft.rfftn(noise)
    for axis in range(noise.ndim):
        length = noise.shape[axis]
        sigma = _AXIAL if axis == noise.ndim - 2 else _LATERAL
        frequency = torch.fft.fftfreq(length, device=noise.device, dtype=torch.float64)
        transfer = torch.exp(-2 * (math.pi * sigma * frequency) ** 2)
        transfer /= transfer.square().mean().sqrt()
        transfer = transfer[: spectrum.shape[axis]].to(noise.dtype)
        spectrum *= transfer.view(-1, *[1] * (noise.ndim - 1 - axis))
    return torch.fft.irfftn(spectrum, s=noise.shape)
