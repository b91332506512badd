"""Figures: what is drawn is what the data say, and names are usable as files and ids."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from nnunet_robust.eval.report import Analysis, analyse
from nnunet_robust.eval.report.sections import report_figures
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.panels import curve_panel, y_limits
from nnunet_robust.pages import plots
from tests.eval.sweep_output import write_sweep_output

MODELS = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2", "nnUNetTrainerNoSkip_seed1")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse([write_sweep_output(tmp_path_factory.mktemp("sweep"), MODELS, 6, pictures=False)])


@pytest.fixture(scope="module")
def figures(analysis: Analysis) -> dict[str, ReportFigure]:
    return {figure.name: figure for figure in report_figures(analysis)}


def test_names_are_unique_and_fit_for_files(analysis: Analysis) -> None:
    names = [figure.name for figure in report_figures(analysis)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)
    assert {figure.group for figure in report_figures(analysis)} == {
        "lost", "dice", "hd95_mm", "assd_mm", "nsd", "divergence", "ranks", "failures",
    }  # fmt: skip


def test_a_curve_panel_draws_means_intervals_and_trained_models(figures: dict[str, ReportFigure]) -> None:
    figure = figures["dice-Dataset501_Textures_speckle_noise"]
    axes = figure.draw().axes[0]
    trained = figure.data[figure.data["line"] == "nnUNetTrainer"]
    low, high, mean, other = (line.get_ydata() for line in axes.lines)
    np.testing.assert_allclose(low, trained["trained_low"])
    np.testing.assert_allclose(high, trained["trained_high"])
    np.testing.assert_allclose(mean, trained["mean"])
    assert (low <= mean).all() and (mean <= high).all() and (low < high).any()
    np.testing.assert_allclose(other, figure.data.loc[figure.data["line"] == "nnUNetTrainerNoSkip", "mean"])
    assert sum(isinstance(c, PolyCollection) for c in axes.collections) == 2
    assert list(axes.get_xticks()) == [0, 0.1, 0.2, 0.3, 0.45]
    assert axes.get_ylabel() == "mean Dice"


def test_shares_end_at_one_and_distances_begin_at_nought() -> None:
    points = pd.DataFrame({"mean": [0.5, 0.9], "low": [0.41, np.nan], "high": [0.6, np.nan]})
    assert y_limits(points, "dice") == (pytest.approx(0.3), 1.02)
    assert y_limits(points * 100, "hd95_mm") == (0.0, pytest.approx(94.5))
    assert y_limits(points.assign(trained_low=0.18, trained_high=0.9), "dice") == (pytest.approx(0.1), 1.02)


def test_svg_is_the_same_each_time_and_its_ids_are_its_own(figures: dict[str, ReportFigure]) -> None:
    figure = next(iter(figures.values()))
    with plots.plain_style():
        first, again = (plots.svg_text(figure.draw(), figure.name) for _ in range(2))
    assert first == again
    ids = re.findall(r'\bid="([^"]*)"', first)
    assert ids and all(name.startswith(figure.name + "-") for name in ids)
    assert "currentColor" in first and plots.INK not in first


def test_styles_differ_in_colour_marker_and_line() -> None:
    styles = plots.line_styles([f"m{i}" for i in range(56)])
    assert len(set(styles.values())) == 56
    first = list(styles.values())[:4]
    assert all(len({style[i] for style in first}) == 4 for i in range(3))


def test_one_level_and_no_interval_can_be_drawn() -> None:
    points = pd.DataFrame(
        [("A", 1.0, 0.5, np.nan, np.nan, 1, 0.5, 0.5)],
        columns=["line", "level", "mean", "low", "high", "n_trained", "trained_low", "trained_high"],
    )
    axes = curve_panel(points, "dice", "", plots.line_styles(["A"]), (0, 1)).axes[0]
    assert len(axes.lines) == 1 and not axes.collections
    assert axes.get_xlabel() == "level"
