"""The model beside the experts, against the rows that it was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.eval.report import Analysis, analyse
from nnunet_robust.eval.report.sections.experts import difficulty, experts
from nnunet_robust.eval.statistics import bootstrap_interval
from tests.eval.report.sections.measured_confidence import A, B, row_at, rows_of
from tests.eval.sweep_output import write_sweep_output


def test_the_model_beside_the_experts(confidence: Analysis, confidence_sweep: Path) -> None:
    rows = rows_of(confidence_sweep, "results", A, "speckle_noise", 0.1)
    found = row_at(experts(confidence), "nnUNetTrainer", "speckle_noise", 0.1)
    difference = (rows["model_expert_dice"] - rows["expert_agreement"]).set_axis(rows["patient"])
    mean = difference.groupby(level=0).mean().mean()
    ends = found[["difference", "difference_low", "difference_high"]]
    assert list(ends) == pytest.approx([mean, *bootstrap_interval(difference)])
    assert found["experts"] == pytest.approx(rows["expert_agreement"].mean())
    assert found["model"] == pytest.approx(rows["model_expert_dice"].mean())


def test_difficulty_is_asked_of_the_same_cases(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (A, B), 9, levels={"speckle_noise": [0.1]}, pictures=False, experts=True)
    inputs = pd.read_csv(out / "inputs.csv")
    clean = inputs["perturbation"] == "clean"
    inputs.loc[clean, "texture_divergence_bits"] = np.random.default_rng(0).random(clean.sum())
    inputs.loc[clean & (inputs["case"] == "tex_003"), "texture_divergence_bits"] = np.nan
    inputs.to_csv(out / "inputs.csv", index=False)
    rows = (
        rows_of(out, "results", B, "clean", 0).merge(inputs[clean], on="case").dropna(subset="texture_divergence_bits")
    )
    table = difficulty(analyse([out]))
    own = table[table["line"] == "nnUNetTrainerNoSkip"].set_index("measure")
    for measure in ("expert_agreement", "texture_divergence_bits"):
        assert own.loc[measure, "spearman"] == pytest.approx(stats.spearmanr(rows[measure], rows["dice"]).statistic)
        assert own.loc[measure, "n_cases"] == 8
