"""The CT artefacts, and the transforms that they rest on, against scikit-image and by numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.data import shepp_logan_phantom
from skimage.transform import iradon, radon, resize

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations import radon as ours
from nnunet_robust.perturbations.ct import ring_artefact, sparse_views, streaks


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


def phantom(size: int) -> np.ndarray:
    """Shepp and Logan's head, a little blurred."""
    return ndimage.gaussian_filter(resize(shepp_logan_phantom(), (size, size), anti_aliasing=True), 1.0)


def angles(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64) * (math.pi / count)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


# --- the transforms


def test_radon_is_scikit_images() -> None:
    image = phantom(65)  # odd: both turn about the middle pixel
    sinogram = ours.radon(torch.from_numpy(image)[None], angles(30))[0].numpy()
    theirs = radon(image, theta=np.arange(30) * 6.0, circle=False).T
    offset = (sinogram.shape[1] - theirs.shape[1]) // 2
    # their angles turn the other way, as y points up there
    t = np.arange(sinogram.shape[1]) - sinogram.shape[1] // 2
    middle = slice(offset, offset + theirs.shape[1]) if offset >= 0 else slice(None)
    theirs = theirs if offset >= 0 else theirs[:, -offset : -offset + len(t)]
    same = np.abs(sinogram[:, middle] - theirs).max()
    mirrored = np.abs(np.roll(sinogram[::-1, ::-1], 1, axis=0)[1:, middle] - theirs[1:]).max()
    assert min(same, mirrored) < 0.02 * theirs.max()


@pytest.mark.parametrize("shape", [(40, 56), (57, 41)])
def test_radon_of_a_disc_by_hand(shape: tuple[int, int]) -> None:
    y, x = np.ogrid[: shape[0], : shape[1]]
    cy, cx = (shape[0] - 1) / 2 + 5, (shape[1] - 1) / 2 - 3
    disc = np.clip(10.5 - np.hypot(y - cy, x - cx), 0, 1)
    sinogram = ours.radon(torch.from_numpy(disc)[None], angles(16))[0].numpy()
    t = np.arange(sinogram.shape[1]) - sinogram.shape[1] // 2
    for row, angle in zip(sinogram, angles(16).numpy(), strict=True):
        centre = -3 * math.cos(angle) + 5 * math.sin(angle)
        chord = 2 * np.sqrt(np.clip(100 - (t - centre) ** 2, 0, None))
        assert np.abs(row - chord)[np.abs(np.abs(t - centre) - 10) > 1.5].max() < 0.6
    np.testing.assert_allclose(sinogram.sum(axis=1), disc.sum(), rtol=0.01)


@pytest.mark.parametrize("shape", [(65, 65), (48, 60)])
def test_reconstruction_returns_the_slice(shape: tuple[int, int]) -> None:
    image = np.zeros((2, *shape))
    image[0, 8:40, 8:40] = phantom(32)
    image[1, 10:30, 20:44] = 0.7
    image = ndimage.gaussian_filter(image, (0, 1.5, 1.5))
    sinogram = ours.radon(torch.from_numpy(image), angles(120))
    result = ours.filtered_back_projection(sinogram, angles(120), *shape).numpy()
    assert np.abs(result - image).max() < 0.06
    assert np.sqrt(((result - image) ** 2).mean()) < 0.01


def test_reconstruction_is_scikit_images() -> None:
    image = phantom(65)
    sinogram = ours.radon(torch.from_numpy(image)[None], angles(20))
    result = ours.filtered_back_projection(sinogram, angles(20), 65, 65)[0].numpy()
    theirs = iradon(sinogram[0].numpy().T, theta=-np.arange(20) * 9.0, output_size=65, filter_name="ramp", circle=False)
    assert np.abs(result - theirs).max() < 0.02


def test_ramp_filter_is_a_convolution_with_the_taps() -> None:
    signal = np.random.default_rng(0).normal(size=37)
    taps = ours.ramp_taps(37).numpy()
    kernel = np.concatenate([taps[:0:-1], taps])
    expected = np.convolve(signal, kernel)[36 : 36 + 37]
    np.testing.assert_allclose(ours.ramp_filter(torch.from_numpy(signal)).numpy(), expected, atol=1e-12)
    # the sum over odd k of 1 / (pi k)^2, both sides, is 1/4: no constant passes
    assert ours.ramp_taps(20000)[1:].sum().item() == pytest.approx(-0.125, abs=1e-5)


def test_rings_by_numerical_integration() -> None:
    profile = np.random.default_rng(0).normal(size=40)
    rings = ours.at_radius(torch.from_numpy(profile)[None], 31, 40)[0].numpy()
    angle = (np.arange(20000) + 0.5) * (math.pi / 20000)
    for y, x in [(15, 19), (15, 20), (0, 0), (3, 30), (30, 39), (20, 7)]:
        t = np.abs(math.hypot(y - 15, x - 19.5) * np.cos(angle))
        expected = np.interp(t, np.arange(40), profile).mean() * math.pi
        assert rings[y, x] == pytest.approx(expected, abs=0.03)


# --- streaks


def two_rods(size: int = 96) -> torch.Tensor:
    """Soft tissue with two dense rods left and right of the middle."""
    y, x = np.ogrid[:size, :size]
    image = 0.7 * (np.hypot(y - size / 2, x - size / 2) < 0.45 * size)
    for centre in (0.3, 0.7):
        image[np.hypot(y - size / 2, x - centre * size) < 0.05 * size] = 2.0
    return torch.from_numpy(image).float()[None]


def test_streaks_are_scikit_images_reconstruction_of_the_square() -> None:
    image = two_rods()
    change = (streaks(image, 1.0, generator()) - image)[0].numpy()
    dense = np.clip(image[0].numpy() - 0.9, 0, None)
    theta = np.arange(96) * (180 / 96)
    theirs = -iradon(radon(dense, theta, circle=False) ** 2, theta, output_size=96, filter_name="ramp", circle=False)
    assert correlation(change, theirs) > 0.97
    assert np.abs(change)[dense == 0].max() == pytest.approx(1, abs=1e-4)


def test_streaks_are_dark_between_the_rods() -> None:
    image = two_rods()
    change = (streaks(image, 0.1, generator()) - image)[0]
    between, above = change[44:52, 40:56].mean(), change[14:22, 40:56].mean()
    assert between < -0.01 and between < 3 * above


def test_streaks_leave_an_image_without_dense_voxels() -> None:
    image = two_rods().clamp(max=0.9)
    assert torch.equal(streaks(image, 0.5, generator()), image)


def test_streaks_stay_in_their_slice_and_on_large_ones_are_interpolated() -> None:
    volume = torch.zeros(1, 3, 320, 320)
    volume[0, 1] = torch.nn.functional.interpolate(two_rods(160)[None], (320, 320))[0, 0]
    change = streaks(volume, 0.2, generator()) - volume
    assert change[0, 0].abs().max() < 1e-5 and change[0, 2].abs().max() < 1e-5
    small = streaks(two_rods(160), 0.2, generator()) - two_rods(160)
    assert correlation(torch.nn.functional.avg_pool2d(change[:, 1], 2).numpy(), small.numpy()) > 0.98


# --- rings


def test_rings_are_scikit_images_reconstruction_of_stripes() -> None:
    size, level = 63, 0.1
    field = ring_artefact(torch.zeros(1, size, size), level, generator())[0].numpy()
    assert field.std() == pytest.approx(level, rel=1e-4)
    half = ours.detector_length(size, size) // 2
    error = (torch.randn(1, half + 2, generator=generator()) ** 3)[0].numpy()
    theta = np.arange(720) * 0.25
    t = np.abs(np.arange(2 * half + 1) - half)
    theirs = iradon(
        np.repeat(error[t][:, None], 720, axis=1), theta, output_size=size, filter_name="ramp", circle=False
    )
    assert correlation(field, theirs) > 0.98


def test_rings_are_rings() -> None:
    field = ring_artefact(torch.zeros(2, 3, 41, 41), 0.1, generator())
    torch.testing.assert_close(field, field.transpose(2, 3))
    torch.testing.assert_close(field, field.flip(3))
    assert torch.equal(field[0], field[1])
    assert not torch.allclose(field[0, 0], field[0, 1])  # a detector row a slice
    torch.testing.assert_close(field[0].std(dim=(1, 2), correction=0), torch.full((3,), 0.1))


# --- sparse views


def few(views: int, shape: tuple[int, ...]) -> float:
    """The level at which so many views are left."""
    return 1 - views / (math.pi / 2 * math.hypot(*shape))


@pytest.mark.parametrize(("shape", "views"), [((64, 64), 5), ((64, 64), 8), ((48, 60), 6)])
def test_sparse_views_are_scikit_images(shape: tuple[int, int], views: int) -> None:
    image = np.zeros((64, 64))
    image[10:38, 8:56] = resize(phantom(48), (28, 48))
    # smooth, as scikit-image's two bilinear interpolations would blur what ours do not
    image = ndimage.gaussian_filter(image, 3.0)[: shape[0], : shape[1]]
    result = sparse_views(torch.from_numpy(image)[None], few(views, shape), generator())[0].numpy()
    side = max(shape)
    square = np.zeros((side + 1, side + 1))  # odd: scikit-image turns about pixel n // 2
    top, left = (side + 1 - shape[0]) // 2, (side + 1 - shape[1]) // 2
    square[top : top + shape[0], left : left + shape[1]] = image

    def reconstruct(count: int) -> np.ndarray:
        theta = (np.arange(count) + 0.5) * (180 / count)
        sinogram = radon(square, theta, circle=False)
        whole = iradon(sinogram, theta, output_size=side + 1, filter_name="ramp", circle=False)
        return whole[top : top + shape[0], left : left + shape[1]]

    theirs = reconstruct(views) - reconstruct(360)
    assert correlation(result - image, theirs) > 0.95
    assert (result - image).std() == pytest.approx(theirs.std(), rel=0.1)


def test_sparse_views_of_our_own_projections() -> None:
    """The convolution is projection and reconstruction, slice by slice; the slices do not mix."""
    volume = torch.zeros(1, 2, 65, 65, dtype=torch.float64)
    volume[0, 1] = torch.from_numpy(ndimage.gaussian_filter(phantom(65), 1.5))
    change = (sparse_views(volume, few(12, (65, 65)), generator()) - volume)[0]
    assert change[0].abs().max() == 0
    sparse, full = (
        ours.filtered_back_projection(ours.radon(volume[0, 1:], theta), theta, 65, 65)[0]
        for theta in (angles(12) + math.pi / 24, angles(360))
    )
    assert correlation(change[1].numpy(), (sparse - full).numpy()) > 0.98


def test_many_views_are_enough_for_a_small_slice() -> None:
    image = torch.from_numpy(phantom(64))[None]
    assert (sparse_views(image, 0.1, generator()) - image).abs().max() < 1e-3
    # the mean brightness stays, far from where spokes separate too
    disc = torch.from_numpy((np.hypot(*np.ogrid[-64:64, -64:64]) < 50).astype(np.float64))[None]
    inside = sparse_views(disc, 0.9, generator())[0, 40:88, 40:88]
    assert inside.mean().item() == pytest.approx(1, abs=0.02)
