"""The filter, against what total variation does by hand, and the rule of when it is applied."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from skimage.restoration import denoise_tv_chambolle

from nnunet_robust.eval.denoising import denoiser as denoiser_module
from nnunet_robust.eval.denoising.denoiser import Denoiser
from nnunet_robust.eval.denoising.noise_tolerance import NoiseTolerance
from nnunet_robust.eval.denoising.variation import STRENGTH, denoise
from nnunet_robust.eval.images.image_quality import image_quality, noise_sigmas

SPACING = (999.0, 1.0, 1.0)  # of nnU-Net's 2d images


def tolerant(threshold: float) -> NoiseTolerance:
    return NoiseTolerance(threshold, "within", 0.01, 0.02, 0.3, 8, 80, ("gaussian_noise",))


def noisy(sigma: float, seed: int = 0, shape: tuple[int, ...] = (1, 1, 64, 64)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    clean = np.zeros(shape, np.float32)
    clean[..., 16:48, 16:48] = 1000
    return clean + (1000 * sigma * rng.normal(size=shape)).astype(np.float32)


def test_two_plateaus_move_towards_one_another_as_computed_by_hand() -> None:
    """TV + |y - x|^2 / (2 w): each of two plateaus of width a moves by w / a (see e.g. Strong & Chan 2003)."""
    image = np.zeros((1, 1, 40, 10), np.float32)
    image[..., 5:] = 50.0  # the robust range: levels are in units of it
    found = denoise(image, SPACING, [1.0])
    shift = 50 * STRENGTH / 5
    np.testing.assert_allclose(found[..., :5], shift, atol=0.03 * shift)
    np.testing.assert_allclose(found[..., 5:], 50 - shift, atol=0.03 * shift)


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_noise_goes_and_edges_stay(sigma: float) -> None:
    image, clean = noisy(sigma), noisy(0)
    found = denoise(image, SPACING, noise_sigmas(image, SPACING))
    error = np.abs(found - clean)
    assert np.sqrt((error**2).mean()) < 0.6 * np.sqrt(((image - clean) ** 2).mean())
    edge = found[0, 0, 24:40, 16] - found[0, 0, 24:40, 15]
    assert edge.mean() > 700  # a Gaussian filter that removes as much leaves 400
    assert image_quality(found, SPACING).noise_sigma < 0.5 * sigma


def test_channels_are_treated_each_by_its_own_noise() -> None:
    image = np.concatenate([noisy(0.1), 7 + noisy(0.02, 1), np.full((1, 1, 64, 64), 3, np.float32), noisy(0.1, 2)])
    sigmas = noise_sigmas(image, SPACING)
    assert np.isnan(sigmas[2]) and sigmas[0] > 3 * sigmas[1]
    before = image.copy()
    found = denoise(image, SPACING, [*sigmas[:3], 0.0])
    assert np.array_equal(image, before)
    assert np.array_equal(found[2:], image[2:])  # constant, and without noise
    for channel in (0, 1):
        alone = denoise(image[[channel]], SPACING, [sigmas[channel]])
        assert np.array_equal(found[[channel]], alone) and not np.array_equal(found[channel], image[channel])
        assert image[channel].min() <= found[channel].min() and found[channel].max() <= image[channel].max()
    assert found.dtype == image.dtype and found.shape == image.shape


def test_integers_are_rounded() -> None:
    image = np.clip(np.rint(noisy(0.1) / 5), 0, 255).astype(np.uint8)
    found = denoise(image, SPACING, [0.1])
    exact = denoise(image.astype(np.float64), SPACING, [0.1])
    assert found.dtype == np.uint8 and np.array_equal(found, np.rint(exact))


@pytest.mark.parametrize(("spacing", "by_slice"), [((3.0, 1, 1), False), ((3.1, 1, 1), True), ((1.0, 4, 1), True)])
def test_slices_that_are_far_apart_are_denoised_one_by_one(spacing: tuple[float, ...], by_slice: bool) -> None:
    image = noisy(0.1, shape=(1, 6, 48, 52))
    low, high = np.percentile(image, (0.5, 99.5))
    scaled = ((image[0] - low) / (high - low)).astype(np.float32)
    axis = int(np.argmax(spacing))
    if by_slice:
        slices = [denoise_tv_chambolle(one, weight=STRENGTH * 0.1) for one in np.moveaxis(scaled, axis, 0)]
        expected = np.stack(slices, axis)
    else:
        expected = denoise_tv_chambolle(scaled, weight=STRENGTH * 0.1)
    expected = np.clip(expected * (high - low) + low, image.min(), image.max())
    np.testing.assert_allclose(denoise(image, spacing, [0.1])[0], expected, rtol=1e-5, atol=1e-2)


def test_an_image_is_denoised_above_the_threshold_only() -> None:
    image = noisy(0.1)
    noise = image_quality(image, SPACING).noise_sigma
    assert Denoiser(tolerant(noise))(image, SPACING) is image  # "up to" is tolerated
    found = Denoiser(tolerant(noise - 1e-9))(image, SPACING)
    assert np.array_equal(found, denoise(image, SPACING, [noise]))
    assert np.array_equal(Denoiser()(image, SPACING), found)
    flat = np.ones((1, 1, 64, 64), np.float32)
    assert Denoiser()(flat, SPACING) is flat and Denoiser(tolerant(0.0))(flat, SPACING) is flat


def test_several_models_share_what_was_made_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(denoiser_module, "denoise", lambda *a: calls.append(1) or denoise(*a))
    images = [noisy(0.1, seed) for seed in range(6)]
    expected = [denoise(image, SPACING, noise_sigmas(image, SPACING)) for image in images]

    def ask(k: int) -> list[np.ndarray]:
        same = images[k][:]  # another view on it, as of a tensor
        return [Denoiser(b)(same, SPACING) for b in (tolerant(0.01), None, tolerant(0.5))]

    with ThreadPoolExecutor(3) as pool:
        for (first, second, third), wanted, image in zip(pool.map(ask, range(6)), expected, images, strict=True):
            assert np.array_equal(first, wanted) and second is first and np.array_equal(third, image)
    assert len(calls) == 6
    images[0] = noisy(0.1, 7)
    assert np.array_equal(Denoiser()(images[0], SPACING), denoise(images[0], SPACING, noise_sigmas(images[0], SPACING)))
    # the same memory with another spacing is another image
    volume = noisy(0.1, shape=(1, 6, 48, 48))
    assert not np.array_equal(Denoiser()(volume, (1, 1, 1)), Denoiser()(volume, (9, 1, 1)))
