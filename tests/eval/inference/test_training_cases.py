"""Whether a model was trained on cases: by fold, by name, by file; and where that cannot be known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.inference import training_cases
from nnunet_robust.eval.inference.training_cases import TrainingCases, refuse_overlaps

NAME = "Dataset601_Made"
SPLITS = [{"train": ["a", "b"], "val": ["c", "d"]}, {"train": ["c", "d"], "val": ["a", "b"]}]


def model(fold: str, dataset: str = NAME) -> Any:
    plans = SimpleNamespace(dataset_name=dataset)
    return SimpleNamespace(fold=fold, predictor=SimpleNamespace(plans_manager=plans))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four training cases of two channels in two folds; the image of each is of its own, all are of one size."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / folder / NAME).mkdir(parents=True)
        monkeypatch.setenv(folder, str(tmp_path / folder))
    (tmp_path / "nnUNet_preprocessed" / NAME / "splits_final.json").write_text(json.dumps(SPLITS))
    raw = tmp_path / "nnUNet_raw" / NAME
    (raw / "imagesTr").mkdir()
    for name in "abcd":
        for channel in range(2):
            (raw / "imagesTr" / f"{name}_000{channel}.png").write_text(f"{name}{channel}")
    (raw / "dataset.json").write_text(json.dumps({"file_ending": ".png", "numTraining": 4}))
    return tmp_path


def case(root: Path, name: str, *contents: str) -> ImageFiles:
    """A case in a folder of its own."""
    folder = root / "cases"
    folder.mkdir(exist_ok=True)
    files = tuple(folder / f"{name}_000{channel}.png" for channel in range(len(contents)))
    for file, content in zip(files, contents, strict=True):
        file.write_text(content)
    return ImageFiles(name, name, files)


def test_each_fold_is_told_by_name_and_by_file(root: Path) -> None:
    cases = [case(root, "a", "x0", "x1"), case(root, "new", "y0", "c1"), case(root, "free", "z0", "z1")]
    found = TrainingCases().overlap(cases, model("0+1"))
    assert found.found == {"0": {"a": "a"}, "1": {"new": "c"}}
    assert found.cases == {"a": "a", "new": "c"} and found.n_trained == 4 and not found.unknown
    assert TrainingCases().overlap(cases, model("1")).found == {"1": {"new": "c"}}
    own = ImageFiles("c", "c", (root / "nnUNet_raw" / NAME / "imagesTr" / "c_0000.png",))
    assert TrainingCases().overlap([own], model("0")).found == {}
    assert TrainingCases().overlap([own], model("1")).found == {"1": {"c": "c"}}


@pytest.mark.parametrize("fold", ["all", "7"])
def test_all_cases_and_a_random_split_may_have_any_case(fold: str, root: Path) -> None:
    cases = [case(root, "d", "x"), case(root, "free", "z")]
    assert TrainingCases().overlap(cases, model(fold)).found == {fold: {"d": "d"}}


@pytest.mark.parametrize(("fold", "found"), [("all", {"all": {"e": "e"}}), ("7", {"7": {"e": "e"}}), ("0", {})])
def test_a_case_that_the_splits_leave_out_is_in_fold_all(fold: str, found: dict[str, Any], root: Path) -> None:
    (root / "nnUNet_raw" / NAME / "imagesTr" / "e_0000.png").write_text("e0")
    assert TrainingCases().overlap([case(root, "e", "x")], model(fold)).found == found


def test_the_own_cases_of_another_dataset_may_have_the_same_names(root: Path) -> None:
    cases = [case(root, "a", "x0"), case(root, "b", "a0")]
    assert TrainingCases().overlap(cases, model("0"), by_name=False).found == {"0": {"b": "a"}}


def test_no_file_is_read_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    digest = training_cases.sha256
    monkeypatch.setattr(training_cases, "sha256", lambda path: read.append(path) or digest(path))
    known = TrainingCases()
    cases = [case(root, "one", "a0"), case(root, "two", "b1"), case(root, "long", "of another size")]
    for fold in ("0", "0+1", "1"):
        known.overlap(cases, model(fold))
    assert len(read) == len(set(read)) == 8 + 2 and not any("long" in path.name for path in read)


def test_what_cannot_be_looked_up_is_said(root: Path) -> None:
    cases = [case(root, "a", "x0"), case(root, "new", "b0")]
    shutil.rmtree(root / "nnUNet_raw" / NAME)
    found = TrainingCases().overlap(cases, model("0"))
    assert found.found == {"0": {"a": "a"}} and found.unknown.startswith(
        f"there is no raw dataset {NAME} in nnUNet_raw"
    )
    foreign = TrainingCases().overlap(cases, model("0", "Dataset777_Other"))
    assert foreign.found == {} and "no splits_final.json of Dataset777_Other in nnUNet_preprocessed" in foreign.unknown


def test_fold_all_needs_no_splits(root: Path) -> None:
    (root / "nnUNet_preprocessed" / NAME / "splits_final.json").unlink()
    cases = [case(root, "new", "b0"), case(root, "free", "z")]
    assert TrainingCases().overlap(cases, model("all")).found == {"all": {"new": "b"}}
    assert TrainingCases().overlap(cases, model("0")).unknown


def test_the_refusal_names_models_folds_and_cases(root: Path) -> None:
    cases = [case(root, "a", "x0"), case(root, "new", "c0"), case(root, "free", "z")]
    known = TrainingCases()
    overlaps = {"standard": known.overlap(cases[2:], model("0")), "other": known.overlap(cases, model("0+1"))}
    with pytest.raises(UserError) as caught:
        refuse_overlaps(overlaps, 3)
    said = str(caught.value)
    assert "fold 0 of other on 1 of the 3 (a); fold 1 of other on 1 of the 3 (new (there c)): choose" in said
    assert "--allow-training-cases" in said and "standard" not in said and "\n" not in said
    refuse_overlaps({"standard": overlaps["standard"]}, 3)
