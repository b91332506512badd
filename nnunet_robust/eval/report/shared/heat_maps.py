"""How heat maps are drawn, with a number in each cell: data frames in, matplotlib figures out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from nnunet_robust.pages.plots import INK
from nnunet_robust.pages.wording import percent

MOST_COLUMNS = 16
"""As many columns are as wide as the page."""

_CORNER = "made against ↓  predicted by →"
_CELL = (0.52, 0.42)  # inches
_WIDE = 0.97  # inches, of a cell below an architecture's name
_MOST_LABELS = 2.7  # inches, for the names of the rows
_LETTER_OF_ROWS = 0.074  # inches
_LETTER = 0.066  # inches, of the names of who predicts
_WRAPPED = 28  # letters of these in a line
_COLOURS_OF_RANKS = "Blues"  # one hue: told apart by lightness alone
_COLOURS_OF_SCORES = "cividis"  # told apart by lightness alone, the same to colour-blind readers


def rank_map(ranks: pd.DataFrame, lines: Sequence[str], n_lines: int) -> Figure:
    """Ranks as a heat map: a row per architecture, a column per condition, rank and share of first places in words.

    Args:
        ranks: columns condition (its name), level, line, rank, share_first; conditions in the order of the rows.
        lines: architectures, from top to bottom.
        n_lines: the lowest possible rank.
    """
    conditions = list(dict.fromkeys(zip(ranks["condition"], ranks["level"], strict=True)))
    figure, axes = _grid(len(conditions), lines, _CELL[1] * len(lines) + 0.75)
    colours = matplotlib.colormaps[_COLOURS_OF_RANKS]
    cells = {(row["condition"], row["level"], row["line"]): row for row in ranks.to_dict("records")}
    for j, condition in enumerate(conditions):
        for i, line in enumerate(lines):
            row = cells.get((*condition, line))
            if row is None:
                continue
            colour = colours(1 - (row["rank"] - 1) / max(n_lines - 1, 1))
            share = "" if np.isnan(row["share_first"]) else f"\n{percent(row['share_first'], 0)}"
            _cell(axes, i, j, f"{row['rank']:g}{share}", colour, linespacing=1.3)
    _name_cells(axes, lines, [f"{level:g}" for _, level in conditions], fontsize=8.5)
    _group_titles(axes, [name for name, _ in conditions])
    return figure


def loss_map(table: pd.DataFrame, rows: Sequence[str], lines: Sequence[str]) -> Figure:
    """What is lost at one level of each perturbation, as a heat map: a row per perturbation, a column per architecture.

    Args:
        table: columns row (its name), line, lost, told (whether it is told from the best): the others are in bold, with
            a dot.
        rows: names of the rows, from top to bottom.
        lines: architectures, from left to right.
    """
    names = [_name_lines(name, 14) for name in lines]
    figure, axes = _grid(len(lines), rows, _CELL[1] * len(rows) + 0.25 + 0.16 * _most_lines(names), cell=_WIDE)
    colours = matplotlib.colormaps[_COLOURS_OF_RANKS]
    most = max(float(table["lost"].max()), 0.1)
    for row in table.to_dict("records"):
        text = f"{row['lost']:.2f}".replace("-0.00", "0.00").replace("-", "−")
        text, weight = (text, "normal") if row["told"] else (f"● {text}", "bold")
        colour = colours(0.75 * min(max(float(row["lost"]), 0.0) / most, 1.0))
        _cell(axes, rows.index(row["row"]), lines.index(row["line"]), text, colour, fontweight=weight)
    _name_cells(axes, rows, names, fontsize=8.5)
    return figure


def _most_lines(names: Sequence[str]) -> int:
    return max(name.count("\n") + 1 for name in names)


def transfer_map(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Mean Dice as a heat map: a row per attacked model, and within each budget a column per model that predicts.

    Args:
        table: columns level, attacked, line, score; what a model did under an attack on itself is framed.
        models: who predicts, from left to right.
    """
    levels, rows = sorted(set(table["level"])), list(dict.fromkeys(table["attacked"]))
    names = [_name_lines(name, _WRAPPED) for name in models]
    room = 0.15 + _LETTER * max(len(line) for name in names for line in name.split("\n"))
    figure, axes = _grid(len(levels) * len(models), rows, _CELL[1] * len(rows) + room + 0.4, _CORNER)
    colours = matplotlib.colormaps[_COLOURS_OF_SCORES]
    for row in table.to_dict("records"):
        i = rows.index(row["attacked"])
        j = levels.index(row["level"]) * len(models) + models.index(row["line"])
        own = row["attacked"] == row["line"]
        weight = "bold" if own else "normal"
        ink = _cell(axes, i, j, f"{row['score']:.2f}", colours(float(row["score"])), fontweight=weight)
        if own:
            inner = np.array([0.06, 0.94])
            axes.plot(j + inner[[0, 1, 1, 0, 0]], i + inner[[0, 0, 1, 1, 0]], color=ink, lw=1.4)
    _name_cells(axes, rows, names * len(levels), fontsize=7.5, rotation=90, linespacing=1)
    above = 1 + room / (_CELL[1] * len(rows))
    top, corner = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    axes.text(-0.02, -0.15, _CORNER, transform=corner, ha="right", color=INK, fontsize=8)
    for number, level in enumerate(levels):
        middle = (number + 0.5) * len(models)
        text = "\n".join(textwrap.wrap(f"budget {level:g}", max(7, 7 * len(models))))
        axes.text(middle, above, text, transform=top, ha="center", va="bottom", color=INK, fontsize=8.5)
        if number:
            at = number * len(models)
            axes.plot([at, at], [0, above], transform=top, color=INK, lw=1.2, clip_on=False)
    return figure


def _grid(
    n_columns: int, rows: Sequence[str], height: float, *beside: str, cell: float = _CELL[0]
) -> tuple[Figure, Any]:
    """An empty map, `height` inches high: above its cells, `cell` inches wide, is room for the names of its columns.

    `beside` are texts that stand in the column of the rows' names, too.
    """
    letters = max(len(line) for name in [*rows, *beside] for line in _name_lines(name).split("\n"))
    labels = min(_MOST_LABELS, 0.2 + _LETTER_OF_ROWS * letters)
    width = labels + cell * n_columns + 0.1
    figure = Figure(figsize=(width, height))
    box = (labels / width, 0.1 / height, cell * n_columns / width, _CELL[1] * len(rows) / height)
    return figure, figure.add_axes(box)


def _cell(axes: Any, row: int, column: int, text: str, colour: Sequence[float], **style: Any) -> str:
    """Draw a cell with its text, in black or white, whichever can be read on its colour; that is returned."""
    i, j = row, column
    axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=colour, ec="white", lw=1)
    ink = "black" if _luminance(colour[:3]) > 0.179 else "white"  # where both have the same contrast
    axes.text(j + 0.5, i + 0.5, text, color=ink, ha="center", va="center", fontsize=8, **style)
    return ink


def _name_cells(axes: Any, rows: Sequence[str], columns: Sequence[str], **style: Any) -> None:
    """Fit the axes to the cells, and name rows and columns; `style` is that of the columns' names."""
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [_name_lines(name) for name in rows], color=INK, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, color=INK, **style)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _name_lines(name: str, width: int = 34) -> str:
    """A long name on several lines, broken after underscores."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_")


def _luminance(colour: Sequence[float]) -> float:
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
    return axes.get_xaxis_transform() + ScaledTranslation(0, points / 72, axes.figure.dpi_scale_trans)
