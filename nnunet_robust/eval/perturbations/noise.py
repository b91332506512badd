"""Noise. Every function draws its whole field before the level enters, so that a level only scales or thresholds it."""

from __future__ import annotations

import torch


def gaussian_noise(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Additive Gaussian noise: y = x + level * n, n ~ N(0, 1) for each voxel.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: standard deviation of the noise, in units of the robust range; >= 0, 0 is the identity.
        generator: the source of randomness; noise is drawn on its device and moved to the image's.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: scikit-image `random_noise(mode="gaussian", clip=False)` with variance level**2.
    """
    if not level >= 0:
        raise ValueError(f"The standard deviation of the noise must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return image + level * _standard_normal(image, generator)


def speckle_noise(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Multiplicative Gaussian noise: y = x + level * x * n, n ~ N(0, 1) for each voxel.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: standard deviation of the noise, relative; >= 0, 0 is the identity.
        generator: the source of randomness; noise is drawn on its device and moved to the image's.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: Kamath et al. 2023, with variance level**2.
    """
    if not level >= 0:
        raise ValueError(f"The standard deviation of the noise must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return image + level * image * _standard_normal(image, generator)


def salt_and_pepper(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Replace a share of the values, drawn for each voxel and channel: half by 1 (salt), half by 0 (pepper).

    One uniform field u decides: pepper where u < level / 2, salt where u >= 1 - level / 2. A value that is
    replaced at some level is therefore replaced, by the same, at every higher one.

    Salt and pepper are the ends of the robust range, 1 and 0, and not the channel's extremes: a single metal
    voxel in a CT would otherwise make the same level hundreds of times stronger than in an 8-bit image.
    These are also the values of scikit-image on an image in [0, 1].

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: expected share of the values that is replaced, in [0, 1]; 0 is the identity.
        generator: the source of randomness; the field is drawn on its device and moved to the image's.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: scikit-image `random_noise(mode="s&p", amount=level)`.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The share of replaced voxels must be in [0, 1], got {level}")
    if level == 0:
        return image.clone()
    uniform = torch.rand(image.shape, generator=generator, device=generator.device).to(image.device)
    peppered = image.masked_fill(uniform < level / 2, 0.0)
    return peppered.masked_fill_(uniform >= 1 - level / 2, 1.0)


def _standard_normal(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """N(0, 1) values like the image; drawn in float32, so that the image's dtype does not change the field."""
    noise = torch.randn(image.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return noise.to(device=image.device, dtype=image.dtype)
