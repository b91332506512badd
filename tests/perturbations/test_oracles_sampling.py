"""Thick slices, coarse pixels, k-space and occlusion against independent implementations, or by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.measure import block_reduce

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations.kspace import gibbs_ringing, partial_kspace
from nnunet_robust.perturbations.occlusion import cutout, missing_slices
from nnunet_robust.perturbations.resolution import pixelation, slice_thickness


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


def random_image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(1), dtype=torch.float64)


# --- resolution


@pytest.mark.parametrize(("spacing", "thickness"), [(1.0, 3.0), (2.0, 6.0), (0.5, 1.3), (1.0, 5.7), (1.0, 100.0)])
def test_slice_thickness_equals_numpy_on_a_fine_grid(spacing: float, thickness: float) -> None:
    """Voxels cut into 0.1 mm, averaged over slabs, interpolated linearly between their centroids."""
    image = random_image(2, 24, 3)
    fine = round(spacing / 0.1)
    z = (np.arange(24 * fine) + 0.5) * 0.1
    count = int(np.ceil(24 * spacing / thickness - 1e-9))
    slab = np.floor(z / thickness).astype(int)
    voxel_centres = (np.floor(z / spacing) + 0.5) * spacing
    centres = [voxel_centres[slab == s].mean() for s in range(count)]
    expected = np.empty(image.shape)
    for channel in range(2):
        for column in range(3):
            line = np.repeat(image[channel, :, column].numpy(), fine)
            means = [line[slab == s].mean() for s in range(count)]
            expected[channel, :, column] = np.interp((np.arange(24) + 0.5) * spacing, centres, means)
    result = slice_thickness(image, thickness, generator(), spacing_mm=(spacing, 0.05))
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-9)


def test_slice_thickness_takes_the_axis_of_lowest_resolution() -> None:
    image = random_image(1, 6, 7, 8)
    for axis, spacing in enumerate([(2.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 1.0, 2.0)], 1):
        result = slice_thickness(image, 1000.0, generator(), spacing_mm=spacing)
        torch.testing.assert_close(result, image.mean(dim=axis, keepdim=True).expand_as(image))
        assert torch.equal(slice_thickness(image, 2.0, generator(), spacing_mm=spacing), image)  # its own spacing
    rows = slice_thickness(image[:, :1], 1000.0, generator(), spacing_mm=(999.0, 1.0, 1.0))  # a picture of nnU-Net's
    torch.testing.assert_close(rows, image[:, :1].mean(dim=2, keepdim=True).expand_as(rows))
    both = slice_thickness(image[:, 0], 1000.0, generator(), spacing_mm=(1.0, 1.0))
    torch.testing.assert_close(both, image[:, 0].mean(dim=1, keepdim=True).expand_as(both))


def test_slice_thickness_keeps_a_ramp_between_the_outer_slabs() -> None:
    ramp = torch.arange(20, dtype=torch.float64).view(1, 20, 1)
    result = slice_thickness(ramp, 3.0, generator(), spacing_mm=(1.0, 1.0))
    torch.testing.assert_close(result[0, 1:-1], ramp[0, 1:-1].clamp(max=18.5))  # the last slab holds voxels 18 and 19


@pytest.mark.parametrize("edge", [2, 3, 7, 50])
@pytest.mark.parametrize("shape", [(17, 20), (5, 12, 16), (1, 9, 9)])
def test_pixelation_equals_scikit_images_block_means(shape: tuple[int, ...], edge: int) -> None:
    image = random_image(2, *shape)
    block = tuple(1 if length == 1 else edge for length in shape)
    for channel, result in zip(image.numpy(), pixelation(image, edge, generator()).numpy(), strict=True):
        means = block_reduce(channel, block, np.nanmean, cval=np.nan)
        expected = means
        for axis, (b, length) in enumerate(zip(block, shape, strict=True)):
            expected = np.repeat(expected, b, axis=axis).take(range(length), axis=axis)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_pixelation_of_a_broken_edge_and_of_single_voxels() -> None:
    image = random_image(1, 5, 1)
    result = pixelation(image, 2.5, generator())  # centres 0.5 1.5 | 2.5 3.5 4.5: the third starts the second block
    expected = torch.cat([image[0, :2].mean().expand(2), image[0, 2:].mean().expand(3)])
    torch.testing.assert_close(result.flatten(), expected)
    assert torch.equal(pixelation(image, 1.0, generator()), image)
    assert torch.equal(pixelation(image, 0.4, generator()), image)


# --- k-space


@pytest.mark.parametrize("level", [0.1, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("shape", [(33, 33), (15, 15, 15)])
def test_gibbs_ringing_equals_monais(shape: tuple[int, ...], level: float) -> None:
    """On axes of one odd length, where MONAI's sphere is centred on the zero frequency."""
    transforms = pytest.importorskip("monai.transforms")
    image = random_image(2, *shape)
    theirs = torch.as_tensor(transforms.GibbsNoise(alpha=level)(image))
    torch.testing.assert_close(gibbs_ringing(image, level, generator()), theirs, rtol=0, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("shape", [(16, 20), (5, 12, 9), (1, 8, 8)])
def test_gibbs_ringing_equals_numpy(shape: tuple[int, ...]) -> None:
    image = random_image(1, *shape)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    kept = np.sqrt(sum(f**2 for f in frequencies)) <= 0.4 / np.sqrt(2)
    expected = np.fft.ifftn(np.fft.fftn(image[0].numpy()) * kept)
    assert np.abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(gibbs_ringing(image, 0.6, generator())[0].numpy(), expected.real, rtol=0, atol=1e-12)


def test_gibbs_ringing_leaves_the_mean() -> None:
    image = random_image(2, 8, 9)
    result = gibbs_ringing(image, 1.0, generator())
    torch.testing.assert_close(result, image.mean(dim=(1, 2), keepdim=True).expand_as(image))


@pytest.mark.parametrize("rows", [16, 17])
@pytest.mark.parametrize("level", [0.1, 0.3, 0.5])
def test_partial_kspace_equals_numpys_centred_spectrum(rows: int, level: float) -> None:
    image = random_image(2, 3, rows, 10) - 0.3
    for channel, result in zip(image.numpy(), partial_kspace(image, level, generator()).numpy(), strict=True):
        centred = np.fft.fftshift(np.fft.fft(channel - channel.min(), axis=1), axes=1)
        centred[:, : round(level * rows)] = 0  # the first rows are the most negative frequencies
        expected = np.abs(np.fft.ifft(np.fft.ifftshift(centred, axes=1), axis=1)) + channel.min()
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


# --- occlusion


@pytest.mark.parametrize("shape", [(64, 80), (1, 64, 80), (5, 40, 40), (24, 24, 24)])
@pytest.mark.parametrize("seed", range(3))
def test_cutout_hides_the_share_in_nested_boxes(shape: tuple[int, ...], seed: int) -> None:
    image = random_image(2, *shape) + 1
    before = torch.zeros(shape, dtype=torch.bool)
    for level in (0.02, 0.1, 0.4, 1.0):
        result = cutout(image, level, generator(seed))
        hidden = result[0] == 0
        assert torch.equal(hidden, result[1] == 0)
        assert torch.equal(result[:, ~hidden], image[:, ~hidden])
        assert hidden.float().mean().item() == pytest.approx(level, abs=2e-3)
        assert not (before & ~hidden).any()
        before = hidden


def test_cutout_is_made_of_three_rectangles() -> None:
    """Small ones do not touch: each part of what is hidden fills its bounding box."""
    from scipy import ndimage

    for seed in range(6):
        hidden = (cutout(torch.ones(1, 300, 300), 0.02, generator(seed))[0] == 0).numpy()
        parts, count = ndimage.label(hidden)
        assert 1 <= count <= 3
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            filled = (parts[box] == number).mean()
            assert filled > 0.9 or count < 3
    assert (
        cutout(torch.ones(1, 300, 300), 0.02, generator(0))
        .ne(cutout(torch.ones(1, 300, 300), 0.02, generator(1)))
        .any()
    )


@pytest.mark.parametrize("level", [0.1, 0.3, 0.6, 0.95, 1.0])
def test_missing_slices_are_copies_of_the_nearest_left(level: float) -> None:
    image = random_image(2, 20, 6, 7)
    result = missing_slices(image, level, generator(), spacing_mm=(3.0, 1.0, 1.0))
    kept = [z for z in range(20) if torch.equal(result[:, z], image[:, z])]
    assert len(kept) == max(1, 20 - round(level * 20))
    for z in set(range(20)) - set(kept):
        nearest = min(kept, key=lambda k: (abs(k - z), k))
        assert torch.equal(result[:, z], image[:, nearest])


def test_missing_slices_go_one_after_the_other_and_the_next_in_part() -> None:
    image = random_image(1, 10, 6, 7)
    gone: set[int] = set()
    for level in (0.1, 0.2, 0.5, 0.8):
        result = missing_slices(image, level, generator(), spacing_mm=(3.0, 1.0, 1.0))
        now = {z for z in range(10) if not torch.equal(result[:, z], image[:, z])}
        assert gone < now
        gone = now
    quarter, whole = (missing_slices(image, lvl, generator(), spacing_mm=(3.0, 1.0, 1.0)) for lvl in (0.025, 0.1))
    torch.testing.assert_close(quarter, 0.75 * image + 0.25 * whole)


def test_missing_slices_of_a_picture_are_rows() -> None:
    image = random_image(1, 1, 30, 20)
    result = missing_slices(image, 0.5, generator(), spacing_mm=(999.0, 1.0, 1.0))
    same = (result == image)[0, 0]
    assert same.all(dim=1).sum() == 15 and (~same).all(dim=1).sum() == 15
