"""Dice over texture divergence, against relations that were planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.report import Analysis
from nnunet_robust.eval.report.sections.texture import divergence
from nnunet_robust.eval.report.shared.relations import points
from tests.eval.report.sections.measured_inputs import sweep_of


def _noise(n_patients: int = 24) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Dice = 0.2 + 2 x divergence for A, 0.1 less for B; level 0 of the noise is the clean image again."""
    scores, inputs = [], []
    for patient in range(n_patients):
        for name, level in (("clean", 0.0), ("noise", 0.0), ("noise", 1.0)):
            divergence = 0.05 + 0.01 * patient if not level else 0.02 + 0.001 * patient
            for line, less in (("A", 0.0), ("B", 0.1)):
                scores.append((f"p{patient}", name, level, line, 0.2 + 2 * divergence - less))
            if (name, level) != ("noise", 0.0):
                inputs.append((f"p{patient}", name, level, divergence))
    return (
        pd.DataFrame(scores, columns=["patient", "perturbation", "level", "architecture", "dice"]),
        pd.DataFrame(inputs, columns=["patient", "perturbation", "level", "texture_divergence_bits"]),
    )


def test_bins_lie_on_the_planted_line_and_count_every_image_once() -> None:
    rows, inputs = _noise()
    relations, n_points, _ = divergence(Analysis([sweep_of(rows, inputs)]))
    assert [relation.title for relation in relations] == ["A", "B"]
    assert n_points == 48  # 24 patients, clean and noisy: the clean image is not counted again as level 0
    for relation, less in zip(relations, (0.0, 0.1), strict=True):
        means = relation.means
        assert means["n_points"].sum() == 48 and len(relation.cloud) == 48
        np.testing.assert_allclose(means["mean"], 0.2 + 2 * means["x"] - less)
        assert (means["low"] <= means["mean"]).all() and (means["mean"] <= means["high"]).all()
        assert (np.diff(means["x"]) > 0).all() and means["n_points"].max() <= 2 * means["n_points"].min()
    assert (relations[0].means["x"] == relations[1].means["x"]).all()


def test_architectures_are_compared_at_shared_points_only() -> None:
    rows, inputs = _noise()
    without = rows[~((rows["architecture"] == "B") & (rows["perturbation"] == "noise") & (rows["level"] == 1))]
    relations, n_points, left_out = divergence(Analysis([sweep_of(without, inputs)]))
    assert n_points == 24 and not left_out
    assert all((relation.cloud["perturbation"] == "clean").all() for relation in relations)


def test_architectures_without_a_shared_condition_are_not_shown_together() -> None:
    rows, inputs = _noise()
    apart = rows[(rows["architecture"] == "A") == (rows["perturbation"] == "clean")]
    relations, n_points, left_out = divergence(Analysis([sweep_of(apart, inputs)]))
    assert (relations, n_points) == ([], 0) and "no condition of a dataset that all architectures" in left_out


def test_nothing_is_shown_where_nothing_was_measured_or_varies() -> None:
    rows, inputs = _noise()
    assert divergence(Analysis([sweep_of(rows, None)])) == ([], 0, "")
    unmeasured = inputs.rename(columns={"texture_divergence_bits": "other"})
    assert divergence(Analysis([sweep_of(rows, unmeasured)])) == ([], 0, "")
    assert divergence(Analysis([sweep_of(rows, inputs.assign(texture_divergence_bits=0.1))])) == ([], 0, "")
    some = inputs.assign(texture_divergence_bits=inputs["texture_divergence_bits"].where(inputs["level"] > 0))
    assert set(points([sweep_of(rows, some)], "dice", "texture_divergence_bits")["perturbation"]) == {"noise"}


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_patients_for_bins_is_said(n: int) -> None:
    assert divergence(Analysis([sweep_of(*_noise(n))])) == (
        [],
        0,
        f"Dice over texture divergence: too few patients for bins ({n}).",
    )


@pytest.mark.parametrize("n", [6, 9, 200])
def test_bins_hold_about_as_many_points_each(n: int) -> None:
    rows, inputs = _noise(n)
    relations, _, _ = divergence(Analysis([sweep_of(rows, inputs)]))
    counts = relations[0].means["n_points"]
    assert counts.sum() == 2 * n and len(counts) <= 8
