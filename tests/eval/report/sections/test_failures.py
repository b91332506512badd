"""Missed and hallucinated objects: what is drawn and said is what was counted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.sections import report_figures
from nnunet_robust.eval.report.sections.failures import failure_counts, failure_sentences
from tests.eval.sweep_output import write_sweep_output

MODELS = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2", "nnUNetTrainerNoSkip_seed1")


def test_failures_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    analysis = analyse([write_sweep_output(tmp_path, MODELS, 6, pictures=False)])
    found = {figure.name: figure for figure in report_figures(analysis) if figure.group == "failures"}
    counts = failure_counts(analysis)
    for figure in found.values():
        assert figure.data["count"].max() > 0
        drawn = {line.get_ydata().max() for line in figure.draw().axes[0].lines}
        shares = figure.data["count"] / figure.data["of"]
        assert max(drawn) == pytest.approx(shares.max())
    silent = counts[~counts["perturbation"].eq("clean")].groupby(["perturbation", "what"])["count"].sum() > 0
    assert len(found) == silent.sum()


def test_failures_in_words() -> None:
    counts = pd.DataFrame(
        [("A", "missed", 3, 40), ("A", "missed", 1, 40), ("B", "missed", 0, 80),
         ("A", "hallucinated", 0, 5), ("B", "hallucinated", 0, 5)],
        columns=["line", "what", "count", "of"],
    )  # fmt: skip
    assert failure_sentences(counts, "D") == [
        "D: Missed over all conditions, clean included: 4 of 80 by A and none of 80 by B.",
        "D: None was hallucinated by any architecture, of 5 each.",
    ]
    nothing = counts.assign(count=0, of=0)
    assert failure_sentences(nothing) == [
        "There is not an object in any image: none could be missed.",
        "There is not an image without an object: none could be hallucinated.",
    ]
