"""Textural noise: the statistics of its field, what it leaves alone, and where it stands in nnU-Net's pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import seed_everything
from nnunet_robust.trainers import TRAINERS, trainer_class
from nnunet_robust.trainers.names import parse
from nnunet_robust.trainers.texture_da import TexturalNoiseTransform, textural_field

SHAPES = {"2d": (24, 31), "3d": (8, 15, 20)}


pytestmark = pytest.mark.usefixtures("one_thread")


def correlation(field: torch.Tensor, axis: int, distance: int) -> float:
    """Of voxels that lie `distance` apart, without wrapping around."""
    n = field.shape[axis]
    a, b = field.narrow(axis, 0, n - distance), field.narrow(axis, distance, n - distance)
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


@pytest.mark.parametrize("shape", [(401, 400), (64, 65, 66)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_statistics_of_the_field(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(0)
    field = textural_field(shape, scale)
    assert field.shape == shape and field.dtype == torch.float32
    assert float(field.mean()) == pytest.approx(0, abs=1e-5) and float(field.std()) == pytest.approx(1, abs=1e-4)
    kurtosis = float((field**4).mean())
    assert kurtosis == pytest.approx(3, abs=0.2)  # Gaussian
    for axis in range(len(shape)):
        for distance in (1, 2, 4):
            expected = np.exp(-(distance**2) / (4 * scale**2)) if scale else 0
            assert correlation(field, axis, distance) == pytest.approx(expected, abs=0.05), (axis, distance)


def test_slices_are_independent() -> None:
    torch.manual_seed(0)
    field = textural_field((32, 128, 128), 2.0, slices=True)
    assert correlation(field, 0, 1) == pytest.approx(0, abs=0.03)
    assert correlation(field, 1, 1) == pytest.approx(np.exp(-1 / 16), abs=0.02)


def sample(shape: tuple[int, ...], channels: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(channels, *shape, generator=generator) * torch.arange(1, channels + 1).reshape(
        -1, *[1] * len(shape)
    )
    return {"image": image, "segmentation": torch.randint(0, 3, (1, *shape), dtype=torch.int16, generator=generator)}


@pytest.mark.parametrize("geometry", SHAPES)
@pytest.mark.parametrize("slices", [False, True])
def test_amplitude_channels_and_label(geometry: str, slices: bool) -> None:
    seed_everything(1)
    given = sample(SHAPES[geometry])
    before = {key: value.clone() for key, value in given.items()}
    relative = []
    for _ in range(100):
        out = TexturalNoiseTransform(slices=slices)(**given)
        assert out["image"].shape == given["image"].shape and out["image"].dtype == torch.float32
        assert out["segmentation"] is given["segmentation"]
        added = out["image"] - given["image"]
        relative += [float(added[i].std() / given["image"][i].std()) for i in range(3)]
    assert all(torch.equal(given[key], before[key]) for key in given)  # not modified
    changed = np.array([ratio for ratio in relative if ratio > 0])
    assert len(changed) / len(relative) == pytest.approx(0.5, abs=0.1)  # 300 draws: 3.5 standard errors
    assert changed.min() > 0.0999 and changed.max() < 0.5001
    assert changed.mean() == pytest.approx(0.3, abs=0.03) and changed.std() == pytest.approx(0.4 / 12**0.5, abs=0.02)


def test_scales_are_drawn_from_their_range_and_channels_differ(monkeypatch) -> None:
    scales = []
    monkeypatch.setattr(
        "nnunet_robust.trainers.texture_da.textural_field",
        lambda shape, scale, slices: scales.append(scale) or torch.randn(shape),
    )
    transform = TexturalNoiseTransform(scale=(1, 3), p_per_channel=1)
    for _ in range(100):
        transform.get_parameters(**sample((4, 4)))
    assert len(set(scales)) == 300 and 1 <= min(scales) < 1.1 and 2.9 < max(scales) <= 3


def test_parameters_are_drawn_apart_from_application() -> None:
    transform, given = TexturalNoiseTransform(p_per_channel=1), sample(SHAPES["2d"])
    parameters = transform.get_parameters(**given)
    once, again = (transform.apply(dict(given), **parameters)["image"] for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, given["image"])


def test_reproducible_under_a_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        seed_everything(seed)
        return TexturalNoiseTransform(p_per_channel=1)(**sample(SHAPES["3d"]))["image"]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_a_flat_patch_stays_flat() -> None:
    flat = {"image": torch.ones(1, 8, 8)}
    assert torch.equal(TexturalNoiseTransform(p_per_channel=1)(**flat)["image"], torch.ones(1, 8, 8))


def pipeline(name: str, patch: tuple[int, ...], dummy_2d: bool, **options: object) -> list:
    return (
        trainer_class(name)
        .get_training_transforms(patch, (0, 0), None, tuple(range(len(patch))), dummy_2d, **options)
        .transforms
    )


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize(("patch", "dummy_2d"), [((16, 24), False), ((8, 16, 24), False), ((4, 16, 24), True)])
def test_exactly_once_in_the_pipeline_and_elsewhere_nowhere(
    trainer: str, patch: tuple[int, ...], dummy_2d: bool
) -> None:
    with_noise = pipeline(f"{trainer}_textureDA", patch, dummy_2d)
    ours = [i for i, transform in enumerate(with_noise) if isinstance(transform, TexturalNoiseTransform)]
    assert len(ours) == 1
    assert with_noise[ours[0]].slices == dummy_2d
    names = [type(transform).__name__ for transform in with_noise]
    assert names[ours[0] - 1] == ("Convert2DTo3DTransform" if dummy_2d else "SpatialTransform")
    stock = nnUNetTrainer.get_training_transforms(patch, (0, 0), None, tuple(range(len(patch))), dummy_2d).transforms
    assert [name for name in names if name != "TexturalNoiseTransform"] == [type(t).__name__ for t in stock]
    for other in (trainer, f"{trainer}_noDA"):
        assert "TexturalNoiseTransform" not in repr(pipeline(other, patch, dummy_2d))


@pytest.mark.parametrize(("patch", "dummy_2d"), [((16, 24), False), ((4, 16, 24), True)])
def test_the_whole_pipeline_runs_and_the_mask_stays_zero(patch: tuple[int, ...], dummy_2d: bool) -> None:
    seed_everything(0)
    transforms = pipeline("nnUNetTrainer_textureDA", patch, dummy_2d, use_mask_for_norm=[True, False])
    given = sample(patch, channels=2)
    given["segmentation"][...] = -1
    for transform in transforms:
        given = transform(**given)
    assert given["image"].shape == (2, *patch) and not given["image"][0].any() and given["image"][1].any()


def test_grammar() -> None:
    assert parse("nnUNetTrainer_ps64_textureDA_seed1", ["nnUNetTrainer"])[1].augmentation == "textureDA"
    for broken, nearest in {
        "nnUNetTrainer_textureda": "nnUNetTrainer_textureDA",
        "nnUNetTrainer_TextureDA_ps64": "nnUNetTrainer_ps64_textureDA",
        "nnUNetTrainer_texture": "nnUNetTrainer_textureDA",
        "nnUNetTrainer_noDA_textureDA": "nnUNetTrainer_noDA",
        "nnUNetTrainer_noda": "nnUNetTrainer_noDA",
    }.items():
        with pytest.raises(UserError, match=rf"_noDA\|_textureDA.*'{nearest}'$"):
            parse(broken, ["nnUNetTrainer"])
