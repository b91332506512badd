"""How the map of transferred attacks is drawn: data frame in, matplotlib figure out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_robust.eval.report.panels import CELL, LABELS, luminance, name_lines
from nnunet_robust.pages.plots import INK

_LETTER = 0.066  # inches, of the names of who predicts
_WRAPPED = 28  # letters of these in a line
_COLOURS = "cividis"  # told apart by lightness alone, the same to colour-blind readers


def transfer_map(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Mean Dice as a heat map: a row per attacked model, and within each budget a column per model that predicts.

    Args:
        table: columns level, attacked, line, score; what a model did under an attack on itself is framed.
        models: who predicts, from left to right.
    """
    levels, rows = sorted(set(table["level"])), list(dict.fromkeys(table["attacked"]))
    n_columns = len(levels) * len(models)
    names = [name_lines(name, _WRAPPED) for name in models]
    room = 0.15 + _LETTER * max(len(line) for name in names for line in name.split("\n"))
    width, height = LABELS + CELL[0] * n_columns + 0.1, CELL[1] * len(rows) + room + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (LABELS / width, 0.1 / height, CELL[0] * n_columns / width, CELL[1] * len(rows) / height)
    )  # fmt: skip
    colours = matplotlib.colormaps[_COLOURS]
    for row in table.to_dict("records"):
        i = rows.index(row["attacked"])
        j = levels.index(row["level"]) * len(models) + models.index(row["line"])
        colour = colours(float(row["score"]))
        axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=colour, ec="white", lw=1)
        ink = "black" if luminance(colour[:3]) > 0.179 else "white"  # where both have the same contrast
        own = row["attacked"] == row["line"]
        axes.text(
            j + 0.5, i + 0.5, f"{row['score']:.2f}", color=ink, ha="center", va="center", fontsize=8,
            fontweight="bold" if own else "normal",
        )  # fmt: skip
        if own:
            inner = np.array([0.06, 0.94])
            axes.plot(j + inner[[0, 1, 1, 0, 0]], i + inner[[0, 0, 1, 1, 0]], color=ink, lw=1.4)
    axes.set_xlim(0, n_columns)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [name_lines(name) for name in rows], color=INK, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set_xticks(
        np.arange(n_columns) + 0.5, names * len(levels), color=INK, fontsize=7.5, rotation=90, linespacing=1
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    above = 1 + room / (CELL[1] * len(rows))
    top, corner = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    axes.text(-0.02, -0.15, "made against ↓  predicted by →", transform=corner, ha="right", color=INK, fontsize=8)
    for number, level in enumerate(levels):
        middle = (number + 0.5) * len(models)
        text = "\n".join(textwrap.wrap(f"budget {level:g}", max(7, 7 * len(models))))
        axes.text(middle, above, text, transform=top, ha="center", va="bottom", color=INK, fontsize=8.5)
        if number:
            at = number * len(models)
            axes.plot([at, at], [0, above], transform=top, color=INK, lw=1.2, clip_on=False)
    return figure
