"""Photon noise: counts of a Poisson distribution, all doses from one field."""

from __future__ import annotations

import math

import torch

from nnunet_robust.perturbations.axes import computable
from nnunet_robust.perturbations.row import Perturbation

_FEW = 4.0  # expected photons; below, the distribution is summed up, above, expanded
_MOST_OF_FEW = 24  # P(more) < 1e-11 at an expectation of 4
_MANY = 1e12  # expected photons; above, the noise is below float32's resolution


def poisson_noise(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Photon noise: y = level**2 k, k ~ Poisson(x / level**2), a dose of 1 / level**2 photons at x = 1.

    The mean stays, and the standard deviation is level sqrt(x): `level` at x = 1, relatively more where it is dark. A
    quarter of the dose is twice the level. Values x <= 0 (the darkest half per cent) have no photons and stay as they
    are. Counts are quantiles of one field for all levels: k is the Poisson distribution's inverse at the probability
    of the voxel's normal variate, exact but for about one count in a thousand, which is off by one.

    The noise is that of a detector that counts where the image is (histology, X-ray projections). In a CT, whose
    photons are counted before the reconstruction, it is a stand-in, and 0 is the robust range's low end, not air.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: 1 / sqrt(photons at x = 1); >= 0, 0 (an infinite dose) is the identity.
        generator: the source of randomness; the field is drawn on its device and moved to the image's.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: scikit-image `random_noise(mode="poisson")` on an image of x / level**2 counts; M. B. Giles, Algorithm
    955, ACM TOMS 42 (2016) for the inverse.

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> grey = torch.full((1, 200, 200), 0.25)
        >>> counts = poisson_noise(grey, 0.1, torch_generator(0)) / 0.1**2  # 100 photons at 1, so 25 at 0.25
        >>> torch.allclose(counts, counts.round(), atol=1e-3)
        True
        >>> round(counts.mean().item()), round(counts.var().item())
        (25, 25)
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The level of photon noise must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    normal = torch.randn(image.shape, generator=generator, device=generator.device).to(image.device)
    values = computable(image)
    unit = max(level**2, 1 / _MANY)
    expected = (values / unit).clamp(0, _MANY)
    noise = (_counts(expected, normal.to(expected.dtype)) - expected) * unit
    return torch.where(values > 0, values + noise, values).to(image.dtype)


def _counts(expected: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """The quantile of Poisson(expected) at the probability Phi(normal)."""
    # Giles's expansion of the quantile for large expectations, to the third order
    safe = expected.clamp(min=_FEW)
    root, square = safe.sqrt(), normal * normal
    counts = square.mul(1 / 270).add_(7 / 810).mul_(square).sub_(8 / 405).div_(safe)
    counts.sub_(square.div(72).add_(1 / 36).mul_(normal).div_(root))
    counts.add_(square.div_(6)).add_(1 / 3).add_(root.mul_(normal)).add_(safe)
    counts = counts.floor_().clamp_(min=0)
    few = expected < _FEW
    expected_few, probability = expected[few], torch.special.ndtr(normal[few])
    term = torch.exp(-expected_few)
    cumulated, fewer = term.clone(), torch.zeros_like(term)
    for k in range(1, _MOST_OF_FEW):
        fewer += probability > cumulated
        term *= expected_few / k
        cumulated += term
    counts[few] = fewer
    return counts


ROWS = (
    Perturbation(
        name="poisson_noise",
        display_name="Poisson noise",
        function=poisson_noise,
        levels=(0.03, 0.1, 0.2, 0.4, 0.8),
        maximum=100.0,
        unit="1 / sqrt(photons at the top of the robust range)",
        modality="any",
        reference="scikit-image random_noise(mode='poisson')",
        stochastic=True,
    ),
)
