from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.splits import SPLITS_FILE, WrittenCase, five_folds, install_splits
from nnunet_robust.dataset_conversion.writer import Case, write_dataset


def cohort(groups: dict[str, int], frames: int = 2) -> list[WrittenCase]:
    return [
        WrittenCase(f"{group}{number:02d}_{frame}", f"{group}{number:02d}", group)
        for group, patients in groups.items()
        for number in range(patients)
        for frame in range(frames)
    ]


def test_folds_are_by_patient_and_balanced() -> None:
    cases = cohort({"DCM": 20, "HCM": 20, "NOR": 10})
    patient = {case.name: case.patient for case in cases}
    folds = five_folds(cases)
    assert len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(patient)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(patient)
        assert fold["train"] == sorted(fold["train"]) and fold["val"] == sorted(fold["val"])
        assert not {patient[name] for name in fold["train"]} & {patient[name] for name in fold["val"]}
        assert Counter(patient[name][:3] for name in fold["val"]) == {"DCM": 8, "HCM": 8, "NOR": 4}


def test_folds_do_not_depend_on_the_order_of_cases_and_are_shuffled() -> None:
    cases = cohort({"a": 10})
    shuffled = random.Random(0).sample(cases, len(cases))
    folds = five_folds(cases)
    assert five_folds(shuffled) == folds
    assert [name for fold in folds for name in fold["val"]] != sorted(case.name for case in cases)


@pytest.mark.parametrize(("patients", "folds"), [(1, 0), (2, 2), (4, 4), (5, 5), (6, 5)])
def test_as_many_folds_as_patients(patients: int, folds: int) -> None:
    found = five_folds(cohort({"a": patients}, frames=7))
    assert len(found) == folds
    assert all(fold["val"] and fold["train"] for fold in found)


@pytest.mark.filterwarnings("error")
def test_strata_that_are_rare() -> None:
    lonely = five_folds(cohort({f"g{i}": 1 for i in range(5)}))
    assert [len(fold["val"]) for fold in lonely] == [2] * 5
    some = five_folds(cohort({"common": 9, "rare": 1}))
    assert [len(fold["val"]) for fold in some] == [4] * 5


def dataset(folder: Path, **changes: str | None) -> Path:
    pixels = np.zeros((8, 6), np.uint8)
    cases = [Case(f"c{i}", [pixels], pixels, **changes) for i in range(6)]
    cases[0] = Case("c0", [pixels], pixels)
    header: dict = {"channel_names": {0: "x"}, "labels": {"background": 0}, "file_ending": ".png", "provenance": {}}
    return write_dataset(folder, 7, "Toy", cases, [Case("t", [pixels], pixels, patient="p")], **header)


@pytest.mark.parametrize(("changes", "written"), [({}, False), ({"stratum": "x"}, True), ({"patient": "p"}, True)])
def test_the_writer_makes_folds_where_patients_or_strata_ask_for_them(
    tmp_path: Path, changes: dict[str, str], written: bool
) -> None:
    folder = dataset(tmp_path, **changes)
    assert (folder / SPLITS_FILE).is_file() == written
    if written:
        splits = json.loads((folder / SPLITS_FILE).read_text())
        assert sorted(name for fold in splits for name in fold["val"]) == [f"c{i}" for i in range(6)]
    assert not list(folder.glob(".*"))


def test_installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessed = tmp_path / "preprocessed"
    preprocessed.mkdir()
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    folder = dataset(tmp_path / "raw", patient="p")
    target = preprocessed / "Dataset007_Toy" / SPLITS_FILE
    assert install_splits(folder) == target
    assert json.loads(target.read_text()) == json.loads((folder / SPLITS_FILE).read_text())
    assert list(target.parent.iterdir()) == [target]

    target.write_text(json.dumps(json.loads(target.read_text())))
    before = target.read_bytes()
    assert install_splits(folder) == target and target.read_bytes() == before, "the same folds, written otherwise"
    for other in ("[]", "not json"):
        target.write_text(other)
        with pytest.raises(UserError, match=r"holds other folds than .*delete the one"):
            install_splits(folder)
        assert target.read_text() == other


def test_nothing_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    assert install_splits(dataset(tmp_path / "raw")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_nnunet_trains_on_these_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = dataset(tmp_path / "raw", patient="p")
    installed = install_splits(folder)
    assert installed is not None
    trainer = SimpleNamespace(
        dataset_class=lambda *args, **kwargs: SimpleNamespace(identifiers=[f"c{i}" for i in range(6)]),
        fold=1,
        preprocessed_dataset_folder="",
        preprocessed_dataset_folder_base=str(installed.parent),
        folder_with_segs_from_previous_stage=None,
        print_to_log_file=lambda *args: None,
    )
    train, val = nnUNetTrainer.do_split(trainer)
    assert {"train": train, "val": val} == json.loads((folder / SPLITS_FILE).read_text())[1]
