"""Architectures of a report: the baseline first and in its colour, ensembles last, whatever the order of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.sections import report_figures, report_tables
from nnunet_robust.pages.plots import line_styles
from nnunet_robust.trainers import describe
from tests.eval.sweep_output import write_sweep_output

STANDARD, NO_SKIP, DENSE = "nnUNetTrainer_2epochs_seed1", "nnUNetTrainerNoSkip_2epochs_seed1", "nnUNetTrainerDenseSkip"
ENSEMBLE = f"ensemble_uniform({STANDARD}+{NO_SKIP})"


def write(out: Path, models: tuple[str, ...], facts: bool = True, **more: object) -> Path:
    """A sweep whose manifest says, or as an older one does not, what its models are."""
    write_sweep_output(out, models, 4, levels={"speckle_noise": [0.1, 0.3]}, pictures=False, **more)  # type: ignore[arg-type]
    manifest = json.loads((out / "manifest.json").read_text())
    for entry in manifest["models"].values() if facts else ():
        found = describe(entry["model"].partition("+")[0])
        known = (found.display_name, found.options, found.baseline and entry["kind"] == "model")
        if entry["kind"] == "ensemble":
            known = (f"Ensemble of {len(entry['members'])}", {}, False)
        entry |= dict(zip(("architecture", "options", "baseline"), known, strict=True))
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


@pytest.mark.parametrize("facts", [True, False])
def test_the_baseline_is_first_and_ensembles_are_last(facts: bool, tmp_path: Path) -> None:
    plain = "nnUNetTrainer" if not facts else STANDARD
    models = (f"ensemble_uniform({plain}+{NO_SKIP})", DENSE, NO_SKIP, plain)
    analysis = analyse([write(tmp_path / "out", models, facts)])
    found = analysis.sweeps[0].architectures
    assert [each.model for each in found][1:3] == [DENSE, NO_SKIP.removesuffix("_seed1")]
    assert (
        found[0].is_baseline and found[0].model == plain.removesuffix("_seed1") and found[0].name == analysis.baseline
    )
    assert [each.is_ensemble for each in found] == [False, False, False, True]
    assert not any(each.is_baseline for each in found[1:]) and len(found) == 4
    for figure in report_figures(analysis):
        if figure.styles and set(analysis.architectures) >= set(figure.styles):
            order = [name for name in analysis.architectures if name in figure.styles]
            assert list(figure.styles) == order, figure.name
            assert figure.styles == {name: line_styles(analysis.architectures)[name] for name in order}
    for table in report_tables(analysis):
        if "line" in table.data and table.name == "summary":
            assert list(dict.fromkeys(table.data["line"])) == analysis.architectures


def test_the_baseline_is_the_standard_one_with_the_fewest_options(tmp_path: Path) -> None:
    models = (NO_SKIP, "nnUNetTrainer_ps64_2epochs", f"{STANDARD}+denoise", STANDARD)
    analysis = analyse([write(tmp_path / "out", models)])
    assert analysis.sweeps[0].architectures[0].model == "nnUNetTrainer_2epochs"


def test_older_manifests_have_the_standard_one_by_its_trainers_name(tmp_path: Path) -> None:
    models = (NO_SKIP, "nnUNetTrainer_ps64_2epochs", f"{STANDARD}+denoise", STANDARD)
    analysis = analyse([write(tmp_path / "out", models, facts=False)])
    assert analysis.baseline == "nnUNetTrainer_2epochs"


def test_without_the_standard_one_the_first_is_the_baseline(tmp_path: Path) -> None:
    analysis = analyse([write(tmp_path / "out", (ENSEMBLE, NO_SKIP, DENSE))])
    assert analysis.sweeps[0].architectures[0].model == "nnUNetTrainerNoSkip_2epochs"
    assert analysis.architectures[0] == analysis.baseline
    only = analyse([write(tmp_path / "only", (ENSEMBLE,))])
    assert [each.is_baseline for each in only.sweeps[0].architectures] == [True]


def test_datasets_share_the_order(tmp_path: Path) -> None:
    first = write(tmp_path / "first", (ENSEMBLE, NO_SKIP), dataset="Dataset501_Textures")
    second = write(tmp_path / "second", (DENSE, STANDARD), dataset="Dataset502_Textures")
    analysis = analyse([first, second])
    models = [each.model for each in analysis.sweeps[0].architectures]
    assert models[0] == "nnUNetTrainer_2epochs" and models[1:3] == ["nnUNetTrainerNoSkip_2epochs", DENSE]
    assert analysis.sweeps[0].architectures == analysis.sweeps[1].architectures
    rows = pd.read_csv(second / "results.csv")
    assert len(analysis.sweeps[1].results) == len(rows)


def _renamed(out: Path, models: tuple[str, ...], facts: bool = True) -> dict[str, tuple[str, str]]:
    """Model -> its architecture and its line."""
    (sweep,) = analyse([write(out, models, facts)]).sweeps
    rows = sweep.results.drop_duplicates("model")
    return dict(zip(rows["model"], zip(rows["architecture"], rows["line"], strict=True), strict=True))


def test_names_are_short_and_what_all_share_is_said_once(tmp_path: Path) -> None:
    models = (STANDARD, STANDARD.replace("seed1", "seed2"), NO_SKIP, ENSEMBLE)
    assert list(_renamed(tmp_path / "out", models).values()) == [
        ("Standard", "Standard, seed 1"),
        ("Standard", "Standard, seed 2"),
        ("No-skip", "No-skip, seed 1"),
        ("Ensemble of 2", "Ensemble of 2"),
    ]
    analysis = analyse([tmp_path / "out"])
    assert analysis.shared_by_all == "2 epochs, nnUNetPlans, 2d"
    (table,) = (table for table in report_tables(analysis) if table.name == "architectures")
    assert [[cell.text for cell in cells] for cells in table.cells()] == [
        ["Standard", "nnUNetTrainer_2epochs", "nnUNetPlans", "2d", "2", "baseline"],
        ["No-skip", "nnUNetTrainerNoSkip_2epochs", "nnUNetPlans", "2d", "1", ""],
        ["Ensemble of 2", ENSEMBLE.replace("_seed1", ""), "nnUNetPlans", "2d", "1", ""],
    ]
    assert analysis.shared_by_all in table.note


def test_options_that_differ_stay_in_the_name(tmp_path: Path) -> None:
    names = _renamed(
        tmp_path / "out",
        ("nnUNetTrainer_2epochs", "nnUNetTrainerNoSkip_ps64_2epochs", "nnUNetTrainerNoSkip_2epochs_noDA"),
    )
    expected = ["Standard", "No-skip, patch 64", "No-skip, no augmentation"]
    assert [name for name, _ in names.values()] == expected
    assert analyse([tmp_path / "out"]).sweeps[0].architectures[1].without_size == "No-skip"
    longer = _renamed(tmp_path / "longer", ("nnUNetTrainer_2epochs", "nnUNetTrainerNoSkip_3epochs"))
    assert [name for name, _ in longer.values()] == ["Standard, 2 epochs", "No-skip, 3 epochs"]


def test_no_two_share_a_name_and_older_manifests_keep_the_trainers(tmp_path: Path) -> None:
    third = "nnUNetTrainerDenseSkip_2epochs_seed1"
    other = f"ensemble_uniform({STANDARD}+{third})"
    confident = f"ensemble_confidence({STANDARD}+{NO_SKIP})"
    models = (STANDARD, NO_SKIP, third, ENSEMBLE, other, confident)
    ensembles = [
        "Ensemble of 2, uniform ({0} + {1})",
        "Ensemble of 2, uniform ({0} + {2})",
        "Ensemble of 2, confidence",
    ]
    for facts, known in (
        (True, ["Standard", "No-skip", "Dense skip"]),
        (False, ["nnUNetTrainer_2epochs", "nnUNetTrainerNoSkip_2epochs", "nnUNetTrainerDenseSkip_2epochs"]),
    ):
        names = [name for name, _ in _renamed(tmp_path / str(facts), models, facts).values()]
        assert names == [*known, *(text.format(*known) for text in ensembles)]


def test_a_name_that_two_would_get_is_nobodys(tmp_path: Path) -> None:
    out = write(tmp_path / "out", (STANDARD, DENSE))
    manifest = json.loads((out / "manifest.json").read_text())
    for entry in manifest["models"].values():
        entry |= {"architecture": "Mine", "options": {}, "baseline": False}
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert analyse([out]).architectures == [STANDARD.removesuffix("_seed1"), DENSE]
