"""How the figures of confidence are drawn that are not over a level: data frames in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from nnunet_robust.eval.report.panels import panel
from nnunet_robust.pages.plots import INK, LineStyle

LEAST = LineStyle(INK, "", ":")
"""Of the least possible risk, which is drawn in the colour of the line that it belongs to."""

DIAGONAL = LineStyle(INK, "", "--")
"""Of perfect calibration."""

_MARKS = 4  # a marker at each so-manieth point of a risk-coverage curve


def risk_panel(curves: pd.DataFrame, styles: Mapping[str, LineStyle], highest: float) -> Figure:
    """Risk-coverage curves: the mean error of the images accepted over their share, the surest first.

    Args:
        curves: columns line, x (coverage), mean (risk), low, high, optimal (the least possible, drawn thin and dotted).
        styles: for each line.
        highest: upper end of the y axis.
    """
    figure, axes = panel()
    for line, of_line in curves.groupby("line", sort=False):
        style = styles[str(line)]
        x = of_line["x"].to_numpy(float)
        if of_line["low"].notna().any():
            axes.fill_between(x, of_line["low"], of_line["high"], color=style.colour, alpha=0.16, lw=0)
        axes.plot(x, of_line["optimal"], color=style.colour, ls=LEAST.line, lw=1)
        axes.plot(
            x, of_line["mean"], color=style.colour, ls=style.line, marker=style.marker, markevery=(_MARKS - 1, _MARKS),
            ms=5, lw=1.8,
        )  # fmt: skip
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, highest)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}")
    axes.set_xlabel("coverage: images accepted, the surest first (%)", color=INK)
    axes.set_ylabel("risk: mean 1 − Dice of those", color=INK)
    return figure


def reliability_panel(bins: pd.DataFrame, styles: Mapping[str, LineStyle]) -> Figure:
    """A reliability diagram: how often the label that is called is right, over its probability.

    Args:
        bins: columns line, x (mean probability), mean (share that is right), low, high.
        styles: for each line.
    """
    figure, axes = panel()
    lowest = max(0.0, float(min(bins["x"].min(), bins[["mean", "low"]].min().min())) - 0.03)
    axes.plot([0, 1], [0, 1], color=INK, ls=DIAGONAL.line, lw=1.2)
    for line, of_line in bins.groupby("line", sort=False):
        style = styles[str(line)]
        known = of_line[of_line["low"].notna()]
        axes.vlines(known["x"], known["low"], known["high"], color=style.colour, lw=1.4, alpha=0.7)
        axes.plot(of_line["x"], of_line["mean"], color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8)
    axes.set_xlim(lowest, 1.02)
    axes.set_ylim(lowest, 1.02)
    axes.set_xlabel("probability of the label that is called (bin's mean)", color=INK)
    axes.set_ylabel("share of voxels that are right", color=INK)
    return figure
