"""The sections on confidence, their figures and tables: there where there is something to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.report import Analysis, analyse, write_page
from nnunet_robust.eval.report.export import write_files
from nnunet_robust.eval.report.sections import (
    calibration,
    experts,
    guarantees,
    report_figures,
    report_tables,
    uncertainty,
)
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.statistics import load_results
from nnunet_robust.pages.plots import INK
from nnunet_robust.pages.tables import latex
from tests.eval.report.pages import Page, foreign, section, tables
from tests.eval.sweep_output import write_sweep_output

A, B = "nnUNetTrainer_seed1", "nnUNetTrainerNoSkip_seed1"
ENSEMBLE = f"ensemble_uniform({A}+{B})"
SECTIONS = ("uncertainty", "calibration", "guarantees", "experts")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(
        tmp_path_factory.mktemp("sweep"), (A, B, ENSEMBLE), 8, labels=("disc", "ring"), pictures=False,
        levels={"speckle_noise": [0.1, 0.45]}, uncertainty=True, single=(B,), calibrated=(A, B), experts=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def analysis(out: Path) -> Analysis:
    return analyse([out])


@pytest.fixture(scope="module")
def html(analysis: Analysis, out: Path) -> str:
    return write_page(analysis, out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures(analysis: Analysis) -> dict[str, ReportFigure]:
    return {figure.name: figure for figure in report_figures(analysis)}


def test_the_page_has_the_sections_and_is_whole(html: str) -> None:
    page = Page(html)
    assert page.open == [] and foreign(page) == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and set(SECTIONS) <= set(ids)
    targets = {a["href"] for a in page.named("a")}
    assert {f"#{name}" for name in SECTIONS} <= targets
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert max(np.diff(levels)) <= 1
    assert len(page.named("table")) == len(page.named("caption"))
    assert "nan" not in page.words.replace("ensemble_uniform(nnUNet", "").lower().split()


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ({}, set()),
        ({"uncertainty": True}, {"uncertainty", "calibration"}),
        ({"calibrated": (A,)}, {"guarantees"}),
        ({"experts": True}, {"experts"}),
    ],
)
def test_a_section_is_there_only_where_it_has_something_to_show(tmp_path: Path, given: dict, there: set) -> None:
    out = write_sweep_output(tmp_path, (A,), 3, levels={"speckle_noise": [0.1]}, pictures=False, **given)
    page = Page(write_page(analyse([out]), out / "report.html").read_text())
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert ids & set(SECTIONS) == there


def test_what_it_rests_on_is_said(html: str) -> None:
    words = {name: section(html, name).words for name in SECTIONS}
    assert "nnUNetTrainerNoSkip, 1 − predicted Dice: a single member, which agrees with itself" in words["uncertainty"]
    assert "voxels within 3 mm of reference or prediction" in words["calibration"]
    assert "at most 10 % of the object lies outside of the outer mask" in words["guarantees"]
    assert "A guarantee is about images like those of the calibration" in words["guarantees"]
    assert "speckle noise, nnUNetTrainer, disc: first broken at level" in words["guarantees"]
    assert "that it is as good as an expert does not follow" in words["experts"]
    assert ["Ensemble of 2", ENSEMBLE.replace("_seed1", "")] in [
        row[:2] for row in tables(html)["What the names stand for"]
    ]


def test_numbers_of_tables_are_those_of_the_analysis(html: str, analysis: Analysis) -> None:
    found = tables(html)
    head, *rows = found["How well do scores rank images by their error?"]
    ranking = uncertainty.ranking(analysis)
    again = ranking["perturbation"].ne("clean").where(ranking["level"] == 0, False)
    assert len(rows) == len(ranking) - again.sum()
    none = [row for row in rows if row[head.index("architecture")] == "nnUNetTrainerNoSkip" and "member" in row[-1]]
    assert none and {row[head.index("Spearman")] for row in none} == {"–"}
    head, *rows = found["What bounds and intervals came to, under each condition"]
    assert {row[head.index("structure")] for row in rows} == {"disc", "ring"}
    assert {row[head.index("guaranteed: at most")] for row in rows} == {"0.100"}


def test_figures_draw_what_is_defined(figures: dict[str, ReportFigure]) -> None:
    ranking = figures["ranking-predicted_dice-Dataset501_Textures_speckle_noise"]
    assert "nnUNetTrainerNoSkip" not in set(ranking.data["line"])
    axes = ranking.draw().axes[0]
    rule, first, second = axes.lines
    assert set(rule.get_ydata()) == {0} and rule.get_color() == INK
    np.testing.assert_allclose(first.get_ydata(), ranking.data.query("line == 'nnUNetTrainer'")["mean"])
    np.testing.assert_allclose(second.get_ydata(), ranking.data.query("line == 'Ensemble of 2'")["mean"])
    assert "nan" not in ranking.alt
    bounds = figures["bounds-outer_threshold-Dataset501_Textures_speckle_noise_disc"]
    assert bounds.title == "speckle noise, disc" and "guaranteed: at most 10 %" in bounds.styles
    assert set(bounds.draw().axes[0].lines[0].get_ydata()) == {0.1}
    interval = figures["bounds-interval-Dataset501_Textures_speckle_noise_ring"]
    assert set(interval.draw().axes[0].lines[0].get_ydata()) == {0.9}
    reliability = figures["reliability-Dataset501_Textures_clean_0"].draw().axes[0]
    assert reliability.get_xlim() == reliability.get_ylim()
    experts = figures["experts-Dataset501_Textures_speckle_noise"]
    own = experts.data[experts.data["line"] == "the experts with each other"]
    assert own["mean"].nunique() == 1 and len(own) == 3
    risk = figures["risk-Dataset501_Textures_clean_0"].draw().axes[0]
    assert risk.get_ylim()[0] == 0 and len(risk.lines) == 2 * 3


def test_a_gap_where_a_level_is_not_defined(tmp_path: Path) -> None:
    out = write_sweep_output(
        tmp_path, (A,), 6, levels={"speckle_noise": [0.1, 0.3]}, pictures=False, uncertainty=True
    )  # fmt: skip
    rows = pd.read_csv(out / "results.csv", dtype={"fold": str})
    rows.loc[rows["level"] == 0.1, "entropy_bits"] = 0.5
    rows.to_csv(out / "results.csv", index=False)
    figures = {figure.name: figure for figure in report_figures(analyse([out]))}
    drawn = figures["ranking-entropy_bits-Dataset501_Textures_speckle_noise"].draw().axes[0].lines[1].get_ydata()
    assert list(np.isnan(drawn)) == [False, True, False]


def test_all_of_it_is_exported(analysis: Analysis, tmp_path: Path) -> None:
    names = {path.name for path in write_files(analysis, tmp_path, ["csv", "tex"])}
    kinds = {"ranking", "calibration", "breaks", "coverage", "experts", "difficulty"}
    assert {f"table_{kind}.{end}" for kind in kinds for end in ("csv", "tex")} <= names
    assert {f"{figure.name}.csv" for figure in report_figures(analysis)} <= names
    for table in report_tables(analysis):
        headings = [column.heading for column in table.columns]
        assert len(set(headings)) == len(headings)  # a row of LaTeX is made by heading
        text = latex(table)
        assert text.isascii(), sorted({letter for letter in text if not letter.isascii()})
        assert "nan" not in text.lower().replace("\\", " ").split()


def test_an_ensemble_s_seeds_are_one_architecture(tmp_path: Path) -> None:
    names = tuple(f"ensemble({a}_seed{seed}+{b}_seed{seed})" for seed in (1, 2) for a, b in (("A", "B"), ("A", "C")))
    out = write_sweep_output(tmp_path, names, 2, levels={"speckle_noise": [0.1]}, pictures=False)
    results = load_results(out / "results.csv")
    assert set(results["architecture"]) == {"ensemble(A+B)", "ensemble(A+C)"}
    assert set(results["line"]) == set(names)
    (sweep,) = analyse([out]).sweeps
    assert set(sweep.rows["architecture"]) == {"ensemble(A+B)", "ensemble(A+C)"}


def test_the_recipe_and_the_sentences_bear_an_ensemble(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (ENSEMBLE, B), 4, levels={"speckle_noise": [0.1]}, pictures=False)
    html = write_page(analyse([out]), out / "report.html").read_text()
    for name in ("verdict", "summary", "statistics"):
        assert "Ensemble of 2" in section(html, name).words


def test_without_any_of_it_there_is_nothing(tmp_path: Path) -> None:
    plain = analyse([write_sweep_output(tmp_path, (A, B), 3, levels={"speckle_noise": [0.1]}, pictures=False)])
    for table in (
        uncertainty.ranking, uncertainty.risk_curves, calibration.calibration, calibration.diagrams,
        guarantees.guarantees, guarantees.breaks, experts.experts, experts.difficulty,
    ):  # fmt: skip
        assert table(plain).empty
