from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.left_out import LeftOut
from nnunet_robust.dataset_conversion.writer import Case, write_dataset
from tests.common.power_cut import Recorder

HEADER: dict[str, Any] = {
    "channel_names": {0: "grey"},
    "labels": {"background": 0, "foreground": 1},
    "file_ending": ".png",
    "provenance": {"source": "a test", "parameters": {"alpha": 0.1, "size": (8, 6)}},
}


def case(name: str, shape: tuple[int, ...] = (8, 6), channels: int = 1, dtype: str = "uint8", **changes: Any) -> Case:
    values = np.arange(np.prod(shape)).reshape(shape)
    images = [(values + 50 * channel).astype(dtype) for channel in range(channels)]
    given = {"images": images, "label": (values % 5 == 0).astype(np.uint8), **changes}
    return Case(name, **given)


def write(folder: Path, *training: Case, testing: tuple[Case, ...] = (), **changes: Any) -> Path:
    return write_dataset(folder, 7, "Toy", training or (case("a"), case("b")), testing, **{**HEADER, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_layout_and_dataset_json(tmp_path: Path) -> None:
    folder = write(tmp_path / "not" / "there", case("a"), case("b"), testing=(case("c"),))
    assert folder == tmp_path / "not" / "there" / "Dataset007_Toy"
    assert list(contents(folder)) == [
        "dataset.json",
        "imagesTr/a_0000.png",
        "imagesTr/b_0000.png",
        "imagesTs/c_0000.png",
        "labelsTr/a.png",
        "labelsTr/b.png",
        "labelsTs/c.png",
    ]
    from nnunet_robust import __version__

    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "foreground": 1},
        "numTraining": 2,
        "file_ending": ".png",
        "nnunet_robust": {
            "version": __version__,
            "source": "a test",
            "parameters": {"alpha": 0.1, "size": [8, 6]},
        },
    }


def test_no_test_folders_without_test_cases(tmp_path: Path) -> None:
    assert sorted(path.name for path in write(tmp_path).iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_patients_are_recorded_where_the_source_names_any(tmp_path: Path) -> None:
    folder = write(tmp_path, case("a", patient="p"), case("b", patient="p"), testing=(case("c"),))
    record = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]
    assert record["patients"] == {"a": "p", "b": "p", "c": "c"}
    assert write(tmp_path) == folder, "the mapping is a result, not a parameter"
    one_case_each = write(tmp_path / "one", case("a", patient="a"), case("b", patient="b"))
    assert json.loads((one_case_each / "dataset.json").read_text())["nnunet_robust"]["patients"] == {"a": "a", "b": "b"}
    assert not (one_case_each / "splits_final.json").exists()


def test_png_channels_read_back_by_nnunet(tmp_path: Path) -> None:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    given = case("a", channels=2)
    folder = write(tmp_path, given, channel_names={1: "blue", 0: "red"})
    images, _ = NaturalImage2DIO().read_images([str(folder / "imagesTr" / f"a_000{i}.png") for i in range(2)])
    assert np.array_equal(images, np.stack(given.images)[:, None])
    assert np.array_equal(NaturalImage2DIO().read_seg(str(folder / "labelsTr" / "a.png"))[0], given.label[None, None])
    channel_names = json.loads((folder / "dataset.json").read_text())["channel_names"]
    assert list(channel_names.items()) == [("0", "red"), ("1", "blue")]


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "read_spacing"),
    [
        ((4, 5, 6), (3.0, 1.5, 0.5), [3.0, 1.5, 0.5]),
        ((4, 5, 6), None, [1, 1, 1]),
        ((5, 6), (1.5, 0.5), [1.5 * 999, 1.5, 0.5]),
    ],
)
def test_nifti_read_back_by_nnunet(
    tmp_path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None, read_spacing: list[float]
) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    given = case("a", shape, channels=2, dtype="float32", spacing_mm=spacing_mm)
    folder = write(tmp_path, given, channel_names={0: "T1", 1: "T2"}, file_ending=".nii.gz")
    files = [str(folder / "imagesTr" / f"a_000{i}.nii.gz") for i in range(2)]
    images, properties = SimpleITKIO().read_images(files)
    assert np.allclose(properties["spacing"], read_spacing)
    assert np.array_equal(images.reshape(2, *shape), np.stack(given.images))
    label, properties = SimpleITKIO().read_seg(str(folder / "labelsTr" / "a.nii.gz"))
    assert np.allclose(properties["spacing"], read_spacing)
    assert np.array_equal(label.reshape(shape), given.label)


@pytest.mark.parametrize("ndim", [2, 3])
def test_geometry_read_back(tmp_path: Path, ndim: int) -> None:
    import nibabel
    import SimpleITK as sitk

    angle = 0.3
    turn = np.eye(ndim)
    turn[:2, :2] = [[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]]  # oblique, and mirrored
    spacing, origin = (3.0, 1.5, 0.5)[-ndim:], (-12.5, 40.25, 7.0)[:ndim]
    given = case("a", (4, 5, 6)[-ndim:], spacing_mm=spacing, origin_mm=origin, direction=tuple(turn.ravel()))
    folder = write(tmp_path, given, file_ending=".nii.gz")
    for file in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        read = sitk.ReadImage(str(folder / file))
        assert np.allclose(read.GetSpacing(), spacing[::-1])
        assert np.allclose(read.GetOrigin(), origin) and np.allclose(read.GetDirection(), turn.ravel(), atol=1e-6)
        affine = nibabel.load(folder / file).affine  # points to right and front where ITK points to left and back
        assert np.allclose(affine[:2, 3], [12.5, -40.25])
        assert np.allclose(affine[:ndim, 0][:2], -turn[:2, 0] * 0.5) and np.allclose(affine[:2, 1], -turn[:2, 1] * 1.5)


@pytest.mark.parametrize("file_ending", [".png", ".nii.gz"])
def test_views_and_label_types_are_written_by_value(tmp_path: Path, file_ending: str) -> None:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    wide = case("a", (8, 12))
    view = Case("a", [wide.images[0][::-1, ::2]], wide.label[::-1, ::2].astype(np.float64))
    boolean = Case("b", [wide.images[0]], wide.label.astype(bool))
    folder = write(tmp_path, view, boolean, file_ending=file_ending)
    reader = {".png": NaturalImage2DIO, ".nii.gz": SimpleITKIO}[file_ending]()
    image, _ = reader.read_images([str(folder / "imagesTr" / f"a_0000{file_ending}")])
    assert np.array_equal(image[0, 0], view.images[0])
    for given in (view, boolean):
        label, _ = reader.read_seg(str(folder / "labelsTr" / f"{given.name}{file_ending}"))
        assert np.array_equal(label[0, 0], given.label)


@pytest.mark.parametrize("file_ending", [".png", ".nii.gz"])
def test_same_call_same_bytes(tmp_path: Path, file_ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    first = contents(write(tmp_path / "1", file_ending=file_ending))
    monkeypatch.setattr(time, "time", lambda: 2e9)  # what Python's gzip would stamp into the file
    second = contents(write(tmp_path / "2", file_ending=file_ending))
    assert first == second
    for name, data in first.items():
        if name.endswith(".gz"):
            assert data[4:8] == bytes(4), f"{name}: gzip's time stamp is set"


class Broken(Exception):
    pass


def broken() -> Iterator[Case]:
    yield case("a")
    raise Broken


@pytest.mark.parametrize("part", ["training", "testing"])
def test_nothing_is_left_when_the_cases_fail_midway(tmp_path: Path, part: str) -> None:
    parts: dict[str, Any] = {"training": [case("x")], "testing": [case("y")], part: broken()}
    with pytest.raises(Broken):
        write_dataset(tmp_path, 7, "Toy", **parts, **HEADER)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path)


def test_nothing_is_left_by_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Case]:
        yield case("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, 7, "Toy", interrupted(), [], **HEADER)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_leaves_is_unseen_and_cleaned_up(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    script = """
import os, sys, numpy as np
from pathlib import Path
from nnunet_robust.dataset_conversion.writer import Case, write_dataset
def cases():
    yield Case("a", [np.zeros((8, 6), np.uint8)], np.zeros((8, 6), np.uint8))
    os._exit(9)
write_dataset(Path(sys.argv[1]), 7, "Toy", cases(), [], channel_names={0: "grey"}, labels={"background": 0},
              file_ending=".png", provenance={})
"""
    root = str(Path(__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env={**os.environ, "PYTHONPATH": root})
    assert killed.returncode == 9
    (stale,) = tmp_path.iterdir()
    assert not stale.name.startswith("Dataset") and (stale / "imagesTr" / "a_0000.png").is_file()
    other = tmp_path / ".partial_Dataset008_1234"
    other.mkdir()
    folder = write(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([folder, other]), "another id's unfinished dataset is not ours"


def test_writing_again_leaves_the_dataset_and_reads_no_case(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "mark").touch()
    again = write_dataset(tmp_path, 7, "Toy", broken(), broken(), **HEADER)
    assert again == folder and (folder / "mark").exists()


def test_another_dataset_under_the_id_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    before = contents(tmp_path)
    changed = {"source": "a test", "parameters": {"alpha": 0.8, "size": [8, 6]}}
    with pytest.raises(UserError, match=r"Dataset007_Toy.*parameters.alpha \(there 0.1, wanted 0.8\): choose another"):
        write(tmp_path, provenance=changed)
    with pytest.raises(UserError, match=r"id 007 is taken by .*Dataset007_Toy: choose another id"):
        write_dataset(tmp_path, 7, "Other", [case("a")], [], **HEADER)
    monkeypatch.setattr("nnunet_robust.__version__", "99")
    with pytest.raises(UserError, match=r"version .*wanted 99"):
        write(tmp_path)
    assert contents(tmp_path) == before and folder.is_dir()


@pytest.mark.parametrize("dataset_json", [None, "{}", "[]", "not json"])
def test_a_foreign_dataset_is_refused(tmp_path: Path, dataset_json: str | None) -> None:
    foreign = tmp_path / "Dataset007_Toy"
    foreign.mkdir()
    if dataset_json is not None:
        (foreign / "dataset.json").write_text(dataset_json)
    with pytest.raises(UserError, match="was not written by nnunet-robust"):
        write(tmp_path)


def test_other_ids_and_plain_files_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "Dataset070_Toy").mkdir()
    (tmp_path / "Dataset007_Toy.zip").touch()
    assert write(tmp_path).name == "Dataset007_Toy"


@pytest.mark.parametrize("dataset_id", [0, -1, 1000])
def test_ids_out_of_range(tmp_path: Path, dataset_id: int) -> None:
    with pytest.raises(UserError, match=rf"1\.\.999, got {dataset_id}"):
        write_dataset(tmp_path, dataset_id, "Toy", [case("a")], [], **HEADER)


@pytest.mark.parametrize("name", ["", "with space", "a-b", "../up", "_hidden", "Ünal"])
def test_invalid_dataset_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="letters, digits and underscores"):
        write_dataset(tmp_path, 7, name, [case("a")], [], **HEADER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_ending": ".jpg"}, r"one of \.png, \.nii\.gz, got '\.jpg'"),
        ({"channel_names": {}}, "channels must be numbered"),
        ({"channel_names": {1: "grey"}}, "channels must be numbered"),
        ({"labels": {"tumour": 0}}, "'background' as 0"),
        ({"labels": {"background": 0, "tumour": 2}}, "consecutive"),
        ({"channel_names": {0: "a", 1: "b"}}, "case a has 1 channels, the dataset 2"),
        ({"labels": {"background": 0, "tumour": 1, "core": 1}}, "consecutive"),
        ({"labels": {"background": 0, "whole": [1, 3], "core": 3}, "regions_class_order": [1, 3]}, "consecutive"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, r"a label for each region .* got \[\]"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]}, r"got \[1\]"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 3]}, r"got \[1, 3\]"),
        ({"labels": {"background": 0, "tumour": 1}, "regions_class_order": [1]}, "needs a region"),
        ({"labels": {"background": 0, "ignore": 1, "tumour": 2}}, "'ignore' must have the highest value, and alone"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "ignore": 2}, "regions_class_order": [1]},
            "'ignore' must have the highest value, and alone",
        ),
    ],
)
def test_invalid_headers(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (case("x y"), "case names must consist"),
        (case("../x"), "case names must consist"),
        (case("good"), "two cases are named 'good'"),
        (case("x", label=np.zeros((8, 7), np.uint8)), r"the image is \(8, 6\), its label \(8, 7\)"),
        (case("x", (2, 8, 6)), r"\.png holds 2d images"),
        (case("x", (0, 6)), "not empty"),
        (case("x", dtype="uint16"), "takes uint8, got uint16"),
        (case("x", label=np.full((8, 6), 2, np.uint8)), "label value 2 is not among the declared"),
        (case("x", label=np.full((8, 6), 0.5)), "label value 0.5 is not"),
        (case("x", label=np.full((8, 6), np.nan)), "label value nan is not"),
        (case("x", spacing_mm=(1, 1)), "cannot store the case's spacing"),
        (case("x", origin_mm=(1, 1)), "cannot store the case's origin"),
        (case("x", direction=(1, 0, 0, 1)), "cannot store the case's direction"),
    ],
)
@pytest.mark.parametrize("in_test_part", [False, True])
def test_bad_cases(tmp_path: Path, bad: Case, message: str, in_test_part: bool) -> None:
    with pytest.raises(UserError, match=message) as caught:
        if in_test_part:
            write(tmp_path, case("good"), testing=(bad,))
        else:
            write(tmp_path, case("good"), bad)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (case("x", dtype="float16"), "got float16"),
        (case("x", images=[np.full((8, 6), np.nan, np.float32)]), "channel 0: the image holds NaN or infinity"),
        (case("x", images=[np.full((8, 6), np.inf, np.float32)]), "NaN or infinity"),
        (case("x", spacing_mm=(1.0,)), "spacing takes 2 finite numbers in 2d"),
        (case("x", spacing_mm=(1.0, 0.0)), r"positive .* got \(1.0, 0.0\)"),
        (case("x", spacing_mm=(1.0, float("nan"))), "finite"),
        (case("x", origin_mm=(1.0, 0.0, 3.0)), "origin takes 2 finite numbers in 2d"),
        (case("x", origin_mm=(1.0, float("inf"))), "origin takes 2 finite"),
        (case("x", direction=(1.0, 0.0)), "direction takes 4 finite numbers in 2d"),
        (case("x", direction=(1.0, 1.0, 1.0, 1.0)), "not independent"),
    ],
)
def test_bad_nifti_cases(tmp_path: Path, bad: Case, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path, bad, file_ending=".nii.gz")


@pytest.mark.parametrize("file_ending", [".png", ".nii.gz"])
def test_label_values_are_rounded_and_not_cut_off(tmp_path: Path, file_ending: str) -> None:
    from nnunet_robust.dataset_conversion.summary import summarise

    label = np.where(case("a").label == 1, 0.9999999, 0.0004)
    folder = write(tmp_path, case("a", label=label), file_ending=file_ending)
    assert summarise(folder, "Tr").voxels == {"background": 48 - 10, "foreground": 10}
    with pytest.raises(UserError, match=r"label value 0\.998999 is not among the declared \[0, 1\]"):
        write(tmp_path / "2", case("a", label=np.where(label > 0.5, 0.998999, 0)))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"background": 0, "tumour": 1, "ignore": 2}},
        {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]},
    ],
)
def test_ignore_is_read_by_nnunet(tmp_path: Path, changes: dict[str, Any]) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    label = np.zeros((8, 6), np.uint8)
    label[:2], label[2:4] = changes["labels"]["ignore"], 1
    folder = write(tmp_path, case("a", label=label), **changes)
    header = json.loads((folder / "dataset.json").read_text())
    manager = LabelManager(header["labels"], header.get("regions_class_order"))
    assert manager.ignore_label == changes["labels"]["ignore"]


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    notes: list[str] = []
    left_out = LeftOut(tmp_path, notes.append)
    bad = (case("good"), case("deep", dtype="uint16"), case("x y"), case("other", channels=2))
    folder = write(tmp_path, case("good"), *bad, testing=(case("test"), case("test")), left_out=left_out)
    assert sorted(path.name for path in folder.glob("labels*/*")) == ["good.png", "test.png"]
    assert len(list(folder.glob("images*/*"))) == 2
    record = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]
    assert list(record["left_out"]) == ["deep", "good", "other", "test", "x y"] and len(notes) == 5
    assert record["left_out"]["good"] == "two cases are named 'good': give each a name of its own"
    again = LeftOut(tmp_path, notes.append)
    assert write(tmp_path, left_out=again) == folder and again.reasons == record["left_out"] and len(notes) == 10
    with pytest.raises(UserError, match="takes uint8"):
        write(tmp_path, left_out=LeftOut(tmp_path, notes.append, strict=True))


def test_no_training_cases(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training cases"):
        write_dataset(tmp_path, 7, "Toy", [], [case("a")], **HEADER)
    assert list(tmp_path.iterdir()) == []


def test_a_raw_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file.*set nnUNet_raw"):
        write(tmp_path / "file")


def test_a_power_cut_leaves_the_whole_dataset_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "not" / "there"
    with monkeypatch.context() as watched:
        recorder = Recorder.watch(tmp_path, watched)
        folder = write(raw, case("a"))
        recorder.look()
    whole = {f"not/there/{folder.name}/{name}": content for name, content in contents(folder).items()}
    renamed = max(at for at, step in enumerate(recorder.steps) if step.name == "rename")
    for done in range(renamed, len(recorder.steps) + 1):
        for left in recorder.leftovers(done):
            found = {name: content for name, content in left.items() if folder.name in name}
            assert found in ({}, whole)
            assert found or done < len(recorder.steps)
