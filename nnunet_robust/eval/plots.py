"""The report's figures: curves as SVG text, picture grids as PNG bytes.

No pyplot and no global state; the same input gives the same bytes. Models are told apart by colour (Okabe & Ito 2008,
safe for colour-blind readers), marker and line style together. The SVGs' ink is `currentColor`, so that they follow
a page's colours.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from nnunet_robust.eval.statistics import COMPARABLE

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_INK = "#010203"  # stands for the page's own text colour, see _svg
_REFERENCE = "#56B4E9"
_PREDICTION = "#E69F00"

_TILE = 1.5  # inches
_DPI = 144


class LineStyle(NamedTuple):
    """How one model is drawn, in every figure of a report."""

    colour: str
    marker: str
    line: str


def line_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each name, by position; the first 56 differ from one another."""
    return {
        name: LineStyle(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i, name in enumerate(names)
    }


def swatch(style: LineStyle, name: str) -> str:
    """A legend's key, as SVG text; `name` makes its ids unique in a page."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(0.5, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.plot(
            [0, 0.5, 1], [0, 0, 0], color=style.colour, ls=style.line, marker=style.marker, markevery=[1], ms=6, lw=1.8
        )
        return _svg(figure, name)


def y_limits(points: pd.DataFrame, metric: str) -> tuple[float, float]:
    """One axis range for all panels of a metric: shares end at 1, distances begin at 0, and every interval fits."""
    lowest = float(np.nanmin(points[["mean", "low"]].to_numpy(float)))
    highest = float(np.nanmax(points[["mean", "high"]].to_numpy(float)))
    if COMPARABLE[metric].better == "higher":
        return max(0.0, np.floor((lowest - 0.02) * 10) / 10), 1.02
    return 0.0, highest * 1.05 or 1.0


def curve_panel(
    points: pd.DataFrame,
    metric: str,
    unit: str,
    styles: Mapping[str, LineStyle],
    limits: tuple[float, float],
    name: str,
) -> str:
    """Score over level, a line and a shaded interval for each model.

    Args:
        points: rows of `statistics.curves` of one dataset and one perturbation.
        metric: a key of `COMPARABLE`, for the axis.
        unit: what the level is counted in, for the axis.
        styles: of `line_styles`, for each line.
        limits: of the y axis.
        name: makes the ids unique in a page.

    Returns:
        SVG text, without a legend (see `swatch`) and without a date.
    """
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for line, of_line in points.groupby("line", sort=False):
            style = styles[str(line)]
            x = of_line["level"].to_numpy(float)
            axes.fill_between(x, of_line["low"], of_line["high"], color=style.colour, alpha=0.16, lw=0)
            axes.plot(x, of_line["mean"], color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8)
        levels = np.unique(points["level"].to_numpy(float))
        axes.set_xticks(_apart(levels), labels=[f"{x:g}" for x in _apart(levels)])
        axes.set_ylim(*limits)
        title, unit_y = COMPARABLE[metric].label, COMPARABLE[metric].unit
        axes.set_xlabel("\n".join(textwrap.wrap(f"level: {unit}" if unit else "level", 56)), color=_INK)
        axes.set_ylabel(f"mean {title} ({unit_y})" if unit_y else f"mean {title}", color=_INK)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.grid(color=_INK, alpha=0.12, lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        return _svg(figure, name)


def _apart(levels: np.ndarray) -> list[float]:
    """Levels whose tick labels do not touch: at least 7 % of the axis between neighbours; the last one always stays."""
    gap = 0.07 * float(levels[-1] - levels[0])
    kept = [float(levels[-1])]
    for level in levels[-2::-1]:
        if kept[-1] - level >= gap:
            kept.append(float(level))
    return kept[::-1]


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    rc: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(rc):
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # several figures share a page: make every id, and every reference to one, its own
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


class Tile(NamedTuple):
    """One picture of a grid: 8-bit grey (H, W), label map (H, W) predicted on it, a line below it, its ground truth.

    Without a ground truth of its own, it has the grid's.
    """

    image: np.ndarray | None
    prediction: np.ndarray | None
    note: str
    reference: np.ndarray | None = None


def picture_grid(
    rows: Sequence[tuple[str, Sequence[Tile]]],
    columns: Sequence[str],
    reference: np.ndarray | None,
) -> bytes:
    """A row per model and a column per level: the image, with the outlines of ground truth and prediction over it.

    Args:
        rows: a model's name and its tiles, one per column.
        columns: titles.
        reference: label map (H, W) of the ground truth; 0 is background, and each label gets its own outline.

    Returns:
        PNG bytes.
    """
    head, title, note = 0.54, 0.26, 0.26  # inches
    shape = next((t.image.shape for _, tiles in rows for t in tiles if t.image is not None), (1, 1))
    tile_height = _TILE * min(max(shape[0] / shape[1], 0.4), 2.5)
    row_height = title + tile_height + note
    width, height = len(columns) * (_TILE + 0.08) + 0.08, head + len(rows) * row_height
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(max(width, 3.4), height), facecolor="white")
        full_width = figure.get_figwidth()
        keys = [
            Line2D([], [], color=_REFERENCE, lw=2.6, label="ground truth"),
            Line2D([], [], color=_PREDICTION, lw=1.4, label="prediction"),
        ]
        figure.legend(handles=keys, loc="upper left", ncols=2, frameon=False, fontsize=9, borderaxespad=0.2)
        for j, text in enumerate(columns):
            x = 0.08 + j * (_TILE + 0.08) + _TILE / 2
            figure.text(x / full_width, 1 - 0.43 / height, text, ha="center", va="center", fontsize=9)
        for i, (name, tiles) in enumerate(rows):
            top = height - head - i * row_height
            figure.text(0.08 / full_width, (top - title / 2) / height, name, va="center", fontsize=9, weight="bold")
            for j, tile in enumerate(tiles):
                left, bottom = 0.08 + j * (_TILE + 0.08), top - title - tile_height
                box = (left / full_width, bottom / height, _TILE / full_width, tile_height / height)
                axes = figure.add_axes(box, xticks=[], yticks=[])
                axes.set_xlabel(tile.note, fontsize=8.5, labelpad=3)
                _draw_tile(axes, tile, reference if tile.reference is None else tile.reference)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=_DPI)
    small = io.BytesIO()  # noise hardly compresses: a palette takes a third of the bytes
    Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def _draw_tile(axes: Any, tile: Tile, reference: np.ndarray | None) -> None:
    if tile.image is None:
        axes.text(0.5, 0.5, "no picture", ha="center", va="center", fontsize=9, transform=axes.transAxes)
        return
    axes.imshow(tile.image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for labels, colour, line_width in ((reference, _REFERENCE, 2.6), (tile.prediction, _PREDICTION, 1.4)):
        if labels is None:
            continue
        for label in np.unique(labels[labels > 0]):
            mask = np.pad(labels == label, 1).astype(float)  # padded, so that an outline closes at the border
            ticks = [np.arange(-1, n - 1) for n in mask.shape]
            axes.contour(ticks[1], ticks[0], mask, levels=[0.5], colors=colour, linewidths=line_width)
