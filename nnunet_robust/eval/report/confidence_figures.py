"""The figures of confidence, calibration, bounds and experts, as data; `figures` makes a report's figures of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from nnunet_robust.eval.report import confidence_panels, panels
from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.calibration import CONFIDENCE_LABEL
from nnunet_robust.eval.report.experts import EXPERTS_LINE, as_curves
from nnunet_robust.eval.report.over_level import over_level
from nnunet_robust.eval.report.promises import INTERVAL, KINDS, PROMISES, share
from nnunet_robust.eval.report.ranking import SCORES
from nnunet_robust.eval.report.report_figure import ReportFigure, sample_of
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW
from nnunet_robust.pages.plots import LineStyle, rule_styles
from nnunet_robust.pages.wording import number, percent

RANKING, RISK, ERROR, DIAGRAM, PROMISE, EXPERTS = (
    "ranking", "risk", "calibration", "reliability", "bounds", "experts",
)  # fmt: skip


def confidence_figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    """All of them, without those that have nothing to show."""
    for make in (_ranking, _risk, _calibration, _diagrams, _bounds, _experts):
        yield from make(analysis, styles)


def _ranking(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = analysis.ranking
    renamed = {"spearman": "mean", "spearman_low": "low", "spearman_high": "high"}
    keep = ["dataset", "perturbation", "line", "level", "score", *renamed, "n_cases", "n_patients", "n_trained"]
    points = table[keep].rename(columns=renamed)
    lowest = float(np.nanmin([0.0, *points["mean"], *points["low"]]))
    limits = (min(-0.1, np.floor((lowest - 0.02) * 10) / 10), 1.02)
    for score, label in SCORES.items():
        yield from over_level(
            analysis,
            points[points["score"] == score],
            f"{RANKING}-{score}",
            f"Spearman correlation of {label} with the error, 1 − Dice",
            "Spearman's correlation with error",
            styles,
            limits,
            {"a score that says nothing": 0.0},
        )


def _risk(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    curves = analysis.risk_curves
    for dataset, of_dataset in curves.groupby("dataset", sort=False):
        score = SCORES[of_dataset["score"].iloc[0]]
        for (name, at), part in of_dataset.groupby(["perturbation", "level"], sort=False):
            where = _condition(analysis, str(name), at)
            highest = 1.08 * float(part[["mean", "high"]].max().max()) or 1.0
            ends = part[part["x"] > 1 - 1e-9].set_index("line")
            half = part[np.isclose(part["x"], 0.5)].set_index("line")
            told = "; ".join(
                f"{line}: {number(half.loc[line, 'mean'])} of the surest half, {number(ends.loc[line, 'mean'])} of all"
                for line in ends.index
            )
            yield ReportFigure(
                group=RISK,
                name=f"{dataset}_{name}_{at:g}",
                dataset=str(dataset),
                title=f"{where}, by {score}",
                sample=sample_of(part),
                data=part,
                alt=f"Risk over coverage, ranked by {score}, {where}. Mean 1 − Dice: {told}.",
                draw=partial(confidence_panels.risk_panel, part, styles, highest),
                styles={
                    **{line: styles[line] for line in dict.fromkeys(part["line"])},
                    "the least possible, in the same colour": confidence_panels.LEAST,
                },
                value="risk",
            )


def _calibration(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = analysis.calibration
    table = table[table["label"] == CONFIDENCE_ROW]
    if table["mean"].notna().any():
        limits = (0.0, 1.08 * float(np.nanmax(table[["mean", "high"]].to_numpy(float))) or 1.0)
        what = "Expected calibration error"
        yield from over_level(analysis, table, ERROR, what, "expected calibration error", styles, limits)


def _diagrams(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    bins = analysis.diagrams
    for (dataset, name, at), part in bins.groupby(["dataset", "perturbation", "level"], sort=False):
        where = _condition(analysis, str(name), at)
        parts = []
        for line, of_line in part.groupby("line", sort=False):
            sure = of_line.iloc[-1]
            parts.append(f"{line}: where it is surest ({number(sure['x'])}), {percent(sure['mean'])} are right")
        yield ReportFigure(
            group=DIAGRAM,
            name=f"{dataset}_{name}_{at:g}",
            dataset=str(dataset),
            title=where,
            sample=sample_of(part),
            data=part,
            alt=f"Share of voxels that are right over the probability of {CONFIDENCE_LABEL}, {where}. "
            f"{'; '.join(parts)}.",
            draw=partial(confidence_panels.reliability_panel, part, styles),
            styles={
                **{line: styles[line] for line in dict.fromkeys(part["line"])},
                "as sure as right": confidence_panels.DIAGONAL,
            },
            value="share that is right",
        )


def _bounds(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = analysis.promises
    for promise, what in PROMISES.items():
        points = table[table["promise"] == promise]
        if points.empty:
            continue
        rules = {share(float(promised), promise): float(promised) for promised in points["promised"].unique()}
        drawn = points[["mean", "low", "high", "promised"]].to_numpy(float)
        highest = 1.02 if promise == INTERVAL else min(1.02, 1.08 * float(np.nanmax(drawn)))
        lowest = max(0.0, np.floor((float(np.nanmin(drawn)) - 0.02) * 10) / 10) if promise == INTERVAL else 0.0
        several = points["label"].nunique() > 1
        kind = "share of " + what if promise in KINDS else f"Share of {what}"
        for label, of_label in points.groupby("label", sort=False):
            yield from over_level(
                analysis,
                of_label,
                f"{PROMISE}-{promise}",
                f"Mean {kind}" if promise in KINDS else kind,
                _AXES[promise],
                styles,
                (lowest, highest),
                rules,
                str(label) if several else "",
            )


_AXES = {
    **{kind: "mean share of the object missed" for kind in KINDS if kind.startswith("outer")},
    **{kind: "mean share of the mask that is wrong" for kind in KINDS if kind.startswith("inner")},
    INTERVAL: "share of cases in their interval",
}


def _experts(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    points = as_curves(analysis.experts)
    if points.empty:
        return
    limits = panels.y_limits(points, "dice")
    with_experts = {**styles, **rule_styles([EXPERTS_LINE])}
    what = "Mean Dice with the experts"
    yield from over_level(analysis, points, EXPERTS, what, "mean Dice with the experts", with_experts, limits)


def _condition(analysis: Analysis, name: str, level: Any) -> str:
    return "clean images" if name == CLEAN else f"{analysis.names[name]} at {level:g}"
