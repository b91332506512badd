from __future__ import annotations

import json
import multiprocessing.dummy
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.acdc import AcdcParameters, convert_acdc

SPACING = (1.5625, 1.5625, 10.0)
TRAINING = [f"patient{number:03d}_{phase}" for number in range(1, 16) for phase in ("ED", "ES")]
TESTING = [f"patient{number}_{phase}" for number in (101, 102) for phase in ("ED", "ES")]


def write_nifti(path: Path, array: np.ndarray) -> None:
    """As the challenge's files are: voxel sizes in pixdim and qform, but an sform without them."""
    image = nibabel.Nifti1Image(array, None)
    image.header.set_zooms((*SPACING, 1.0)[: array.ndim])
    image.set_qform(np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1]), 1)
    image.set_sform(np.diag([-1.0, -1, 1, 1]), 1)
    nibabel.save(image, path)


def frame(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    label = np.zeros((9, 8, 4), np.uint8)
    label[1:3, 2:6, 1:3], label[3:5, 2:6, 1:3], label[5:6, 2:6, 1:3] = 1, 2, 3
    return rng.integers(0, 255, (9, 8, 4)).astype(np.int16), label


def write_patient(folder: Path, number: int, group: str, es: int = 12, labels: bool = True) -> Path:
    patient = folder / f"patient{number:03d}"
    patient.mkdir(parents=True)
    (patient / "Info.cfg").write_text(f"ED: 1\nES: {es}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    write_nifti(patient / f"{patient.name}_4d.nii.gz", np.zeros((9, 8, 4, 3), np.int16))
    (patient / "MANDATORY_CITATION.md").touch()
    for index in (1, es):
        image, label = frame(100 * number + index)
        write_nifti(patient / f"{patient.name}_frame{index:02d}.nii.gz", image)
        if labels:
            write_nifti(patient / f"{patient.name}_frame{index:02d}_gt.nii.gz", label)
    return patient


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "ACDC" / "database"
    for number in range(1, 16):
        write_patient(folder / "training", number, ("DCM", "HCM", "NOR")[number % 3], es=7 + number % 5)
    for number in (101, 102):
        write_patient(folder / "testing", number, "RV")
    return folder


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset.json").read_text())["nnunet_robust"]


def names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*"))


def test_the_official_layout(database: Path, tmp_path: Path) -> None:
    folder = convert_acdc(tmp_path / "raw", database.parent, 27)
    header = json.loads((folder / "dataset.json").read_text())
    assert folder.name == "Dataset027_ACDC" and header["numTraining"] == 30
    assert header["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    expected = [f"patient{number:03d}_{phase}" for number in range(1, 16) for phase in ("ED", "ES")]
    assert names(folder / "labelsTr") == expected
    assert names(folder / "labelsTs") == [f"patient{n}_{phase}" for n in (101, 102) for phase in ("ED", "ES")]
    patients = header["nnunet_robust"]["patients"]
    assert patients["patient003_ES"] == "patient003" and len(patients) == 34
    assert str(tmp_path) not in json.dumps(header)


def test_values_phases_and_voxel_sizes(database: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = convert_acdc(tmp_path / "raw", database, 27)
    assert capfd.readouterr().err == "", "ITK's warnings about the sform are not passed on"
    for name, number in (("patient003_ED", 301), ("patient003_ES", 310), ("patient015_ES", 1507)):
        image, label = frame(number)
        for file, expected in ((f"imagesTr/{name}_0000", image), (f"labelsTr/{name}", label)):
            written = nibabel.load(folder / f"{file}.nii.gz")
            assert np.array_equal(np.asarray(written.dataobj), expected)
            assert written.get_data_dtype() == expected.dtype
            assert np.allclose(written.affine, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1]))


def test_folds_keep_patients_together_and_groups_balanced(database: Path, tmp_path: Path) -> None:
    folder = convert_acdc(tmp_path / "raw", database, 27)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    for fold in splits:
        patients = Counter(name.split("_")[0] for name in fold["val"])
        assert list(patients.values()) == [2, 2, 2]
        assert {int(patient[7:]) % 3 for patient in patients} == {0, 1, 2}, "one patient of each group"
        assert not set(patients) & {name.split("_")[0] for name in fold["train"]}


def test_a_flat_folder(database: Path, tmp_path: Path) -> None:
    folder = convert_acdc(tmp_path / "raw", database / "training", 27)
    assert len(names(folder / "labelsTr")) == 30 and not (folder / "labelsTs").exists()


def move(database: Path, tmp_path: Path, layout: str) -> Path:
    """The database as it comes out of archives, and which folder of it the user names."""
    root = tmp_path / "unpacked"
    if layout == "deeper":
        shutil.move(database, root / "download" / "ACDC" / "database")
        return root
    if layout == "parts in folders of their own":
        for part in ("training", "testing"):
            shutil.move(database / part, root / part / "ACDC" / part)
        return root
    if layout == "patients in folders of their own":
        for patient in database.glob("*/patient*"):
            shutil.move(patient, root / patient.parent.name / patient.name / patient.name)
        return root
    if layout == "files in folders of their own":
        shutil.move(database, root)
        for file in root.glob("*/*/*frame*.nii.gz"):
            inside = file.rename(file.with_name("x")).parent / file.name / file.name
            inside.parent.mkdir()
            (file.parent / "x").rename(inside)
        return root
    if "/" in layout:  # other names of the two parts
        for part, name in zip(("training", "testing"), layout.split("/"), strict=True):
            shutil.move(database / part, root / "train_test_data" / name)
        return root
    assert layout == "with junk"
    shutil.move(database, root / "database")
    shutil.copytree(root / "database", root / "__MACOSX" / "database")
    (root / "database" / "training" / "._patient001").touch()
    (root / "database" / "training" / "patient001" / "__MACOSX").mkdir()
    (root / "database" / "training" / "patient001" / "__MACOSX" / "Info.cfg").touch()
    return root


@pytest.mark.parametrize(
    "layout",
    [
        "deeper",
        "parts in folders of their own",
        "patients in folders of their own",
        "files in folders of their own",
        "Training/Testing",
        "ACDC_training/ACDC_testing",
        "Train Set/Test Set",
        "trainset/test-set",
        "ACDC_Train_Data/ACDC_Test_Data",
        "with junk",
    ],
)
def test_however_it_was_unpacked(database: Path, tmp_path: Path, layout: str) -> None:
    notes: list[str] = []
    folder = convert_acdc(tmp_path / "raw", move(database, tmp_path, layout), 27, note=notes.append, strict=True)
    assert notes == []
    assert names(folder / "labelsTr") == TRAINING and names(folder / "labelsTs") == TESTING
    written = nibabel.load(folder / "labelsTr" / "patient003_ES.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), frame(310)[1])


@pytest.mark.parametrize("deeper", [False, True])
def test_a_test_set_is_never_lost_without_a_note(database: Path, tmp_path: Path, deeper: bool) -> None:
    training = database / "training"
    if deeper:
        training.rename(database / "x")
        (database / "training").mkdir()
        training = (database / "x").rename(database / "training" / "database")
    notes: list[str] = []
    folder = convert_acdc(tmp_path / "raw", training, 27, note=notes.append)
    assert names(folder / "labelsTr") == TRAINING and not (folder / "labelsTs").exists()
    assert notes == [
        "without the test set beside it, 2 patients; name the folder that holds training and testing, or set patients "
        "aside (--test-share)"
    ]
    shutil.rmtree(database / "testing")
    convert_acdc(tmp_path / "raw2", database, 27, note=notes.append)
    assert notes[1].startswith("without a test set: there is no testing; name the folder")


def test_a_test_set_among_other_patients_is_noted(database: Path, tmp_path: Path) -> None:
    for patient in database.glob("*/patient*"):
        shutil.move(patient, tmp_path / "flat" / patient.name)
    notes: list[str] = []
    folder = convert_acdc(tmp_path / "raw", tmp_path / "flat", 27, note=notes.append)
    assert names(folder / "labelsTr") == sorted(TRAINING + TESTING)
    assert notes == [
        "for training: 2 patients of ACDC's published test set, patient101 the first, as they lie in no folder testing"
    ]


def test_the_test_patients_are_never_trained_on(database: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"for training in .*testing \(found: 2 test patients alone\): .*training and testing"
    ):
        convert_acdc(tmp_path / "raw", database / "testing", 27)


def test_a_patient_folder_is_named_as_no_source(database: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folders patient001, .*found: Info.cfg, .*name the folder that holds"):
        convert_acdc(tmp_path / "raw", database / "training" / "patient001", 27)


def test_copies_and_strange_names_are_named(database: Path, tmp_path: Path) -> None:
    training = database / "training"
    shutil.copytree(training / "patient003", database / "testing" / "patient003")
    shutil.copytree(training / "patient003", training / "patient003 (copy)")
    shutil.copytree(training / "patient004", training / "patient004" / "old" / "patient004")
    folder = convert_acdc(tmp_path / "raw", database, 27)
    assert record(folder)["left_out"] == {
        "patient003 (copy)": "training/patient003 (copy) is not named as ACDC's patients are, patient001: rename it",
        "patient004": "patient004 has Info.cfg twice, as patient004/Info.cfg and patient004/old/patient004/Info.cfg: "
        "take one away",
        "training/patient003": "training/patient003 is there twice, also as testing/patient003",
    }
    assert "patient003_ED" not in names(folder / "labelsTr"), "it would be tested and trained on"
    assert len(names(folder / "labelsTr")) == 26


def test_the_first_cases(database: Path, tmp_path: Path) -> None:
    folder = convert_acdc(tmp_path / "raw", database, 27, parameters=AcdcParameters(cases=3))
    assert names(folder / "labelsTr") == TRAINING[:3] and names(folder / "labelsTs") == TESTING[:3]
    assert record(folder)["parameters"] == {"cases": 3}
    with pytest.raises(UserError, match="cases must be at least 1, got 0"):
        AcdcParameters(cases=0)


def test_a_test_share_is_of_patients_of_each_group(database: Path, tmp_path: Path) -> None:
    folder = convert_acdc(tmp_path / "raw", database, 27, parameters=AcdcParameters(test_share=0.2))
    drawn = set(names(folder / "labelsTs")) - set(TESTING)
    patients = {case.split("_")[0] for case in drawn}
    assert len(drawn) == 6 and {int(patient[7:]) % 3 for patient in patients} == {0, 1, 2}, "one of each group"
    assert set(TESTING) < set(names(folder / "labelsTs"))
    assert names(folder / "labelsTr") == [case for case in TRAINING if case.split("_")[0] not in patients]
    with pytest.raises(UserError, match=r"0\.99 of 15 patients leaves none"):
        convert_acdc(tmp_path / "raw", database, 28, parameters=AcdcParameters(test_share=0.99))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("kind", ["", "_gt"])
def test_a_truncated_file_leaves_out_its_case(database: Path, tmp_path: Path, kind: str, ending: str) -> None:
    file = database / "training" / "patient002" / f"patient002_frame01{kind}.nii.gz"
    if ending == ".nii":
        nibabel.save(nibabel.load(file), file.with_suffix(""))
        file.unlink()
        file = file.with_suffix("")
    file.write_bytes(file.read_bytes()[:-60])
    folder = convert_acdc(tmp_path / "raw", database, 27)
    assert names(folder / "labelsTr") == [case for case in TRAINING if case != "patient002_ED"]
    reason = record(folder)["left_out"]["patient002_ED"]
    assert reason.startswith(f"case patient002_ED: cannot read training/patient002/{file.name} (")
    with pytest.raises(UserError, match="cannot read"):
        convert_acdc(tmp_path / "raw2", database, 27, strict=True)


def test_frames_that_are_one_and_line_ends_of_old_macs(database: Path, tmp_path: Path) -> None:
    info = database / "training" / "patient002" / "Info.cfg"
    info.write_text("ED: 1\nES: 1\nGroup: NOR\n")
    other = database / "training" / "patient003" / "Info.cfg"
    other.write_bytes(other.read_bytes().replace(b"\n", b"\r"))
    (database / "training" / "patient004" / "Info.cfg").unlink()
    (database / "training" / "patient004" / "Info.cfg").symlink_to(tmp_path / "nowhere")
    left_out = record(convert_acdc(tmp_path / "raw", database, 27))["left_out"]
    assert list(left_out) == ["patient002", "patient004"]
    assert left_out["patient002"].startswith("patient002/Info.cfg has ED and ES both as 1, expected two frames")


def test_a_group_called_na(database: Path, tmp_path: Path) -> None:
    for number in range(1, 16):
        info = database / "training" / f"patient{number:03d}" / "Info.cfg"
        info.write_text(re.sub("Group: .*", f"Group: {('NA', 'null', 'nan')[number % 3]}", info.read_text()))
    splits = json.loads((convert_acdc(tmp_path / "raw", database, 27) / "splits_final.json").read_text())
    for fold in splits:
        assert {int(case[7:10]) % 3 for case in fold["val"]} == {0, 1, 2}, "balanced as any other group"


def test_uncompressed_files(tmp_path: Path) -> None:
    patient = write_patient(tmp_path / "flat", 1, "DCM")
    for file in patient.glob("*frame*.nii.gz"):
        nibabel.save(nibabel.load(file), file.with_suffix(""))
        file.unlink()
    assert names(convert_acdc(tmp_path / "raw", tmp_path / "flat", 27) / "labelsTr") == [
        "patient001_ED",
        "patient001_ES",
    ]


def test_a_test_set_without_labels(database: Path, tmp_path: Path) -> None:
    write_patient(database / "testing", 103, "NOR", labels=False)
    (database / "testing" / "patient103" / "._patient103_frame01_gt.nii.gz").touch()
    notes: list[str] = []
    folder = convert_acdc(tmp_path / "raw", database, 27, note=notes.append)
    assert len(names(folder / "labelsTs")) == 4
    assert notes == ["left out: 1 test patients without labels, patient103 the first"]
    assert record(folder)["unlabelled_test_patients"] == ["patient103"] and "left_out" not in record(folder)


def test_same_bytes(database: Path, tmp_path: Path) -> None:
    first, second = (convert_acdc(tmp_path / raw, database, 27) for raw in ("raw1", "raw2"))
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert len(files) == 70 and all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "patient002 has no Info.cfg"),
        ("ED: 1\nGroup: DCM\n", r"patient002/Info.cfg has no ES, expected 'ED: 1'"),
        ("ED: one\nES: 12\nGroup: DCM\n", "has ED: one"),
        ("ED: 1\nES: 12\nGroup:\n", "has Group: ,"),
        ("", "has no ED"),
        ("ED: 1\nES: 11\nGroup: DCM\n", "patient002 has no patient002_frame11.nii.gz"),
    ],
)
def test_an_incomplete_patient(database: Path, tmp_path: Path, info: str | None, message: str) -> None:
    file = database / "training" / "patient002" / "Info.cfg"
    file.unlink() if info is None else file.write_text(info)
    with pytest.raises(UserError, match=message) as caught:
        convert_acdc(tmp_path / "raw", database, 27, strict=True)
    assert "\n" not in str(caught.value) and "creatis" in str(caught.value)
    assert not (tmp_path / "raw").exists()
    folder = convert_acdc(tmp_path / "raw", database, 27)
    left_out = record(folder)["left_out"]
    gone = {case for case in TRAINING if case in left_out or case.split("_")[0] in left_out}
    assert gone and {case.split("_")[0] for case in gone} == {"patient002"}
    assert re.search(message, "\n".join(left_out.values())) and str(tmp_path) not in str(left_out)
    assert names(folder / "labelsTr") == [case for case in TRAINING if case not in gone]


def test_info_with_windows_line_ends(database: Path, tmp_path: Path) -> None:
    file = database / "training" / "patient002" / "Info.cfg"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert len(names(convert_acdc(tmp_path / "raw", database, 27) / "labelsTr")) == 30


def test_a_missing_label(database: Path, tmp_path: Path) -> None:
    (database / "training" / "patient004" / "patient004_frame01_gt.nii.gz").unlink()
    with pytest.raises(UserError, match=r"patient004 has no patient004_frame01_gt\.nii\.gz, which its Info\.cfg"):
        convert_acdc(tmp_path / "raw", database, 27, strict=True)


def test_no_patients(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folders patient001, .*creatis"):
        convert_acdc(tmp_path / "raw", tmp_path / "nowhere", 27)


def test_nnunet_finds_it_sound(
    database: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    threads = SimpleNamespace(get_context=lambda method: multiprocessing.dummy)  # quicker than processes
    monkeypatch.setattr("nnunetv2.experiment_planning.verify_dataset_integrity.multiprocessing", threads)

    verify_dataset_integrity(str(convert_acdc(tmp_path / "raw", database, 27)), 1)
    printed = capfd.readouterr().out
    assert "verify_dataset_integrity Done" in printed and "Warning" not in printed


def test_command(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_robust.cli.main import main

    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    command = ["convert", "acdc", str(database), "--cases", "20", "--test-share", "0.1", "--seed", "1", "--id", "27"]
    assert main(command) == 0
    assert "nnUNetv2_plan_and_preprocess -d 27" in capsys.readouterr().out
    installed = tmp_path / "nnUNet_preprocessed" / "Dataset027_ACDC" / "splits_final.json"
    assert installed.read_bytes() == (tmp_path / "nnUNet_raw" / "Dataset027_ACDC" / "splits_final.json").read_bytes()
