"""The ultrasound artefacts by hand, and their statistics against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations.ultrasound import acoustic_shadow, depth_attenuation, psf_speckle


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


@pytest.mark.parametrize("shape", [(2, 41, 30), (1, 5, 41, 30)])
def test_attenuation_by_hand(shape: tuple[int, ...]) -> None:
    result = depth_attenuation(torch.full(shape, 0.8), 20 * math.log10(4), generator())
    torch.testing.assert_close(result[..., 0, :], torch.full(shape, 0.8)[..., 0, :])
    torch.testing.assert_close(result[..., 20, :], torch.full(shape, 0.4)[..., 0, :])  # halfway down: halved
    torch.testing.assert_close(result[..., 40, :], torch.full(shape, 0.2)[..., 0, :])


@pytest.mark.parametrize("seed", range(10))
def test_shadow_is_a_wedge_below_a_place(seed: int) -> None:
    height, width = 100, 120
    shadow = 1 - acoustic_shadow(torch.ones(1, height, width), 1.0, generator(seed))[0].numpy()
    dark = shadow > 0.5
    _, pieces = ndimage.label(dark)
    assert pieces == 1
    top = np.flatnonzero(dark.any(axis=1))[0]
    assert 9 <= top <= 52
    assert dark[top:].any(axis=1).all()  # down to the bottom
    widths = dark.sum(axis=1)[top + 1 :]
    assert (np.diff(widths) >= -1).all() and 0.08 * width <= widths[0] <= 0.25 * width
    assert shadow[: top - 6].max() < 0.01  # nothing above
    assert shadow.max() > 0.9


def test_shadow_takes_its_share() -> None:
    image = torch.rand(2, 40, 50, generator=generator(7)) + 0.1
    full = 1 - acoustic_shadow(image, 1.0, generator(1)) / image
    part = 1 - acoustic_shadow(image, 0.3, generator(1)) / image
    torch.testing.assert_close(part, 0.3 * full, rtol=0, atol=1e-5)
    torch.testing.assert_close(full[0], full[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_shadow_of_a_volume_ends(seed: int) -> None:
    shadow = 1 - acoustic_shadow(torch.ones(1, 40, 50, 60), 1.0, generator(seed))[0]
    area = (shadow > 0.5).sum(dim=(1, 2))
    middle = int(area.argmax())
    assert 8 <= middle <= 32
    assert (shadow.amax(dim=(1, 2)) == 0).sum() > 4
    assert (area[: middle + 1].diff() >= 0).all() and (area[middle:].diff() <= 0).all()


@pytest.mark.parametrize("shape", [(200, 201), (1, 200, 200), (24, 61, 64)])
def test_speckle_is_rayleigh(shape: tuple[int, ...]) -> None:
    envelope = psf_speckle(torch.ones(1, *shape), 1.0, generator())[0]
    assert envelope.mean().item() == pytest.approx(1, abs=0.03)
    assert envelope.std().item() == pytest.approx(math.sqrt(4 / math.pi - 1), rel=0.05)
    # far enough apart to be independent
    samples = envelope[..., ::5, ::10].flatten() if len(shape) == 2 else envelope[::10, ::5, ::10].flatten()
    assert stats.kstest(samples.numpy(), stats.rayleigh(scale=math.sqrt(2 / math.pi)).cdf).pvalue > 0.01


def test_speckle_is_longer_across_than_along_the_beam() -> None:
    """The autocovariance of the intensity is that of a Gaussian field: exp(-d^2 / (2 sigma^2))."""
    intensity = psf_speckle(torch.ones(1, 600, 600), 1.0, generator())[0].square()
    intensity = intensity - intensity.mean()
    for axis, sigma in ((0, 1.0), (1, 2.0)):
        for distance in (1, 2, 4):
            correlation = (intensity * intensity.roll(distance, dims=axis)).mean() / intensity.square().mean()
            assert correlation.item() == pytest.approx(math.exp(-(distance**2) / (2 * sigma**2)), abs=0.04)


def test_speckle_blends_and_is_shared_by_the_channels() -> None:
    image = torch.rand(2, 5, 40, 50, generator=generator(7)) + 0.1
    full = psf_speckle(image, 1.0, generator(1)) / image - 1
    torch.testing.assert_close(psf_speckle(image, 0.2, generator(1)) / image - 1, 0.2 * full, rtol=0, atol=1e-5)
    torch.testing.assert_close(full[0], full[1], rtol=0, atol=1e-5)
