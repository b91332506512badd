"""Each structure for itself: by sections of a page, and as a whole report of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.report import Analysis, analyse, write_page
from nnunet_robust.eval.report.sections import report_figures, report_tables
from tests.eval.report.pages import Page, section
from tests.eval.sweep_output import write_sweep_output

LABELS = ("LV", "RV", "myocardium")
LEVELS = {"speckle_noise": [0.1, 0.45]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("structures") / "out"
    return write_sweep_output(out, n_cases=5, labels=LABELS, levels=LEVELS, pictures=False)


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse([folder])


def test_each_structure_has_its_curve_and_its_row(folder: Path, analysis: Analysis) -> None:
    stored = pd.read_csv(folder / "results.csv")
    expected = stored.groupby(["label", "model", "level"])["dice"].mean()
    figures = [figure for figure in report_figures(analysis) if figure.group == "structures"]
    assert [figure.title for figure in figures] == [f"speckle noise, {label}" for label in LABELS]
    models = dict(zip(analysis.architectures, dict.fromkeys(stored["model"]), strict=True))
    for label, figure in zip(LABELS, figures, strict=True):
        assert "mean of" not in figure.sample and len(figure.data) == 2 * 3
        for row in figure.data.itertuples():
            assert row.mean == pytest.approx(expected[label, models[row.line], row.level])
    (table,) = (table for table in report_tables(analysis) if table.name == "summary_labels")
    assert list(dict.fromkeys(table.data["label"])) == list(LABELS)


def test_means_over_structures_are_said_to_be_that(folder: Path, analysis: Analysis) -> None:
    for figure in report_figures(analysis):
        if figure.group in ("dice", "ranks"):
            assert figure.sample.endswith(", mean of 3 structures")
    (dice,) = (figure for figure in report_figures(analysis) if figure.group == "dice")
    assert dice.draw().axes[0].get_ylabel() == "mean Dice of 3 structures"
    notes = {table.name: table.note for table in report_tables(analysis)}
    assert notes["summary"].endswith("Scores are each the mean of 3 structures.")
    assert "mean of 3" not in notes["summary_labels"] and "mean of 3" not in notes["mcnemar"]
    page = write_page(analysis, folder / "report.html").read_text()
    assert "Dice of each structure" in section(page, "structures").words


def test_a_report_of_one_structure_is_that_of_a_sweep_with_it_alone(folder: Path, tmp_path: Path) -> None:
    one = analyse([folder], labels=["RV"])
    pd.testing.assert_frame_equal(one.rows, analyse([folder]).of_label("RV").rows)
    results = pd.read_csv(folder / "results.csv", dtype={"fold": str})
    alone = tmp_path / "alone"
    write_sweep_output(alone, n_cases=5, labels=LABELS, levels=LEVELS, pictures=False)
    results[results["label"] == "RV"].to_csv(alone / "results.csv", index=False)
    expected = analyse([alone])
    for metric, points in expected.points.items():
        pd.testing.assert_frame_equal(one.points[metric], points)
    np.testing.assert_array_equal(one.summary["auc"], expected.summary["auc"])
    assert one.structures("Dataset501_Textures") == ["RV"] and one.over_structures() == ""
    html = write_page(one, tmp_path / "report.html").read_text()
    assert "Of these structures alone: RV." in Page(html).words and 'id="structures"' not in html
    two = analyse([folder], labels=["RV", "LV"])
    assert two.over_structures() == "mean of 2 structures"


def test_an_unknown_structure_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--label 2: no such structure; there is LV, RV, myocardium$"):
        analyse([folder], labels=["2"])
    other = write_sweep_output(tmp_path, n_cases=3, levels=LEVELS, pictures=False, dataset="Dataset502_Others")
    with pytest.raises(UserError, match=r"--label LV: Dataset502_Others has none of these, but foreground$"):
        analyse([folder, other], labels=["LV"])
    both = analyse([folder, other])
    assert both.over_structures() == "mean of 3 structures" and both.over_structures("Dataset502_Others") == ""
    assert both.of_label("foreground").datasets == ["Dataset502_Others"]


def test_one_structure_has_no_section_of_its_own(tmp_path: Path) -> None:
    analysis = analyse([write_sweep_output(tmp_path, n_cases=3, levels=LEVELS, pictures=False)])
    assert not [figure for figure in report_figures(analysis) if figure.group == "structures"]
