"""Attacks in the report: numbers against pandas by hand, sentences, warnings that fire and that do not, the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse, write_report
from nnunet_robust.eval.report.compare import compare
from nnunet_robust.eval.report.compare_page import comparison_sentences, manifest_differences, write_comparison
from nnunet_robust.eval.report.export import write_files
from nnunet_robust.eval.report.sections import report_figures
from nnunet_robust.eval.report.sections.attacks import (
    NOISE,
    attack_effects,
    attacked,
    harms,
    keepers,
    transfer,
    warnings,
)
from nnunet_robust.eval.report.sections.texture import divergence
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.statistics import bootstrap_interval
from tests.eval.attacked_output import BUDGETS, STEPS, write_attacked_output
from tests.eval.report.pages import Page, foreign, section, tables
from tests.eval.sweep_output import MODELS, write_sweep_output

A, B = MODELS
NAMES = {model: model.removesuffix("_seed1") for model in MODELS}  # a seed is no part of an architecture's name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_attacked_output(tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse([folder])


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return write_report(folder).read_text()


def dice(folder: Path, perturbation: str, level: float, model: str) -> pd.Series:
    """Patient -> Dice, from the file."""
    rows = pd.read_csv(folder / "results.csv")
    found = rows[(rows["perturbation"] == perturbation) & (rows["level"] == level) & (rows["model"] == model)]
    return found.groupby("patient")["dice"].mean()


def test_an_attack_is_set_against_noise_on_the_same_patients(folder: Path, analysis: Analysis) -> None:
    table = attack_effects(analysis)
    assert len(table) == len(MODELS) * (1 + len(BUDGETS))
    for row in table[table["level"] > 0].to_dict("records"):
        model = next(model for model, name in NAMES.items() if name == row["line"])
        under_attack, noise = (dice(folder, name, row["level"], model) for name in ("pgd_linf", "random_linf"))
        assert row["attacked"] == pytest.approx(under_attack.mean())
        assert row["noise"] == pytest.approx(noise.mean())
        assert row["difference"] == pytest.approx((under_attack - noise).mean())
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            bootstrap_interval(under_attack - noise)
        )
        assert (row["steps"], row["n_cases"], row["n_patients"]) == (STEPS, 8, 8)


def test_transfer_has_a_row_for_each_attacked_and_each_predicting_model(folder: Path, analysis: Analysis) -> None:
    table = transfer(analysis)
    assert len(table) == (len(MODELS) + 1) * len(MODELS) * len(BUDGETS)
    for row in table.to_dict("records"):
        name = "random_linf" if row["attacked"] == NOISE else f"pgd_linf_from_{row['attacked']}"
        score, own = (dice(folder, each, row["level"], row["line"]) for each in (name, "pgd_linf"))
        assert row["score"] == pytest.approx(score.mean())
        assert row["difference"] == pytest.approx((score - own).mean())
        if row["attacked"] == row["line"]:
            assert row["difference"] == row["difference_low"] == row["difference_high"] == 0


def test_what_an_attack_did_is_said_with_its_sample_its_steps_and_the_noise(folder: Path, analysis: Analysis) -> None:
    said = list(harms(analysis))
    assert len(said) == len(MODELS)
    assert said[0].startswith(
        f"PGD, l∞ on {NAMES[A]} (8 cases (8 patients), {STEPS} steps) left it a mean Dice of at most "
    )
    for model, sentence in zip(MODELS, said, strict=True):
        for budget in BUDGETS:
            under_attack, noise = (dice(folder, name, budget, model).mean() for name in ("pgd_linf", "random_linf"))
            assert re.search(
                rf"{under_attack:.3f} \[[0-9.]+, [0-9.]+\] at budget {budget:g} \(random noise: {noise:.3f}\)", sentence
            )
        assert sentence.endswith(f"on clean images it was {dice(folder, 'clean', 0, model).mean():.3f}.")


def test_who_keeps_most_is_the_one_with_the_highest_mean(folder: Path, analysis: Analysis) -> None:
    (said,) = keepers(analysis)
    for budget in BUDGETS:
        means = {model: dice(folder, "pgd_linf", budget, model).mean() for model in MODELS}
        first, second = sorted(means, key=lambda model: -means[model])
        lead = means[first] - means[second]
        assert (
            f"{NAMES[first]} at budget {budget:g} ({means[first]:.3f}, {lead:.3f} more than {NAMES[second]}, " in said
        )


def test_without_doubt_it_is_said_how_much_was_compared(analysis: Analysis) -> None:
    said = list(warnings(analysis))
    assert [sentence.startswith("Warning") for sentence in said] == [False, False]
    assert "none of 6 attacks" in said[0]
    assert "None of 6 attacks" in said[1]


def test_an_attack_that_noise_outdoes_is_warned_of(tmp_path: Path) -> None:
    weak = {("pgd_linf", A): 0.1, (f"pgd_linf_from_{A}", A): 0.1, (f"pgd_linf_from_{B}", A): 0.0}
    (said,) = warnings(analyse([write_attacked_output(tmp_path, losses=weak)]))
    assert said.startswith(f"Warning: PGD, l∞ on {A} did less to it than random noise of the same budget")
    assert "masked" in said
    high = BUDGETS[-1]
    own, noise = (dice(tmp_path, name, high, A).mean() for name in ("pgd_linf", "random_linf"))
    assert f"{own:.3f} against {noise:.3f} at {high:g}" in said


def test_an_attack_on_another_that_does_more_is_warned_of(tmp_path: Path) -> None:
    strong = {(f"pgd_linf_from_{A}", B): 7.0}
    (said,) = warnings(analyse([write_attacked_output(tmp_path, losses=strong)]))
    assert said.startswith(f"Warning: PGD, l∞ on {B} did less to it than images made against {A} (mean Dice ")
    own, other = (dice(tmp_path, name, 0.05, B).mean() for name in ("pgd_linf", f"pgd_linf_from_{A}"))
    assert f"{own:.3f} against {other:.3f} at 0.05" in said


def test_more_by_chance_is_no_warning(tmp_path: Path) -> None:
    """An interval that holds 0, or a single patient without one."""
    same = {(f"pgd_linf_from_{A}", B): 4.0}  # as under the attack on itself, but for the chance of each case
    analysis = analyse([write_attacked_output(tmp_path / "a", losses=same)])
    table = transfer(analysis)
    pair = table[(table["attacked"] == A) & (table["line"] == B)]
    assert (pair["difference"].abs() < 0.01).all() and (pair["difference_high"] > 0).all()
    assert not any(said.startswith("Warning") for said in warnings(analysis))
    one = analyse([write_attacked_output(tmp_path / "b", losses={(f"pgd_linf_from_{A}", B): 7.0}, n_cases=1)])
    assert not any(said.startswith("Warning") for said in warnings(one))
    write_report(tmp_path / "b")


def test_from_sources_alone_the_attack_on_itself_is_the_sources_own(tmp_path: Path) -> None:
    folder = write_attacked_output(tmp_path, own=False)
    analysis = analyse([folder])
    for row in attack_effects(analysis)[attack_effects(analysis)["level"] > 0].to_dict("records"):
        model = next(model for model, name in NAMES.items() if name == row["line"])
        assert row["attacked"] == pytest.approx(dice(folder, f"pgd_linf_from_{model}", row["level"], model).mean())
    assert set(transfer(analysis)["attacked"]) == {*MODELS, NOISE}


def test_a_source_that_was_not_swept_has_a_row_of_its_name_and_no_frame(tmp_path: Path) -> None:
    folder = write_attacked_output(tmp_path, sources=("nnUNetTrainerElsewhere",), own=False)
    analysis = analyse([folder])
    assert attack_effects(analysis).empty
    table = transfer(analysis)
    assert set(table["attacked"]) == {"nnUNetTrainerElsewhere (not swept)", NOISE}
    assert table["difference"].isna().all()
    assert "nnUNetTrainerElsewhere" in section(write_report(folder).read_text(), "attacks").words


def test_another_checkpoint_of_the_same_name_is_not_the_model_itself(tmp_path: Path) -> None:
    folder = write_attacked_output(tmp_path, sources=(A,), own=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["perturbations"][f"pgd_linf_from_{A}"]["attack"]["source"] = {
        f"{A}__nnUNetPlans__2d__fold0": {"0": "an earlier training"}
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    analysis = analyse([folder])
    assert attacked(analysis)["attacked"].unique().tolist() == [f"{A} (not swept)"]
    assert attack_effects(analysis).empty


def test_seeds_are_averaged_in_the_curves_and_apart_in_the_map(tmp_path: Path) -> None:
    seeds = (A, A.replace("seed1", "seed2"), B)
    analysis = analyse([write_attacked_output(tmp_path, models=seeds, sources=seeds)])
    assert set(attack_effects(analysis)["line"]) == set(NAMES.values())
    of_two = attack_effects(analysis)[attack_effects(analysis)["line"] == NAMES[A]]
    assert (of_two["n_trained"] == 2).all()
    mean = np.mean([dice(tmp_path, "pgd_linf", 0.02, seed).mean() for seed in seeds[:2]])
    assert of_two.set_index("level").loc[0.02, "attacked"] == pytest.approx(mean)
    assert set(transfer(analysis)["attacked"]) == {*seeds, NOISE}


def test_the_figures_show_the_numbers(analysis: Analysis) -> None:
    figures = {figure.group: figure for figure in report_figures(analysis)}
    curves, chart = figures["attacks"], figures["transfer"]
    drawn = curves.draw()
    assert "largest change of a value" in drawn.axes[0].get_xlabel()
    lines = drawn.axes[0].get_lines()
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    assert [line.get_color() for line in lines[:2]] == [line.get_color() for line in lines[2:]]
    effects = attack_effects(analysis).groupby("line", sort=False)
    for line, (_, part) in zip(lines[:2], effects, strict=True):
        assert line.get_ydata() == pytest.approx(part["attacked"])
    numbers = [text.get_text() for text in chart.draw().axes[0].texts if re.fullmatch(r"[0-9.]+", text.get_text())]
    assert numbers == [f"{score:.2f}" for score in transfer(analysis)["score"]]
    bold = [text for text in chart.draw().axes[0].texts if text.get_fontweight() == "bold"]
    assert len(bold) == len(MODELS) * len(BUDGETS)


def test_the_page_has_the_section_and_tells_attacks_from_the_rest(html: str, folder: Path) -> None:
    page = section(html, "attacks")
    assert "every Dice is an upper bound of the Dice under the worst change" in page.words
    assert not foreign(Page(html))
    assert len([tag for tag in page.named("div") if tag.get("role") == "img"]) == 2
    summary = section(html, "summary").words
    assert "Attacks on the models are in none of these sentences" in summary
    assert "PGD" not in summary
    assert "random noise, l∞" in summary
    verdicts = tables(html)["Verdict, level by level"]
    assert {row[0] for row in verdicts[1:]} == {"clean", "speckle noise", "random noise, l∞", "PGD, l∞"}
    assert "left out here" in section(html, "verdict").words
    assert "from nnU" not in section(html, "ranks").words
    assert "made against one model are left out" in section(html, "ranks").words
    assert "of 48 by" in section(html, "failures").words  # 8 cases, clean, 2 levels of speckle, 3 of noise
    assert write_report(folder).read_text() == html


def test_a_plain_sweep_has_no_such_section(tmp_path: Path) -> None:
    html = write_report(write_sweep_output(tmp_path, n_cases=4, pictures=False)).read_text()
    assert 'id="attacks"' not in html
    assert 'id="denoising"' not in html
    assert "Attacks" not in html


def test_two_datasets_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = write_attacked_output(tmp_path, dataset="Dataset502_Others", n_cases=5, sources=())
    said = list(harms(analyse([folder, other])))
    assert len(said) == 4
    assert said[2].startswith(f"Dataset502_Others: PGD, l∞ on {NAMES[A]} (5 cases")


def test_texture_divergence_leaves_attacks_out(folder: Path, analysis: Analysis) -> None:
    clouds = [relation.cloud for relation in divergence(analysis).relations]
    assert clouds
    assert {name for cloud in clouds for name in cloud["perturbation"]} == {"clean", "speckle_noise", "random_linf"}


def test_files_have_attacks(analysis: Analysis, tmp_path: Path) -> None:
    written = {path.name for path in write_files(analysis, tmp_path / "files", ["pdf", "csv", "tex"])}
    assert {"table_attacks.csv", "table_transfer.tex", "transfer-Dataset501_Textures_pgd_linf_1.pdf"} <= written
    assert "l$\\infty$" in (tmp_path / "files" / "table_attacks.tex").read_text()


def test_a_comparison_tells_attacks_apart(folder: Path, tmp_path: Path) -> None:
    again = read_sweep(write_attacked_output(tmp_path / "again", losses={("pgd_linf", A): 9.0}))
    table = compare(read_sweep(folder), again).table
    change = table[(table["perturbation"] == "pgd_linf") & (table["architecture"] == NAMES[A])].set_index("level")[
        "change"
    ]
    assert change[0.05] == pytest.approx(-0.05, abs=1e-9)
    said = comparison_sentences(table, again.attacks, again.names)
    assert said[1].startswith(f"Of {2 * (2 + 3)} changes")  # two models; speckle noise, random noise
    assert said[3].startswith(f"Under attacks on each model itself, of {2 * 3} changes")
    assert NAMES[A] in said[4]
    assert "under PGD, l∞ at level 0.05" in said[4]
    assert said[5] == "Attacks whose images were made against one model are in none of these sentences."
    later = again.manifest.perturbations["pgd_linf"]
    later = replace(later, attack=replace(later.attack, steps=40))
    more = replace(again.manifest, perturbations={**again.manifest.perturbations, "pgd_linf": later})
    differs, _ = manifest_differences(read_sweep(folder).manifest, more)
    assert differs == [("steps of PGD, l∞", str(STEPS), "40")]
    page = write_comparison(folder, again.folder, tmp_path).read_text()
    assert "made anew for each sweep" in page
