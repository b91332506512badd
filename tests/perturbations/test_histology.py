"""The artefacts of slides against scikit-image, scipy and Pillow."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed
from skimage.data import immunohistochemistry

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations import perturb
from nnunet_robust.perturbations.histology import jpeg, out_of_focus, stain_shift, tissue_fold


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


def tissue(size: int = 96) -> torch.Tensor:
    """Float64 (3, size, size), what passes of the light, in robust units: I = 0.2 + 0.8 x."""
    light = immunohistochemistry()[:size, :size].clip(5).astype(np.float64) / 255
    return (torch.from_numpy(light).permute(2, 0, 1) - 0.2) / 0.8


def light(image: torch.Tensor) -> np.ndarray:
    return (0.2 + 0.8 * image).movedim(0, -1).numpy()


# --- stain


@pytest.mark.parametrize("level", [0.02, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_stains_are_scikit_images(level: float, seed: int) -> None:
    image = tissue()
    before, after = light(image), light(stain_shift(image, level, generator(seed)))
    # a, b from the stains that scikit-image finds: its unit of density is -ln(1e-6), ours -ln(0.1)
    unit = math.log(1e6) / math.log(10)
    amounts, changed = (rgb2hed_unclipped(rgb) * unit for rgb in (before, after))
    found = []
    for stain in range(3):
        slope, offset = np.polyfit(amounts[..., stain].ravel(), (changed - amounts)[..., stain].ravel() / level, 1)
        rest = changed[..., stain] - amounts[..., stain] * (1 + level * slope) - level * offset
        assert np.abs(rest).max() < 1e-4  # no stain becomes another
        found.append((slope, offset))
    scale, shift = np.abs(found).max(axis=0)
    assert scale == pytest.approx(1, abs=1e-3) and shift == pytest.approx(1, abs=1e-3)


def rgb2hed_unclipped(rgb: np.ndarray) -> np.ndarray:
    """scikit-image's separation, less its cut of negative amounts."""
    from skimage.color import hed_from_rgb

    amounts = np.log(np.maximum(rgb, 1e-6)) / math.log(1e-6) @ hed_from_rgb
    np.testing.assert_allclose(np.maximum(amounts, 0), rgb2hed(rgb), atol=1e-6)
    return amounts


def test_stain_shift_of_pure_stain_is_scikit_images_mixture() -> None:
    amounts = np.random.default_rng(0).uniform(0.01, 0.04, (20, 20, 3))
    image = (torch.from_numpy(hed2rgb(amounts)).movedim(-1, 0) - 0.2) / 0.8
    after = rgb2hed(light(stain_shift(image, 1e-3, generator(3))))
    change = (after - amounts) / 1e-3
    for stain in range(3):
        slope, offset = np.polyfit(amounts[..., stain].ravel(), change[..., stain].ravel(), 1)
        assert abs(slope) <= 1.01 and abs(offset) <= 0.17


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_are_single_stains(channels: int) -> None:
    image = torch.rand(channels, 30, 40, generator=generator(1), dtype=torch.float64)
    density = -np.log10(light(image))
    change = (-np.log10(light(stain_shift(image, 0.1, generator(2)))) - density) / 0.1
    slope, offset = np.polyfit(density.ravel(), change.ravel(), 1)
    np.testing.assert_allclose(change, slope * density + offset, atol=1e-4)
    assert max(abs(slope), abs(offset)) == pytest.approx(1, abs=1e-4)


def test_stain_shift_bears_values_beyond_the_range() -> None:
    image = torch.tensor([-5.0, -0.25, 0.0, 1.0, 7.0]).repeat(3, 5, 1)
    assert torch.isfinite(stain_shift(image, 0.2, generator())).all()


# --- fold


@pytest.mark.parametrize("seed", range(8))
def test_fold_multiplies_the_density_on_a_band(seed: int) -> None:
    image = torch.rand(3, 120, 100, generator=generator(9), dtype=torch.float64) * 0.9
    layers = np.log(light(tissue_fold(image, 2.0, generator(seed)))) / np.log(light(image))
    assert layers.min() == pytest.approx(1, abs=1e-3) and layers.max() == pytest.approx(3, abs=0.1)
    np.testing.assert_allclose(layers[..., 0], layers[..., 2], atol=1e-6)
    band = layers[..., 0] > 2
    assert 0.02 < band.mean() < 0.2
    assert ndimage.label(band)[1] == 1
    touched = [band[0].any(), band[-1].any(), band[:, 0].any(), band[:, -1].any()]
    assert sum(touched) >= 2  # from edge to edge


def test_fold_leaves_empty_glass() -> None:
    glass = torch.ones(3, 50, 60)
    torch.testing.assert_close(tissue_fold(glass, 2.0, generator()), glass)


# --- focus


@pytest.mark.parametrize("radius", [0.7, 1.0, 2.0, 3.5, 8.0])
@pytest.mark.parametrize("shape", [(40, 48), (3, 33, 30), (1, 9, 7)])
def test_out_of_focus_is_scipys_convolution_with_a_disc(shape: tuple[int, ...], radius: float) -> None:
    image = torch.rand(2, *shape, generator=generator(1), dtype=torch.float64)
    reach = math.ceil(radius)
    distance = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1])
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    disc = (disc / disc.sum())[(None,) * (len(shape) - 1)]
    expected = ndimage.convolve(image.numpy(), disc, mode="reflect")
    np.testing.assert_allclose(out_of_focus(image, radius, generator()).numpy(), expected, rtol=0, atol=1e-10)


def test_the_disc_is_a_disc() -> None:
    """Its weights are nearly the areas of pixels covered, and its second moment the disc's."""
    point = torch.zeros(1, 41, 41, dtype=torch.float64)
    point[0, 20, 20] = 1
    y = torch.arange(41) - 20.0
    for radius in (3.0, 6.5, 10.0):
        disc = out_of_focus(point, radius, generator())[0]
        assert (disc.sum(dim=1) * y**2).sum().item() == pytest.approx(radius**2 / 4, rel=0.07)
        assert disc.max().item() == pytest.approx(1 / (math.pi * radius**2), rel=0.05)


# --- JPEG


def grey(shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(immunohistochemistry()).convert("L"))[: shape[0], : shape[1]]


@pytest.mark.parametrize("quality", [5, 10, 30, 50, 75, 90, 100])
@pytest.mark.parametrize("shape", [(96, 104), (93, 101)])
def test_jpeg_is_pillows(quality: int, shape: tuple[int, int]) -> None:
    original = grey(shape)
    file = io.BytesIO()
    Image.fromarray(original).save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file)).astype(np.float64)
    image = torch.from_numpy(original.astype(np.float64) / 255)[None]
    level = 1 - quality / 100 if quality < 100 else 1e-9
    result = (jpeg(image, level, generator())[0].numpy() * 255).clip(0, 255)
    difference = np.abs(result - theirs)
    # Pillow returns whole numbers; and libjpeg computes in such: a coefficient near a tie goes the other way at times
    assert np.median(difference) < 0.4 and difference.mean() < 0.5 and np.percentile(difference, 90) < 1.1
    if quality < 90:
        assert difference.mean() < 0.2 * np.abs(theirs - original).mean()


def test_jpeg_takes_channels_and_slices_apart() -> None:
    image = torch.rand(2, 3, 20, 30, generator=generator(1))
    whole = jpeg(image, 0.8, generator())
    for channel in range(2):
        for index in range(3):
            alone = jpeg(image[channel : channel + 1, index], 0.8, generator())
            torch.testing.assert_close(whole[channel, index], alone[0])


def test_jpeg_does_not_cut_off() -> None:
    image = torch.full((1, 16, 16), 30.0)
    torch.testing.assert_close(jpeg(image, 0.5, generator()), image, rtol=0, atol=0.02)


def test_slices_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_robust.perturbations import slices

    image = torch.rand(2, 7, 20, 30, generator=generator(1))
    whole = jpeg(image, 0.8, generator()), out_of_focus(image, 2.0, generator())
    monkeypatch.setattr(slices, "_PIXELS", 2 * 20 * 30)
    torch.testing.assert_close((jpeg(image, 0.8, generator()), out_of_focus(image, 2.0, generator())), whole)


@pytest.mark.parametrize("quality", [20, 50, 75, 90])
@pytest.mark.parametrize("shape", [(160, 160), (93, 101)])
def test_jpeg_of_colour_is_pillows(quality: int, shape: tuple[int, int]) -> None:
    original = immunohistochemistry()[: shape[0], : shape[1]]
    file = io.BytesIO()
    Image.fromarray(original).save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file)).astype(np.float64)
    image = torch.from_numpy(original.astype(np.float32)).movedim(2, 0)
    level = 1 - quality / 100
    ours = perturb(image, "jpeg", level, generator(), colour=True).movedim(0, 2).numpy()

    def rms(changed: np.ndarray) -> float:
        return float(np.sqrt(np.mean((changed - original) ** 2)))

    assert rms(ours) == pytest.approx(rms(theirs), rel=0.05)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.5 * rms(theirs)
    # three grey images, as before, lose less: their colours are not subsampled
    assert rms(perturb(image, "jpeg", level, generator()).movedim(0, 2).numpy()) < 0.85 * rms(theirs)
    assert torch.equal(perturb(image, "jpeg", 0, generator(), colour=True), image)


def test_a_grey_image_in_colour_stays_grey() -> None:
    grey = np.asarray(Image.fromarray(immunohistochemistry()).convert("L"))[:64, :64].astype(np.float32)
    image = torch.from_numpy(grey).expand(3, 1, 64, 64).clone()
    found = perturb(image, "jpeg", 0.5, generator(), colour=True)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
