"""What readers must know: each sentence by a made manifest with the right numbers, and nothing where all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nnunet_robust.common.sentences import named
from nnunet_robust.eval.results.manifest import Manifest, ModelEntry, TrainingCasesEntry, TrainingEntry
from nnunet_robust.eval.statistics.cautions import cautions
from nnunet_robust.eval.statistics.tables import load_results
from tests.eval.sweep_output import write_sweep_output

KNOWN = TrainingCasesEntry(n_cases=12)


def entry(
    model: str, fold: str = "0", epochs: int = 1000, cases: TrainingCasesEntry = KNOWN, **training: Any
) -> ModelEntry:
    trained = {"iterations_per_epoch": 250, "batch_size": 12, **training}
    known = TrainingEntry(dataset="D", epochs=dict.fromkeys(fold.split("+"), epochs), patch_size="64x64", **trained)
    return ModelEntry(model=model, fold=fold, kind="model", training=known, training_cases=cases)


def said(*models: ModelEntry) -> list[str]:
    return cautions(Manifest(models={f"{model.model} {model.fold}": model for model in models}), None)


def test_nothing_is_said_where_all_is_equal() -> None:
    assert said(entry("A", seed=1), entry("B", seed=1)) == []
    assert said(entry("A_seed1", seed=1), entry("A_seed2", seed=2), entry("B_seed3", seed=3), entry("B", seed=4)) == []
    assert said(ModelEntry(model="older"), ModelEntry(model="ensemble", kind="ensemble", members=["a"])) == []


def test_unequal_budgets_are_said_with_their_numbers() -> None:
    assert said(entry("A"), entry("B", epochs=100), entry("C", epochs=100)) == [
        "The trainings are of unequal length: A on 3,000,000 patches (1,000 epochs of 250 iterations, batch size 12); "
        "B and C on 300,000 patches (100 epochs of 250 iterations, batch size 12). A difference between these models "
        "may come from that."
    ]
    assert said(entry("A", epochs=100), entry("B", epochs=50, iterations_per_epoch=500)) == []
    (batches,) = said(entry("A", epochs=1, iterations_per_epoch=1), entry("B", epochs=1, batch_size=2))
    assert "B on 500 patches (1 epoch of 250 iterations, batch size 2); A on 12 patches" in batches


def test_a_fold_that_was_cut_short_is_said() -> None:
    one = entry("A", "0+1")
    cut = TrainingEntry(epochs={"0": 1000, "1": 600}, iterations_per_epoch=250, batch_size=12)
    (sentence,) = said(ModelEntry(model="A", fold="0+1", training=cut), ModelEntry(**{**vars(one), "model": "B"}))
    assert "A (fold 0) and B on 3,000,000 patches" in sentence and "A (fold 1) on 1,800,000 patches" in sentence


def test_what_is_not_known_of_a_training_is_said() -> None:
    (sentence,) = said(entry("A"), entry("Foreign", iterations_per_epoch=None))
    assert sentence.startswith("How long Foreign was trained is not known in full")


def test_unequal_folds_and_repeats_are_said() -> None:
    folds, repeats = said(entry("A_seed1", "0+1+2+3+4", seed=1), entry("B_seed1", seed=1), entry("B_seed2", seed=2))
    assert folds == (
        "The models are not averages of equally many folds: A_seed1 averages 5 folds; B_seed1 and B_seed2 are each a "
        "single fold. An average of folds is mostly better than one of them, whatever the architecture."
    )
    assert repeats == (
        "The architectures were not trained equally often: B 2 times (seed 1 fold 0 and seed 2 fold 0); A 1 time "
        "(seed 1 fold 0+1+2+3+4). The fewer trainings, the more of a mean is chance."
    )


def test_training_cases_and_what_is_not_known_of_them_are_said() -> None:
    found = TrainingCasesEntry(n_cases=12, found={"0": ["a", "b"], "2": ["b", "c"]})
    lost = TrainingCasesEntry(n_cases=12, unknown="there is no splits_final.json of D in nnUNet_preprocessed")
    fold = "0+1+2"
    first, second = said(
        entry("A", fold), entry("B", fold, cases=found), entry("C", fold, cases=lost), entry("E", fold, cases=lost)
    )
    assert first == (
        "B was trained on 3 of the 12 cases (folds 0 and 2: a, b and c), which --allow-training-cases let pass: its "
        "scores there are too good, and say nothing of new images."
    )
    assert second == (
        "Whether C or E was trained on any of these cases is not known (there is no splits_final.json of D in "
        "nnUNet_preprocessed): if so, the scores are too good."
    )


def test_doubtful_files_are_said() -> None:
    doubts = {"a": ["its label is 0.4 voxels off"], "b": ["-3024 is taken for padding"], "c": ["both"]}
    assert cautions(Manifest(case_notes=dict([*doubts.items()][:1])), None) == [
        "The files of a are doubtful: its label is 0.4 voxels off."
    ]
    (sentence,) = cautions(Manifest(case_notes=doubts), None)
    assert sentence == (
        "The files of 3 cases are doubtful; of a: its label is 0.4 voxels off. The others are in manifest.json "
        "(case_notes)."
    )


def test_a_label_that_is_never_found_is_said(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=4, labels=("shell", "core"), pictures=False)
    table = pd.read_csv(out / "results.csv")
    lost = table["model"].str.contains("NoSkip") & (table["label"] == "core") & (table["perturbation"] == "clean")
    table.loc[lost, ["n_pred", "dice", "outcome"]] = [0, 0.0, "missed"]
    absent = lost & (table["case"] == "tex_003")  # it counts by the reference
    table.loc[absent, ["n_ref", "outcome"]] = [0, "both_empty"]
    table.to_csv(out / "results.csv", index=False)
    assert cautions(Manifest(), load_results(out / "results.csv")) == [
        "On clean images nnUNetTrainerNoSkip_2epochs_50iters_seed1 never finds the label core: it is predicted in none "
        "of the 3 cases that have it."
    ]
    table.loc[lost & (table["case"] == "tex_000"), "n_pred"] = 1
    table.to_csv(out / "results.csv", index=False)
    assert cautions(Manifest(), load_results(out / "results.csv")) == []


@pytest.mark.parametrize(
    ("n", "text"), [(1, "a"), (2, "a and b"), (3, "a, b and c"), (8, "a, b, c, d, e, f and 2 more")]
)
def test_names_are_listed(n: int, text: str) -> None:
    assert named(list("abcdefgh")[:n]) == text
