"""Scores over what was measured of the inputs, and how these are drawn.

A point is a patient under a condition: the score of an architecture (averaged over its trained models, labels,
replicates and the patient's cases), and what `inputs.csv` has of the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nnunet_robust.eval.report.shared import panels
from nnunet_robust.eval.report.shared.analysis import METRIC
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.statistics import COMPARABLE, bootstrap_interval, case_scores
from nnunet_robust.pages.plots import INK, LineStyle

DIVERGENCE = "texture_divergence_bits"
PLACE = ["dataset", "perturbation", "level", "patient"]
_MOST_BINS = 8
PATIENTS_OF_A_BIN = 3  # at least, as far as the quantiles allow


class Relation(NamedTuple):
    """One panel: scores over something measured.

    Attributes:
        title: what it shows.
        means: columns line, x (mean of what was measured), lowest, highest (the bin's ends), mean, low, high (of the
            score, its interval by patient), n_patients, n_points.
        cloud: columns line, x and the metric, a row per point.
    """

    title: str
    means: pd.DataFrame
    cloud: pd.DataFrame


def points(sweeps: Sequence[Sweep], metric: str, measured: str) -> pd.DataFrame:
    """Each patient's score under each condition, with what was measured of its images there.

    Args:
        sweeps: their `inputs` may be None, or lack the column.
        metric: a key of `COMPARABLE`.
        measured: a column of `inputs.csv`.

    Returns:
        Columns dataset, perturbation, level, patient, architecture, the metric's name, x; clean images once; without
        attacks, which the models that are not attacked mostly withstand. Empty where nothing was measured.
    """
    found = []
    for sweep in sweeps:
        if sweep.inputs is None or measured not in sweep.inputs:
            continue
        scores = case_scores(sweep.rows[~sweep.rows["perturbation"].isin(list(sweep.attacks))], metric)
        for keys in ([*PLACE, "architecture", "line"], [*PLACE, "architecture"]):  # cases, then trained models
            scores = scores.groupby(keys, sort=False)[metric].mean().reset_index()
        x = sweep.inputs.groupby(PLACE)[measured].mean().rename("x").reset_index().dropna()
        # Level 0 of a perturbation is the clean image again, which the inputs have once.
        found.append(scores.merge(x[np.isfinite(x["x"])], on=PLACE))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*PLACE, "architecture", metric, "x"])


def edges_of(values: pd.Series, n_patients: int) -> np.ndarray:
    """The ends of bins that hold about as many values each."""
    n_bins = int(np.clip(n_patients // PATIENTS_OF_A_BIN, 1, _MOST_BINS))
    return np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))


def binned(table: pd.DataFrame, metric: str, edges: np.ndarray) -> pd.DataFrame:
    """`mean_of` of each bin, in the order of x."""
    which = np.clip(np.searchsorted(edges, table["x"], side="right") - 1, 0, max(len(edges) - 2, 0))
    return pd.DataFrame([mean_of(part, metric) for _, part in table.groupby(which)])


def mean_of(part: pd.DataFrame, metric: str) -> dict[str, float]:
    """The mean score of some points and its interval over patients, as a row of `Relation.means`."""
    by_patient = part.groupby(["dataset", "patient"])[metric].mean()
    low, high = bootstrap_interval(by_patient.to_numpy(float)) or (np.nan, np.nan)
    x = {"x": float(part["x"].mean()), "lowest": float(part["x"].min()), "highest": float(part["x"].max())}
    score = {"mean": float(by_patient.mean()), "low": low, "high": high}
    return {**x, **score, "n_patients": len(by_patient), "n_points": len(part)}


def relation_figure(
    group: str, relation: Relation, sample: str, x_label: str, styles: Mapping[str, LineStyle], dots: bool
) -> ReportFigure:
    """A relation as a figure of a group, with its single points behind the means where `dots` are asked for."""
    means, x = relation.means, relation.cloud["x"]
    shown, ends = {line: styles[line] for line in dict.fromkeys(means["line"])}, (float(x.min()), float(x.max()))
    order = ["line", *(name for name in means if name != "line")]
    return ReportFigure(
        group=group,
        name=relation.title,
        dataset="",
        title=relation.title,
        sample=sample,
        data=means[order],
        alt=f"Mean {COMPARABLE[METRIC].label} over {x_label}. {panels.told(means, METRIC)}.",
        draw=partial(
            _relation_panel, means, METRIC, x_label, shown, (-0.02, 1.02), ends, relation.cloud if dots else None
        ),
        styles=shown,
        is_mean=True,
    )


def _relation_panel(
    means: pd.DataFrame,
    metric: str,
    x_label: str,
    styles: Mapping[str, LineStyle],
    limits: tuple[float, float],
    x_limits: tuple[float, float],
    cloud: pd.DataFrame | None = None,
) -> Figure:
    """Score over something that was measured of the inputs: means with intervals, and single scores behind them.

    Args:
        means: columns line, x, mean, low, high, in the order of x.
        metric: a key of `COMPARABLE`.
        x_label: of the x axis.
        styles: for each line.
        limits: of the y axis.
        x_limits: of the x axis; logarithmic where its ends are far apart.
        cloud: columns x and metric, drawn as dots in the colour of the first line.
    """
    figure, axes = panels.panel()
    if cloud is not None:
        colour = styles[str(means["line"].iloc[0])].colour
        alpha = float(np.clip(100 / len(cloud), 0.1, 0.5))
        axes.plot(cloud["x"], cloud[metric], ".", color=colour, ms=5, alpha=alpha, mew=0, rasterized=True)
    for line, of_line in means.groupby("line", sort=False):
        style = styles[str(line)]
        x = of_line["x"].to_numpy(float)
        known = of_line["low"].notna().to_numpy()
        axes.vlines(x[known], of_line["low"][known], of_line["high"][known], color=style.colour, lw=1.4, alpha=0.7)
        panels.draw_line(axes, x, of_line["mean"], style)
    low, high = x_limits
    room = 0.03 * (high - low) or 0.05
    ends = (low - room, high + room)
    if low > 0 and high / low > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        ends = (low * 0.85, high * 1.15)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(*ends)
    axes.set_ylim(*limits)
    axes.set_xlabel(panels.wrapped(x_label), color=INK)
    axes.set_ylabel(panels.score_label(metric), color=INK)
    return figure
