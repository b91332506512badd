"""Calibration of probabilities, against the bins that it was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_robust.eval.report import Analysis
from nnunet_robust.eval.report.sections.calibration import calibration, diagrams
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW
from tests.eval.report.sections.measured_confidence import B, N, row_at, rows_of


def test_calibration_errors_are_those_of_the_summed_bins(confidence: Analysis, confidence_sweep: Path) -> None:
    for perturbation, level, stored in (("speckle_noise", 0.1, "speckle_noise"), ("speckle_noise", 0.0, "clean")):
        rows = rows_of(confidence_sweep, "reliability", B, stored, level)
        for label in (CONFIDENCE_ROW, "foreground"):
            own = rows[rows["label"] == label]
            n, p, hits = (own.filter(regex=f"^{name}_").sum().to_numpy() for name in ("n", "p", "hits"))
            found = row_at(calibration(confidence), "nnUNetTrainerNoSkip", perturbation, level, label=label)
            assert found["mean"] == pytest.approx(np.abs(hits - p).sum() / n.sum())
            assert found["gap"] == pytest.approx((p.sum() - hits.sum()) / n.sum())
            assert found["low"] < found["mean"] < found["high"]
            assert (found["n_voxels"], found["n_cases"]) == (n.sum(), N)
    mine = diagrams(confidence).query("line == 'nnUNetTrainerNoSkip' and perturbation == 'speckle_noise'")
    rows = rows_of(confidence_sweep, "reliability", B, "speckle_noise", 0.45)
    own = rows[rows["label"] == CONFIDENCE_ROW]
    n, hits = (own.filter(regex=f"^{name}_").sum().to_numpy() for name in ("n", "hits"))
    np.testing.assert_allclose(mine["mean"], (hits / np.maximum(n, 1))[n > 0])
    assert list(mine["n_voxels"]) == list(n[n > 0]) and (n == 0).any()
