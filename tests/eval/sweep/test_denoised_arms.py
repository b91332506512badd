"""Denoised arms in the sweep, on real trained models: each image is either left alone or denoised, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.chain import Chain
from nnunet_robust.eval.denoising.denoiser import Denoiser
from nnunet_robust.eval.denoising.learned_tolerance import NOISE, learn, tolerated_noise
from nnunet_robust.eval.denoising.noise_tolerance import NoiseTolerance
from nnunet_robust.eval.images.cases import cases_of_folders
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.devices import device_of
from nnunet_robust.eval.inference.selection import models_of
from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.statistics import load_results
from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep
from nnunet_robust.eval.sweep import denoised_arms as arms
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent

IMAGE = ["case", "perturbation", "level", "replicate"]


@pytest.fixture
def parameters(calibration: SweepParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return replace(
        calibration, output=tmp_path / "out", conditions={"gaussian_noise": (0.03, 0.1, 0.2)}, images=None, labels=[],
        denoise=["auto", "always"], denoise_from=calibration.output,
    )  # fmt: skip


def by_model(output: Path) -> dict[str, pd.DataFrame]:
    table = pd.read_csv(output / "results.csv", dtype=str, keep_default_na=False)
    columns = [name for name in table.columns if name != "model"]
    return {str(name): part[columns].reset_index(drop=True) for name, part in table.groupby("model")}


def test_every_image_is_left_alone_or_denoised_by_its_noise_and_the_rows_are_those_to_the_bit(
    parameters: SweepParameters, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned(earlier: EarlierSweep, key: str) -> NoiseTolerance:
        # these networks are so bad that they tolerate anything
        return replace(learn(earlier, key), threshold=0.125 if "NoSkip" in key else 0.06)

    monkeypatch.setattr(arms, "learn", learned)
    result = run_sweep(parameters, Silent())
    found = by_model(parameters.output)
    inputs = pd.read_csv(parameters.output / "inputs.csv", dtype=dict.fromkeys(IMAGE, str))
    models = json.loads((parameters.output / "manifest.json").read_text())["models"]
    assert len(models) == len(found) == 6 and len(result.notes) == 2
    for trainer in texture_models:
        plain, auto, always = (found[trainer + more] for more in ("", "+denoise", "+denoise_always"))
        entry = models[f"{trainer}+denoise__nnUNetPlans__2d__fold0"]
        threshold = entry["denoise"]["threshold"]
        noise = plain[IMAGE].merge(inputs, on=IMAGE)["noise_sigma"].to_numpy(float)
        denoised = noise > threshold
        assert denoised.sum() == (3 if "NoSkip" in trainer else 6) and len(denoised) == 12
        assert auto[~denoised].equals(plain[~denoised]) and auto[denoised].equals(always[denoised])
        assert (always["dice"] != plain["dice"]).sum() >= 0.7 * len(plain)  # not trivially equal
        assert (entry["kind"], entry["without_denoising"]) == ("denoised", f"{trainer}__nnUNetPlans__2d__fold0")
        assert models[entry["without_denoising"]]["kind"] == "model"
        assert entry["checkpoints"] == models[f"{trainer}__nnUNetPlans__2d__fold0"]["checkpoints"]
        assert any(note.startswith(f"{trainer} ") and f"{threshold:.3g}" in note for note in result.notes)
    # the models as they are, as without any of this
    run_sweep(replace(parameters, output=tmp_path / "without", denoise=[], denoise_from=None), Silent())
    without = by_model(tmp_path / "without")
    assert all(found[trainer].equals(without[trainer]) for trainer in texture_models)
    # and what everything after a sweep reads
    sweep = read_sweep(parameters.output)
    architectures = {name.replace("_seed1", "") for name in found}
    assert set(sweep.rows["architecture"]) == architectures and not sweep.left_out
    assert list(dict.fromkeys("denoise" in name for name in sweep.rows["architecture"])) == [False, True]
    assert any("+denoise" in sentence for sentence in sweep.manifest.assumptions)


def test_the_threshold_is_learned_from_the_earlier_sweeps_tables(
    parameters: SweepParameters, calibration: SweepParameters, texture_models: tuple[str, str]
) -> None:
    run_sweep(replace(parameters, denoise=["auto"], conditions={}), Silent())
    models = json.loads((parameters.output / "manifest.json").read_text())["models"]
    rows = load_results(calibration.output / "results.csv")
    inputs = pd.read_csv(calibration.output / "inputs.csv")
    for trainer in texture_models:
        own = rows[(rows["model"] == trainer) & (rows["perturbation"].isin(["clean", *NOISE]))]
        dice = {(r.case, r.perturbation, r.level): r.dice for r in own.itertuples()}
        noise = {(r.case, r.perturbation, r.level): r.noise_sigma for r in inputs.itertuples()}
        points = sorted(dice)
        assert len(points) == 8 * 4
        losses = np.array([dice[case, "clean", 0.0] - dice[case, name, level] for case, name, level in points])
        clean = np.array([name == "clean" for _, name, _ in points])
        expected = tolerated_noise(np.array([noise[p] for p in points]), losses, [p[0] for p in points], clean)
        known = models[f"{trainer}+denoise__nnUNetPlans__2d__fold0"]["denoise"]
        assert (known["threshold"], known["outcome"]) == expected
        assert (known["n_patients"], known["n_images"], known["perturbations"]) == (8, 32, ["gaussian_noise"])


def test_denoised_arms_join_a_sweep_that_is_there_and_another_threshold_is_refused(
    parameters: SweepParameters, tmp_path: Path
) -> None:
    few = replace(parameters, conditions={"speckle_noise": (0.3,)}, trainers=parameters.trainers[:1])
    run_sweep(replace(few, denoise=[], denoise_from=None), Silent())
    before = by_model(few.output)
    again = Silent()
    run_sweep(replace(few, denoise=["auto"]), again)
    after = by_model(few.output)
    assert again.steps == 6 and len(after) == 2 and after[few.trainers[0]].equals(before[few.trainers[0]])
    manifest_file = few.output / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    # what it was learned from may grow
    manifest["models"][f"{few.trainers[0]}+denoise__nnUNetPlans__2d__fold0"]["denoise"]["origin"] = ["other", "tables"]
    manifest_file.write_text(json.dumps(manifest))
    run_sweep(replace(few, denoise=["auto"]), Silent())
    manifest["models"][f"{few.trainers[0]}+denoise__nnUNetPlans__2d__fold0"]["denoise"]["threshold"] *= 2
    manifest_file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="another threshold"):
        run_sweep(replace(few, denoise=["auto"]), Silent())


def test_an_ensemble_has_the_models_as_they_are(parameters: SweepParameters) -> None:
    sweep = replace(parameters, conditions={}, denoise=["always"], denoise_from=None, ensemble=["all"])
    run_sweep(sweep, Silent())
    manifest = json.loads((sweep.output / "manifest.json").read_text())
    models = manifest["models"]
    assert manifest["patients_known"] is False  # synthetic images are nobody's
    (entry,) = (e for e in models.values() if "members" in e)
    assert entry["kind"] == "ensemble"
    assert len(entry["members"]) == 2 and not any("denoise" in key for key in entry["members"])
    facts = {(e["architecture"], e["options"].get("denoising"), e["baseline"]) for e in models.values()}
    denoised = {("Standard", "always denoised", False), ("No-skip", "always denoised", False)}
    assert facts == {("Standard", None, True), ("No-skip", None, False), ("Ensemble of 2", None, False)} | denoised
    assert {e["options"].get("epochs") for e in models.values()} == {"1 epoch of 12 iterations", None}


def test_names_and_preprocessing_of_denoised_models(parameters: SweepParameters, textures: str, nnunet: Path) -> None:
    (model,) = models_of(replace(parameters, trainers=parameters.trainers[:1]), textures, device_of("cpu"))
    always = arms.with_denoising(model, Denoiser())
    assert always.trainer == model.trainer + "+denoise_always" and always.predictor is model.predictor
    abroad = arms.with_denoising(replace(model, trainer="nnUNetTrainer_seed1@Dataset001_A"), Denoiser())
    assert abroad.trainer == "nnUNetTrainer_seed1+denoise_always@Dataset001_A"
    assert always.preprocessing != model.preprocessing == replace(model).preprocessing
    raw = nnunet / "nnUNet_raw" / textures
    case = model.read(cases_of_folders(raw / "imagesTs", raw / "labelsTs", ".png", 1)[0])
    spacing = [float(s) for s in case.properties["spacing"]]
    expected, _ = model.preprocess(Denoiser()(case.image, spacing), case.properties)
    before = case.image.copy()
    found, _ = always.preprocess(case.image, case.properties)
    assert np.array_equal(found.numpy(), expected.numpy()) and np.array_equal(case.image, before)
    assert not np.array_equal(found.numpy(), model.preprocess(case.image, case.properties)[0].numpy())
    with pytest.raises(UserError, match="attacks do not see a denoiser"):
        Chain(always, case.label, case.properties, device_of("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoise": ["sometimes"]}, "--denoise sometimes: take auto or always"),
        ({"denoise_from": None}, "name that folder with --denoise-from"),
        ({"denoise": ["always"]}, "is for --denoise auto"),
        ({"denoise": []}, "is for --denoise auto"),
        ({"denoise_from": Path("nowhere")}, "not the folder of a finished sweep"),
        ({"mirroring": True}, "its mirroring was False, here it is True"),
        ({"tile_sizes": ["32"]}, "it has no .*tile32x32; sweep it there, too"),
        ({"same cases": True}, "is of this sweep too: a threshold that was learned on it"),
        ({"patients": 3}, "2 patients have both a clean image and one under .*5 are the least"),
        ({"noise": False}, "0 patients have both"),
        ({"inputs": None}, "has no noise_sigma"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_anything_is_computed(
    changes: dict, message: str, parameters: SweepParameters, calibration: SweepParameters, tmp_path: Path
) -> None:
    if changes.pop("same cases", False):
        changes = {"images": calibration.images, "labels": calibration.labels}
    if {"patients", "noise", "inputs"} & set(changes):  # another calibration
        origin = tmp_path / "origin"
        origin.mkdir()
        tables = {name: pd.read_csv(calibration.output / f"{name}.csv") for name in ("results", "inputs")}
        for name, table in tables.items():
            if "patients" in changes:
                table = table[table["case"].isin(sorted(table["case"].unique())[1 : changes["patients"]])]
            if "noise" in changes:
                table = table[~table["perturbation"].isin(NOISE)]
            table.to_csv(origin / f"{name}.csv", index=False)
        if "inputs" in changes:
            tables["inputs"].drop(columns="noise_sigma").to_csv(origin / "inputs.csv", index=False)
        (origin / "manifest.json").write_bytes((calibration.output / "manifest.json").read_bytes())
        changes = {"denoise_from": origin}
    with pytest.raises(UserError, match=message):
        run_sweep(replace(parameters, **changes), Silent())
    assert not parameters.output.exists()
