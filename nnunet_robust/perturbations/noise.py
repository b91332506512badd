"""Noise. Every function draws its whole field before the level enters, so that a level only scales or thresholds it."""

from __future__ import annotations

import torch

from nnunet_robust.perturbations.eight_bit import Scale, in_eight_bits
from nnunet_robust.perturbations.row import Perturbation


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

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> grey = torch.full((1, 100, 100), 0.5)
        >>> noise = gaussian_noise(grey, 0.1, torch_generator(0)) - grey
        >>> noise.shape, round(noise.std().item(), 2)
        (torch.Size([1, 100, 100]), 0.1)
        >>> stronger = gaussian_noise(grey, 0.2, torch_generator(0)) - grey  # the same field, scaled
        >>> torch.allclose(stronger, 2 * noise, atol=1e-6)
        True
    """
    if not level >= 0:
        raise ValueError(f"The standard deviation of the noise must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return _standard_normal(image, generator).mul_(level).add_(image)


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
    return _standard_normal(image, generator).mul_(level * image).add_(image)


def speckle_noise_8bit(
    image: torch.Tensor, level: float, generator: torch.Generator, *, eight_bit: Scale | None = None
) -> torch.Tensor:
    """The papers' speckle: y = clip(I + level * I * n), I the share of 255, n ~ N(0, 1) for each value, in 8 bits.

    It multiplies above 0, where `speckle_noise` multiplies above the robust range's low end, and saturates at 255, not
    at the channel's own maximum. An image without 8 bits is brought there first: its robust range becomes 0 to 255.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: standard deviation of the noise, relative; >= 0, 0 is the identity.
        generator: the source of randomness; noise is drawn on its device and moved to the image's.
        eight_bit: how these units stand for 8-bit values; None: they do not.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: Kamath et al. 2023, `random_noise(image, mode="speckle", var=level**2)` of scikit-image, cut to uint8.
    """
    if not level >= 0:
        raise ValueError(f"The standard deviation of the noise must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    noise = _standard_normal(image, generator).mul_(level)
    return in_eight_bits(image, eight_bit, lambda grey: grey + grey * noise)


def rician_noise(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Rician noise, that of MRI magnitude images: y = sqrt((x + level n1)**2 + (level n2)**2), n1, n2 ~ N(0, 1).

    It adds a floor of about 1.25 level where there is no signal. No signal is taken to be the robust range's low end,
    as the air of an MR image; values x < 0 (the darkest half per cent) get the noise of x = 0 on top of their own
    value.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: standard deviation of the noise in either part of the complex signal, in units of the robust range; >= 0,
            0 is the identity.
        generator: the source of randomness; noise is drawn on its device and moved to the image's.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: Gudbjartsson and Patz, Magnetic Resonance in Medicine 34 (1995), 910; MONAI `RandRicianNoise`.
    """
    if not level >= 0:
        raise ValueError(f"The standard deviation of the noise must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    real, imaginary = _standard_normal(image, generator), _standard_normal(image, generator)
    signal = image.clamp(min=0)
    magnitude = real.mul_(level).add_(signal).hypot_(imaginary.mul_(level))
    return magnitude.add_(image - signal)


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

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> found = salt_and_pepper(torch.full((1, 200, 200), 0.5), 0.1, torch_generator(0))
        >>> found.unique()
        tensor([0.0000, 0.5000, 1.0000])
        >>> round((found == 1).float().mean().item(), 2)
        0.05
    """
    if not 0 <= level <= 1:
        raise ValueError(f"The share of replaced voxels must be in [0, 1], got {level}")
    if level == 0:
        return image.clone()
    uniform = torch.rand(image.shape, generator=generator, device=generator.device).to(image.device)
    peppered = image.masked_fill(uniform < level / 2, 0.0)
    return peppered.masked_fill_(uniform >= 1 - level / 2, 1.0)


def _standard_normal(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """New N(0, 1) values like the image; drawn in float32, so that the image's dtype does not change the field."""
    noise = torch.randn(image.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return noise.to(device=image.device, dtype=image.dtype)


ROWS = (
    Perturbation(
        name="gaussian_noise",
        display_name="Gaussian noise",
        function=gaussian_noise,
        levels=(0.02, 0.05, 0.1, 0.2, 0.4),
        maximum=100.0,
        unit="standard deviation / robust range",
        modality="any",
        reference="scikit-image random_noise(mode='gaussian')",
        stochastic=True,
    ),
    Perturbation(
        name="speckle_noise",
        function=speckle_noise,
        levels=(0.05, 0.1, 0.2, 0.4, 0.6),
        maximum=100.0,
        unit="relative standard deviation",
        modality="any",
        reference="Kamath et al., MICCAI 2023 (variance = level**2)",
        stochastic=True,
    ),
    Perturbation(
        name="speckle_noise_8bit",
        display_name="speckle noise of 8 bits",
        function=speckle_noise_8bit,
        levels=(0.05, 0.1, 0.2, 0.4, 0.6),
        maximum=100.0,
        unit="relative standard deviation",
        modality="any",
        reference="Kamath et al., MICCAI 2023 (random_noise, variance = level**2, on values / 255)",
        stochastic=True,
        uses_eight_bit=True,
    ),
    Perturbation(
        name="salt_and_pepper",
        display_name="salt-and-pepper noise",
        function=salt_and_pepper,
        levels=(0.005, 0.02, 0.05, 0.1, 0.2),
        maximum=1.0,
        unit="share of voxels",
        modality="any",
        reference="scikit-image random_noise(mode='s&p')",
        stochastic=True,
    ),
    Perturbation(
        name="rician_noise",
        display_name="Rician noise",
        function=rician_noise,
        levels=(0.02, 0.05, 0.1, 0.2, 0.4),
        maximum=100.0,
        unit="standard deviation / robust range",
        modality="mri",
        reference="Gudbjartsson & Patz, Magn Reson Med 1995; MONAI RandRicianNoise",
        stochastic=True,
    ),
)
