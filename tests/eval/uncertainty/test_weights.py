"""Weights in closed form, and the curve of competence against what it was made from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.weights import (
    LEAST_ERROR,
    CompetenceCurve,
    confidence_weights,
    mean_entropy_bits,
    uniform_weights,
)
from tests.eval.uncertainty.test_label_layout import LABELS, probabilities


def test_all_weights_sum_to_one() -> None:
    curve = _curve()[0]
    for n in (1, 2, 3, 7):
        for weights in (uniform_weights(n), confidence_weights(np.linspace(0, 1.3, n), math.log2(3))):
            assert weights.sum() == pytest.approx(1, abs=1e-15)
            assert (weights >= 0).all()
    for divergence in (0.0, 0.3, 5.0, math.nan):
        assert curve.weights(divergence).sum() == pytest.approx(1, abs=1e-15)
    assert uniform_weights(4).tolist() == [0.25] * 4


def test_confidence_is_one_less_the_relative_entropy() -> None:
    assert confidence_weights([0.5, 0.0], 1.0) == pytest.approx([1 / 3, 2 / 3])
    assert confidence_weights([1.0, 0.0, 1.0000001], 1.0).tolist() == [0, 1, 0]
    assert confidence_weights([1.0, 1.0], 1.0).tolist() == [0.5, 0.5]
    assert confidence_weights([0.7], 1.0).tolist() == [1.0]
    with pytest.raises(UserError, match=">= 0, got"):
        confidence_weights([-0.1, 0.5], 1.0)
    with pytest.raises(UserError, match="all 0"):
        confidence_weights([], 1.0)


def test_the_mean_entropy_is_that_of_the_voxels_asked_for() -> None:
    p = probabilities(LABELS, (6, 7, 8))
    where = np.random.default_rng(0).random(p.shape[1:]) < 0.3
    entropies = LABELS.entropy_bits(p).astype(float)
    assert mean_entropy_bits(p, LABELS, where) == pytest.approx(entropies[where].mean())
    assert mean_entropy_bits(p, LABELS, np.zeros_like(where)) == pytest.approx(entropies.mean())
    with pytest.raises(UserError, match="mask"):
        mean_entropy_bits(p, LABELS, where[0])


def _curve(seed: int = 0) -> tuple[CompetenceCurve, np.ndarray, np.ndarray]:
    """The second member is the better one where divergence is low: their curves cross at 0.5."""
    rng = np.random.default_rng(seed)
    divergence = rng.uniform(0, 1, 200)
    dice = np.stack([0.5 + 0.4 * divergence, 0.9 - 0.4 * divergence], axis=1) + rng.normal(0, 0.02, (200, 2))
    return CompetenceCurve.fit(divergence, dice, [f"p{i // 2}" for i in range(200)]), divergence, dice


def test_the_curve_is_the_one_that_the_cases_were_made_from() -> None:
    curve, _, _ = _curve()
    assert curve.width == pytest.approx(0.05, abs=0.001)
    for x in (0.15, 0.5, 0.85):
        expected = np.array([0.5 + 0.4 * x, 0.9 - 0.4 * x])
        np.testing.assert_allclose(curve.expected_dice(x), expected, atol=0.015)
        np.testing.assert_allclose(curve.weights(x), (1 / (1 - expected)) / (1 / (1 - expected)).sum(), atol=0.04)
    assert curve.weights(0.1)[1] > 0.6 > 0.4 > curve.weights(0.9)[1]


def test_beyond_what_was_seen_the_curve_is_constant() -> None:
    curve, divergence, dice = _curve()
    assert (curve.expected_dice(-10) == curve.expected_dice(divergence.min())).all()
    assert (curve.expected_dice(10) == curve.expected_dice(divergence.max())).all()
    assert dice.min() <= curve.expected_dice(10).min() <= curve.expected_dice(10).max() <= dice.max()


def test_where_divergence_says_nothing_weights_do_not_follow_it() -> None:
    flat = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        dice = np.clip(np.array([0.8, 0.6]) + rng.normal(0, 0.1, (60, 2)), 0, 1)
        curve = CompetenceCurve.fit(rng.uniform(0, 1, 60), dice, [f"p{i}" for i in range(60)])
        if curve.width == math.inf:
            flat += 1
            np.testing.assert_allclose(curve.expected_dice(0.1), dice.mean(axis=0))
            assert (curve.weights(0.1) == curve.weights(0.9)).all()
    assert flat >= 34


def test_the_width_is_chosen_for_patients_that_were_left_out() -> None:
    """Each patient's cases are alike in divergence and Dice, with nothing in common between patients."""
    rng = np.random.default_rng(5)
    of_patient = rng.uniform(0, 1, (12, 2))
    divergence = np.repeat(of_patient[:, 0], 5) + rng.normal(0, 0.001, 60)
    dice = np.repeat(of_patient[:, 1:], 5, axis=0)
    patients = np.repeat(np.arange(12), 5).astype(str)
    assert CompetenceCurve.fit(divergence, dice, list(patients)).width > 0.3
    as_if_apart = CompetenceCurve.fit(divergence, dice, [str(i) for i in range(60)])
    assert as_if_apart.width < 0.1  # what forgetting the patients would choose


def test_patients_weigh_alike() -> None:
    dice = np.array([[0.9], [0.5], [0.5], [0.5]])
    curve = CompetenceCurve.fit([0.1, 0.2, 0.2, 0.2], dice, ["a", "b", "b", "b"])
    assert curve.overall == pytest.approx([0.7])


def test_cases_without_a_divergence_count_towards_the_mean_alone() -> None:
    dice = [[0.2, 0.4], [0.6, 0.4], [0.0, 1.0]]
    curve = CompetenceCurve.fit([0.1, 0.1, math.nan], dice, ["a", "b", "c"])
    assert curve.expected_dice(0.1) == pytest.approx([0.4, 0.4])
    assert curve.expected_dice(math.nan) == pytest.approx([0.8 / 3, 0.6])
    nowhere = CompetenceCurve.fit([math.nan], [[0.2, 0.6]], ["a"])
    assert nowhere.expected_dice(0.5) == pytest.approx([0.2, 0.6])


def test_a_perfect_member_does_not_get_everything() -> None:
    curve = CompetenceCurve.fit([0.1], [[1.0, 0.9]], ["a"])
    assert curve.weights(0.1) == pytest.approx(np.array([1 / LEAST_ERROR, 10]) / (1 / LEAST_ERROR + 10))


@pytest.mark.parametrize(
    ("divergences", "dice", "patients"),
    [([], np.zeros((0, 2)), []), ([0.1], [[0.5], [0.6]], ["a", "b"]), ([0.1], [[1.5]], ["a"]), ([0.1], [0.5], ["a"])],
)
def test_bad_calibration_cases_are_refused(divergences: list, dice: list, patients: list) -> None:
    with pytest.raises(UserError, match=r"curve needs|must be in"):
        CompetenceCurve.fit(divergences, dice, patients)
