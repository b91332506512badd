"""Each perturbation against an independent implementation: scikit-image, scipy, TorchIO."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.util import invert, random_noise

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations.blur import background_blur, foreground_blur, gaussian_blur
from nnunet_robust.perturbations.intensity import (
    brightness,
    contrast,
    histogram_compression,
    inverted_contrast,
    window_shift,
)
from nnunet_robust.perturbations.noise import gaussian_noise, rician_noise, salt_and_pepper, speckle_noise
from nnunet_robust.perturbations.photons import poisson_noise
from nnunet_robust.perturbations.texture import correlated_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


# --- noise, against scikit-image


def unit_ramp() -> torch.Tensor:
    return torch.linspace(0, 1, 200).repeat(1, 200, 1)


@pytest.mark.parametrize("level", [0.1**0.5, 0.3**0.5])
@pytest.mark.parametrize(("ours", "mode"), [(gaussian_noise, "gaussian"), (speckle_noise, "speckle")])
def test_noise_has_scikit_images_distribution(ours: Callable, mode: str, level: float) -> None:
    image = unit_ramp()
    noisy = ours(image, level, generator()).numpy().ravel()
    theirs = random_noise(image.numpy().astype(np.float64), mode=mode, var=level**2, clip=False, rng=0).ravel()
    assert stats.ks_2samp(noisy, theirs).pvalue > 0.01
    # wrong levels are told apart: a variance in place of a standard deviation
    assert stats.ks_2samp(ours(image, level**2, generator()).numpy().ravel(), theirs).pvalue < 1e-6
    residual = (noisy - image.numpy().ravel()).reshape(200, 200)
    ramp = image[0, 0].numpy()
    expected = level * (ramp if mode == "speckle" else np.ones_like(ramp))
    # 200 samples an intensity: the standard error of a standard deviation is 5 %
    np.testing.assert_allclose(residual.std(axis=0), expected, rtol=0.25, atol=1e-6)
    assert np.abs(residual.mean(axis=0)).max() < 5 * level / 200**0.5
    assert residual.std() == pytest.approx(np.sqrt((expected**2).mean()), rel=0.02)


def test_salt_and_pepper_has_scikit_images_counts() -> None:
    image = unit_ramp() * 0.8 + 0.1
    amount, count = 0.2, image.numel()
    ours = salt_and_pepper(image, amount, generator()).numpy()
    theirs = random_noise(image.numpy(), mode="s&p", amount=amount, rng=0)
    for value in (0.0, 1.0):
        sigma = math.sqrt(count * 0.1 * 0.9)
        assert abs((ours == value).sum() - 0.1 * count) < 4 * sigma
        assert abs((theirs == value).sum() - (ours == value).sum()) < 6 * sigma
    untouched = (ours != 0) & (ours != 1)
    np.testing.assert_array_equal(ours[untouched], image.numpy()[untouched])


def test_salt_and_pepper_is_nested_in_the_level() -> None:
    image = unit_ramp() * 0.8 + 0.1
    replaced = torch.zeros_like(image, dtype=torch.bool)
    values = torch.zeros_like(image)
    for level in (0.01, 0.1, 0.5, 0.9, 1.0):
        result = salt_and_pepper(image, level, generator())
        assert torch.equal(result[replaced], values[replaced])
        replaced, values = result != image, result
        assert replaced.float().mean().item() == pytest.approx(level, abs=0.01)
    assert set(values.unique().tolist()) == {0.0, 1.0}


def correlated(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    return correlated_noise(image, level, generator, spacing_mm=(3.0, 1.0, 1.0))


@pytest.mark.parametrize("function", [gaussian_noise, speckle_noise, correlated])
def test_levels_scale_one_field(function: Callable) -> None:
    image = torch.rand(2, 5, 16, 16, generator=generator(9), dtype=torch.float64) + 0.5
    fields = [(function(image, level, generator()) - image) / level for level in (0.05, 0.2, 0.6)]
    for field in fields[1:]:
        torch.testing.assert_close(field, fields[0], rtol=0, atol=1e-9)
    assert 0.2 < fields[0].std() < 1.2
    assert not torch.allclose(fields[0][0], fields[0][1])  # channels have their own


def test_the_field_is_independent_of_dtype_and_image() -> None:
    zeros = torch.zeros(1, 32, 32)
    field = gaussian_noise(zeros, 1.0, generator())
    torch.testing.assert_close(gaussian_noise(zeros.double(), 1.0, generator()), field.double(), rtol=0, atol=0)


@pytest.mark.parametrize("level", [0.05, 0.4])
def test_rician_noise_is_scipys_and_monais(level: float) -> None:
    """Distribution at single intensities against scipy's Rice; MONAI's function on the same normal variates."""
    for value in (0.0, 0.3, 1.0):
        noisy = rician_noise(torch.full((1, 200, 200), value), level, generator()).numpy().ravel()
        assert stats.kstest(noisy, stats.rice(value / level, scale=level).cdf).pvalue > 0.01
    transforms = pytest.importorskip("monai.transforms")
    image = torch.rand(1, 64, 64, generator=generator(1))
    state = generator()
    parts = [torch.randn(image.shape, generator=state).numpy() for _ in range(2)]

    class Given(transforms.RandRicianNoise):
        def __init__(self) -> None:
            super().__init__(prob=1, std=level, sample_std=False)
            draws = iter(parts)
            self.R = type("R", (), {"normal": staticmethod(lambda mean, std, size: mean + std * next(draws))})

    theirs = Given()._add_noise(image, 0.0, level)
    torch.testing.assert_close(rician_noise(image, level, generator()), torch.as_tensor(theirs), check_dtype=False)


def test_rician_noise_below_zero_is_that_of_zero() -> None:
    noise = rician_noise(torch.zeros(1, 32, 32), 0.2, generator())
    torch.testing.assert_close(rician_noise(torch.full((1, 32, 32), -0.7), 0.2, generator()), noise - 0.7)


@pytest.mark.parametrize("level", [0.005, 0.03, 0.2, 0.5, 0.8, 3.0])
def test_poisson_noise_is_scipys_quantile_of_the_same_field(level: float) -> None:
    image = torch.linspace(0.001, 1.5, 300, dtype=torch.float64).repeat(1, 80, 1)
    ours = poisson_noise(image, level, generator()).numpy() / level**2
    np.testing.assert_allclose(ours, ours.round(), atol=1e-6)  # counts
    probability = stats.norm.cdf(torch.randn(image.shape, generator=generator()).numpy().astype(np.float64))
    theirs = stats.poisson.ppf(probability, image.numpy() / level**2)
    assert np.abs(ours - theirs).max() <= 1.001
    assert (np.abs(ours - theirs) > 0.5).mean() < 2e-3


def test_poisson_noise_has_scikit_images_moments() -> None:
    level = 1 / 8  # 64 photons; scikit-image takes a power of two, from the number of values
    image = (torch.arange(64) / 63).repeat(1, 4000, 1)
    ours = poisson_noise(image, level, generator()).numpy()
    theirs = random_noise(image.numpy().astype(np.float64), mode="poisson", clip=False, rng=0)
    np.testing.assert_allclose(ours.mean(axis=(0, 1)), theirs.mean(axis=(0, 1)), atol=0.012)
    np.testing.assert_allclose(ours.std(axis=(0, 1)), theirs.std(axis=(0, 1)), rtol=0.08)
    np.testing.assert_allclose(ours.std(axis=(0, 1)), level * image[0, 0].sqrt().numpy(), rtol=0.06)


@pytest.mark.parametrize("level", [1e-30, 1e-9, 1e-4])
def test_poisson_noise_of_a_huge_dose_is_finite_and_small(level: float) -> None:
    image = torch.tensor([[[-0.5, 0.0, 1e-6, 0.5, 1.0]]])
    torch.testing.assert_close(poisson_noise(image, level, generator()), image, rtol=0, atol=1e-5 + 5 * level)
    assert poisson_noise(image, 0.5, generator())[0, 0, 0] == -0.5


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 1.0), (0.5, 1.0)])
def test_correlated_noise_has_its_correlation_in_mm(spacing: tuple[float, float]) -> None:
    field = correlated_noise(torch.zeros(2, 601, 600), 1.0, generator(), spacing_mm=spacing)
    assert field.std().item() == pytest.approx(1, abs=0.03)
    assert abs(field.mean().item()) < 0.05
    assert abs((field[0] * field[1]).mean().item()) < 0.05  # channels have their own
    scale = 2 * min(spacing)
    for axis in (1, 2):
        for step in (1, 2, 4, 6):
            distance = step * spacing[axis - 1]
            correlation = (field * field.roll(step, dims=axis)).mean() / field.square().mean()
            assert correlation.item() == pytest.approx(math.exp(-(distance**2) / (4 * scale**2)), abs=0.05)


# --- blur, against scipy


def box_mask(image: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[..., 10:20, 8:16] = True
    return mask


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 3.0, 7.0, 40.0])
@pytest.mark.parametrize("shape", [(40, 48), (7, 33), (5, 32, 36), (2, 3, 50)])
def test_gaussian_blur_equals_scipys(shape: tuple[int, ...], sigma: float) -> None:
    image = torch.rand(2, *shape, generator=generator(1))
    expected = np.stack(
        [ndimage.gaussian_filter(c.astype(np.float64), sigma, mode="reflect", truncate=4) for c in image.numpy()]
    )
    result = gaussian_blur(image, sigma, generator())
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gaussian_blur(image.double(), sigma, generator()).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [2.0, 300.0])
def test_gaussian_blur_of_an_axis_made_in_blocks(sigma: float) -> None:
    image = torch.rand(1, 3, 2500, generator=generator(1))
    expected = ndimage.gaussian_filter(image[0].numpy().astype(np.float64), sigma, mode="reflect", truncate=4)
    np.testing.assert_allclose(gaussian_blur(image, sigma, generator())[0].numpy(), expected, rtol=0, atol=1e-5)


def test_gaussian_blur_leaves_axes_of_length_one() -> None:
    image = torch.rand(3, 40, 48, generator=generator(1))
    flat, thin = gaussian_blur(image, 3.0, generator()), gaussian_blur(image[:, None], 3.0, generator())
    assert torch.equal(thin[:, 0], flat)


def test_background_blur_is_the_whole_images_blur_outside_of_the_mask() -> None:
    image = torch.rand(2, 5, 32, 36, generator=generator(1))
    mask = box_mask(image)
    result = background_blur(image, 3.0, generator(), mask)
    expected = np.stack([ndimage.gaussian_filter(c, 3.0, mode="reflect", truncate=4) for c in image.numpy()])
    assert torch.equal(result[:, mask], image[:, mask])
    np.testing.assert_allclose(result[:, ~mask].numpy(), expected[:, ~mask.numpy()], rtol=0, atol=1e-5)


def test_foreground_and_background_blur_together_are_the_blur() -> None:
    image = torch.rand(2, 5, 32, 36, generator=generator(1))
    mask = box_mask(image)
    result = foreground_blur(image, 3.0, generator(), mask)
    assert torch.equal(result[:, ~mask], image[:, ~mask])
    assert torch.equal(result[:, mask], gaussian_blur(image, 3.0, generator())[:, mask])


def test_background_blur_leaks_the_foreground_as_published() -> None:
    image = torch.zeros(1, 21, 21)
    mask = torch.zeros(21, 21, dtype=torch.bool)
    mask[8:13, 8:13] = True
    image[0, mask] = 1.0
    result = background_blur(image, 3.0, generator(), mask)
    assert result[0, 10, 7] > 0.1


# --- intensity, against TorchIO


@pytest.mark.parametrize("level", [0.1, 0.8, 1.2])
def test_contrast_equals_torchios(level: float) -> None:
    tio = pytest.importorskip("torchio")
    image = torch.randn(2, 6, 7, 8, generator=generator(1))
    theirs = tio.RandomGamma(log_gamma=(level, level))(tio.ScalarImage(tensor=image)).data
    torch.testing.assert_close(contrast(image, level, generator()), theirs, rtol=1e-5, atol=1e-6)


def test_contrast_keeps_the_ends_and_is_monotone() -> None:
    values = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]])
    result = contrast(values, math.log(2), generator())
    torch.testing.assert_close(result, torch.tensor([[-1.0, -0.25, 0.0, 0.25, 1.0, 4.0]]))


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_brightness_is_monais(level: float) -> None:
    transforms = pytest.importorskip("monai.transforms")
    image = torch.randn(2, 6, 7, 8, generator=generator(1))
    theirs = transforms.ShiftIntensity(offset=level, safe=False)(image)
    torch.testing.assert_close(brightness(image, level, generator()), torch.as_tensor(theirs))


def test_window_shift_is_torchios_clamp() -> None:
    tio = pytest.importorskip("torchio")
    image = torch.randn(1, 6, 7, 8, generator=generator(1))
    theirs = tio.Clamp(out_min=0.2, out_max=1.2)(tio.ScalarImage(tensor=image)).data
    torch.testing.assert_close(window_shift(image, 0.2, generator()), theirs)


def test_histogram_compression_by_hand() -> None:
    image = torch.tensor([[[0.0, 0.2, 1.0]], [[10.0, 20.0, 60.0]]])
    expected = torch.tensor([[[0.15, 0.2, 0.4]], [[17.5, 20.0, 30.0]]])
    torch.testing.assert_close(histogram_compression(image, 0.75, generator()), expected)


def test_inverted_contrast_is_scikit_images_invert_at_the_end() -> None:
    image = torch.rand(1, 9, 9, generator=generator(1))
    torch.testing.assert_close(inverted_contrast(image, 1.0, generator()).numpy(), invert(image.numpy()))
    torch.testing.assert_close(inverted_contrast(image, 0.5, generator()), torch.full_like(image, 0.5))
    torch.testing.assert_close(inverted_contrast(image, 0.25, generator()), 0.75 * image + 0.25 * (1 - image))
