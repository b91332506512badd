"""Promises in a sweep: calibrated and perturbed on real images of a real model, against masks made by hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.calibration_file import read_calibration
from nnunet_robust.eval.conformal.loss_curves import bound_mask
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.devices import device_of
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.members import predict
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent

KINDS = ("outer_threshold", "inner_threshold", "outer_margin_mm", "inner_margin_mm")


@pytest.fixture(scope="module")
def calibration(textures: str, texture_models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the first model, on the test images and, as three are few, with a generous alpha."""
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
        given = ["-d", "901", "-tr", texture_models[0], "-f", "0", "-device", "cpu", "--members", "mirroring"]
        assert main(["calibrate", *given, "--alpha", "0.5", "--interval-alpha", "0.5", "-o", str(path)]) == 0
    return path


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    """Over the training images, which the calibration has not seen."""
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    raw = Path(os.environ["nnUNet_raw"]) / textures
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for label in sorted((raw / "labelsTr").iterdir())[:2]:
        (labels / label.name).symlink_to(label)
        (images / f"{label.stem}_0000.png").symlink_to(raw / "imagesTr" / f"{label.stem}_0000.png")
    return SweepParameters(
        output=tmp_path / "out", conditions={"gaussian_noise": (0.3,)}, dataset="901", trainers=texture_models[:1],
        folds=["0"], device="cpu", images=images, labels=[labels], calibrations=[calibration],
        allow_training_cases=True,
    )  # fmt: skip


def test_what_becomes_of_promises_is_what_their_masks_would_have_cost(
    parameters: SweepParameters, textures: str, calibration: Path
) -> None:
    run_sweep(parameters, Silent())
    table = pd.read_csv(parameters.output / "bounds.csv")
    results = pd.read_csv(parameters.output / "results.csv")
    assert len(table) == len(results) == 2 * 2
    assert (results["n_members"] == 4).all()  # as calibrated, without being asked for
    keys = ["case", "perturbation", "level"]
    both = table.merge(results, on=keys, suffixes=("", "_result"), validate="one_to_one")
    assert (both["dice"] == both["dice_result"]).all()
    made = read_calibration(calibration)
    interval = made.intervals["foreground"]
    for row in both.itertuples():
        assert (row.dice_low, row.dice_high) == pytest.approx(interval.around(row.predicted_dice, row.entropy_bits))

    folder = Path(os.environ["nnUNet_results"]) / textures / f"{parameters.trainers[0]}__nnUNetPlans__2d"
    model = load_model(folder, ["0"], "checkpoint_final.pth", device_of("cpu"), True, None)
    window = SlidingWindow.from_predictor(model.predictor)
    for row in table[table["perturbation"] == "clean"].to_dict("records"):
        image, properties = model.reader.read_images([str(parameters.images / f"{row['case']}_0000.png")])
        data, found = model.preprocess(image, properties)
        said = predict(model, window.members_many([data], ("mirroring",))[0], found)
        assert said.uncertainty is not None
        truth = np.asarray(Image.open(parameters.labels[0] / f"{row['case']}.png"))[None] > 0
        for kind in KINDS:
            setting = made.bounds["foreground"][kind].setting
            assert setting is not None
            mask = bound_mask(
                kind, setting, said.labels > 0, properties["spacing"], said.uncertainty.mean[1].clip(0, 1)
            )
            wrong, of = (truth & ~mask, truth) if kind.startswith("outer") else (mask & ~truth, mask)
            assert row[kind] == pytest.approx(wrong.sum() / max(of.sum(), 1))

    entry = json.loads((parameters.output / "manifest.json").read_text())["models"]
    (described,) = (model["calibration"] for model in entry.values())
    assert described["alpha"] == 0.5 and described["delta"] is None and described["n_patients"] == 3
    assert described["sentences"] == made.sentences("foreground")


def test_a_calibration_may_come_later(parameters: SweepParameters) -> None:
    run_sweep(replace(parameters, calibrations=(), uncertainty=["mirroring"]), Silent())
    before = (parameters.output / "results.csv").read_bytes()
    assert not (parameters.output / "bounds.csv").exists()
    progress = Silent()
    run_sweep(parameters, progress)
    assert progress.steps == 2 * 2 and len(pd.read_csv(parameters.output / "bounds.csv")) == 2 * 2
    assert (parameters.output / "results.csv").read_bytes() == before
    run_sweep(parameters, progress)
    assert progress.total == 0


def test_a_calibration_that_does_not_fit_is_refused(
    parameters: SweepParameters, texture_models: tuple[str, str], calibration: Path, tmp_path: Path
) -> None:
    for changes, says in (
        ({"trainers": texture_models[1:]}, "no model of this sweep has its checkpoints"),
        ({"mirroring": False}, "another model .mirroring is True there, False now"),
        ({"uncertainty": ["folds"]}, r"another model .members is \['mirroring'\] there"),
        ({"calibrations": [calibration, calibration]}, "has one already: give one for each model"),
        (
            {"calibrations": [tmp_path / "none.json"]},
            "no calibration .*none.json: make one with",
        ),
        ({"images": None, "labels": ()}, "3 of 3 cases are of the calibration set"),
    ):
        with pytest.raises(UserError, match=says):
            run_sweep(replace(parameters, **changes), Silent())
    assert not parameters.output.exists()
    run_sweep(replace(parameters, conditions={}), Silent())
    content = json.loads(calibration.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**content, "version": "0"}))
    with pytest.raises(UserError, match="what became of another calibration"):
        run_sweep(replace(parameters, conditions={}, calibrations=[other]), Silent())
