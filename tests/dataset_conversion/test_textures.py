from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage import data
from skimage.io import imread, imsave

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.textures import TextureParameters, blend, crop_columns, synthesize_textures

SMALL = {"cases": 5, "test_cases": 2, "size": 64}


def small(**changes) -> TextureParameters:
    return TextureParameters(**{**SMALL, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images(folder: Path, part: str = "Tr") -> dict[str, np.ndarray]:
    return {path.name: imread(path) for path in sorted((folder / f"images{part}").iterdir())}


def labels(folder: Path, part: str = "Tr") -> dict[str, np.ndarray]:
    return {path.name: imread(path) for path in sorted((folder / f"labels{part}").iterdir())}


FG = np.array([[200, 200], [100, 7]], dtype=np.uint8)
BG = np.array([[100, 100], [255, 4]], dtype=np.uint8)
MASK = np.array([[True, False], [True, False]])


@pytest.mark.parametrize(
    ("alpha", "direction", "expected"),
    [
        (0.0, "foreground", [[200, 100], [100, 4]]),
        (0.0, "background", [[200, 100], [100, 4]]),
        (0.1, "foreground", [[190, 100], [116, 4]]),  # .9 * 200 + .1 * 100; .9 * 100 + .1 * 255 = 115.5
        (0.1, "background", [[200, 110], [100, 4]]),  # .9 * 100 + .1 * 200; .9 * 4 + .1 * 7 = 4.3
        (0.9, "background", [[200, 190], [100, 7]]),  # .1 * 4 + .9 * 7 = 6.7, rounded and not cut off
        (1.0, "foreground", [[100, 100], [255, 4]]),
        (1.0, "background", [[200, 200], [100, 7]]),
    ],
)
def test_blend_by_hand(alpha: float, direction, expected: list[list[int]]) -> None:
    blended = blend(FG, BG, MASK, alpha, direction)
    assert blended.dtype == np.uint8
    assert blended.tolist() == expected


def matches(crop: np.ndarray, photograph: np.ndarray) -> list[tuple[int, int]]:
    """Every (row, column) at which `crop` lies in `photograph`, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (1, crop.shape[1]))[:, :, 0]
    rows, columns = np.nonzero((windows == crop[0]).all(axis=-1))
    height = crop.shape[0]
    found = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(r, c) for r, c in found if np.array_equal(photograph[r : r + height, c : c + crop.shape[1]], crop)]


@pytest.mark.parametrize(("direction", "pure"), [("foreground", data.gravel()), ("background", data.brick())])
def test_alpha_one_is_a_pure_crop_and_train_and_test_do_not_overlap(tmp_path: Path, direction, pure) -> None:
    folder = synthesize_textures(tmp_path, 1, small(alpha=1.0, direction=direction, cases=8, test_cases=8))
    columns = {}
    for part in ("Tr", "Ts"):
        found = {name: matches(image, pure) for name, image in images(folder, part).items()}
        assert all(len(places) == 1 for places in found.values()), "a mask shows, or the crop is not from here"
        columns[part] = [places[0][1] for places in found.values()]
        assert len({places[0] for places in found.values()}) > 1, "every crop is the same"
    assert max(columns["Tr"]) + SMALL["size"] <= 512 - 154 <= min(columns["Ts"])


def test_alpha_zero_is_the_collage_of_both(tmp_path: Path) -> None:
    alphas = {alpha: synthesize_textures(tmp_path, 1 + index, small(alpha=alpha)) for index, alpha in enumerate([0, 1])}
    collage, background = images(alphas[0]), images(alphas[1])
    for name, mask in labels(alphas[0]).items():
        image = name.replace(".png", "_0000.png")
        assert np.array_equal(collage[image][mask == 0], background[image][mask == 0])
        assert (collage[image][mask == 1] != background[image][mask == 1]).mean() > 0.9


def test_datasets_are_paired_over_alpha(tmp_path: Path) -> None:
    pure_fg = synthesize_textures(tmp_path, 1, small(alpha=1.0, direction="background"))
    pure_bg = synthesize_textures(tmp_path, 2, small(alpha=1.0))
    mixed = synthesize_textures(tmp_path, 3, small(alpha=0.3))
    for part in ("Tr", "Ts"):
        for name, mask in labels(mixed, part).items():
            assert np.array_equal(mask, labels(pure_bg, part)[name])
            image = name.replace(".png", "_0000.png")
            fg, bg = (images(folder, part)[image].astype(float) for folder in (pure_fg, pure_bg))
            expected = np.where(mask == 1, 0.7 * fg + 0.3 * bg, bg)
            assert np.abs(images(mixed, part)[image] - expected).max() <= 0.5 + 1e-9


def test_crops_are_paired_over_shapes(tmp_path: Path) -> None:
    smooth = synthesize_textures(tmp_path, 1, small(alpha=1.0, shape="easy"))
    ragged = synthesize_textures(tmp_path, 2, small(alpha=1.0, shape="hard"))
    assert all(np.array_equal(image, images(ragged)[name]) for name, image in images(smooth).items())
    assert not any(np.array_equal(mask, labels(ragged)[name]) for name, mask in labels(smooth).items())


def test_same_seed_same_bytes_another_seed_differs(tmp_path: Path) -> None:
    first = contents(synthesize_textures(tmp_path / "1", 1, small()))
    assert contents(synthesize_textures(tmp_path / "2", 1, small())) == first
    other = contents(synthesize_textures(tmp_path / "3", 1, small(seed=1)))
    assert other.keys() == first.keys() and not any(other[name] == first[name] for name in first)
    assert len({value for name, value in first.items() if name.startswith("labels")}) == 7, "shapes are repeated"


def test_more_cases_keep_the_first_ones(tmp_path: Path) -> None:
    few = contents(synthesize_textures(tmp_path / "1", 1, small()))
    many = contents(synthesize_textures(tmp_path / "2", 1, small(cases=7, test_cases=4)))
    assert all(many[name] == few[name] for name in few if name != "dataset.json")


def test_nnunet_accepts_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

    folder = synthesize_textures(tmp_path, 501, small())
    verify_dataset_integrity(str(folder), num_processes=1)
    train = get_identifiers_from_splitted_dataset_folder(str(folder / "imagesTr"), ".png")
    test = get_identifiers_from_splitted_dataset_folder(str(folder / "imagesTs"), ".png")
    assert sorted(train) == [f"texture_{i:04d}" for i in range(5)]
    assert sorted(test) == [f"texture_test_{i:04d}" for i in range(2)]
    assert sorted(labels(folder, "Ts")) == [f"{name}.png" for name in sorted(test)]


def test_textures_can_be_told_apart_at_the_default_alpha_and_hardly_at_a_high_one(tmp_path: Path) -> None:
    def contrast(alpha: float, dataset_id: int) -> float:
        """Mean over cases of how much flatter the inside (brick) is than the outside (gravel)."""
        folder = synthesize_textures(tmp_path, dataset_id, small(alpha=alpha))
        ratios = []
        for name, mask in labels(folder).items():
            image = images(folder)[name.replace(".png", "_0000.png")].astype(float)
            steps = np.abs(np.diff(image, axis=0))
            ratios.append(np.median(steps[mask[1:] == 0]) / np.median(steps[mask[1:] == 1]))
        return float(np.mean(ratios))

    assert contrast(0.1, 1) > 2.5
    assert 0.8 < contrast(0.8, 2) < 1.6


def test_image_files_as_textures(tmp_path: Path) -> None:
    grey = data.brick()[:100, :140]
    colour = np.dstack([data.gravel()[:100, :150]] * 3)
    translucent = np.dstack([colour, np.full((100, 150), 255, np.uint8)])
    deep = data.gravel()[:100, :150].astype(np.uint16) * 257
    made = {}
    for index, (name, background) in enumerate({"rgb": colour, "rgba": translucent, "deep": deep}.items()):
        (tmp_path / name).mkdir()
        imsave(tmp_path / name / "my brick.png", grey, check_contrast=False)
        imsave(tmp_path / name / "stones-2.png", background, check_contrast=False)
        pair = {role: str(tmp_path / name / file) for role, file in PAIR.items()}
        folder = synthesize_textures(tmp_path / "raw", index + 1, small(alpha=1.0, **pair))
        assert folder.name == f"Dataset{index + 1:03d}_TextureMyBrickStones2A100"
        assert str(tmp_path) not in (folder / "dataset.json").read_text()
        recorded = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["parameters"]
        assert recorded["background"]["name"] == "stones-2.png" and len(recorded["background"]["pixels_sha256"]) == 64
        assert all(len(matches(image, data.gravel()[:100, :150])) == 1 for image in images(folder).values())
        made[name] = contents(folder)
    assert made["rgb"] == made["rgba"] == made["deep"], "the same picture gives the same dataset, wherever it lies"


PAIR = {"foreground": "my brick.png", "background": "stones-2.png"}


def test_a_changed_photograph_is_another_dataset(tmp_path: Path) -> None:
    stones = tmp_path / "stones.png"
    imsave(stones, data.gravel(), check_contrast=False)
    synthesize_textures(tmp_path, 1, small(background=str(stones)))
    imsave(stones, data.grass(), check_contrast=False)
    with pytest.raises(UserError, match=r"background\.pixels_sha256"):
        synthesize_textures(tmp_path, 1, small(background=str(stones)))


def test_photographs_that_do_not_work(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    for texture, message in {
        "sand": "no such texture: 'sand'; give one of brick, grass, gravel or an image file",
        str(tmp_path / "folder"): "no such texture",
        str(tmp_path / "text.png"): "cannot read .*text.png' as an image",
        "brick": "both 'brick'",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            synthesize_textures(tmp_path, 1, small(background=texture))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"size 257 is too large for 'brick', .*largest size that works is 256"):
        synthesize_textures(tmp_path, 1, small(size=257))
    assert not list(tmp_path.glob("*Dataset*"))


@pytest.mark.parametrize(
    ("shape", "size", "train", "test"),
    [
        ((512, 512), 128, (0, 358), (358, 512)),  # 30 % of the width: 153.6
        ((512, 512), 256, (0, 256), (256, 512)),
        ((100, 1000), 100, (0, 700), (700, 1000)),
        ((64, 129), 64, (0, 65), (65, 129)),
    ],
)
def test_columns_of_the_parts(shape, size: int, train: tuple[int, int], test: tuple[int, int]) -> None:
    assert crop_columns(shape, size, "train") == train
    assert crop_columns(shape, size, "test") == test


def test_the_largest_size_named_is_the_largest_that_works() -> None:
    for height, width in [(300, 512), (512, 300), (65, 131), (40, 1000)]:
        largest = min(height, width // 2)
        with pytest.raises(UserError, match=f"size that works is {largest}$"):
            crop_columns((height, width), largest + 1, "train")
        first, last = crop_columns((height, width), largest, "train")
        assert last - first >= largest
        first, last = crop_columns((height, width), largest, "test")
        assert last - first >= largest


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({}, "TextureBrickGravelA10"),
        ({"alpha": 0}, "TextureBrickGravelA0"),
        ({"alpha": 1.0}, "TextureBrickGravelA100"),
        ({"alpha": 0.07}, "TextureBrickGravelA7"),
        ({"alpha": 0.825}, "TextureBrickGravelA82p5"),
        ({"alpha": 1e-9}, "TextureBrickGravelA0"),
        (
            {"foreground": "grass", "direction": "background", "shape": "hard"},
            "TextureGrassGravelA10IntoBackgroundHard",
        ),
        ({"foreground": "/some/where/мох.png"}, "TexturePhotoGravelA10"),
    ],
)
def test_default_names(parameters: dict, name: str) -> None:
    assert TextureParameters(**parameters).dataset_name == name


def test_the_name_can_be_given(tmp_path: Path) -> None:
    assert synthesize_textures(tmp_path, 12, small(), name="Mine").name == "Dataset012_Mine"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        ({"alpha": 1.2}, "got 1.2"),
        ({"alpha": float("nan")}, "got nan"),
        ({"cases": 4}, "cases must be at least 5, got 4"),
        ({"test_cases": -1}, "test_cases must be at least 0, got -1"),
        ({"size": 31}, "size must be at least 32, got 31"),
        ({"direction": "up"}, "direction must be one of foreground, background, got 'up'"),
        ({"shape": "round"}, "shape must be one of easy, normal, hard, got 'round'"),
    ],
)
def test_parameters_out_of_range(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextureParameters(**wrong)
