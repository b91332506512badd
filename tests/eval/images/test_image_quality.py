"""Noise and blur of an image: known ones are found again, backgrounds do not count, both rise with their levels."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data
from skimage.io import imread

from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.eval.images import image_quality as image_quality_module
from nnunet_robust.eval.images.image_quality import _WAVELET, ImageQuality, _percentile, image_quality
from nnunet_robust.perturbations import perturb, perturbation

DATA = Path(os.environ.get("NNUNET_ROBUST_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


def of(image: np.ndarray, max_slices: int | None = None) -> ImageQuality:
    """Of one channel, 2d or 3d with slices along the first axis."""
    return image_quality(image[None].astype(np.float32), (2.0, 1.0, 1.0)[-image.ndim :], max_slices)


def brain() -> np.ndarray:
    """16 slices of a textured ball in exact black, which is about 70 % of the image."""
    z, y, x = np.mgrid[-0.5:0.5:16j, -1:1:96j, -1:1:96j]
    radius = np.sqrt(z**2 + y**2 + x**2)
    texture = ndimage.gaussian_filter(numpy_generator("brain").standard_normal(radius.shape), 1)
    tissue = 100 + 40 * (radius < 0.5) + 30 * (np.abs(radius - 0.4) < 0.05) + 40 * texture
    return np.where(radius < 0.68, tissue.clip(1), 0).astype(np.float32)


IMAGES = {name: getattr(data, name)()[:128, :128].astype(np.float32) for name in ("brick", "gravel", "grass")}
IMAGES["brain"] = brain()


def under(image: np.ndarray, name: str, levels: tuple[float, ...]) -> list[ImageQuality]:
    """Of the clean image, and of it at each level."""
    clean = torch.from_numpy(image[None])
    spacing = (2.0, 1.0, 1.0)[-image.ndim :]
    images = [clean, *(perturb(clean, name, level, torch_generator(name), None, spacing) for level in levels)]
    return [image_quality(one.numpy(), spacing) for one in images]


def assert_measures_follow_levels(image: np.ndarray) -> None:
    for name in ("gaussian_noise", "speckle_noise"):
        found = [one.noise_sigma for one in under(image, name, perturbation(name).levels)]
        assert all(np.diff(found) > 0), (name, found)
    blurred = [one.blur for one in under(image, "gaussian_blur", perturbation("gaussian_blur").levels)]
    assert all(np.diff(blurred) > 0), blurred
    # noise is not taken for sharpness: it changes less than the step from a blur of half a pixel to one
    noisy = [one.blur for one in under(image, "gaussian_noise", (0.05, 0.1, 0.2))]
    assert max(noisy) - min(noisy) < (blurred[2] - blurred[1]) / 2


@pytest.mark.parametrize("name", IMAGES)
def test_noise_and_blur_rise_with_their_levels(name: str) -> None:
    assert_measures_follow_levels(IMAGES[name])


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["ultrasound", "mri"])
def test_so_they_do_on_real_images(kind: str, number: int) -> None:
    folder, pattern = {
        "ultrasound": (DATA / "Dataset_BUSI_with_GT" / "benign", "*).png"),
        "mri": (DATA / "Task04_Hippocampus" / "imagesTr", "hippo*.nii.gz"),
    }[kind]
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    file = sorted(folder.glob(pattern))[number]
    if kind == "mri":
        import nibabel

        image = np.asarray(nibabel.load(file).dataobj, dtype=np.float32)
    else:
        image = imread(file, as_gray=False)
        image = (image if image.ndim == 2 else image[..., 0]).astype(np.float32)
    assert_measures_follow_levels(image)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_noise_of_known_standard_deviation_is_found(sigma: float) -> None:
    steps = np.repeat(np.arange(8), 32)[:, None] / 7 * np.ones((256, 256))
    image = steps + sigma * numpy_generator("noise").standard_normal(steps.shape)
    span = np.subtract(*np.percentile(image, (99.5, 0.5)))
    assert of(image).noise_sigma == pytest.approx(sigma / span, rel=0.03)


def test_the_wavelet_is_the_four_tap_one_of_daubechies() -> None:
    taps = np.array(_WAVELET)
    places = np.arange(4)
    assert taps.sum() == pytest.approx(0, abs=1e-15) and (places * taps).sum() == pytest.approx(0, abs=1e-15)
    assert (taps**2).sum() == pytest.approx(1) and taps[:2] @ taps[2:] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("background", ["black", "padded", "grey"])
def test_the_background_does_not_count(background: str) -> None:
    noise = numpy_generator("background").standard_normal((200, 200))
    image = 100 + 5 * noise
    image[:, 50:] = {"black": 0, "padded": -1000, "grey": 70}[background]  # three quarters of it
    image[0, 0] = 0 if background == "grey" else image[0, 0]
    span = np.subtract(*np.percentile(image, (99.5, 0.5)))
    assert of(image).noise_sigma == pytest.approx(5 / span, rel=0.08)
    clipped = np.clip(image + 3 * numpy_generator("more").standard_normal(image.shape), image.min(), image.max())
    span = np.subtract(*np.percentile(clipped, (99.5, 0.5)))
    if background != "grey":  # a black that noise has made half of exact black tells nothing of the noise
        assert of(clipped).noise_sigma == pytest.approx(math.hypot(5, 3) / span, rel=0.08)


def test_blur_by_hand() -> None:
    ramp = np.arange(40.0)[:, None] * np.ones(40)  # mean squared differences 1, 4, 64 along one axis, 0 along the other
    assert of(ramp).blur == pytest.approx(1 - (4 - 1) / (64 - 1))
    waves = np.cos(np.pi * np.arange(64) / 2)[:, None] * np.ones(64)  # 1, 0, -1, 0: alike again at a distance of 8
    assert math.isnan(of(waves).blur)


def test_neither_depends_on_scale_and_shift() -> None:
    for image in IMAGES.values():
        first, second = of(image), of(3 * image - 700)
        assert second.noise_sigma == pytest.approx(first.noise_sigma, rel=1e-3)
        assert second.blur == pytest.approx(first.blur, rel=1e-3)


def test_channels_are_averaged_and_empty_ones_left_out() -> None:
    first, second = (IMAGES[name] for name in ("brick", "grass"))
    both = image_quality(np.stack([first, second, np.full_like(first, 7)]), (1, 1))
    assert both.noise_sigma == pytest.approx((of(first).noise_sigma + of(second).noise_sigma) / 2)
    assert both.blur == pytest.approx((of(first).blur + of(second).blur) / 2)


def test_slices_lie_across_the_coarsest_axis_and_are_bounded() -> None:
    volume = brain()
    moved = image_quality(np.moveaxis(volume, 0, 2)[None], (1.0, 1.0, 2.0), None)
    assert moved == image_quality(volume[None], (2.0, 1.0, 1.0), None)
    disturbed = volume.copy()
    disturbed[1:-1:2] = numpy_generator("x").uniform(0, 100, disturbed[1:-1:2].shape)
    few = [image_quality(v[None][:, [0, 15]], (2.0, 1.0, 1.0)) for v in (volume + 1e-3, disturbed + 1e-3)]
    assert few[0] == few[1]
    ends = image_quality(disturbed[None], (2.0, 1.0, 1.0), max_slices=2)
    assert ends == image_quality(volume[None][:, [0, 15]], (2.0, 1.0, 1.0))


@pytest.mark.parametrize("image", [np.full((64, 64), 3.0), np.eye(64), np.arange(9.0).reshape(3, 3)])
def test_what_cannot_be_measured_is_nan(image: np.ndarray) -> None:
    found = of(image)
    assert math.isnan(found.noise_sigma)
    assert math.isnan(found.blur) or image.shape == (64, 64)


@pytest.mark.parametrize("n", [100, 101, 5000])
@pytest.mark.parametrize("percent", [0.5, 37, 50, 99.5])
def test_percentiles_are_numpys(n: int, percent: float) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(n))
    assert _percentile(values, percent) == pytest.approx(np.percentile(values.double().numpy(), percent), rel=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_a_few_slices_at_a_time_are_measured_as_all(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 6, 40, 50, generator=torch.Generator().manual_seed(0))
    region = torch.ones(6, 40, 50, dtype=torch.bool)
    region[:, :12] = False
    found = []
    for pixels in (1, 5000, 1 << 30):
        monkeypatch.setattr(image_quality_module, "_PIXELS_AT_ONCE", pixels)
        found.append(image_quality(image, (2.0, 1.0, 1.0), region=region if masked else None))
    assert found[0] == found[1] == found[2]
