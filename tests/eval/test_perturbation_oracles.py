"""Each perturbation against an independent implementation: scikit-image, scipy, TorchIO."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.util import random_noise

from nnunet_robust.eval.perturbations.blur import background_blur, gaussian_blur
from nnunet_robust.eval.perturbations.intensity import contrast
from nnunet_robust.eval.perturbations.noise import gaussian_noise, salt_and_pepper, speckle_noise
from nnunet_robust.seeding import torch_generator


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


@pytest.mark.parametrize("function", [gaussian_noise, speckle_noise])
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
