"""Models, folds and the cases of their training: refused, allowed with a word, or said to be unknown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.conftest import train
from tests.eval.sweep.test_sweep import Silent


@pytest.fixture(scope="module")
def split(textures: str, nnunet: Path) -> dict[str, list[str]]:
    """The cases of fold 0."""
    splits = json.loads((nnunet / "nnUNet_preprocessed" / textures / "splits_final.json").read_text())
    return {part: sorted(names) for part, names in splits[0].items()}


@pytest.fixture
def parameters(
    split: dict[str, list[str]],
    textures: str,
    texture_models: tuple[str, str],
    nnunet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> SweepParameters:
    """Over two images: one of the training under another name, one of the validation."""
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    raw = nnunet / "nnUNet_raw" / textures
    for part, ending in (("images", "_0000.png"), ("labels", ".png")):
        (tmp_path / part).mkdir()
        for name, new in ((split["train"][0], "renamed"), (split["val"][0], split["val"][0])):
            shutil.copy(raw / f"{part}Tr" / f"{name}{ending}", tmp_path / part / f"{new}{ending}")
    return SweepParameters(
        output=tmp_path / "out", conditions={}, dataset="901", trainers=texture_models, folds=["0"], device="cpu",
        images=tmp_path / "images", labels=[tmp_path / "labels"],
    )  # fmt: skip


def entries(output: Path) -> list[dict[str, Any]]:
    return list(json.loads((output / "manifest.json").read_text())["models"].values())


def test_training_images_are_refused_for_each_model(parameters: SweepParameters, split: dict[str, list[str]]) -> None:
    with pytest.raises(UserError) as caught:
        run_sweep(parameters, Silent())
    for trainer in parameters.trainers:
        key = f"{trainer}__nnUNetPlans__2d__fold0"
        assert f"fold 0 of {key} on 1 of the 2 (renamed (there {split['train'][0]}))" in str(caught.value)
    assert not parameters.output.exists()


def test_the_validation_cases_of_one_model_s_fold_are_another_s_training(
    parameters: SweepParameters, split: dict[str, list[str]], textures: str, nnunet: Path, tmp_path: Path
) -> None:
    folders = []
    for trainer in parameters.trainers:
        folders.append(tmp_path / f"{trainer}__nnUNetPlans__2d")
        shutil.copytree(train(textures, "2d", trainer), folders[-1])
    shutil.rmtree(folders[1] / "fold_1", ignore_errors=True)  # other tests may have trained it
    shutil.copytree(folders[1] / "fold_0", folders[1] / "fold_1")
    own = replace(parameters, trainers=(), model_folders=folders, folds=None, images=None, labels=(), ensemble=["all"])
    labels = nnunet / "nnUNet_raw" / textures / "labelsTs"
    labels.rename(labels.with_name("hidden"))
    try:
        with pytest.raises(UserError) as caught:
            run_sweep(own, Silent())
    finally:
        labels.with_name("hidden").rename(labels)
    key = f"{parameters.trainers[1]}__nnUNetPlans__2d__fold0+1"
    assert f"trained on: fold 1 of {key} on 2 of the 2 ({', '.join(split['val'])}): choose" in str(caught.value)


def test_what_is_allowed_is_said_and_how_models_were_trained(
    parameters: SweepParameters, textures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parameters.images is not None
    given = ["-d", "901", "-tr", *parameters.trainers, "-f", "0", "-i", str(parameters.images), "-device", "cpu"]
    given += ["-l", str(parameters.labels[0]), "-o", str(parameters.output), "--perturb", "gaussian_blur=1"]
    assert main(["sweep", *given, "--allow-training-cases", "--disable-tta"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    for trainer, entry in zip(parameters.trainers, entries(parameters.output), strict=True):
        assert any(
            line.startswith(f"warning: {trainer} was trained on 1 of the 2 cases (fold 0: renamed)") for line in said
        )
        assert entry["training_cases"] == {"n_cases": 2, "found": {"0": ["renamed"]}, "unknown": ""}
        assert entry["training"] == {
            "dataset": textures, "epochs": {"0": 1}, "iterations_per_epoch": 12, "batch_size": 4, "patch_size": "64x64",
            "seed": 1,
        }  # fmt: skip
    assert not any("unequal" in line or "equally" in line for line in said)


def test_what_cannot_be_known_is_said(
    parameters: SweepParameters, textures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(textures, "2d", parameters.trainers[0])
    monkeypatch.delenv("nnUNet_preprocessed")
    result = run_sweep(replace(parameters, dataset=None, trainers=(), model_folders=[folder]), Silent())
    reason = f"there is no splits_final.json of {textures} in nnUNet_preprocessed"
    assert any(
        said.startswith(f"Whether {parameters.trainers[0]} was trained on any of these cases is not known ({reason})")
        for said in result.warnings
    )
    (entry,) = entries(parameters.output)
    assert entry["training_cases"] == {"n_cases": 2, "found": {}, "unknown": reason}
