"""One number on the page: which perturbations count, the numbers against the results, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.eval.report import Analysis, analyse, write_page
from nnunet_robust.eval.report.sections import report_tables
from nnunet_robust.eval.report.sections.degradation import SECTION, counted, degradation, record, weights
from tests.eval.attacked_output import write_attacked_output
from tests.eval.report.pages import section_text, tables
from tests.eval.sweep_output import MODELS, write_sweep_output

LEVELS = {"speckle_noise": [0.1, 0.3], "gaussian_blur": [1.0, 2.0, 3.0], "ghosting": [0.2]}


def sweep(out: Path, presets: dict[str, dict[str, int]], models: tuple[str, ...] = MODELS) -> Analysis:
    """A sweep of three perturbations, of which the manifest tells the presets and their sizes."""
    write_sweep_output(out, models, 8, levels=LEVELS, pictures=False)
    manifest = json.loads((out / "manifest.json").read_text())
    for name, of_name in presets.items():
        manifest["perturbations"][name]["presets"] = of_name
    (out / "manifest.json").write_text(json.dumps(manifest))
    return analyse([out])


@pytest.mark.parametrize(
    ("presets", "preset", "names", "why"),
    [
        ({}, None, LEVELS, "All natural perturbations of the sweep count, for its manifest tells no presets."),
        (
            {"speckle_noise": {"ultrasound": 2, "all": 36}, "gaussian_blur": {"ultrasound": 2, "mri": 15, "all": 36}},
            "ultrasound",
            ("speckle_noise", "gaussian_blur"),
            "The perturbations of the preset ultrasound count, and not ghosting.",
        ),
        (
            {"ghosting": {"mri": 2, "one": 1}, "gaussian_blur": {"mri": 2}},
            "mri",
            ("gaussian_blur", "ghosting"),
            "The perturbations of the preset mri count, and not speckle noise.",
        ),
        (
            {"speckle_noise": {"ultrasound": 8}},
            None,
            LEVELS,
            "All natural perturbations of the sweep count, for it has no preset as a whole.",
        ),
    ],
)
def test_the_largest_whole_preset_counts(
    presets: dict, preset: str | None, names: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    (found,) = counted(sweep(tmp_path, presets)).values()
    assert (found.preset, set(found.perturbations), found.why) == (preset, set(names), why)


def test_the_numbers_are_those_of_the_results(tmp_path: Path) -> None:
    analysis = sweep(tmp_path, {"speckle_noise": {"ultrasound": 2}, "gaussian_blur": {"ultrasound": 2}})
    results = pd.read_csv(tmp_path / "results.csv")
    means = results.groupby(["model", "perturbation", "level"])["dice"].mean()
    table = degradation(analysis)
    assert len(table) == 2 and table["ratio"].iloc[0] == 1
    for model, row in zip(MODELS, table.to_dict("records"), strict=True):
        perturbed = (means[model, "speckle_noise"].mean() + means[model, "gaussian_blur"].mean()) / 2
        clean = means[model, "clean", 0.0]
        assert row["degradation"] == pytest.approx((clean - perturbed) / clean)
        assert row["degradation_low"] < row["degradation"] < row["degradation_high"]
    assert [(one.perturbation, one.weight, one.of_level) for one in weights(analysis)] == [
        ("speckle_noise", 0.5, 0.25), ("gaussian_blur", 0.5, pytest.approx(1 / 6)),
    ]  # fmt: skip


def test_the_page_has_the_number_its_weights_and_what_it_is_not(tmp_path: Path) -> None:
    analysis = sweep(tmp_path, {"speckle_noise": {"ultrasound": 2}, "gaussian_blur": {"ultrasound": 2}})
    html = write_page(analysis, tmp_path / "report.html").read_text(encoding="utf-8")
    text = section_text(html, "degradation")
    shown = tables(text)
    assert set(shown) == {"Mean degradation relative to clean", "Weights of the mean degradation"}
    first, of_weights = shown["Mean degradation relative to clean"], shown["Weights of the mean degradation"]
    share = f"{100 * degradation(analysis)['degradation'].iloc[0]:.1f} %"
    assert any(share in cell for row in first for cell in row)
    assert any("1, 2, 3" in row for row in of_weights)
    for said in ("no verdict", "preset ultrasound", "Each architecture was trained once", "the baseline, "):
        assert said in text


def test_attacks_their_noise_and_denoised_models_do_not_count(tmp_path: Path) -> None:
    attacked = analyse([write_attacked_output(tmp_path / "attacked", n_cases=4)])
    (found,) = counted(attacked).values()
    assert found.perturbations == ("speckle_noise",)
    both = (MODELS[0], f"{MODELS[0]}+denoise", MODELS[1])
    denoised = sweep(tmp_path / "denoised", {}, both)
    assert len(denoised.architectures) == 3 and len(degradation(denoised)) == 2
    assert not degradation(denoised)["line"].str.contains("denoise").any()
    assert list(SECTION.left_out(denoised)) == []


def test_a_sweep_without_natural_perturbations_has_no_number(tmp_path: Path) -> None:
    write_sweep_output(tmp_path, MODELS, 3, levels={}, pictures=False)
    analysis = analyse([tmp_path])
    assert counted(analysis) == {} and degradation(analysis).empty and record(analysis) == []
    assert not {"degradation", "degradation_weights"} & {table.name for table in report_tables(analysis)}


def test_who_lacks_a_perturbation_is_named(tmp_path: Path) -> None:
    analysis = sweep(tmp_path, {})
    results = pd.read_csv(tmp_path / "results.csv")
    lacking = (results["model"] == MODELS[1]) & (results["perturbation"] == "ghosting")
    results[~lacking].to_csv(tmp_path / "results.csv", index=False)
    without = analyse([tmp_path])
    assert len(degradation(analysis)) == 2 and len(degradation(without)) == 1
    (said,) = SECTION.left_out(without)
    assert "is left out, for it lacks a perturbation that counts" in said and "NoSkip" in said


def test_the_record_says_the_preset(tmp_path: Path) -> None:
    analysis = sweep(tmp_path, {"speckle_noise": {"ultrasound": 2}, "gaussian_blur": {"ultrasound": 2}})
    (found,) = json.loads(json.dumps(record(analysis), allow_nan=False))
    assert found["preset"] == "ultrasound" and len(found["weights"]) == 2 and len(found["architectures"]) == 2
