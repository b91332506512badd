"""Ensembles in the sweep, on real trained models: against nnU-Net's own, themselves, and direct computations."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.inference import models as models_module
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.ensembles import WEIGHTINGS, Ensemble
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.members import Members
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.results.tables import ARM, SCORES, arm_key
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM, neighbourhood
from nnunet_robust.eval.uncertainty.weights import CompetenceCurve
from tests.conftest import train
from tests.eval.sweep.test_sweep import Silent, read

CPU = torch.device("cpu")


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return SweepParameters(
        output=tmp_path / "out", conditions={"gaussian_noise": (0.3,)}, dataset="901", trainers=texture_models,
        folds=["0"], device="cpu", mirroring=False, ensemble=["all"], save_predictions=True,
    )  # fmt: skip


def table(output: Path) -> pd.DataFrame:
    frame = pd.read_csv(output / "results.csv", dtype={"fold": str, "weights": str})
    return frame.assign(key=[arm_key(**row) for row in frame[list(ARM)].to_dict("records")])


def probabilities(folder: Path, images: Path, out: Path) -> nnUNetPredictor:
    """What `nnUNetv2_predict --save_probabilities --disable_tta` writes."""
    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), ("0",), "checkpoint_final.pth")
    out.mkdir(parents=True)
    predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=True)
    return predictor


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_uniform_ensemble_is_that_of_nnunets_command(
    configuration: str, parameters: SweepParameters, volumes: str, volume_model: str, nnunet: Path, tmp_path: Path
) -> None:
    """`merge_files` is what `nnUNetv2_ensemble` runs for each case. 3d: anisotropic, two labels, two channels."""
    if configuration == "3d_fullres":
        other = volume_model.replace("NoSkip", "AdditiveSkip")
        train(volumes, configuration, other, validate=False)
        parameters = replace(
            parameters, dataset=volumes, configuration=configuration, trainers=(volume_model, other),
            conditions={"contrast": (0.5,)},
        )  # fmt: skip
    run_sweep(parameters, Silent())
    dataset = {"2d": "Dataset901_Textures", "3d_fullres": volumes}[configuration]
    images = nnunet / "nnUNet_raw" / dataset / "imagesTs"
    folders = []
    for trainer in parameters.trainers:
        model = nnunet / "nnUNet_results" / dataset / f"{trainer}__nnUNetPlans__{configuration}"
        folders.append(tmp_path / trainer)
        predictor = probabilities(model, images, folders[-1])
    ours = next((parameters.output / "predictions").glob("ensemble_uniform*")) / "clean"
    ending, found = predictor.dataset_json["file_ending"], 0
    for path in sorted(ours.iterdir()):
        case = path.name.removesuffix(ending)
        merged = tmp_path / "merged" / case
        merged.parent.mkdir(exist_ok=True)
        merge_files(
            [str(folder / f"{case}.npz") for folder in folders], str(merged), ending,
            predictor.plans_manager.image_reader_writer_class(), predictor.label_manager,
        )  # fmt: skip
        mine, theirs = read(path), read(merged.with_name(path.name))
        assert np.array_equal(mine, theirs)
        found += int(mine.any())
    assert found >= 1  # not trivially equal


def loaded(trainer: str, dataset: str) -> Model:
    folder = Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__2d"
    return load_model(folder, ["0"], "checkpoint_final.pth", CPU, False, None)


@pytest.fixture
def seen(textures: str, texture_models: tuple[str, str]) -> tuple[list[Model], Members, np.ndarray, list[float]]:
    """Two models, what they say of a noisy image, the image, and its spacing."""
    models = [loaded(trainer, textures) for trainer in texture_models]
    raw = Path(os.environ["nnUNet_raw"]) / textures
    name = "texture_test_0000"
    case = models[0].read(CaseFiles(name, name, (raw / "imagesTs" / f"{name}_0000.png",), raw / f"labelsTs/{name}.png"))
    image = case.image + np.random.default_rng(0).normal(0, 25, case.image.shape).astype(np.float32)
    said = []
    for model in models:
        data, properties = model.preprocess(image, case.properties)
        said.append((model, SlidingWindow.from_predictor(model.predictor).logits(data), properties))
    return models, Members(said), image, list(case.spacing_mm)


def curve(n_members: int) -> CompetenceCurve:
    rng = np.random.default_rng(1)
    divergences = rng.uniform(0, 0.5, 12)
    dice = np.stack([np.clip(0.9 - (k + 1) * divergences, 0, 1) for k in range(n_members)], axis=1)
    return CompetenceCurve.fit(divergences, dice, [f"p{i}" for i in range(12)])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_an_ensemble_of_one_model_however_often_is_that_model(weighting: str, copies: int, seen) -> None:
    _, members, image, spacing = seen
    for model, logits, properties in members.logits:
        ensemble = Ensemble((model,) * copies, weighting, curve(copies))
        prediction = ensemble.predict(Members([(model, logits, properties)] * copies), image, spacing)
        assert np.array_equal(prediction.labels, model.export(logits, properties)) and prediction.labels.any()
        assert prediction.uncertainty is not None
        assert np.array_equal(prediction.uncertainty.mean, model.probabilities(logits, properties))
        assert not prediction.uncertainty.mutual_information.any()
        assert sum(prediction.weights) == pytest.approx(1, abs=1e-12) and len(prediction.weights) == copies
        if weighting != "complexity":
            assert prediction.weights == pytest.approx([1 / copies] * copies)


def test_weights_by_confidence_are_those_of_a_direct_computation(seen) -> None:
    models, members, image, spacing = seen
    prediction = Ensemble(tuple(models), "confidence").predict(members, image, spacing)
    first, second = (p.astype(float) for p in members)
    near = neighbourhood(((first + second) / 2).argmax(0) > 0, spacing, BAND_MM)
    confidence = [1 + (p * np.log2(p)).sum(axis=0)[near].mean() for p in (first, second)]
    assert prediction.weights == pytest.approx(np.array(confidence) / sum(confidence), abs=1e-5)
    assert prediction.weights[0] != pytest.approx(0.5, abs=1e-3)
    assert prediction.uncertainty is not None
    np.testing.assert_allclose(
        prediction.uncertainty.mean, np.average([first, second], axis=0, weights=prediction.weights), atol=1e-6
    )


def test_an_ensemble_stands_beside_its_members_and_changes_nothing_of_theirs(
    parameters: SweepParameters, texture_models: tuple[str, str]
) -> None:
    turned = tuple(reversed(parameters.trainers))  # however they are named, it is one ensemble
    together = replace(parameters, output=parameters.output.with_name("together"), trainers=turned)
    run_sweep(together, Silent())
    alone = replace(parameters, ensemble=())
    run_sweep(alone, Silent())
    members = table(parameters.output)
    progress = Silent()
    run_sweep(parameters, progress)  # the members' rows are there: the ensemble's alone are made
    assert progress.total == progress.steps == 3 * 2
    assert (parameters.output / "results.csv").read_bytes() == (together.output / "results.csv").read_bytes()
    both = table(parameters.output)
    of_ensemble = both["model"].str.startswith("ensemble_uniform(")
    pd.testing.assert_frame_equal(both[~of_ensemble].reset_index(drop=True), members, check_dtype=False)
    assert set(both.loc[of_ensemble, "model"]) == {f"ensemble_uniform({'+'.join(sorted(texture_models))})"}
    assert set(both.loc[of_ensemble, "weights"]) == {"0.5 0.5"} and (both.loc[of_ensemble, "n_members"] == 2).all()
    assert both.loc[~of_ensemble, list(SCORES)].isna().all(axis=None)
    entry = json.loads((parameters.output / "manifest.json").read_text())["models"]
    key = both.loc[of_ensemble, "key"].iloc[0]
    assert set(entry[key]["members"]) == set(members["key"]) and entry[key]["weights"] == "uniform"
    assert set(entry[key]["checkpoints"]) == {f"{member}/0" for member in members["key"]}


def test_a_member_that_fails_fails_the_ensemble_too(parameters: SweepParameters, monkeypatch) -> None:
    members_many, broken = SlidingWindow.members_many, []

    def failing(self, images, by):
        if not broken:
            broken.append(id(self))
        if id(self) == broken[0]:
            raise UserError("no such tile")
        return members_many(self, images, by)

    monkeypatch.setattr(SlidingWindow, "members_many", failing)
    result = run_sweep(parameters, Silent())
    assert {failure.reason for failure in result.failures} == {"no such tile"}
    assert len(result.failures) == 2 * 3 * 2  # models, cases, conditions
    assert table(parameters.output)["model"].unique().tolist() == [parameters.trainers[1]]


def test_weights_by_complexity_are_learned_from_other_cases(
    parameters: SweepParameters, textures: str, nnunet: Path, tmp_path: Path
) -> None:
    raw = nnunet / "nnUNet_raw" / textures
    learned = replace(
        parameters, output=tmp_path / "learned", images=raw / "imagesTr", labels=[raw / "labelsTr"],
        allow_training_cases=True, save_predictions=False,
    )  # fmt: skip
    run_sweep(learned, Silent())
    by_complexity = replace(parameters, weights="complexity", weights_from=learned.output)
    run_sweep(by_complexity, Silent())
    seen, found = table(learned.output), table(parameters.output)
    image = ["patient", "case", "perturbation", "level"]
    wide = seen.pivot(index=image, columns="model", values="dice")
    ensemble = next(name for name in wide if name.startswith("ensemble"))
    divergence = seen[seen["model"] == ensemble].set_index(image)["predicted_divergence_bits"].reindex(wide.index)
    expected = CompetenceCurve.fit(
        divergence.to_numpy(), wide[sorted(parameters.trainers)].to_numpy(), wide.index.get_level_values(0).tolist()
    )
    rows = found[found["model"].str.startswith("ensemble_complexity(")]
    assert len(rows) == 3 * 2
    for row in rows.itertuples():
        weights = [float(word) for word in row.weights.split()]
        assert sum(weights) == pytest.approx(1, abs=1e-5)
        assert weights == pytest.approx(expected.weights(row.predicted_divergence_bits), abs=1e-5)

    same = replace(learned, output=tmp_path / "same", weights="complexity", weights_from=learned.output)
    with pytest.raises(UserError, match=r"weights-from .*learned: case '.*' is of this sweep too"):
        run_sweep(same, Silent())
    mirrored = replace(by_complexity, output=tmp_path / "mirrored", mirroring=True)
    with pytest.raises(UserError, match="its mirroring was False, here it is True"):
        run_sweep(mirrored, Silent())
    single = replace(by_complexity, output=tmp_path / "single", trainers=parameters.trainers[:1])
    with pytest.raises(UserError, match="it has no ensemble_uniform"):
        run_sweep(single, Silent())
    manifest = json.loads((learned.output / "manifest.json").read_text())
    for entry in manifest["models"].values():
        entry["checkpoints"] = dict.fromkeys(entry["checkpoints"], "0" * 64)
    for text, says in (
        (json.dumps(manifest), "has other checkpoints there"),
        ("{", "manifest.json, line 1"),
    ):
        (learned.output / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=says):
            run_sweep(replace(by_complexity, output=tmp_path / "other"), Silent())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ensemble": ["nnUNetTrainerUNETR"]}, "no trained model nnUNetTrainerUNETR"),
        ({"weights": "best"}, "--weights best: take one of uniform, confidence, complexity"),
        ({"ensemble": (), "weights": "confidence"}, "--weights confidence needs an ensemble"),
        ({"weights": "complexity"}, "--weights complexity and --weights-from OUT go together"),
        ({"weights_from": Path("x")}, "go together"),
        ({"tile_sizes": ["32", "64"]}, "--ensemble with several --tile-size would mix them"),
        ({"weights": "complexity", "weights_from": Path("x")}, "--weights-from x: not the folder of a finished sweep"),
    ],
)
def test_bad_input_is_one_line(changes: dict, says: str, parameters: SweepParameters, monkeypatch) -> None:
    monkeypatch.setattr(models_module.Model, "preprocess", None)  # nothing is computed
    with pytest.raises(UserError, match=says) as error:
        run_sweep(replace(parameters, **changes), Silent())
    assert "\n" not in str(error.value) and not parameters.output.exists()


def test_a_name_that_is_no_models_is_told(parameters: SweepParameters, textures: str, nnunet: Path) -> None:
    folders = [nnunet / "nnUNet_results" / textures / f"{trainer}__nnUNetPlans__2d" for trainer in parameters.trainers]
    wrong = replace(parameters, trainers=(), model_folders=folders, ensemble=["nnUNetTrainer"])
    with pytest.raises(UserError, match="--ensemble nnUNetTrainer: not a model of this sweep, which has nnUNetTrainer"):
        run_sweep(wrong, Silent())
