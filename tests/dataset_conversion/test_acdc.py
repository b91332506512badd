from __future__ import annotations

import json
import multiprocessing.dummy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.acdc import convert_acdc

SPACING = (1.5625, 1.5625, 10.0)


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
        convert_acdc(tmp_path / "raw", database, 27)
    assert "\n" not in str(caught.value) and "creatis" in str(caught.value)
    assert not (tmp_path / "raw").exists()


def test_info_with_windows_line_ends(database: Path, tmp_path: Path) -> None:
    file = database / "training" / "patient002" / "Info.cfg"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert len(names(convert_acdc(tmp_path / "raw", database, 27) / "labelsTr")) == 30


def test_a_missing_label(database: Path, tmp_path: Path) -> None:
    (database / "training" / "patient004" / "patient004_frame01_gt.nii.gz").unlink()
    with pytest.raises(UserError, match=r"patient004 has no patient004_frame01_gt\.nii\.gz, which its Info\.cfg"):
        convert_acdc(tmp_path / "raw", database, 27)


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
    assert main(["convert", "acdc", str(database), "--id", "27"]) == 0
    assert "nnUNetv2_plan_and_preprocess -d 27" in capsys.readouterr().out
    installed = tmp_path / "nnUNet_preprocessed" / "Dataset027_ACDC" / "splits_final.json"
    assert installed.read_bytes() == (tmp_path / "nnUNet_raw" / "Dataset027_ACDC" / "splits_final.json").read_bytes()
