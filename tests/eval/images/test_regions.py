"""Which voxels are perturbed and measured: the rules, and measures that do not depend on what lies outside."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask, crop_to_nonzero
from scipy import ndimage

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.denoising.denoiser import Denoiser
from nnunet_robust.eval.denoising.variation import denoise
from nnunet_robust.eval.images.complexity import ComplexityMeter
from nnunet_robust.eval.images.image_quality import image_quality, noise_sigmas
from nnunet_robust.eval.images.regions import EVERYWHERE, Background, channel_names, is_colour

CT, MRI = ["CT"], ["T1"]


def disc(size: int = 64, radius: float = 25, middle: float = 31.5) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - middle
    return np.asarray(np.hypot(rows, columns) < radius)[None]


def tissue(shape: tuple[int, ...] = (1, 64, 64), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2))
    return (100 + 40 * smooth / smooth.std() + rng.normal(0, 4, shape)).clip(1).astype(np.float32)[None]


def brain() -> np.ndarray:
    return tissue() * disc()


def ct(padding: float, share: bool = True) -> np.ndarray:
    """A patient in air; outside of the scanner's circle a padding."""
    air = np.random.default_rng(1).normal(-1000, 8, (1, 1, 64, 64))
    image = np.where(disc(radius=20), tissue() * 3 - 300, air).astype(np.float32)
    return np.where(disc(radius=31), image, padding).astype(np.float32) if share else image


@pytest.mark.parametrize(
    ("mode", "masks", "image", "kept"),
    [
        ("auto", [False], brain(), True),  # cropped
        ("auto", [False], tissue(), False),
        ("auto", [True], np.where(disc(radius=40), tissue(), 0), True),  # normalised by a mask, box as large as before
        ("auto", [False], np.where(disc(radius=40), tissue(), 0), False),
        ("auto", [False, True], np.concatenate([np.where(disc(radius=40), tissue(), 0)] * 2), True),
        ("keep", [False], np.where(disc(radius=40), tissue(), 0), True),
        ("keep", [False], tissue(), False),  # nothing is zero
        ("perturb", [True], brain(), False),
        ("auto", [True], np.zeros((1, 1, 8, 8), np.float32), False),  # nothing else is there
    ],
)
def test_which_background_is_kept(mode: str, masks: list[bool], image: np.ndarray, kept: bool) -> None:
    region = Background.of(mode, MRI, masks).region(image)
    assert region.guessed is None
    assert (region.mask is not None) == kept
    if kept:
        assert np.array_equal(region.mask, create_nonzero_mask(image))


def test_whether_nnunet_crops_is_nnunet_s_answer() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(rng.integers(1, 7, 3))
        image = (rng.random((2, *shape)) < rng.random() * 0.6).astype(np.float32)
        if not image.any():
            continue
        cropped = crop_to_nonzero(image)[0].shape != image.shape
        mask = Background.of("auto", MRI, [False]).region(image).mask
        assert (mask is not None) == cropped  # what is cropped has background, and else all is perturbed


def test_holes_belong_to_the_body() -> None:
    image = brain()
    image[0, 0, 30:33, 30:33] = 0
    mask = Background.of("auto", MRI, [False]).region(image).mask
    assert mask is not None and mask[0, 31, 31]
    # nnU-Net fills none in a flat image: where it normalises by its mask, the region is that very mask
    mask = Background.of("auto", MRI, [True]).region(image).mask
    assert mask is not None and not mask[0, 31, 31] and np.array_equal(mask, create_nonzero_mask(image))
    volume = np.repeat(image, 3, axis=1)
    volume[:, [0, 2]] = brain()
    for masks in ([True], [False]):
        mask = Background.of("auto", MRI, masks).region(volume).mask
        assert mask is not None and mask[1, 31, 31]


@pytest.mark.parametrize("padding", [-2000.0, -3024.0, -1500.0])
def test_what_a_ct_has_below_air_is_padding(padding: float) -> None:
    region = Background.of("auto", CT, [False]).region(ct(padding))
    assert np.array_equal(region.mask, disc(radius=31)) and region.guessed is None
    assert Background.of("perturb", CT, [False]).region(ct(padding)).mask is None


def test_what_is_no_padding_of_a_ct() -> None:
    rule = Background.of("auto", CT, [False])
    assert rule.region(ct(-1024.0)).mask is None  # the value of air
    assert rule.region(ct(0, share=False)).mask is None
    noisy = ct(0, share=False)  # noise in air goes below, but no value is there often
    noisy[noisy < -900] += np.random.default_rng(2).normal(0, 40, (noisy < -900).sum())
    assert noisy.min() < -1050 and rule.region(noisy).mask is None


def test_a_resampled_border_is_padding_too_and_dark_metal_is_not() -> None:
    image = ct(-2000.0)
    blurred = np.where(disc(radius=28), image, ndimage.gaussian_filter(image, (0, 0, 0.7, 0.7))).astype(np.float32)
    blurred[blurred < -1990] = -2000
    blurred[0, 0, 31, 31] = -1800  # a dark spot inside of the patient
    mask = Background.of("auto", CT, [False]).region(blurred).mask
    assert mask is not None and mask[0, 31, 31] and blurred[0][mask][blurred[0][mask] != -1800].min() > -1100


def test_padding_is_guessed_where_no_channel_is_called_ct() -> None:
    rule = Background.of("auto", ["image"], [False])
    found = rule.region(ct(-3024.0))
    assert found.guessed == -3024.0 and np.array_equal(found.mask, disc(radius=31))
    for image in (
        ct(-1024.0),  # not far below all else
        ct(0, share=False),
        tissue() - 200,  # a smooth image with negative values
        np.where(disc(), tissue(), 1.0),  # not below zero
        np.where(disc(radius=44), tissue(), -5000.0),  # too little of it
    ):
        assert rule.region(image.astype(np.float32)) == rule.region(tissue())


def test_names_of_channels() -> None:
    assert channel_names({"modality": {"1": "b", "0": "a"}}) == ["a", "b"]
    assert Background.of("auto", ["ct", "PET"], ()).ct == (True, False)
    assert is_colour(["R", "G", "B"]) and is_colour(["red", "green", "blue"]) and is_colour(["rgb_to_0_1"] * 3)
    assert not is_colour(["T1", "T2", "FLAIR"]) and not is_colour(["R"])


def test_another_mode_is_refused() -> None:
    with pytest.raises(UserError, match="--background remove: take one of auto, keep, perturb"):
        Background.of("remove", MRI, ())


# --- measures


@pytest.mark.parametrize("outside", [0.0, -3024.0, 5000.0])
def test_noise_and_blur_do_not_see_what_lies_outside(outside: float) -> None:
    region, spacing = disc(), (1.0, 1.0, 1.0)
    body = tissue()
    image = np.where(region, body, outside).astype(np.float32)
    found = image_quality(image, spacing, region=region)
    whole = image_quality(body, spacing)
    assert found.noise_sigma == pytest.approx(whole.noise_sigma, rel=0.15)
    assert found.blur == pytest.approx(whole.blur, abs=0.05)
    assert found == image_quality(np.where(region, body, 77.0).astype(np.float32), spacing, region=region)
    everywhere = np.ones_like(region)
    assert image_quality(body, spacing, region=everywhere) == image_quality(body, spacing)
    assert np.isnan(image_quality(image, spacing, region=disc(radius=1)).noise_sigma)


def test_texture_divergence_does_not_see_what_lies_outside() -> None:
    label = disc(radius=12).astype(int)
    region = disc()

    def measured(outside: float, of: np.ndarray | None) -> tuple[float, float]:
        image = np.where(region, tissue() * 1.01, outside)
        meter = ComplexityMeter(image, label, {"x": [1]}, (1, 1, 1), region=of)
        found = meter.measure(image)["x"]
        return found.texture_divergence_bits, found.boundary_contrast

    inside = measured(0, region)
    assert inside == measured(-3024, region) == measured(900, region)
    assert inside[0] < 0.05 < measured(0, None)[0]  # flat zeros are a texture of their own


def test_the_filter_keeps_the_background() -> None:
    image, rule = brain(), Background.of("auto", MRI, [False])
    region = rule.region(image).mask
    assert region is not None
    image = np.where(region, image + np.random.default_rng(3).normal(0, 15, image.shape), 0).astype(np.float32)
    found = Denoiser(background=rule)(image, (1.0, 1.0, 1.0))
    assert not found[:, ~region].any() and (found[:, region] != 0).all()
    assert found[:, region].std() < image[:, region].std()
    assert crop_to_nonzero(found)[2] == crop_to_nonzero(image)[2]
    sigmas = noise_sigmas(image, (1.0, 1.0, 1.0), region=region)
    assert np.array_equal(found, denoise(image, (1.0, 1.0, 1.0), sigmas, region))
    assert Denoiser(background=EVERYWHERE)(image, (1.0, 1.0, 1.0))[:, ~region].any()  # what it did
