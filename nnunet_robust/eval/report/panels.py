"""How the report's figures are drawn: data frames in, matplotlib figures out. No pyplot and no global state.

Axes have fixed places: matplotlib's own layout costs as much as the drawing. Call within `plots.plain_style`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nnunet_robust.eval.statistics import COMPARABLE
from nnunet_robust.pages.plots import INK, LineStyle
from nnunet_robust.pages.wording import number, percent

_SIZE = (4.4, 3.1)  # inches
_LETTER = 0.0115  # of an axis: half of what a tick label takes for each of its letters
_MARGINS = (0.7, 0.1, 0.66, 0.1)  # inches: left, right, bottom, top
CELL = (0.52, 0.42)  # inches, of the heat map
LABELS = 2.7  # inches, for the heat map's names
_COLOURS_OF_RANKS = "Blues"  # one hue: told apart by lightness alone


def y_limits(points: pd.DataFrame, metric: str) -> tuple[float, float]:
    """One axis range for all panels of a metric: shares end at 1, distances begin at 0, and all that is drawn fits."""
    lowest = float(np.nanmin(points.filter(["mean", "low", "trained_low"]).to_numpy(float)))
    highest = float(np.nanmax(points.filter(["mean", "high", "trained_high"]).to_numpy(float)))
    if COMPARABLE[metric].better == "higher":
        return max(0.0, np.floor((lowest - 0.02) * 10) / 10), 1.02
    return 0.0, highest * 1.05 or 1.0


def curve_panel(
    points: pd.DataFrame,
    metric: str,
    unit: str,
    styles: Mapping[str, LineStyle],
    limits: tuple[float, float],
) -> Figure:
    """Score over level: a line and a shaded interval for each architecture, thin lines for its trained models.

    Args:
        points: rows of `statistics.curves` of one dataset and one perturbation.
        metric: a key of `COMPARABLE`, for the axis.
        unit: what the level is counted in, for the axis.
        styles: of `line_styles`, for each line.
        limits: of the y axis.
    """
    return level_panel(points, _score_label(metric), unit, styles, limits)


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
        _line(axes, x, of_line["mean"], style)
    _level_ticks(axes, points["level"], unit)
    axes.set_ylim(*limits)
    axes.set_ylabel(label, color=INK)
    return figure


def failure_panel(counts: pd.DataFrame, unit: str, styles: Mapping[str, LineStyle]) -> Figure:
    """The share of objects that failed, over level, a line for each architecture.

    Args:
        counts: columns line, level, count, of (how many could fail), what ("missed" or "hallucinated"); of one dataset
            and one perturbation.
        unit: what the level is counted in.
        styles: for each line.
    """
    figure, axes = panel()
    for line, of_line in counts.groupby("line", sort=False):
        _line(axes, of_line["level"], of_line["count"] / of_line["of"], styles[str(line)])
    _level_ticks(axes, counts["level"], unit)
    axes.set_ylim(0, float((counts["count"] / counts["of"]).max()) * 1.08)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    most, least = int(counts["of"].max()), int(counts["of"].min())
    axes.set_ylabel(f"{counts['what'].iloc[0]}, of {most if most == least else f'{least} to {most}'}", color=INK)
    return figure


def relation_panel(
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
    figure, axes = panel()
    if cloud is not None:
        colour = styles[str(means["line"].iloc[0])].colour
        alpha = float(np.clip(100 / len(cloud), 0.1, 0.5))
        axes.plot(cloud["x"], cloud[metric], ".", color=colour, ms=5, alpha=alpha, mew=0, rasterized=True)
    for line, of_line in means.groupby("line", sort=False):
        style = styles[str(line)]
        x = of_line["x"].to_numpy(float)
        known = of_line["low"].notna().to_numpy()
        axes.vlines(x[known], of_line["low"][known], of_line["high"][known], color=style.colour, lw=1.4, alpha=0.7)
        _line(axes, x, of_line["mean"], style)
    low, high = x_limits
    room = 0.03 * (high - low) or 0.05
    ends = (low - room, high + room)
    if low > 0 and high / low > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        ends = (low * 0.85, high * 1.15)
    axes.set_xlim(*ends)
    axes.set_ylim(*limits)
    axes.set_xlabel(_wrapped(x_label), color=INK)
    axes.set_ylabel(_score_label(metric), color=INK)
    return figure


def rank_map(ranks: pd.DataFrame, lines: Sequence[str], n_lines: int) -> Figure:
    """Ranks as a heat map: a row per architecture, a column per condition, rank and share of first places in words.

    Args:
        ranks: columns condition (its name), level, line, rank, share_first; conditions in the order of the rows.
        lines: architectures, from top to bottom.
        n_lines: the lowest possible rank.
    """
    conditions = list(dict.fromkeys(zip(ranks["condition"], ranks["level"], strict=True)))
    width, height = LABELS + CELL[0] * len(conditions) + 0.1, CELL[1] * len(lines) + 0.75
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (LABELS / width, 0.1 / height, CELL[0] * len(conditions) / width, CELL[1] * len(lines) / height)
    )
    colours = matplotlib.colormaps[_COLOURS_OF_RANKS]
    cells = {(row["condition"], row["level"], row["line"]): row for row in ranks.to_dict("records")}
    for j, condition in enumerate(conditions):
        for i, line in enumerate(lines):
            row = cells.get((*condition, line))
            if row is None:
                continue
            colour = colours(1 - (row["rank"] - 1) / max(n_lines - 1, 1))
            axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=colour, ec="white", lw=1)
            ink = "black" if luminance(colour[:3]) > 0.179 else "white"  # where both have the same contrast
            share = "" if np.isnan(row["share_first"]) else f"\n{percent(row['share_first'], 0)}"
            axes.text(
                j + 0.5,
                i + 0.5,
                f"{row['rank']:g}{share}",
                color=ink,
                ha="center",
                va="center",
                fontsize=8,
                linespacing=1.3,
            )
    axes.set_xlim(0, len(conditions))
    axes.set_ylim(len(lines), 0)
    axes.set_yticks(np.arange(len(lines)) + 0.5, [name_lines(line) for line in lines], color=INK, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set_xticks(
        np.arange(len(conditions)) + 0.5, [f"{level:g}" for _, level in conditions], color=INK, fontsize=8.5
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _group_titles(axes, [name for name, _ in conditions])
    return figure


def name_lines(name: str, width: int = 34) -> str:
    """A long name on several lines, broken after underscores."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_")


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour in [0, 1], as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _group_titles(axes: Any, names: Sequence[str]) -> None:
    """Over each run of columns of one perturbation, its name and a rule."""
    start = 0
    for j in range(1, len(names) + 1):
        if j < len(names) and names[j] == names[start]:
            continue
        text = "\n".join(textwrap.wrap(names[start], max(9, 8 * (j - start)))[:2])
        above = axes.get_xaxis_transform()
        axes.text(
            (start + j) / 2, 1, text, transform=_shifted(axes, 22), ha="center", va="bottom", color=INK, fontsize=8.5
        )
        axes.plot([start + 0.06, j - 0.06], [1, 1], transform=_shifted(axes, 19), color=INK, lw=0.8, clip_on=False)
        if start:
            axes.plot([start, start], [0, 1], transform=above, color=INK, lw=1.2, clip_on=False)
        start = j


def _shifted(axes: Any, points: float) -> Any:
    from matplotlib.transforms import ScaledTranslation

    return axes.get_xaxis_transform() + ScaledTranslation(0, points / 72, axes.figure.dpi_scale_trans)


def with_legend(figure: Figure, styles: Mapping[str, LineStyle]) -> Figure:
    """The figure with a legend below it, for a file that stands alone. It lies outside of the figure's own box."""
    handles = [
        Line2D([], [], color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8, label=name)
        for name, style in styles.items()
    ]
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=1,
        frameon=False,
        fontsize=8,
        borderaxespad=0.3,
    )
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


def _line(axes: Any, x: Any, y: Any, style: LineStyle) -> None:
    axes.plot(x, y, color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8)


def _score_label(metric: str) -> str:
    info = COMPARABLE[metric]
    return f"mean {info.label} ({info.unit})" if info.unit else f"mean {info.label}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 56)[:2])


def _level_ticks(axes: Any, all_levels: pd.Series, unit: str) -> None:
    levels = np.unique(all_levels.to_numpy(float))
    axes.set_xticks(_apart(levels), labels=[f"{x:g}" for x in _apart(levels)])
    axes.set_xlabel(_wrapped(f"level: {unit}" if unit else "level"), color=INK)


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
