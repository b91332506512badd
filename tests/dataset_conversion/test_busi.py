from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.io import imread

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.busi import BusiParameters, convert_busi, read_grey, read_mask

MASK = np.zeros((6, 9), dtype=bool)
MASK[1:4, 2:7] = True


def encode(mask: np.ndarray, mode: str) -> Image.Image:
    """A mask as the given mode stores it; alpha is opaque everywhere, or covers what is not the mask."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    if mode == "P":  # index 0 is the foreground: indices are not values
        image = Image.fromarray((~mask).astype(np.uint8)).convert("P")
        image.putdata((~mask).astype(np.uint8).ravel().tolist())
        image.putpalette([255, 255, 255, 0, 0, 0])
        return image
    if mode == "RGBA inverted":
        rgba = grey.convert("RGBA")
        rgba.putalpha(Image.fromarray((~mask).astype(np.uint8) * 255))
        return rgba
    if mode == "red":
        return Image.merge("RGB", [grey, Image.new("L", grey.size), Image.new("L", grey.size)])
    if mode == "L of 1":
        return Image.fromarray(mask.astype(np.uint8))
    return grey.convert(mode)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "RGBA inverted", "red", "L of 1")


def grey_image(number: int, shape: tuple[int, int] = MASK.shape) -> Image.Image:
    values = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(values).convert("RGB")


def make_source(root: Path, benign: int = 10, malignant: int = 5, normal: int = 5) -> Path:
    source = root / "Dataset_BUSI_with_GT"
    for kind, count in (("benign", benign), ("malignant", malignant), ("normal", normal)):
        (source / kind).mkdir(parents=True)
        for number in range(1, count + 1):
            mask = MASK if kind != "normal" else np.zeros_like(MASK)
            grey_image(number).save(source / kind / f"{kind} ({number}).png")
            encode(mask, "RGB" if kind == "normal" else "1").save(source / kind / f"{kind} ({number})_mask.png")
    return source


def read_all(folder: Path, what: str) -> dict[str, np.ndarray]:
    return {path.name: imread(path) for part in ("Tr", "Ts") for path in sorted((folder / f"{what}{part}").glob("*"))}


def names(folder: Path, part: str) -> list[str]:
    return sorted(path.stem for path in (folder / f"labels{part}").glob("*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_every_mode(tmp_path: Path, mode: str) -> None:
    encode(MASK, mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MASK)
    encode(np.zeros_like(MASK), mode).save(tmp_path / "empty.png")
    assert not read_mask(tmp_path / "empty.png").any()


def test_a_smooth_border_is_cut_half_way(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 64, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[False, False, False, True, True]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_values_are_kept_exactly(tmp_path: Path, mode: str) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(ramp).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(7)
    image.save(tmp_path / "image.png")
    grey, is_grey = read_grey(tmp_path / "image.png")
    assert is_grey
    np.testing.assert_array_equal(grey, ramp)


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50], [9, 9, 9]]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "image.png")
    grey, is_grey = read_grey(tmp_path / "image.png")
    assert not is_grey
    assert grey.tolist() == [[76, 150, 29, 124, 9]]  # .299 * 255 = 76.2; 149.7; 29.1; 59.8 + 58.7 + 5.7 = 124.2


def test_masks_of_an_image_are_joined(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    more = np.zeros_like(MASK)
    more[3:6, 0:4] = True  # overlaps the first
    encode(more, "RGBA").save(source / "benign" / "benign (3)_mask_1.png")
    last = np.zeros_like(MASK)
    last[0, 8] = True
    encode(last, "P").save(source / "benign" / "benign (3)_mask_2.png")
    labels = read_all(convert_busi(tmp_path / "raw", source, 7), "labels")
    np.testing.assert_array_equal(labels.pop("benign_0003.png"), MASK | more | last)
    for label in labels.values():
        np.testing.assert_array_equal(label, MASK)


def test_images_and_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source(tmp_path)
    tinted = np.array(grey_image(2))
    tinted[0, 0] = (255, 0, 0)
    Image.fromarray(tinted).save(source / "malignant" / "malignant (2).png")
    (source / "benign" / "._benign (1).png").write_bytes(b"macOS")
    folder = convert_busi(tmp_path / "raw", tmp_path, 7)  # the folder above the source is taken as well
    images = read_all(folder, "images")
    assert len(images) == 15
    for name, image in images.items():
        expected = np.array(grey_image(int(name[-13:-9])))[..., 0]
        if name == "malignant_0002_0000.png":
            expected[0, 0] = 76
        np.testing.assert_array_equal(image, expected, err_msg=name)
    header = json.loads((folder / "dataset.json").read_text())
    assert header["labels"] == {"background": 0, "lesion": 1}
    assert header["numTraining"] == 12
    assert str(tmp_path) not in json.dumps(header)
    assert capsys.readouterr().out == "not grey, written as luminance: malignant (2).png\n"


def test_the_split_is_stratified_and_stays_when_options_change(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    plain = convert_busi(tmp_path / "raw", source, 7)
    wide = convert_busi(tmp_path / "raw", source, 8, parameters=BusiParameters(include_normal=True, classes=True))
    assert Counter(name.split("_")[0] for name in names(plain, "Ts")) == {"benign": 2, "malignant": 1}
    assert Counter(name.split("_")[0] for name in names(wide, "Ts")) == {"benign": 2, "malignant": 1, "normal": 1}
    assert names(plain, "Ts") == [name for name in names(wide, "Ts") if not name.startswith("normal")]
    assert len(names(wide, "Tr")) == 16
    assert wide.name == "Dataset008_BUSINormalClasses"

    folds = json.loads((plain / "splits_final.json").read_text())
    assert sorted(case for fold in folds for case in fold["val"]) == names(plain, "Tr")
    assert [Counter(case.split("_")[0] for case in fold["val"])["malignant"] for fold in folds].count(1) == 4

    drawn = {
        tuple(names(convert_busi(tmp_path / f"raw{seed}", source, 7, parameters=BusiParameters(seed=seed)), "Ts"))
        for seed in range(4)
    }
    assert len(drawn) > 1
    none = convert_busi(tmp_path / "raw", source, 9, parameters=BusiParameters(test_share=0))
    assert not (none / "imagesTs").exists()
    most = convert_busi(tmp_path / "raw", source, 10, parameters=BusiParameters(test_share=0.99))
    assert Counter(name.split("_")[0] for name in names(most, "Tr")) == {"benign": 1, "malignant": 1}


def test_classes_are_regions_that_nnunet_reads(tmp_path: Path) -> None:
    import torch
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    parameters = BusiParameters(include_normal=True, classes=True)
    folder = convert_busi(tmp_path / "raw", make_source(tmp_path), 7, parameters=parameters)
    values = {"benign": 1, "malignant": 2, "normal": 0}
    for name, label in read_all(folder, "labels").items():
        np.testing.assert_array_equal(label, MASK * values[name.split("_")[0]])
    header = json.loads((folder / "dataset.json").read_text())
    manager = LabelManager(header["labels"], header["regions_class_order"])
    assert manager.foreground_regions == [(1, 2), 2]
    # three pixels: nothing, a lesion, a malignant lesion
    probabilities = torch.tensor([[[0.1, 0.9, 0.9]], [[0.1, 0.1, 0.9]]])
    assert manager.convert_probabilities_to_segmentation(probabilities).tolist() == [[0, 1, 2]]


def test_same_bytes_again_and_another_source_is_noticed(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    first = contents(convert_busi(tmp_path / "raw", source, 7))
    moved = shutil.copytree(source, tmp_path / "elsewhere")
    assert contents(convert_busi(tmp_path / "raw2", moved, 7)) == first
    assert contents(convert_busi(tmp_path / "raw", moved, 7)) == first
    grey_image(99).save(moved / "benign" / "benign (1).png")
    with pytest.raises(UserError, match="exists and differs in source_sha256"):
        convert_busi(tmp_path / "raw", moved, 7)


def remove_mask(source: Path) -> None:
    (source / "benign" / "benign (2)_mask.png").unlink()


def remove_image(source: Path) -> None:
    (source / "malignant" / "malignant (1).png").unlink()


def remove_folder(source: Path) -> None:
    shutil.rmtree(source / "malignant")


def empty_folder(source: Path) -> None:
    shutil.rmtree(source / "benign")
    (source / "benign").mkdir()


def other_size(source: Path) -> None:
    encode(np.ones((5, 9), bool), "1").save(source / "benign" / "benign (4)_mask.png")


def truncated_image(source: Path) -> None:
    path = source / "benign" / "benign (5).png"
    path.write_bytes(path.read_bytes()[:-40])


def no_image(source: Path) -> None:
    (source / "benign" / "benign (5)_mask.png").write_text("not a PNG")


def deep_image(source: Path) -> None:
    Image.fromarray(np.full(MASK.shape, 4000, np.uint16)).save(source / "benign" / "benign (5).png")


def stray(source: Path) -> None:
    encode(MASK, "1").save(source / "benign" / "benign (1)_mask copy.png")


def empty_mask(source: Path) -> None:
    encode(np.zeros_like(MASK), "1").save(source / "benign" / "benign (2)_mask.png")


def normal_lesion(source: Path) -> None:
    encode(MASK, "1").save(source / "normal" / "normal (2)_mask.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_mask, r"benign \(2\)\.png has no mask: expected 'benign \(1\)\.png'.*Al-Dhabyani"),
        (remove_image, r"malignant \(1\)_mask\.png is a mask without its image 'malignant \(1\)\.png'"),
        (remove_folder, r"no folder 'malignant' \(found: benign, normal\): expected .* published at https"),
        (empty_folder, r"benign holds no PNGs \(found: nothing\)"),
        (other_size, r"benign \(4\)_mask\.png is 9 x 5 pixels, its image 'benign \(4\)\.png' 9 x 6"),
        (truncated_image, r"cannot read .*benign \(5\)\.png as an image"),
        (no_image, r"cannot read .*benign \(5\)_mask\.png as an image"),
        (deep_image, r"benign \(5\)\.png has pixels of mode I;16"),
        (stray, r"benign \(1\)_mask copy\.png is neither an image nor a mask"),
        (empty_mask, r"benign \(2\)\.png has an empty mask, but shows a lesion"),
        (normal_lesion, r"normal \(2\)\.png has a lesion in its mask, but is normal"),
    ],
)
def test_bad_sources(tmp_path: Path, damage, message: str) -> None:
    source = make_source(tmp_path)
    damage(source)
    with pytest.raises(UserError, match=message) as error:
        convert_busi(tmp_path / "raw", source, 7, parameters=BusiParameters(include_normal=True))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "raw").glob("*"))


def test_no_such_folder_and_bad_share(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found: no such folder"):
        convert_busi(tmp_path / "raw", tmp_path / "nowhere", 7)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="test share must be in"):
            BusiParameters(test_share=share)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    source = make_source(tmp_path)
    command = ["convert", "busi", str(source), "--id", "7", "--include-normal", "--test-share", "0.4", "--name", "X"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("next: nnUNetv2_plan_and_preprocess -d 7 --verify_dataset_integrity\n")
    assert len(names(tmp_path / "nnUNet_raw" / "Dataset007_X", "Ts")) == 8
    splits = "Dataset007_X/splits_final.json"
    assert (tmp_path / "nnUNet_preprocessed" / splits).read_bytes() == (tmp_path / "nnUNet_raw" / splits).read_bytes()
    assert main(["convert", "busi", str(tmp_path / "nowhere"), "--id", "8"]) == 2
    assert "Al-Dhabyani" in capsys.readouterr().err


REAL = (
    Path(os.environ.get("NNUNET_ROBUST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    / "Dataset_BUSI_with_GT"
)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs BUSI in ../shared/data")
def test_every_mask_pixel_of_the_real_data_is_accounted_for(tmp_path: Path) -> None:
    folder = convert_busi(tmp_path, REAL, 7, parameters=BusiParameters(include_normal=True))
    labels = read_all(folder, "labels")
    sources = [path for path in REAL.rglob("*.png") if "_mask" not in path.name]
    assert len(labels) == len(sources)
    for path in sources:
        union = 0
        for mask_path in path.parent.glob(f"{path.stem}_mask*.png"):
            mask = imread(mask_path)
            union = union | ((mask[..., :3].sum(axis=-1) if mask.ndim == 3 else mask) > 0)
        kind, number = path.stem.split(" ")
        np.testing.assert_array_equal(labels[f"{kind}_{int(number[1:-1]):04d}.png"], union, err_msg=path.name)
