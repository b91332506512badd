from __future__ import annotations

import json
import multiprocessing.dummy
import os
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.msd import MsdParameters, convert_msd

DATA = Path(os.environ.get("NNUNET_ROBUST_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
real = pytest.mark.skipif(not (DATA / "Task04_Hippocampus").is_dir(), reason="no shared data")

AFFINE = np.diag([0.75, 0.5, 4.0, 1.0])
AFFINE[:3, 3] = [-20, 30, -7.5]
LABELS = {"0": "background", "1": "anterior", "2": "posterior"}


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine, dtype=array.dtype), path)


def arrays(number: int, dtype: str = "int16", shape: tuple[int, ...] = (7, 6, 5)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 200, shape).astype(dtype)
    label = np.zeros(shape[:3], np.uint8)
    label[1:4, 2:5, 1:4] = 1
    label[3, 3, 2:4] = 2
    return image, label


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A Decathlon task with every oddity that is known of one: data types, macOS files, unpaired files, blind tests."""
    folder = tmp_path / "Task99_Toy"
    image_types = ["int16", "float32", "uint8", "float64", "int64", "int16"]
    label_types = ["uint8", "float32", "int64", "float64", "int16", "uint8"]
    for number, (image_type, label_type) in enumerate(zip(image_types, label_types, strict=True)):
        image, label = arrays(number, image_type)
        write_nifti(folder / "imagesTr" / f"toy_{number}.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"toy_{number}.nii.gz", label.astype(label_type))
    entries = [(f"./imagesTr/toy_{i}.nii.gz", f"./labelsTr/toy_{i}.nii.gz") for i in (3, 0, 1, 2, 4, 5)]
    write_nifti(folder / "imagesTs" / "toy_90.nii.gz", arrays(90)[0])
    for stray in ("imagesTr/._toy_0.nii.gz", "labelsTr/._toy_0.nii.gz", "._dataset.json", "imagesTr/.DS_Store"):
        (folder / stray).write_bytes(b"\x00\x05\x16\x07")
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Toy task",
                "tensorImageSize": "3D",
                "modality": {"0": "CT"},
                "labels": LABELS,
                "training": [{"image": image, "label": label} for image, label in entries],
                "test": ["./imagesTs/toy_90.nii.gz"],
            }
        )
    )
    return folder


def edit(task: Path, **changes: Any) -> None:
    file = task / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def convert(task: Path, strict: bool = False, **parameters: Any) -> tuple[Path, list[str]]:
    notes: list[str] = []
    folder = convert_msd(task.parent / "raw", task, 7, None, MsdParameters(**parameters), notes.append, strict)
    return folder, notes


def names(folder: Path, part: str) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in (folder / part).glob("*"))


def test_values_and_geometry_are_kept(task: Path) -> None:
    folder, notes = convert(task)
    header = json.loads((folder / "dataset.json").read_text())
    assert folder.name == "Dataset007_Toytask"
    assert header["channel_names"] == {"0": "CT"}
    assert header["labels"] == {"background": 0, "anterior": 1, "posterior": 2}
    assert str(task) not in json.dumps(header) and len(header["nnunet_robust"]["source_sha256"]) == 64
    assert names(folder, "labelsTr") == [f"toy_{number}" for number in range(6)]
    for number, dtype in enumerate(["int16", "float32", "uint8", "float64", "int32", "int16"]):
        image, label = arrays(number)
        written = nibabel.load(folder / "imagesTr" / f"toy_{number}_0000.nii.gz")
        assert written.get_data_dtype() == dtype
        assert np.array_equal(np.asarray(written.dataobj), image) and np.allclose(written.affine, AFFINE)
        written = nibabel.load(folder / "labelsTr" / f"toy_{number}.nii.gz")
        assert written.get_data_dtype() == "uint8"
        assert np.array_equal(np.asarray(written.dataobj), label) and np.allclose(written.affine, AFFINE)
    assert notes == ["left out: 1 test images without labels (--test-share sets labelled cases aside)"]
    assert not (folder / "imagesTs").exists() and not (folder / "splits_final.json").exists()


def test_a_fourth_axis_is_channels(task: Path) -> None:
    edit(task, modality={"0": "T2", "1": "ADC"})
    for number in range(6):
        write_nifti(task / "imagesTr" / f"toy_{number}.nii.gz", arrays(number, "float32", (7, 6, 5, 2))[0])
    folder, _ = convert(task)
    image = arrays(3, "float32", (7, 6, 5, 2))[0]
    for channel in range(2):
        written = nibabel.load(folder / "imagesTr" / f"toy_3_000{channel}.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), image[..., channel]) and np.allclose(written.affine, AFFINE)
    edit(task, modality={"0": "T2"})
    with pytest.raises(UserError, match="toy_0 has 2 channels, the dataset 1"):
        convert_msd(task.parent / "raw", task, 8)
    assert not list((task.parent / "raw").glob("*008*"))


def test_unpaired_files_are_reported_and_left_out(task: Path) -> None:
    (task / "labelsTr" / "toy_0.nii.gz").unlink()
    (task / "imagesTr" / "toy_1.nii.gz").unlink()
    write_nifti(task / "imagesTr" / "extra.nii.gz", arrays(0)[0])
    write_nifti(task / "labelsTr" / "more.nii.gz", arrays(0)[1])
    folder, notes = convert(task)
    assert names(folder, "labelsTr") == ["toy_2", "toy_3", "toy_4", "toy_5"]
    lacks = {
        "toy_0": "toy_0 is in dataset.json, but there is no labelsTr/toy_0.nii.gz: get it, or take the entry out",
        "toy_1": "toy_1 is in dataset.json, but there is no imagesTr/toy_1.nii.gz: get it, or take the entry out",
    }
    assert notes[:4] == [
        *(f"left out: {name}: {reason}" for name, reason in lacks.items()),
        "left out: imagesTr/extra.nii.gz is not in dataset.json",
        "left out: labelsTr/more.nii.gz is not in dataset.json",
    ]
    assert json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["left_out"] == lacks


def test_labels_that_are_not_consecutive_are_renumbered(task: Path) -> None:
    edit(task, labels={"5": "far", "0": "Background", "3": "near"})
    for number in range(6):
        label = np.array([0, 3, 5], np.int16)[arrays(number)[1]]
        write_nifti(task / "labelsTr" / f"toy_{number}.nii.gz", label)
    folder, notes = convert(task)
    header = json.loads((folder / "dataset.json").read_text())
    assert list(header["labels"].items()) == [("background", 0), ("near", 1), ("far", 2)]
    assert header["nnunet_robust"]["source_labels"] == {"background": 0, "near": 3, "far": 5}
    written = nibabel.load(folder / "labelsTr" / "toy_4.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), arrays(4)[1])
    assert notes[0].startswith("label values renumbered")


def test_ignore_gets_the_highest_value(task: Path) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    edit(task, labels={"0": "background", "1": "ignore", "2": "near", "3": "far"})
    for number in range(6):
        label = np.array([0, 3, 1], np.uint8)[arrays(number)[1]]
        label[0, 0, 0] = 1  # a slice that shows nothing but what is ignored
        label[4, 4, 2] = 2
        write_nifti(task / "labelsTr" / f"toy_{number}.nii.gz", label)
    folder, notes = convert(task)
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert list(labels.items()) == [("background", 0), ("near", 1), ("far", 2), ("ignore", 3)]
    assert LabelManager(labels, None).ignore_label == 3
    written = np.asarray(nibabel.load(folder / "labelsTr" / "toy_4.nii.gz").dataobj)
    source = np.asarray(nibabel.load(task / "labelsTr" / "toy_4.nii.gz").dataobj)
    assert np.array_equal(written, np.array([0, 3, 1, 2])[source])
    assert notes[0].startswith("label values renumbered, as nnU-Net wants them consecutive, 'ignore' last: {")
    slices = convert_msd(task.parent / "raw", task, 8, None, MsdParameters(slices="axial"))
    assert {name[-3:] for name in names(slices, "labelsTr")} == {"001", "002", "003"}
    edit(task, labels={"0": "ignore", "1": "near"})
    with pytest.raises(UserError, match="have 'ignore' as 0, which is the background's"):
        convert_msd(task.parent / "raw", task, 9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_label_values_that_are_whole_but_for_rounding(task: Path, dtype: str) -> None:
    label = arrays(2)[1].astype(dtype)
    rounded = np.array([0.0009, 0.9999999, 2.001], dtype)[arrays(2)[1]]
    write_nifti(task / "labelsTr" / "toy_2.nii.gz", rounded)
    folder, _ = convert(task)
    assert np.array_equal(np.asarray(nibabel.load(folder / "labelsTr" / "toy_2.nii.gz").dataobj), label)
    label[3, 3, 3] = 1.998
    write_nifti(task / "labelsTr" / "toy_2.nii.gz", label)
    with pytest.raises(UserError, match=r"label value 1\.998 is not among the declared: 0, 1, 2"):
        convert_msd(task.parent / "raw", task, 8, strict=True)


def test_names_that_pandas_takes_for_missing(task: Path) -> None:
    odd = ["NA", "null", "nan", "None", "NaN", "n.a."]
    for number, name in enumerate(odd):
        for kind in ("imagesTr", "labelsTr"):
            (task / kind / f"toy_{number}.nii.gz").rename(task / kind / f"{name}.nii.gz")
    entries = [{key: f"./{key}sTr/{name}.nii.gz" for key in ("image", "label")} for name in odd]
    edit(task, training=entries, labels={"0": "nan", "1": "NA", "2": "null"})
    folder, _ = convert(task, slices="axial")
    header = json.loads((folder / "dataset.json").read_text())
    assert header["labels"] == {"background": 0, "NA": 1, "null": 2}
    assert set(header["nnunet_robust"]["patients"].values()) == set(odd)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert {case.split("_")[0] for fold in splits for case in fold["val"]} == set(odd)


@pytest.mark.parametrize("slices", [None, "axial"])
def test_the_first_cases(task: Path, slices: str | None) -> None:
    (task / "labelsTr" / "toy_5.nii.gz").write_bytes(b"not among the first")
    folder, _ = convert(task, slices=slices, cases=3, strict=True)
    assert {name[:5] for name in names(folder, "labelsTr")} == {"toy_0", "toy_1", "toy_2"}
    assert json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["parameters"]["cases"] == 3
    with pytest.raises(UserError, match="cases must be at least 1, got -1"):
        MsdParameters(cases=-1)


@pytest.mark.parametrize("kind", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize(
    ("ending", "damage"),
    [(".nii", "cut"), (".nii", "end"), (".nii.gz", "cut"), (".nii.gz", "end"), (".nii.gz", "checksum")],
)
def test_a_damaged_file_is_not_read_as_if_it_were_whole(task: Path, kind: str, ending: str, damage: str) -> None:
    file = task / kind / f"toy_2{ending}"
    if ending == ".nii":
        nibabel.save(nibabel.load(task / kind / "toy_2.nii.gz"), file)
        (task / kind / "toy_2.nii.gz").unlink()
        entries = json.loads((task / "dataset.json").read_text())["training"]
        edit(
            task,
            training=[
                {k: v.replace(f"{kind}/toy_2.nii.gz", f"{kind}/{file.name}") for k, v in e.items()} for e in entries
            ],
        )
    data = bytearray(file.read_bytes())
    if damage == "checksum":
        data[-6] ^= 1
    file.write_bytes(data[: {"cut": len(data) * 3 // 4, "end": len(data) - 3, "checksum": None}[damage]])
    with pytest.raises(UserError, match=rf"case toy_2: cannot read .*{kind}/{re.escape(file.name)} \(.*\): fetch or"):
        convert(task, strict=True)
    folder, _ = convert(task)
    assert names(folder, "labelsTr") == ["toy_0", "toy_1", "toy_3", "toy_4", "toy_5"]


def test_a_folder_within_a_folder(task: Path) -> None:
    first, _ = convert(task)
    (task.parent / "outer" / task.name).mkdir(parents=True)
    (task.parent / "outer" / "__MACOSX" / "x").mkdir(parents=True)
    task.rename(task.parent / "outer" / task.name / task.name)
    second = convert_msd(task.parent / "raw2", task.parent / "outer", 7, strict=True)
    assert (first / "dataset.json").read_bytes() == (second / "dataset.json").read_bytes()


def test_unlabelled_test_images_are_in_the_record(task: Path) -> None:
    folder, _ = convert(task, strict=True)
    assert json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["unlabelled_test_cases"] == ["toy_90"]


def test_test_share_is_drawn_by_seed(task: Path) -> None:
    folder, _ = convert(task, test_share=0.34)
    drawn = names(folder, "labelsTs")
    assert len(drawn) == 2 and len(names(folder, "labelsTr")) == 4
    assert not set(drawn) & set(names(folder, "labelsTr"))
    raw = task.parent / "more"
    others = {
        tuple(names(convert_msd(raw, task, 10 + seed, None, MsdParameters(0.34, seed)), "labelsTs"))
        for seed in range(8)
    }
    assert tuple(drawn) in others and len(others) > 2
    larger = convert_msd(raw, task, 30, None, MsdParameters(0.5))
    assert set(drawn) < set(names(larger, "labelsTs"))


def test_labelled_test_images_are_kept(task: Path) -> None:
    write_nifti(task / "labelsTs" / "toy_90.nii.gz", arrays(90)[1])
    folder, notes = convert(task)
    assert names(folder, "labelsTs") == ["toy_90"] and notes == []


# axes of the array that go to the left, to the back and to the head: three storage orders, one of them oblique
TILT = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
SAGITTAL = np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("rotation", [np.eye(3), np.diag([-1.0, -1, 1]), SAGITTAL, TILT, TILT @ SAGITTAL])
def test_axial_slices_wherever_the_axes_point(task: Path, rotation: np.ndarray) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.5, 0.75, 4.0])
    for number in range(6):
        image, label = arrays(number)
        label[0, 0, 0] = 1  # one pixel in a corner: it tells all directions apart
        write_nifti(task / "imagesTr" / f"toy_{number}.nii.gz", image, affine)
        write_nifti(task / "labelsTr" / f"toy_{number}.nii.gz", label, affine)
    folder, _ = convert(task, slices="axial")
    assert folder.name == "Dataset007_ToytaskAxial"

    def canonical(kind: str) -> nibabel.Nifti1Image:
        return nibabel.as_closest_canonical(nibabel.load(task / kind / "toy_2.nii.gz"))

    image, label = canonical("imagesTr"), canonical("labelsTr")
    spacing = image.header.get_zooms()
    expected = {index for index in range(label.shape[2]) if np.asarray(label.dataobj)[:, :, index].any()}
    found = {int(name[-3:]) for name in names(folder, "labelsTr") if name.startswith("toy_2_slice")}
    assert found == expected
    for index in found:
        written = nibabel.load(folder / "imagesTr" / f"toy_2_slice{index:03d}_0000.nii.gz")
        # nibabel's canonical axes go right and front, the slices' columns left and their rows back
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(image.dataobj)[::-1, ::-1, index])
        assert np.allclose(written.header.get_zooms(), spacing[:2])
        written = nibabel.load(folder / "labelsTr" / f"toy_2_slice{index:03d}.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(label.dataobj)[::-1, ::-1, index])


def test_slices_of_a_patient_stay_together(task: Path) -> None:
    folder, _ = convert(task, slices="axial", test_share=0.1)
    patients = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["patients"]
    assert patients and all(case.startswith(f"{patient}_slice") for case, patient in patients.items())
    trained = {patients[case] for case in names(folder, "labelsTr")}
    assert len(trained) == 5 and not trained & {patients[case] for case in names(folder, "labelsTs")}
    splits = json.loads((folder / "splits_final.json").read_text())
    assert sorted(patients[fold["val"][0]] for fold in splits) == sorted(trained)
    assert all(len({patients[case] for case in fold["val"]}) == 1 for fold in splits)


def test_min_foreground(task: Path) -> None:
    # slices 1, 2 and 3 of 7 x 6 pixels have 9 each; in one patient, a fourth slice has a single pixel
    _, label = arrays(3)
    label[0, 0, 4] = 2
    write_nifti(task / "labelsTr" / "toy_3.nii.gz", label)
    counts = {}
    for at_least in (0.0, 1 / 42, 1.01 / 42, 9 / 42):
        folder = convert_msd(
            task.parent / f"raw{at_least}", task, 7, None, MsdParameters(slices="axial", min_foreground=at_least)
        )
        counts[at_least] = Counter(name[:5] for name in names(folder, "labelsTr"))
    assert [count["toy_3"] for count in counts.values()] == [4, 4, 3, 3]
    assert all(count["toy_1"] == 3 for count in counts.values())
    with pytest.raises(UserError, match="no training cases"):
        convert(task, slices="axial", min_foreground=0.5)


def test_one_patient_has_no_folds(task: Path) -> None:
    edit(task, training=json.loads((task / "dataset.json").read_text())["training"][:1])
    folder, notes = convert(task, slices="axial")
    assert "training patients: 1; fewer than five, so there are no folds by patient, train with fold all" in notes
    assert not (folder / "splits_final.json").exists()


@pytest.mark.parametrize("slices", [None, "axial"])
def test_same_source_same_bytes_and_a_changed_one_is_seen(task: Path, slices: str | None) -> None:
    first, _ = convert(task, slices=slices)
    moved = task.rename(task.parent / "elsewhere")
    second = convert_msd(task.parent / "raw2", moved, 7, None, MsdParameters(slices=slices))
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert files == [path.relative_to(second) for path in sorted(second.rglob("*")) if path.is_file()]
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    write_nifti(moved / "labelsTr" / "toy_0.nii.gz", np.zeros((7, 6, 5), np.uint8))
    with pytest.raises(UserError, match="differs in source_sha256"):
        convert_msd(task.parent / "raw", moved, 7, None, MsdParameters(slices=slices))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (arrays(2)[1] + np.uint8(1), "case toy_2: label value 3 is not among the declared: 0, 1, 2"),
        (arrays(2)[1] * 0.5, "case toy_2: label value 0.5 is not"),
        (np.full((7, 6, 5), np.nan), "case toy_2: .*toy_2.nii.gz holds NaN or infinity"),
        (np.full((7, 6, 5), -1, np.int16), "case toy_2: label value -1 is not"),
        (arrays(2)[1][:6], r"case toy_2: the image's size is \(7, 6, 5\), its label's \(6, 6, 5\)"),
        (arrays(2, "uint8", (7, 6, 5, 2))[0], r"case toy_2: the label toy_2.nii.gz has 2 channels"),
        (arrays(2)[1][:, :, 0], "case toy_2: toy_2.nii.gz must be 3d or 4d"),
    ],
)
def test_bad_labels(task: Path, label: np.ndarray, message: str) -> None:
    write_nifti(task / "labelsTr" / "toy_2.nii.gz", label)
    with pytest.raises(UserError, match=message) as caught:
        convert(task, strict=True)
    assert "\n" not in str(caught.value)
    assert list((task.parent / "raw").iterdir()) == []
    folder, _ = convert(task)
    assert names(folder, "labelsTr") == ["toy_0", "toy_1", "toy_3", "toy_4", "toy_5"]
    (left_out,) = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["left_out"].items()
    assert left_out[0] == "toy_2" and re.search(message, left_out[1]) and str(task.parent) not in left_out[1]


def test_a_label_off_its_image(task: Path) -> None:
    _, label = arrays(2)
    rounded = AFFINE.copy()
    rounded[[0, 0, 2], [0, 3, 2]] += 1e-4
    for affine in (rounded, AFFINE):
        write_nifti(task / "labelsTr" / "toy_2.nii.gz", label, affine)
        folder = convert_msd(task.parent / f"raw{affine[0, 0]}", task, 7)
        assert np.allclose(nibabel.load(folder / "labelsTr" / "toy_2.nii.gz").affine, AFFINE, atol=1e-6)
    for change in ([2, 3, 1.0], [0, 0, -1.5], [2, 2, 0.4]):
        moved = AFFINE.copy()
        moved[int(change[0]), int(change[1])] += change[2]
        write_nifti(task / "labelsTr" / "toy_2.nii.gz", label, moved)
        with pytest.raises(UserError, match=r"toy_2: the label lies up to .* mm off its image"):
            convert(task, strict=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_values_that_itk_would_read_as_zero(task: Path, value: float) -> None:
    image, _ = arrays(2, "float32")
    image[1, 2, 3] = value
    write_nifti(task / "imagesTr" / "toy_2.nii.gz", image)
    with pytest.raises(UserError, match=r"case toy_2: .*imagesTr.*holds NaN or infinity"):
        convert(task, strict=True)


def test_a_broken_file(task: Path) -> None:
    (task / "imagesTr" / "toy_2.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"case toy_2: cannot read .*toy_2.nii.gz") as caught:
        convert(task, strict=True)
    assert "\n" not in str(caught.value)


def test_integers_beyond_32_bits(task: Path) -> None:
    write_nifti(task / "imagesTr" / "toy_2.nii.gz", np.full((7, 6, 5), 2**40))
    with pytest.raises(UserError, match="fit no 32-bit integer"):
        convert(task, strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": None}, "has no 'modality'"),
        ({"labels": {}}, "has no 'labels', or an empty one"),
        ({"training": []}, "has no 'training', or an empty one"),
        ({"modality": {"1": "CT"}}, "modalities must be numbered"),
        ({"labels": {"background": 0}}, "labels in dataset.json must be value to name"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "must have a name each"),
        ({"training": ["imagesTr/toy_0.nii.gz"]}, "must be paths of an image and a label"),
        ({"training": [{"image": "./imagesTr/x.nii.gz", "label": "./x.nii.gz"}]}, "no image with a label in .*, of 1"),
    ],
)
def test_a_folder_that_is_no_task(task: Path, changes: dict[str, Any], message: str) -> None:
    edit(task, **changes)
    with pytest.raises(UserError, match=message):
        convert(task)
    assert not (task.parent / "raw").exists()


def test_no_dataset_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset.json in .*medicaldecathlon\.com"):
        convert_msd(tmp_path / "raw", tmp_path, 7)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="line 1: it ends too early"):
        convert_msd(tmp_path / "raw", tmp_path, 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test_share": 1.0}, r"test_share must be in \[0, 1\), got 1.0"),
        ({"test_share": float("nan")}, "got nan"),
        ({"slices": "axial", "min_foreground": -0.1}, r"min_foreground must be in \[0, 1\)"),
        ({"min_foreground": 0.1}, "ask for axial slices"),
        ({"slices": "sagittal"}, "slices must be 'axial'"),
    ],
)
def test_parameters_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MsdParameters(**wrong)


def test_a_share_that_leaves_nothing(task: Path) -> None:
    with pytest.raises(UserError, match=r"0\.95 of 6 patients leaves none"):
        convert(task, test_share=0.95)


def voxels(files: list[Path]) -> Counter[float]:
    found: Counter[float] = Counter()
    for file in files:
        values, counts = np.unique(np.asarray(nibabel.load(file).dataobj), return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return found


@real
def test_hippocampus_voxel_for_voxel(tmp_path: Path) -> None:
    source = DATA / "Task04_Hippocampus"
    folder = convert_msd(tmp_path, source, 4)
    files = sorted((folder / "labelsTr").iterdir())
    assert len(files) == 80
    for file in files:
        for written, original in (
            (file, source / "labelsTr" / file.name),
            (folder / "imagesTr" / file.name.replace(".nii", "_0000.nii"), source / "imagesTr" / file.name),
        ):
            one, other = nibabel.load(written), nibabel.load(original)
            assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
            assert np.allclose(one.affine, other.affine)


@real
def test_spleen_slices_hold_every_label_voxel(tmp_path: Path) -> None:
    source = DATA / "Task09_Spleen"
    folder = convert_msd(tmp_path, source, 9, None, MsdParameters(slices="axial"))
    of_volume = voxels(list((source / "labelsTr").glob("*.gz")))
    of_slices = voxels(list((folder / "labelsTr").iterdir()))
    assert of_slices[1] == of_volume[1] > 0
    assert len(list((folder / "labelsTr").iterdir())) == 20
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize("slices", [None, "axial"])
def test_nnunet_finds_it_sound(
    task: Path, slices: str | None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    threads = SimpleNamespace(get_context=lambda method: multiprocessing.dummy)  # quicker than processes
    monkeypatch.setattr("nnunetv2.experiment_planning.verify_dataset_integrity.multiprocessing", threads)

    folder, _ = convert(task, slices=slices)
    verify_dataset_integrity(str(folder), 1)
    printed = capfd.readouterr().out
    assert "verify_dataset_integrity Done" in printed and "Warning" not in printed


def test_command(task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nnunet_robust.cli.main import main

    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        (task.parent / variable).mkdir()
        monkeypatch.setenv(variable, str(task.parent / variable))
    assert main(["convert", "msd", str(task), "--id", "21", "--slices", "axial", "--test-share", "0.1"]) == 0
    printed, said = capsys.readouterr()
    assert "left out: 1 test images" in said and "nnUNetv2_plan_and_preprocess -d 21" in printed
    assert (task.parent / "nnUNet_preprocessed" / "Dataset021_ToytaskAxial" / "splits_final.json").is_file()
    assert main(["convert", "msd", str(task.parent), "--id", "22"]) == 2
    assert "medicaldecathlon" in capsys.readouterr().err
