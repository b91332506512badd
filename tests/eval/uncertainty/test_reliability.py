"""Bins against scikit-learn's calibration curve and a direct sum; voxels that are calibrated by construction."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty import label_layout as heads_module
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW, ReliabilityBins, reliability_bins
from tests.eval.uncertainty.test_label_layout import LABELS, REGIONS, probabilities

SHAPE = (8, 15, 16)


def _case(heads: LabelLayout, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and a reference that is drawn from them."""
    p = probabilities(heads, SHAPE, seed)
    rng = np.random.default_rng(seed + 100)
    if heads.class_order is None:
        drawn = (rng.random(SHAPE) > np.cumsum(p, axis=0)).sum(axis=0).clip(0, heads.count - 1)
    else:
        drawn = heads.segment((rng.random(p.shape) < p).astype(np.float32))
    return p, drawn.astype(np.uint8)


def _errors(bins: ReliabilityBins) -> dict[str, float]:
    """Row -> expected calibration error: sum over bins of n_b / n |share of hits - mean probability|; NaN without n."""
    gaps, totals = np.abs(bins.hits - bins.probabilities).sum(axis=1), bins.counts.sum(axis=1)
    return {name: float(gap / n) if n else math.nan for name, gap, n in zip(bins.names, gaps, totals, strict=True)}


def _diagram(bins: ReliabilityBins) -> pd.DataFrame:
    """The reliability diagram of the bins that hold voxels."""
    rows, columns = np.nonzero(bins.counts)
    n = bins.counts[rows, columns]
    return pd.DataFrame(
        {
            "row": [bins.names[row] for row in rows],
            "n_voxels": n,
            "probability": bins.probabilities[rows, columns] / n,
            "frequency": bins.hits[rows, columns] / n,
        }
    )


def _direct(p: np.ndarray, hit: np.ndarray, n_bins: int) -> float:
    """The expected calibration error, bin by bin."""
    error = 0.0
    for i in range(n_bins):
        inside = (p > i / n_bins) & (p <= (i + 1) / n_bins) | ((i == 0) & (p == 0))
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - p[inside].astype(float).mean())
    return error


@pytest.mark.parametrize("heads", [LABELS, REGIONS], ids=["softmax", "sigmoid"])
def test_bins_are_those_of_a_direct_count(heads: LabelLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "_VOXELS_AT_ONCE", 500)
    p, reference = _case(heads, 0)
    found = reliability_bins(p, reference, heads, n_bins=10)
    diagram, error = _diagram(found), _errors(found)
    for name, labels in heads.labels.items():
        own, there = p[heads.index[name]].ravel(), np.isin(reference, labels).ravel()
        frequency, probability = calibration_curve(there, own, n_bins=10)
        rows = diagram[diagram["row"] == name]
        np.testing.assert_allclose(rows["frequency"], frequency)
        np.testing.assert_allclose(rows["probability"], probability, rtol=1e-5)
        assert rows["n_voxels"].sum() == reference.size
        assert error[name] == pytest.approx(_direct(own, there, 10), rel=1e-5)
    if heads.class_order is None:
        confidence, right = p.max(axis=0), p.argmax(axis=0) == reference
    else:
        confidence = np.maximum(p, 1 - p)
        right = np.stack([(p[i] > 0.5) == np.isin(reference, v) for i, v in enumerate(heads.labels.values())])
    assert error[CONFIDENCE_ROW] == pytest.approx(_direct(confidence, right, 10), rel=1e-5)


def test_the_ends_and_edges_of_bins() -> None:
    binary = LabelLayout({"foreground": 1})
    p = np.array([0.0, 0.25, 0.2500001, 0.5, 1.0], np.float32)[:, None]
    found = reliability_bins(np.stack([1 - p, p]), np.ones((5, 1), np.uint8), binary, n_bins=4)
    assert found.counts[1].tolist() == [2, 2, 0, 1]


def test_what_is_calibrated_has_no_error_and_what_is_too_sure_has() -> None:
    binary = LabelLayout({"foreground": 1})
    rng = np.random.default_rng(0)
    true = rng.random((400, 500)).astype(np.float32)
    reference = (rng.random(true.shape) < true).astype(np.uint8)
    sharp = true**3 / (true**3 + (1 - true) ** 3)
    calibrated, too_sure = (reliability_bins(np.stack([1 - q, q]), reference, binary) for q in (true, sharp))
    assert _errors(calibrated)["foreground"] < 0.005
    assert _errors(too_sure)["foreground"] == pytest.approx(np.abs(sharp - true).mean(), abs=0.005)
    assert _errors(too_sure)[CONFIDENCE_ROW] > 0.1


def test_cases_add_up() -> None:
    cases = [_case(LABELS, seed) for seed in range(3)]
    bins = [reliability_bins(p, reference, LABELS) for p, reference in cases]
    together = reliability_bins(
        np.concatenate([p for p, _ in cases], axis=1), np.concatenate([r for _, r in cases]), LABELS
    )
    assert (sum(case.counts for case in bins) == together.counts).all()
    assert (sum(case.hits for case in bins) == together.hits).all()
    np.testing.assert_allclose(sum(case.probabilities for case in bins), together.probabilities)


def test_only_the_voxels_that_are_asked_for_count() -> None:
    p, reference = _case(LABELS, 0)
    reference[0] = 3
    where = np.random.default_rng(0).random(SHAPE) < 0.5
    found = reliability_bins(p, reference, LABELS, where, ignore_label=3)
    kept = where & (reference != 3)
    expected = reliability_bins(p[:, kept][:, None], reference[kept][None], LABELS)
    assert found.counts.sum() == 3 * kept.sum()
    assert (found.counts == expected.counts).all()
    assert (found.hits == expected.hits).all()
    nothing = reliability_bins(p, reference, LABELS, np.zeros(SHAPE, bool))
    assert all(math.isnan(error) for error in _errors(nothing).values())
    assert _diagram(nothing).empty
    with pytest.raises(UserError, match=r"\(8, 15, 16\), and what they are compared with has \(2, 2\)"):
        reliability_bins(p, reference, LABELS, np.zeros((2, 2), bool))
    with pytest.raises(UserError, match=r"compared with has \(7, 15, 16\)"):
        reliability_bins(p, reference[1:], LABELS)
