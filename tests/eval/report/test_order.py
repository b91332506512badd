"""Curves in order: whatever the order of the rows, no line of any figure doubles back, and its CSV is in that order."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.eval.report import Analysis, analyse
from nnunet_robust.eval.report.compare import compare
from nnunet_robust.eval.report.sections import SECTIONS, report_figures, report_tables
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.report.shared.viewer import viewer_data
from nnunet_robust.pages import plots
from tests.eval.attacked_output import write_attacked_output
from tests.eval.sweep_output import write_sweep_output

PLAIN, OTHER = "nnUNetTrainer_seed1", "nnUNetTrainerNoSkip_seed1"
MODELS = (PLAIN, OTHER, f"{PLAIN}+denoise", f"ensemble_uniform({PLAIN}+{OTHER})")
LEVELS = {"speckle_noise": [0.45, 0.1, 0.3], "radius": [3.0, 1.0, 2.0], "bias_field": [0.5, 0.2]}


def _as_stored(out: Path) -> Path:
    """Rows as a sweep stores them: a model, a case, a perturbation after the other, bias_field before clean."""
    for file in out.glob("*.csv"):
        table = pd.read_csv(file, dtype={"fold": str})
        keys = [name for name in ("model", "case", "perturbation") if name in table]
        table.sort_values(keys, kind="stable").to_csv(file, index=False)
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("order")
    first = write_sweep_output(
        root / "first", MODELS, 7, ("disc", "ring"), LEVELS, uncertainty=True, calibrated=(PLAIN, OTHER), experts=True
    )
    manifest = json.loads((first / "manifest.json").read_text())
    manifest["perturbations"]["radius"]["series"] = {f"{level:g}": {} for level in LEVELS["radius"]}
    (first / "manifest.json").write_text(json.dumps(manifest))
    inputs = pd.read_csv(first / "inputs.csv")
    inputs["foreground_ratio"] *= inputs["level"].where(inputs["perturbation"] == "radius", 1.0)
    inputs.to_csv(first / "inputs.csv", index=False)
    second = write_attacked_output(root / "second", (PLAIN, OTHER), (PLAIN,), dataset="Dataset502_Textures")
    return [_as_stored(first), _as_stored(second)]


@pytest.fixture(scope="module")
def analysis(folders: list[Path]) -> Analysis:
    return analyse(folders)


@pytest.fixture(scope="module")
def figures(analysis: Analysis) -> list[ReportFigure]:
    return report_figures(analysis)


def test_the_made_up_sweeps_have_every_figure(figures: list[ReportFigure]) -> None:
    assert {figure.group for figure in figures} == {group for section in SECTIONS for group in section.groups}


def test_no_line_of_a_figure_doubles_back(figures: list[ReportFigure]) -> None:
    with plots.plain_style():
        for figure in figures:
            for axes in figure.draw().axes if not figure.is_map else ():
                for line in axes.lines:
                    cloud = line.get_linestyle() == "None"  # single points, in no order
                    assert cloud or pd.Series(line.get_xdata()).is_monotonic_increasing, figure.name


def test_the_numbers_behind_a_figure_are_in_its_order(figures: list[ReportFigure]) -> None:
    for figure in figures:
        keys = [name for name in ("perturbation", "line", "attacked", "score", "label", "what") if name in figure.data]
        x = "x" if "x" in figure.data else "level"
        for _, part in figure.data.groupby(keys):
            assert part[x].is_monotonic_increasing, figure.name


def test_the_levels_of_a_table_rise(analysis: Analysis) -> None:
    for table in report_tables(analysis):
        names = ("dataset", "perturbation", "line", "score", "label", "attacked", "what")
        keys = [name for name in names if name in table.data]
        if "level" in table.data and table.name not in ("breaks", "crossings"):  # there it is an answer
            for _, part in table.data.groupby(keys):
                assert part["level"].is_monotonic_increasing, table.name


def test_curves_of_a_comparison_and_steps_of_the_viewer_rise(folders: list[Path]) -> None:
    sweep = read_sweep(folders[0])
    for _, part in compare(sweep, sweep).points.groupby(["perturbation", "line", "sweep"]):
        assert part["level"].is_monotonic_increasing
    (show,) = json.loads(str(viewer_data([sweep])["json"]))["datasets"]
    for perturbation in (row for case in show["cases"] for row in case["perturbations"]):
        levels = [float(step["level"].removesuffix(" (clean)")) for step in perturbation["steps"]]
        assert levels == sorted(levels) and len(levels) > 1
