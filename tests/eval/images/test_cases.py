"""Labels on their images' grids, channels, label values, and what a folder holds: each fault named, its right value."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.common.digest import digest_of_case, digest_of_images
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.cases import CaseFiles, LoadedCase, cases_of_folders, drawn_by_experts, load_case
from nnunet_robust.eval.images.grids import Grid
from nnunet_robust.eval.images.image_files import ImageFiles, OtherChannelsError, find_images, load_image, read_image

SHAPE, SPACING = (6, 20, 30), (1.0, 1.5, 3.0)  # z, y, x, and x, y, z
LABELS = {0: "background", 1: "organ", 2: "ignore"}
READERS = (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient)


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def drawn() -> np.ndarray:
    label = np.zeros(SHAPE, np.float32)
    label[2:4, 5:12, 8:20] = 1
    return label


def write(
    path: Path,
    array: np.ndarray,
    origin: tuple[float, ...] = (10.0, -20.0, 30.0),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    spacing: tuple[float, ...] = SPACING,
) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def case(folder: Path, label: np.ndarray | None = None, **geometry: Any) -> CaseFiles:
    image = write(folder / "imagesTs" / "c_0000.nii.gz", volume())
    of_label = write(folder / "labelsTs" / "c.nii.gz", drawn() if label is None else label, **geometry)
    return CaseFiles("c", "c", (image,), of_label)


def load(files: CaseFiles, reader: type[BaseReaderWriter] = SimpleITKIO, channels: int = 1) -> LoadedCase:
    return load_case(files, reader(), channels, LABELS)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("geometry", "says"),
    [
        ({"origin": (100.0, -20.0, 30.0)}, "up to 90 voxels apart"),
        ({"origin": (10.0, -20.0, 32.0)}, "up to 0.6667 voxels apart"),
        ({"spacing": (1.0, 1.5, 3.1)}, "other spacings"),
    ],
)
def test_a_label_on_another_grid_is_refused(
    reader: type[BaseReaderWriter], geometry: dict, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        load(case(tmp_path, **geometry), reader)
    text = str(caught.value)
    assert (
        text.startswith("case 'c': the image has (6, 20, 30) voxels of (3, 1.5, 1) mm, origin (") and "\n" not in text
    )
    assert f"its label c.nii.gz (6, 20, 30) voxels of ({geometry.get('spacing', SPACING)[2]:g}, 1.5, 1) mm" in text
    assert f"{says}: they must be on one grid" in text and text.count("direction (") == 2


def test_a_flipped_direction(tmp_path: Path) -> None:
    # The same box of the body, its columns stored the other way round.
    flipped = {"origin": (10.0 + 29, -20.0, 30.0), "direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}
    files = case(tmp_path, drawn()[:, :, ::-1], **flipped)
    for reader in (SimpleITKIO, NibabelIO):
        with pytest.raises(UserError, match=r"up to 29 voxels apart.*one grid"):
            load(files, reader)
    # Readers that turn every image to one orientation put it where it belongs.
    loaded = load(files, SimpleITKIOWithReorient)
    as_drawn = load(case(tmp_path / "straight"), SimpleITKIOWithReorient)
    assert loaded.notes == () and np.array_equal(loaded.label, as_drawn.label) and loaded.label.any()


@pytest.mark.parametrize("reader", READERS)
def test_less_than_half_a_voxel_is_noted(reader: type[BaseReaderWriter], tmp_path: Path) -> None:
    loaded = load(case(tmp_path / "off", origin=(10.4, -20.0, 30.0)), reader)
    assert loaded.notes == ("the image and its label c.nii.gz are up to 0.4 voxels apart, and taken as one grid",)
    assert np.array_equal(loaded.label, load(case(tmp_path / "same"), reader).label) and loaded.label.any()
    # What a header is rounded by is nothing: nnU-Net says nothing of it either.
    assert load(case(tmp_path / "rounded", origin=(10.0001, -20.0, 30.0)), reader).notes == ()
    assert load(case(tmp_path / "same"), reader).notes == ()


def test_a_rotation_moves_the_corners_most(tmp_path: Path) -> None:
    # About the first voxel: the last column, 29 mm away, moves by 29 sin(angle) mm, a voxel of 1.5 mm there.
    for angle in (0.01, 0.05):
        c, s = np.cos(angle), np.sin(angle)
        files = case(tmp_path / str(angle), direction=(c, -s, 0, s, c, 0, 0, 0, 1))
        grids = [Grid.of(SHAPE, SimpleITKIO().read_images([str(path)])[1]) for path in files.files]
        # 29 columns of 1 mm and 19 rows of 1.5 mm; in voxels of 1 mm along x, of 1.5 mm along y.
        apart = max(29 * (1 - c) + 28.5 * s, (29 * s + 28.5 * (1 - c)) / 1.5)
        assert grids[0].voxels_apart(grids[1]) == pytest.approx(apart)
        if apart < 0.5:
            assert load(files).notes
        else:
            with pytest.raises(UserError, match="voxels apart"):
                load(files)


def test_formats_without_a_geometry(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    for name, array in (("c_0000.png", pixels), ("c.png", pixels > 100)):
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / name)
    files = CaseFiles("c", "c", (tmp_path / "c_0000.png",), tmp_path / "c.png")
    assert load(files, NaturalImage2DIO).notes == ()
    Image.fromarray((pixels > 100)[:, :29].astype(np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(UserError) as caught:
        load(files, NaturalImage2DIO)
    assert str(caught.value) == (
        "case 'c': the image has (20, 30) pixels and its label c.png (20, 29) pixels, other sizes: they must be on one "
        "grid"
    )
    Image.fromarray(np.stack([(pixels > 100).astype(np.uint8)] * 3, -1)).save(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"the label c.png has 3 channels: it must have one"):
        load(files, NaturalImage2DIO)


def test_spacings_of_tiff_files(tmp_path: Path) -> None:
    import tifffile

    for name, array in (("c_0000.tif", volume()), ("c.tif", drawn())):
        folder = tmp_path / ("labels" if name == "c.tif" else "images")
        folder.mkdir()
        tifffile.imwrite(folder / name, array)
    (tmp_path / "images" / "c.json").write_text(json.dumps({"spacing": [3, 1, 1]}))
    (files,) = cases_of_folders(tmp_path / "images", tmp_path / "labels", ".tif", 1)
    with pytest.raises(UserError, match=r"\(3, 1, 1\) mm and its label c.tif .* \(1, 1, 1\) mm, other spacings"):
        load(files, Tiff3DIO)
    (tmp_path / "labels" / "c.json").write_text(json.dumps({"spacing": [3, 1, 1]}))
    assert load(files, Tiff3DIO).spacing_mm == (3, 1, 1)


def test_experts_labels_lie_on_the_image_too(tmp_path: Path) -> None:
    first = case(tmp_path)
    write(tmp_path / "second" / "c.nii.gz", drawn(), origin=(100.0, -20.0, 30.0))
    (both,) = drawn_by_experts([first], [first.label.parent, tmp_path / "second"], "majority")
    with pytest.raises(UserError, match=r"its label c.nii.gz .*up to 90 voxels apart"):
        load(both)


@pytest.mark.parametrize("reader", READERS)
def test_channels_lie_on_one_grid(reader: type[BaseReaderWriter], tmp_path: Path) -> None:
    first = write(tmp_path / "c_0000.nii.gz", volume(0))

    def with_second(**geometry: Any) -> ImageFiles:
        return ImageFiles("c", "c", (first, write(tmp_path / "c_0001.nii.gz", volume(1), **geometry)))

    files = with_second()
    loaded = load_image(files, reader(), 2)
    image, properties = reader().read_images([str(path) for path in files.images])  # nnU-Net's own way
    assert np.array_equal(loaded.image, image) and loaded.image.dtype == image.dtype and loaded.notes == ()
    assert loaded.properties["spacing"] == properties["spacing"]
    assert load_image(with_second(origin=(10.4, -20.0, 30.0)), reader(), 2).notes == (
        "c_0000.nii.gz and c_0001.nii.gz are up to 0.4 voxels apart, and taken as one grid",
    )
    for geometry, says in (({"origin": (100.0, -20, 30)}, "90 voxels"), ({"spacing": (1, 1.5, 2)}, "other spacings")):
        with pytest.raises(UserError, match=rf"image 'c' cannot be read: c_0000.* and c_0001.*{says}.*one grid"):
            read_image(with_second(**geometry), reader())


def test_a_sheared_image_is_named(tmp_path: Path) -> None:
    files = case(tmp_path)
    shear(files.images[0])
    with pytest.raises(UserError, match=r"case 'c' cannot be read: .*orthonormal"):
        load(files)
    with pytest.raises(UserError, match="other spacings: they must be on one grid"):  # nibabel reads it
        load(files, NibabelIO)


def shear(path: Path) -> None:
    image: Any = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 1] += 0.4
    sheared = nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine)
    sheared.set_sform(affine, 1)
    sheared.header["qform_code"] = 0
    nibabel.save(sheared, path)


# --- channels


def colours(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (20, 30, 3)).astype(np.uint8)


def test_a_file_may_hold_several_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    Image.fromarray(colours()).save(images / "rgb_0000.png")
    for channel in range(3):
        Image.fromarray(colours()[..., channel]).save(images / f"split_000{channel}.png")
    for name in ("rgb", "split"):
        Image.fromarray(np.ones((20, 30), np.uint8)).save(labels / f"{name}.png")
    found = cases_of_folders(images, labels, ".png", 3)
    assert [(files.name, len(files.images)) for files in found] == [("rgb", 1), ("split", 3)]
    rgb, split = (load(files, NaturalImage2DIO, 3) for files in found)
    assert np.array_equal(rgb.image, split.image) and rgb.image.shape == (3, 1, 20, 30)
    assert [files.images for files in find_images(images, ".png", 3)] == [files.images for files in found]
    assert capsys.readouterr().err == ""
    # The digest has a part for each channel, and then the label's: the images' part is told without the files.
    for files in found:
        digest = digest_of_case(files.images, 3, files.labels)
        assert len(digest.split("-")) == 4
        assert digest_of_images(digest, 3) == digest_of_case(files.images, 3)


def test_consecutive_images_are_no_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number in (1, 2, 3):
        Image.fromarray(colours(number)[..., 0]).save(images / f"scan_000{number}.png")
    for channels in (1, 3):  # with labels nnU-Net's naming is needed
        with pytest.raises(UserError, match=r"no images named <case>_0000.png"):
            cases_of_folders(images, labels, ".png", channels)
    # New images may be named otherwise: each is one.
    assert [files.name for files in find_images(images, ".png", 1)] == ["scan_0001", "scan_0002", "scan_0003"]
    for files in find_images(images, ".png", 3):
        with pytest.raises(OtherChannelsError, match="1 channels, but the model takes 3"):
            load_image(files, NaturalImage2DIO(), 3)
    assert capsys.readouterr().err == ""
    Image.fromarray(colours()[..., 0]).save(images / "scan_0000.png")
    (images / "notes.txt").write_text("by hand")
    for look in (
        lambda: find_images(images, ".png", 1),
        lambda: cases_of_folders(images, labels, ".png", 1, complete=False),
    ):
        found = look()
        assert [(files.name, [path.name for path in files.images]) for files in found] == [("scan", ["scan_0000.png"])]
        assert capsys.readouterr().err == (
            "warning: not looked at, as they are no images <case>_0000.png: notes.txt, scan_0001.png, scan_0002.png, "
            "scan_0003.png\n"
        )
    (scan,) = find_images(images, ".png", 3)
    assert load_image(scan, NaturalImage2DIO(), 3).image.shape[0] == 3
    assert "no images <case>_0000.png to _0002.png: notes.txt, scan_0003.png" in capsys.readouterr().err


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    files = case(tmp_path)
    (found,) = cases_of_folders(tmp_path / "imagesTs", tmp_path / "labelsTs", ".nii.gz", 3)
    with pytest.raises(
        OtherChannelsError,
        match=r"case 'c': 1 channels, but the model takes 3 \(c_0000.nii.gz; no c_0001.nii.gz, no c_0002.nii.gz\)",
    ):
        load(found, channels=3)
    write(files.images[0].with_name("d_0001.nii.gz"), volume())
    *_, last = find_images(tmp_path / "imagesTs", ".nii.gz", 2)
    with pytest.raises(OtherChannelsError, match=r"image 'd': 1 channels.*\(d_0001.nii.gz; no d_0000.nii.gz\)"):
        load_image(last, SimpleITKIO(), 2)


# --- label values


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("value", [0.9999999, 1.0000001, 0.9992, 1.0009])
def test_values_off_by_rounding_are_taken(reader: type[BaseReaderWriter], value: float, tmp_path: Path) -> None:
    loaded = load(case(tmp_path / "off", drawn() * np.float32(value)), reader)
    exact = load(case(tmp_path / "exact"), reader)
    assert loaded.label.dtype == np.int32 and np.array_equal(loaded.label, exact.label) and loaded.label.any()


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9989, "0.9989"), (1.0025, "1.0025"), (7, "7"), (np.nan, "nan"), (-1, "-1"), (0.5, "0.5")]
)
def test_other_values_are_shown_with_all_their_digits(value: float, shown: str, tmp_path: Path) -> None:
    label = drawn()
    label[0, 0, 0] = value
    with pytest.raises(UserError) as caught:
        load(case(tmp_path, label), NibabelIO)  # that of ITK takes NaN for 0: see `check_stored`
    assert str(caught.value) == (
        f"case 'c': label value {shown} in c.nii.gz is not in dataset.json, which knows 0 (background), 1 (organ), "
        "2 (ignore)"
    )


def test_a_case_that_is_all_ignored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="case 'c': every voxel of its label is to be ignored"):
        load(case(tmp_path / "all", np.full(SHAPE, 2, np.float32)))
    label = np.full(SHAPE, 2, np.float32)
    label[0, 0, 0] = 0
    assert (load(case(tmp_path / "but one", label)).label == 2).sum() == label.size - 1


# --- a command on a dataset with such cases


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dataset 951: `good`, and cases of the same image whose labels are off."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    raw = tmp_path / "nnUNet_raw" / "Dataset951_Off"
    rng = np.random.default_rng(0)
    label = np.zeros((4, 64, 64), np.float32)
    label[:, 16:48, 16:48] = 1
    image = np.where(label > 0, rng.normal(100, 20, label.shape), 100 + 40 * (np.indices(label.shape)[2] // 4 % 2))
    spoil: dict[str, Callable[[Path], None]] = {
        "a_sheared": shear,
        "b_good": lambda _: None,
        "c_moved": lambda _: None,
        "d_other": lambda _: None,
        "e_good": lambda _: None,
    }
    for name, change in spoil.items():
        change(write(raw / "imagesTr" / f"{name}_0000.nii.gz", image.astype(np.float32)))
        moved = {"origin": (100.0, -20.0, 30.0)} if name == "c_moved" else {}
        write(raw / "labelsTr" / f"{name}.nii.gz", label * (7 if name == "d_other" else 1), **moved)
    meta = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**meta, "numTraining": len(spoil)}))
    return raw


def test_complexity_goes_on_after_bad_cases(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complexity", "-d", "951", "-o", str(tmp_path / "x.csv")]) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3 and "Traceback" not in "".join(failed)
    for line, (name, words) in zip(
        failed,
        {"a_sheared": "orthonormal", "c_moved": "90 voxels apart", "d_other": "label value 7"}.items(),
        strict=True,
    ):
        assert name in line and words in line
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "organ"]
    assert [row["case"] for row in rows] == ["b_good", "e_good"]
    assert float(rows[0]["texture_divergence_bits"]) > 0.1 and float(rows[0]["foreground_ratio"]) == 0.25

    for path in (dataset / "labelsTr").iterdir():
        if "good" not in path.name:
            path.unlink()
    assert main(["complexity", "-d", "951", "-o", str(tmp_path / "x.csv")]) == 1
    assert capsys.readouterr().err.count("label file") == 3
    for path in (dataset / "labelsTr").iterdir():
        path.unlink()
    before = (tmp_path / "x.csv").read_bytes()
    assert main(["complexity", "-d", "951", "-o", str(tmp_path / "x.csv")]) == 2
    assert "none of 5 cases can be measured" in capsys.readouterr().err
    assert (tmp_path / "x.csv").read_bytes() == before
