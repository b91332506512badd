"""The map of ranks: what it says, that it can be read, and when there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.sections import report_figures
from nnunet_robust.eval.report.shared.heat_maps import rank_map
from tests.eval.sweep_output import MODELS, write_sweep_output


def test_the_rank_map_says_rank_and_share_in_every_cell() -> None:
    ranks = pd.DataFrame(
        [("noise", 0.1, "A", 1, 0.97), ("noise", 0.1, "B", 2, 0.03), ("blur", 1.0, "A", 1, np.nan),
         ("blur", 1.0, "B", 1, np.nan)],
        columns=["condition", "level", "line", "rank", "share_first"],
    )  # fmt: skip
    axes = rank_map(ranks, ["A", "B"], 2).axes[0]
    cells = {(round(t.get_position()[0], 1), round(t.get_position()[1], 1)): t for t in axes.texts}
    assert cells[0.5, 0.5].get_text() == "1\n97 %" and cells[0.5, 1.5].get_text() == "2\n3 %"
    assert cells[1.5, 0.5].get_text() == "1"


def test_ranks_can_be_read_on_every_colour() -> None:
    lines = [f"m{i}" for i in range(8)]
    ranks = pd.DataFrame({"condition": "noise", "level": 0.1, "line": lines, "rank": range(1, 9), "share_first": 0.1})
    axes = rank_map(ranks, lines, 8).axes[0]
    cells = {(round(t.get_position()[0], 1), round(t.get_position()[1], 1)): t for t in axes.texts}
    colours = {patch.get_facecolor() for patch in axes.patches}
    assert len(colours) == 8
    for patch in axes.patches:
        x, y = patch.get_xy().mean(axis=0)
        ink = cells[next(k for k in cells if abs(k[0] - x) < 0.3 and abs(k[1] - y) < 0.3)].get_color()
        assert _contrast(patch.get_facecolor()[:3], (0, 0, 0) if ink == "black" else (1, 1, 1)) > 4.5


def _contrast(a: tuple, b: tuple) -> float:
    def luminance(colour: tuple) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_report_without_pairs_has_no_ranks(tmp_path: Path) -> None:
    one = analyse([write_sweep_output(tmp_path, MODELS[:1], 3, pictures=False)])
    assert not [figure for figure in report_figures(one) if figure.group == "ranks"]
