from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.io import imread

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.busi import BusiParameters, convert_busi, mask_fault, read_grey, read_mask

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
        convert_busi(tmp_path / "raw", source, 7, parameters=BusiParameters(include_normal=True), strict=True)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "raw").glob("*"))


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset.json").read_text())["nnunet_robust"]


def put(name: str, image: Image.Image):
    return lambda source: image.save(source / name)


def circle(size: int, radius: int, place: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size // 2
    return (rows**2 + (columns - place) ** 2 <= radius**2).astype(np.uint8)


MASK_2 = "benign/benign (2)_mask.png"


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (remove_mask, "benign_0002", r"benign/benign \(2\)\.png has no mask: expected"),
        (remove_image, "malignant_0001", r"malignant/malignant \(1\)_mask\.png is a mask without its image"),
        (other_size, "benign_0004", "is 9 x 5 pixels, its image"),
        (truncated_image, "benign_0005", r"cannot read benign/benign \(5\)\.png as an image \("),
        (no_image, "benign_0005", r"cannot read benign/benign \(5\)_mask\.png as an image"),
        (deep_image, "benign_0005", "pixels of mode I;16"),
        (stray, "benign/benign (1)_mask copy.png", "neither an image nor a mask"),
        (put("benign/benign (1).JPG", grey_image(1)), "benign/benign (1).JPG", "neither an image nor a mask"),
        (put("benign/benign (01).png", grey_image(1)), "benign/benign (01).png", "neither an image nor a mask"),
        (empty_mask, "benign_0002", "has an empty mask, but shows a lesion"),
        (normal_lesion, "normal_0002", "has a lesion in its mask, but is normal"),
        (put(MASK_2, encode(~MASK, "1")), "benign_0002", r"_mask\.png marks more than half of the border of the image"),
        (put(MASK_2, encode(np.ones_like(MASK), "L")), "benign_0002", r"\(2\)_mask\.png marks the whole image"),
        (put(MASK_2, encode(np.ones_like(MASK), "L of 1")), "benign_0002", "marks the whole image"),
        (put(MASK_2, Image.new("RGBA", (9, 6), (90, 90, 90, 0))), "benign_0002", "marks the whole image"),
        (put("normal/normal (1)_mask.png", Image.new("L", (9, 6), 255)), "normal_0001", "marks the whole image"),
        (
            put(MASK_2, Image.fromarray(MASK.astype(np.uint16) * 999)),
            "benign_0002",
            r"_mask\.png has pixels of mode I;16",
        ),
    ],
)
def test_one_bad_pair_is_left_out_and_named(
    tmp_path: Path, damage, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source(tmp_path)
    damage(source)
    folder = convert_busi(tmp_path / "raw", source, 7, parameters=BusiParameters(include_normal=True))
    ((left, reason),) = record(folder)["left_out"].items()
    assert left == name and re.search(message, reason) and str(tmp_path) not in reason
    assert capsys.readouterr().out == f"left out: {left}: {reason}\n"
    labels = read_all(folder, "labels")
    assert len(labels) == 20 - ("/" not in name) and f"{name}.png" not in labels
    for label_name, label in labels.items():
        np.testing.assert_array_equal(label, MASK * (not label_name.startswith("normal")))
    convert_busi(tmp_path / "raw", source, 7, parameters=BusiParameters(include_normal=True))
    assert capsys.readouterr().out == f"left out: {left}: {reason}\n", "the same command says it again"
    with pytest.raises(UserError):
        convert_busi(tmp_path / "raw", source, 7, parameters=BusiParameters(include_normal=True), strict=True)


def test_nothing_to_convert(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2, 1)
    for mask in source.glob("*/*_mask.png"):
        Image.new("L", (9, 6), 255).save(mask)
    with pytest.raises(
        UserError, match=r"no training cases .*: all are left out, as .*_mask\.png marks the whole image"
    ):
        convert_busi(tmp_path / "raw", source, 7)
    assert not list((tmp_path / "raw").glob("*"))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (circle(64, 12), ""),
        (circle(64, 31) * 255, ""),  # touches all four sides
        (255 - circle(64, 12) * 255, "inverted"),
        (np.pad(255 - circle(64, 12) * 255, 2), "inverted"),  # within the black frame of the image
        (np.full((64, 64), 128), "the whole image"),
        (np.zeros((64, 64)), ""),
        (gaussian_filter(circle(64, 12) * 255.0, 1.5), ""),  # soft edge of a resized copy
        (gaussian_filter(circle(64, 12) * 255.0, 8), "grey areas"),  # a blur that has no edge
        (circle(64, 6, -15) + 2 * circle(64, 6, 15), "grey areas"),  # a value for each lesion: half would be lost
        (40 * circle(64, 6, -15) + 255 * circle(64, 6, 15), "grey areas"),
    ],
)
def test_what_a_mask_may_not_be(values: np.ndarray, fault: str) -> None:
    found = mask_fault(values.astype(np.uint8))
    assert (fault in found) if fault else not found


def test_an_image_in_place_of_its_mask() -> None:
    from skimage.data import camera

    assert "grey areas" in mask_fault(camera()[::4, ::4])


def test_a_mask_from_a_jpeg(tmp_path: Path) -> None:
    Image.fromarray(circle(64, 12) * 255).save(tmp_path / "mask.jpg", quality=60)
    values = np.asarray(Image.open(tmp_path / "mask.jpg"))
    assert len(np.unique(values)) > 20 and not mask_fault(values)
    assert (read_mask(tmp_path / "mask.jpg") != circle(64, 12)).mean() < 0.01


def test_the_first_cases_are_of_every_class(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    (source / "benign" / "benign (10)_mask.png").unlink()  # not among the first: not looked at
    for cases, expected in (
        (1, {"benign": 1}),
        (5, {"benign": 3, "malignant": 2}),
        (13, {"benign": 8, "malignant": 5}),
    ):
        parameters = BusiParameters(cases=cases, test_share=0)
        folder = convert_busi(tmp_path / f"raw{cases}", source, 7, parameters=parameters)
        assert names(folder, "Tr") == [f"{k}_{n:04d}" for k, count in expected.items() for n in range(1, count + 1)]
        assert record(folder)["parameters"]["cases"] == cases and "left_out" not in record(folder)


def test_an_incomplete_case_is_not_among_the_first(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    remove_mask(source)
    folder = convert_busi(tmp_path / "raw", source, 7, parameters=BusiParameters(cases=4, test_share=0))
    assert names(folder, "Tr") == ["benign_0001", "benign_0003", "malignant_0001", "malignant_0002"]
    assert list(record(folder)["left_out"]) == ["benign_0002"]


def test_a_folder_within_a_folder(tmp_path: Path) -> None:
    source = make_source(tmp_path / "archive" / "Dataset_BUSI_with_GT")
    (tmp_path / "archive" / "__MACOSX" / "benign").mkdir(parents=True)
    folder = convert_busi(tmp_path / "raw", tmp_path / "archive", 7, strict=True)
    assert len(read_all(folder, "labels")) == 15
    assert contents(convert_busi(tmp_path / "raw2", source, 7)) == contents(folder)


def test_no_such_folder_and_bad_share(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found: no such folder"):
        convert_busi(tmp_path / "raw", tmp_path / "nowhere", 7)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="test_share must be in"):
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


def test_command_with_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    source = make_source(tmp_path)
    truncated_image(source)
    command = ["convert", "busi", str(source), "--id", "7"]
    assert main([*command, "--strict"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read ") and not list((tmp_path / "nnUNet_raw").iterdir())
    for _ in range(2):  # the second finds the dataset there
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out.endswith("next: nnUNetv2_plan_and_preprocess -d 7 --verify_dataset_integrity\n")
        first, last = err.splitlines()
        assert first.startswith("left out: benign_0005: cannot read benign/benign (5).png as an image (")
        assert last.startswith("WARNING: 1 left out, see 'left_out' in ") and last.endswith("BUSI/dataset.json")
    assert main([*command, "--strict"]) == 2
    assert len(list((tmp_path / "nnUNet_preprocessed").glob("*/splits_final.json"))) == 1


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
