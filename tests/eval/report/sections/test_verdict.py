"""The first screen: the picture of the middle levels, the tables of the verdicts, and its place before the rest."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.sections import SECTIONS, report_figures
from nnunet_robust.eval.report.sections.verdict import SECTION
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.answer import all_verdicts
from nnunet_robust.eval.statistics.recipe import ELSE
from tests.eval.sweep_output import write_sweep_output


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse([write_sweep_output(tmp_path_factory.mktemp("sweep"), n_cases=10, pictures=False)])


def test_it_comes_right_after_the_warnings() -> None:
    assert [section.name for section in SECTIONS[:3]] == ["warnings", "verdict", "curves"]


def test_the_picture_has_what_is_lost_at_the_middle_levels(analysis: Analysis) -> None:
    (figure,) = (figure for figure in report_figures(analysis) if figure.group == "lost")
    middle = {"speckle_noise": 0.3, "gaussian_blur": 3.0}  # the third of four
    assert dict(zip(figure.data["perturbation"], figure.data["level"], strict=True)) == middle
    points = analysis.points["dice"].set_index(["perturbation", "level", "line"])["mean"]
    found = all_verdicts(analysis)
    for row in figure.data.to_dict("records"):
        there = points[row["perturbation"], row["level"], row["line"]]
        assert row["lost"] == pytest.approx(points["clean", 0.0, row["line"]] - there)
        verdict = found[row["dataset"], row["perturbation"], row["level"]]
        assert row["told"] == (row["line"] not in verdict.best)
    drawn = [text.get_text() for text in figure.draw().axes[0].texts]
    assert len([text for text in drawn if text.startswith("● ")]) == int((~figure.data["told"]).sum())
    assert len(drawn) == len(figure.data) == 4


def test_its_tables_have_every_verdict_and_every_difference(analysis: Analysis) -> None:
    tables = {table.name: table.data for table in SECTION.all_tables(analysis)}
    assert list(tables) == ["recipe", "verdicts", "differences"]
    assert len(tables["verdicts"]) == len(tables["differences"]) == len(all_verdicts(analysis)) == 9
    assert set(tables["verdicts"]["settled"]) <= {"settled, and it matters", "settled", "not settled"}
    assert tables["recipe"]["perturbation"].iloc[-1] == ELSE
    pairs = tables["differences"]
    assert (pairs["low"] < pairs["difference"]).all() and (pairs["difference"] < pairs["high"]).all()


def test_of_one_architecture_there_is_nothing_to_show(tmp_path: Path) -> None:
    one = analyse([write_sweep_output(tmp_path, models=("nnUNetTrainer",), n_cases=6, pictures=False)])
    assert SECTION.all_tables(one) == [] and not [f for f in report_figures(one) if f.group == "lost"]
    assert pd.DataFrame(all_verdicts(one)).empty
