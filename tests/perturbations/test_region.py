"""Perturbations within a region: nnU-Net's crop stays, and the body looks as if it went on beyond the region."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask, crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
from scipy import ndimage

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.rows import PERTURBATIONS, against, perturbation
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.perturbations import Perturbation, measure, perturb, robust_range
from nnunet_robust.perturbations.region import continued, kept_nonzero
from tests.perturbations.test_perturbations import COMBINED, Victim, bits

Body = tuple[torch.Tensor, torch.Tensor, Background]


def generator() -> torch.Generator:
    return torch_generator("region", 0)


def scene(channels: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A body that fills the image, smooth with fine texture, in [0, 1] or so; and the ellipse that is seen of it."""
    rng = np.random.default_rng(len(shape))
    body = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(channels)]
    body = [one / one.std() + 0.2 * rng.normal(size=shape) for one in body]
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else [0.0] for n in shape], indexing="ij"))
    region = torch.from_numpy((place**2).sum(axis=0) < 0.6)
    image = torch.from_numpy(np.stack(body).astype(np.float32)) * 0.15 + 0.5
    # beyond the region nothing brighter or darker: what is clipped there is then clipped here
    low, high = (bound.view(-1, *[1] * len(shape)) for bound in image[:, region].aminmax(dim=1))
    return image.clamp(low, high), region


def skull_stripped() -> Body:
    body, region = scene(1, (1, 96, 96))
    return body * 600 + 200, region, Background("keep")


def volume_int16() -> Body:
    body, region = scene(1, (12, 48, 48))
    return (body * 1000).round(), region, Background("auto")


def negative() -> Body:
    body, region = scene(1, (1, 64, 72))
    return body * 4 - 2, region, Background("auto")


def constant_channel() -> Body:
    body, region = scene(2, (1, 64, 64))
    body[1] = 7.0
    return body * 100, region, Background("auto")


def padded_ct() -> Body:
    """A patient in air, seen in the scanner's circle."""
    shape = (4, 64, 64)
    tissue, region = scene(1, shape)
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[1:]], indexing="ij"))
    patient, region = np.hypot(*place) < 0.7, np.broadcast_to(np.hypot(*place) < 1, shape)
    air = np.random.default_rng(0).normal(-1000, 5, shape).astype(np.float32)
    body = torch.where(torch.from_numpy(patient), tissue * 500 - 200, torch.from_numpy(air))
    return body.clamp(min=-1020), torch.from_numpy(region.copy()), Background("auto", (True,))


BODIES: dict[str, tuple[Callable[[], Body], float]] = {
    "zero background": (skull_stripped, 0.0),
    "int16": (volume_int16, 0.0),
    "negative values": (negative, 0.0),
    "constant channel": (constant_channel, 0.0),
    "padding": (padded_ct, -2000.0),
    "lower padding": (padded_ct, -3024.0),
}
ROWS = [*PERTURBATIONS.values(), *COMBINED, perturbation("speckle_noise_8bit+gaussian_blur")]

# Root mean square of the difference in the normalised body, in its standard deviations, at the middle default level.
# What looks at a voxel alone is exact; what reaches beyond the region sees a continuation, not the body itself.
EXACT = 1e-4
REACH = {
    "gaussian_blur": 0.2, "background_blur": 0.2, "background_blur_8bit": 0.2, "foreground_blur": 0.03,
    "out_of_focus": 0.1, "pixelation": 0.2, "slice_thickness": 0.15, "missing_slices": 0.15, "jpeg": 0.2,
    "gibbs_ringing": 0.15, "partial_kspace": 0.15, "motion": 0.15, "ghosting": 0.2, "kspace_spikes": 0.05,
    "sparse_views": 0.7,  # every ray of a slice meets all of its voxels
    "speckle_noise_8bit+gaussian_blur": 0.25, "gaussian_blur+gaussian_noise": 0.2,
    "cutout@0.1+missing_slices+background_blur@2": 0.25,
}  # fmt: skip


def spacing_of(image: torch.Tensor) -> tuple[float, ...]:
    return (3.0, 1.0, 1.0) if image.shape[1] > 1 and image.ndim == 4 else (1.0,) * (image.ndim - 1)


def label_of(region: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(region)
    mask[..., region.shape[-2] // 3 : region.shape[-2] // 2, region.shape[-1] // 3 : region.shape[-1] // 2] = True
    return mask


def apply(row: Perturbation, image: torch.Tensor, level: float, region: torch.Tensor) -> torch.Tensor:
    extra = against(Victim(image, raw=True), steps=3) if row.uses_victim else None
    return perturb(
        image, row, level, generator(), label_of(region), spacing_of(image), extra=extra, region=region
    )  # fmt: skip


def in_the_body(row: Perturbation, body: torch.Tensor, level: float, region: torch.Tensor) -> torch.Tensor:
    """The same perturbation of the body that goes on beyond the region, in the region's own units."""
    low, high = (bound.view(-1, *[1] * (body.ndim - 1)) for bound in robust_range(body, region))
    span = torch.where(high > low, high - low, 1.0)
    scaled = (body - low) / span
    given = {
        "mask": label_of(region), "spacing_mm": spacing_of(body), "region": region, "eight_bit": None, "colour": False
    }  # fmt: skip
    keywords = row.selected(given)
    if row.uses_victim:
        keywords |= {"victim": Victim(scaled, raw=False), "steps": 3}
    changed = row.function(scaled, level, generator(), **keywords) * span + low
    minimum, maximum = (bound.view(-1, *[1] * (body.ndim - 1)) for bound in body[:, region].aminmax(dim=1))
    return torch.where(high > low, changed.clamp(minimum, maximum), body)


def normalised(image: torch.Tensor, region: torch.Tensor) -> np.ndarray:
    """The region's voxels as nnU-Net gives them to the network, where it normalises by a mask."""
    scheme = ZScoreNormalization(True, {})
    outside = np.where(region.numpy(), 0, -1)
    return np.stack([scheme.run(channel.numpy().copy(), outside)[region.numpy()] for channel in image])


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_body_with_a_background_is_perturbed_as_one_that_goes_on(row: Perturbation, kind: str) -> None:
    (make, outside), level = BODIES[kind], row.levels[len(row.levels) // 2]
    body, region, rule = make()
    image = torch.where(region, body, outside)
    found = rule.region(image.numpy()).mask
    assert found is not None and np.array_equal(found, region.numpy())
    result = apply(row, image, level, region)
    assert bits(result[:, ~region]) == bits(image[:, ~region])
    assert np.array_equal(create_nonzero_mask(result.numpy()), create_nonzero_mask(image.numpy()))
    assert crop_to_nonzero(result.numpy())[2] == crop_to_nonzero(image.numpy())[2]
    assert result.isfinite().all()
    expected = in_the_body(row, body, level, region)
    if row.uses_victim:  # chooses by the whole image: no more can be asked than the budget
        return
    apart = normalised(result, region) - normalised(expected, region)
    assert np.sqrt((apart**2).mean()) <= REACH.get(row.name, EXACT)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_region_of_everything_is_no_region(row: Perturbation) -> None:
    body, region, _ = skull_stripped()

    def made(where: torch.Tensor | None) -> torch.Tensor:
        extra = against(Victim(body, raw=True), steps=2) if row.uses_victim else None
        spacing = spacing_of(body)
        return perturb(body, row, row.levels[-1], generator(), label_of(region), spacing, extra=extra, region=where)

    assert bits(made(torch.ones_like(region))) == bits(made(None))


def test_the_issue_s_phantom() -> None:
    """Skull-stripped: the weakest noise made the crop 96 x 96 and the tissue's deviation .13; now both stay."""
    body, _ = scene(1, (1, 96, 96))
    place = np.stack(np.meshgrid(*[np.arange(96) - 47.0] * 2, indexing="ij"))
    brain = torch.from_numpy(np.hypot(*place) < 25.5)[None]
    image = torch.where(brain, body * 600 + 200, 0.0)
    tissue = brain & (body[0] > 0.5)

    def seen(picture: torch.Tensor) -> tuple[tuple[int, ...], float]:
        data, outside, _ = crop_to_nonzero(picture.numpy())
        z = ZScoreNormalization(True, {}).run(data[0].copy(), outside[0])
        where = crop_to_nonzero(np.where(brain.numpy(), 1.0, 0.0)[None])[2]
        inner = tuple(slice(low, high) for low, high in where)
        if data.shape[1:] == (1, 96, 96):
            z = z[inner]
        return data.shape[2:], float(z[tissue.numpy()[inner]].std())

    crop, deviation = seen(image)
    everywhere = perturb(image, "gaussian_noise", 0.001, generator())
    inside = perturb(image, "gaussian_noise", 0.001, generator(), region=brain)
    assert crop == seen(inside)[0] == (51, 51)
    assert seen(inside)[1] == pytest.approx(deviation, rel=1e-3)
    # what went wrong, so that this test is one: noise below zero is clipped, all other of it is no background
    assert seen(everywhere)[0] == (96, 96) and seen(everywhere)[1] < 0.6 * deviation


def test_one_level_is_the_same_number_of_hu_whatever_the_padding() -> None:
    body, region, rule = padded_ct()
    found = {}
    for padding in (None, -1024.0, -2000.0, -3024.0):
        image = body if padding is None else torch.where(region, body, padding)
        mask = rule.region(image.numpy()).mask
        of = None if mask is None else torch.from_numpy(mask)
        low, high = robust_range(image, of)
        found[padding] = 0.05 * float(high - low)
        noisy = perturb(image, "gaussian_noise", 0.05, generator(), region=of)
        inner = region & (body[0] > -100) & (body[0] < 200)  # where nothing is clipped
        assert float((noisy - image)[0][inner].std()) == pytest.approx(found[padding], rel=0.03)
    assert found[-2000.0] == found[-3024.0]
    assert found[-1024.0] == pytest.approx(found[-2000.0], rel=0.03)
    assert found[None] == pytest.approx(found[-2000.0], rel=0.03)


def test_a_voxel_does_not_become_background() -> None:
    image = torch.tensor([[[0.0, 3.0, -2.0, 0.0]], [[0.0, 0.0, 5.0, 1.0]]])
    kept = kept_nonzero(torch.zeros_like(image), image)
    assert torch.equal(kept != 0, image != 0) and torch.equal(kept.sign(), image.sign())
    assert float(kept.abs().max()) < 1.2e-38
    half = kept_nonzero(torch.zeros_like(image).half(), image.half())
    assert torch.equal(half != 0, image != 0)
    # a hole that is zero may become anything, and a voxel that is still not zero in one channel is none
    other = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 5.0, 0.0]]])
    assert torch.equal(kept_nonzero(other, image)[:, 0, [0, 2]], other[:, 0, [0, 2]])


def test_cutout_hides_its_share_of_the_region() -> None:
    body, region, _ = skull_stripped()
    image = torch.where(region, body, 0.0)
    changed = (perturb(image, "cutout", 0.2, generator(), region=region) != image)[0]
    assert not (changed & ~region).any()
    assert int(changed.sum()) == pytest.approx(0.2 * int(region.sum()), rel=0.02)


def test_what_is_measured_is_the_region_s() -> None:
    body, region, _ = skull_stripped()
    image = torch.where(region, body, 0.0)
    noisy = perturb(image, "gaussian_noise", 0.1, generator(), region=region)
    inside = measure(image[:, region][:, None], noisy[:, region][:, None])
    assert measure(image, noisy, region=region) == pytest.approx(inside)
    assert measure(image, noisy)["psnr_db"] > inside["psnr_db"] + 1


@pytest.mark.parametrize("shape", [(9, 13), (1, 16, 12), (5, 7, 9)])
def test_a_continuation_is_made_of_what_is_near(shape: tuple[int, ...]) -> None:
    body, region = scene(2, shape)
    region[..., 0] = False
    found = continued(body, region)
    assert torch.equal(found[:, region], body[:, region])
    low, high = body[:, region].aminmax(dim=1)
    assert (found.flatten(1).amin(1) >= low - 1e-6).all() and (found.flatten(1).amax(1) <= high + 1e-6).all()
    line = torch.tensor([[[0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0]]])
    there = torch.tensor([[False, False, True, True, True, False, False, False]])
    assert continued(line, there).tolist() == [[[1.5, 1.5, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0]]]


def test_a_region_must_be_one_of_the_image() -> None:
    image = torch.rand(1, 8, 8)
    for region in (torch.ones(8, 8), torch.ones(7, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)):
        with pytest.raises(UserError, match="A region must be bool"):
            perturb(image, "gaussian_noise", 0.1, generator(), region=region)
