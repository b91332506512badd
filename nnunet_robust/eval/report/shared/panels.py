"""How the report's figures are drawn: data frames in, matplotlib figures out. No pyplot and no global state.

Axes have fixed places: matplotlib's own layout costs as much as the drawing. Call within `plots.plain_style`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_robust.eval.statistics import COMPARABLE
from nnunet_robust.pages.plots import INK, LineStyle
from nnunet_robust.pages.wording import number

_SIZE = (4.4, 3.1)  # inches
_LETTER = 0.013  # of an axis: half of what a tick label takes for each of its letters
_MARGINS = (0.7, 0.1, 0.66, 0.1)  # inches: left, right, bottom, top


def y_limits(points: pd.DataFrame, metric: str) -> tuple[float, float]:
    """One axis range for all panels of a metric: shares end at 1, distances begin at 0, and all that is drawn fits."""
    lowest = float(np.nanmin(points.filter(["mean", "low", "trained_low"]).to_numpy(float)))
    highest = float(np.nanmax(points.filter(["mean", "high", "trained_high"]).to_numpy(float)))
    if COMPARABLE[metric].better == "higher":
        return max(0.0, np.floor((lowest - 0.02) * 10) / 10), 1.02
    return 0.0, highest * 1.05 or 1.0


def curve_panel(
    points: pd.DataFrame, metric: str, unit: str, styles: Mapping[str, LineStyle], limits: tuple[float, float]
) -> Figure:
    """Score over level: a line and a shaded interval for each architecture, thin lines for its trained models.

    Args:
        points: rows of `statistics.curves` of one dataset and one perturbation.
        metric: a key of `COMPARABLE`, for the axis.
        unit: what the level is counted in, for the axis.
        styles: of `line_styles`, for each line.
        limits: of the y axis.
    """
    return level_panel(points, score_label(metric), unit, styles, limits)


def level_panel(
    points: pd.DataFrame,
    label: str,
    unit: str,
    styles: Mapping[str, LineStyle],
    limits: tuple[float, float],
    rules: Mapping[float, LineStyle] | None = None,
    unbanded: Collection[str] = (),
) -> Figure:
    """Anything over level: a line and a shaded interval for each architecture; a gap where it is not defined.

    Args:
        points: columns line, level, mean, low, high, and of several trained models n_trained, trained_low,
            trained_high.
        label: of the y axis.
        unit: what the level is counted in, for the axis.
        styles: of `line_styles`, for each line.
        limits: of the y axis.
        rules: value -> its style: horizontal lines to read the others by.
        unbanded: lines that are drawn without their intervals.
    """
    figure, axes = panel()
    for value, style in (rules or {}).items():
        axes.axhline(value, color=style.colour, ls=style.line, lw=1.2, zorder=1)
    for line, of_line in points.groupby("line", sort=False):
        style = styles[str(line)]
        x = of_line["level"].to_numpy(float)
        if of_line["low"].notna().any() and line not in unbanded:
            axes.fill_between(x, of_line["low"], of_line["high"], color=style.colour, alpha=0.16, lw=0)
        if "trained_low" in of_line and of_line["n_trained"].max() > 1:
            for edge in ("trained_low", "trained_high"):
                axes.plot(x, of_line[edge], color=style.colour, ls=style.line, lw=0.7)
        draw_line(axes, x, of_line["mean"], style)
    level_ticks(axes, points["level"], unit)
    axes.set_ylim(*limits)
    axes.set_ylabel(label, color=INK)
    return figure


def with_legend(figure: Figure, styles: Mapping[str, LineStyle]) -> Figure:
    """The figure with a legend below it, for a file that stands alone. It lies outside of the figure's own box."""
    handles = [
        Line2D([], [], color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8, label=name)
        for name, style in styles.items()
    ]
    figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=1, frameon=False, fontsize=8,
        borderaxespad=0.3,
    )  # fmt: skip
    return figure


def panel() -> tuple[Figure, Any]:
    """An empty panel of the size that all have."""
    left, right, bottom, top = _MARGINS
    width, height = _SIZE
    figure = Figure(figsize=_SIZE)
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(box)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=INK, alpha=0.12, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    return figure, axes


def draw_line(axes: Any, x: Any, y: Any, style: LineStyle) -> None:
    """Draw one line of a panel, with its marks."""
    axes.plot(x, y, color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8)


def score_label(metric: str, n_structures: int = 1) -> str:
    """The label of an axis of mean scores, which are means over some structures, too: "mean Dice of 3 structures"."""
    info = COMPARABLE[metric]
    of = f" of {n_structures} structures" if n_structures > 1 else ""
    return f"mean {info.label}{of} ({info.unit})" if info.unit else f"mean {info.label}{of}"


def wrapped(text: str) -> str:
    """A label that may be long, on two lines at most."""
    return "\n".join(textwrap.wrap(text, 56)[:2])


def level_ticks(axes: Any, all_levels: pd.Series, unit: str) -> None:
    """Label the horizontal axis, with a tick at each level that has room for its number."""
    levels = np.unique(all_levels.to_numpy(float))
    axes.set_xticks(_apart(levels), labels=[f"{x:g}" for x in _apart(levels)])
    axes.set_xlabel(wrapped(f"level: {unit}" if unit else "level"), color=INK)


def _apart(levels: np.ndarray) -> list[float]:
    """Levels whose tick labels do not touch: at least 7 % of the axis apart, or as they need; the last stays."""
    width = float(levels[-1] - levels[0])
    kept = [float(levels[-1])]
    for level in levels[-2::-1]:
        letters = len(f"{level:g}{kept[-1]:g}")
        if kept[-1] - level >= max(0.07, _LETTER * letters) * width:
            kept.append(float(level))
    return kept[::-1]


def told(points: pd.DataFrame, metric: str = "dice") -> str:
    """A panel in words: "A: 0.93 at 0, 0.50 at 0.3; B: ..."."""
    parts = []
    for line, of_line in points.groupby("line", sort=False):
        at = (f"{number(mean, metric)} at {x:.3g}" for mean, x in zip(of_line["mean"], of_line["x"], strict=True))
        parts.append(f"{line}: {', '.join(at)}")
    return "; ".join(parts)
