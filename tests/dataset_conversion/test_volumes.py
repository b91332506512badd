from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from skimage import data

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.solids import SOLIDS, draw_solid, random_rotation
from nnunet_robust.dataset_conversion.volumes import VolumeParameters, synthesize_volumes

SMALL = {
    "cases": 5,
    "test_cases": 2,
    "size": (40, 40, 40),
    "radius_mm": (8.0, 12.0),
    "test_radius_mm": (4.0, 19.5),
}


def small(**changes) -> VolumeParameters:
    return VolumeParameters(**{**SMALL, **changes})


def volumes(folder: Path, subfolder: str) -> dict[str, np.ndarray]:
    files = sorted((folder / subfolder).glob("*.nii.gz"))
    return {file.name.split(".")[0]: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


VOLUME_OF_UNIT = {  # of the solid that fits into a sphere of radius 1
    "sphere": 4 / 3 * np.pi,
    "ellipsoid": 4 / 3 * np.pi * 0.7 * 0.5,
    "cube": (2 / 3**0.5) ** 3,
    "cylinder": np.pi * 0.5 * 2 * 0.5**0.5,
    "torus": 2 * np.pi**2 * (2 / 3) * (1 / 3) ** 2,
}


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 0.8)])
def test_solids_have_their_volume_whatever_the_spacing_and_touch_the_sphere_around_them(name: str, spacing) -> None:
    centre, radius = np.array((30.0, 31.0, 29.5)), 27.0
    rotation = random_rotation(np.random.default_rng(3))
    size = tuple(int(60 / s) + 1 for s in spacing)
    mask = draw_solid(name, size, spacing, centre, radius, rotation)
    assert mask.sum() * np.prod(spacing) == pytest.approx(VOLUME_OF_UNIT[name] * radius**3, rel=0.02)
    distances = np.linalg.norm(np.argwhere(mask) * np.array(spacing) - centre, axis=1)
    assert radius - 2 * max(spacing) < distances.max() <= radius + 1e-9
    moved = draw_solid(name, size, spacing, centre, radius, np.eye(3))
    assert (moved != mask).any() == (name != "sphere")


def test_rotations_are_rotations_and_uniform() -> None:
    rng = np.random.default_rng(0)
    many = np.stack([random_rotation(rng) for _ in range(2000)])
    assert np.allclose(many @ many.transpose(0, 2, 1), np.eye(3)) and np.allclose(np.linalg.det(many), 1)
    assert np.abs(many.mean(axis=0)).max() < 0.06 and np.allclose((many**2).mean(axis=0), 1 / 3, atol=0.03)


def test_a_sphere_of_ones_in_uniform_noise(tmp_path: Path) -> None:
    folder = synthesize_volumes(tmp_path, 1, small(test_radii_mm=(6.0,)))
    assert folder.name == "Dataset001_VolumeSphereR8to12"
    counts = {}
    for part, (low, high) in {"Tr": SMALL["radius_mm"], "Ts": SMALL["test_radius_mm"]}.items():
        labels, images = volumes(folder, f"labels{part}"), volumes(folder, f"images{part}")
        for name, mask in labels.items():
            image = images[f"{name}_0000"]
            assert image.dtype == np.uint8 and (image[mask == 1] == 255).all()
            noise = image[mask == 0]
            assert noise.min() == 0 and noise.max() == 204
            assert noise.mean() == pytest.approx(102, abs=1.5) and noise.std() == pytest.approx(204 / 12**0.5, abs=1.5)
            radius = (mask.sum() * 3 / (4 * np.pi)) ** (1 / 3)
            assert low - 0.3 < radius < high + 0.3
            extent = [np.ptp(np.flatnonzero(mask.any(axis=tuple(set(range(3)) - {axis})))) + 1 for axis in range(3)]
            assert max(extent) - min(extent) <= 1, "not round: cut off at the border"
            counts[name] = mask.sum()
    assert len(set(counts.values())) == 7, "every object has the same size"
    assert json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["parameters"]["radius_mm"] == [8.0, 12.0]


def test_a_sphere_stays_one_under_anisotropic_spacing(tmp_path: Path) -> None:
    folder = synthesize_volumes(tmp_path, 1, small(size=(32, 64, 64), spacing_mm=(2.0, 1.0, 1.0)))
    image = sitk.ReadImage(str(next((folder / "labelsTr").iterdir())))
    assert image.GetSpacing() == (1.0, 1.0, 2.0) and image.GetSize() == (64, 64, 32)
    inside = np.argwhere(sitk.GetArrayFromImage(image)) * np.array((2.0, 1.0, 1.0))
    assert np.ptp(inside, axis=0) == pytest.approx([np.ptp(inside[:, 1])] * 3, abs=2.01)


def test_cases_are_paired_over_radii_and_alphas(tmp_path: Path) -> None:
    radii = synthesize_volumes(tmp_path, 1, small(test_radii_mm=(5.0, 19.5)))
    little, large = (volumes(radii, f"series/radius_{r}/labels") for r in ("5", "19.5"))
    noise, same = (volumes(radii, f"series/radius_{r}/images") for r in ("5", "19.5"))
    for name, mask in large.items():
        assert mask.sum() > 30 * little[name].sum() > 0
        outside = (mask == 0) & (little[name] == 0)
        assert np.array_equal(noise[f"{name}_0000"][outside], same[f"{name}_0000"][outside])

    textured = small(foreground="brick", background="gravel", shape="torus", test_alphas=(0.0, 1.0))
    folder = synthesize_volumes(tmp_path, 2, textured)
    assert folder.name == "Dataset002_VolumeTorusR8to12BrickGravelA10"
    pure, hidden = (volumes(folder, f"series/foreground_alpha_{a}/images") for a in (0, 1))
    for name, mask in volumes(folder, "labelsTs").items():
        assert np.array_equal(mask, volumes(folder, "series/foreground_alpha_1/labels")[name])
        fg, bg = pure[f"{name}_0000"].astype(float), hidden[f"{name}_0000"].astype(float)
        assert np.array_equal(fg[mask == 0], bg[mask == 0])
        own = volumes(folder, "imagesTs")[f"{name}_0000"]
        assert np.abs(own - np.where(mask == 1, 0.9 * fg + 0.1 * bg, bg)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("z_mm", "step"), [(1.0, 1), (3.0, 3)])
def test_textures_drift_through_the_part_of_the_photograph_that_is_theirs(tmp_path: Path, z_mm: float, step) -> None:
    parameters = small(
        foreground="brick", background="gravel", alpha=1.0, spacing_mm=(z_mm, 1.0, 1.0), test_radius_mm=(5.0, 19.5)
    )
    folder = synthesize_volumes(tmp_path, 1, parameters)
    photograph = data.gravel()
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (1, 12))[:, :, 0]
    for part, columns in {"Tr": (0, 358), "Ts": (358, 512)}.items():
        image = next(iter(volumes(folder, f"images{part}").values()))
        places = []
        for plane in image:
            (place,) = np.argwhere((windows == plane[0, :12]).all(axis=-1))
            row, column = place
            assert np.array_equal(photograph[row : row + 40, column : column + 40], plane)
            places.append((row, column))
        steps = np.abs(np.diff(places, axis=0))
        assert steps.max() == step and (steps > 0).mean() > 0.3
        assert columns[0] <= min(c for _, c in places) and max(c for _, c in places) + 40 <= columns[1]


def test_same_parameters_same_bytes_and_another_seed_differs(tmp_path: Path) -> None:
    parameters = small(test_radii_mm=(5.0,))
    first = contents(synthesize_volumes(tmp_path / "1", 1, parameters))
    assert contents(synthesize_volumes(tmp_path / "2", 1, parameters)) == first
    other = contents(synthesize_volumes(tmp_path / "3", 1, small(test_radii_mm=(5.0,), seed=1)))
    assert not any(other[name] == value for name, value in first.items() if name != "series.csv")


def test_every_shape_has_voxels_at_the_least_radius(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in SOLIDS:
        for spacing in ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0)):
            radius = 1.5 * max(spacing)
            for _ in range(100):
                centre = rng.uniform(10, 20, size=3)
                assert draw_solid(name, (32, 32, 32), spacing, centre, radius, random_rotation(rng)).any(), name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cases": 4}, "cases must be at least 5, got 4"),
        ({"size": (31, 40, 40)}, "size must be at least 32 along each axis, got 31 40 40"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing must be a positive"),
        ({"radius_mm": (12.0, 8.0)}, r"--radius must be two rising numbers of mm in \[1.5, 19.5\], .*, got 12 8"),
        ({"test_radius_mm": (5.0, 20.0)}, r"--test-radius .* got 5 20"),
        ({"test_radii_mm": (5.0, 20.0)}, r"--test-radii must be in \[1.5, 19.5\], got 20"),
        ({"test_radii_mm": (5.0, 5.0)}, "--test-radii names 5 twice"),
        ({"test_radii_mm": (5.0,), "test_cases": 0}, "there are 0 test cases"),
        ({"shape": "pyramid"}, "shape must be one of sphere, .*got 'pyramid'"),
        ({"foreground": "brick"}, "go together"),
        ({"test_alphas": (0.5,)}, "--test-alphas blend textures"),
        ({"alpha": 2.0}, "alpha must be in"),
    ],
)
def test_parameters_out_of_range(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**wrong)


def test_textures_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both 'brick'"):
        synthesize_volumes(tmp_path, 1, small(foreground="brick", background="brick"))
    with pytest.raises(UserError, match="size 300 is too large for 'brick'"):
        synthesize_volumes(tmp_path, 1, small(foreground="brick", background="grass", size=(40, 40, 300)))
    assert not list(tmp_path.iterdir())


def test_the_papers_values_are_the_defaults() -> None:
    defaults = VolumeParameters()
    assert (defaults.size, defaults.radius_mm, defaults.test_radius_mm) == ((96, 96, 96), (25, 34), (5, 47))
    assert (defaults.cases, defaults.test_cases, defaults.shape) == (100, 100, "sphere")
