"""Promises over 100 random splits of images, and under a condition that they were not made for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.split_coverage import interval_coverage_over_splits, risk_over_splits
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.control import patient_losses
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, Kind, LossCurve, loss_curves

N = 160


def case_curves(index: int, noise: float) -> dict[Kind, LossCurve]:
    """A blob, and a model whose logits are its smoothed image with noise: harder cases, easier cases, a few missed."""
    rng = np.random.default_rng(index)
    field = ndimage.gaussian_filter(rng.normal(0, 1, (32, 32)), 4)
    reference = field > np.quantile(field, 0.8)
    logit = 6 * ndimage.gaussian_filter(reference.astype(float), 1.5) - 3
    logit += ndimage.gaussian_filter(rng.normal(0, 1, (32, 32)), 2) * rng.uniform(2, 8) * noise
    if rng.random() < 0.02:
        logit -= 6
    return loss_curves(reference, logit > 0, (1.0, 0.5), 1 / (1 + np.exp(-logit)))


@pytest.fixture(scope="module")
def curves() -> list[dict[Kind, LossCurve]]:
    return [case_curves(index, 1.0) for index in range(N)]


def names(n: int) -> list[str]:
    return [f"p{index}" for index in range(n)]


@pytest.mark.parametrize("kind", SETTINGS)
def test_over_a_hundred_splits_the_mean_risk_is_as_promised(curves: list[dict[Kind, LossCurve]], kind: Kind) -> None:
    losses = patient_losses(np.array([curve[kind].losses for curve in curves]), names(N))
    alpha = 0.1
    found = risk_over_splits(losses, N // 2, alpha, None, splits=100)
    assert (found.chosen >= 0).all()
    # The splits share their cases: the error of the mean is that of the cases, not of the splits.
    error = losses[:, int(np.median(found.chosen))].std() / math.sqrt(N)
    assert found.test_risk.mean() <= alpha + 3 * error
    if losses[:, -1].mean() > alpha:  # else the segmentation itself is good enough
        assert found.test_risk.mean() >= alpha - 2 / (N // 2 + 1) - 3 * error
    sure = risk_over_splits(losses, N // 2, alpha, 0.1, splits=100)
    assert (sure.chosen <= found.chosen).all()
    assert np.nanmean(sure.test_risk) < alpha
    again = risk_over_splits(losses, N // 2, alpha, None, splits=100)
    np.testing.assert_array_equal(again.test_risk, found.test_risk)
    assert (risk_over_splits(losses, N // 2, alpha, None, splits=100, seed=1).test_risk != found.test_risk).any()


def test_none_could_be_promised() -> None:
    found = risk_over_splits(np.ones((40, 3)), 20, 0.1, None, splits=4)
    assert (found.chosen == -1).all() and np.isnan(found.test_risk).all()


def test_intervals_over_a_hundred_splits() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{index // 2}" for index in range(240)]
    uncertainty = rng.random(240) * 0.1
    predicted = rng.uniform(0.6, 0.9, 240)
    dice = np.clip(predicted + rng.normal(0, 1, 240) * (uncertainty + 0.02), 0, 1)
    shares = interval_coverage_over_splits(dice, predicted, uncertainty, patients, 60, 0.2, splits=100)
    error = math.sqrt(0.8 * 0.2 / 120)
    assert 0.8 - 3 * error <= shares.mean() <= 0.8 + 1 / 61 + 3 * error
    far = interval_coverage_over_splits(dice, predicted, uncertainty, patients, 60, 0.05, splits=20)
    assert far.mean() > shares.mean()


def test_someone_must_be_left_to_test_on() -> None:
    for n in (0, 20, 21):
        with pytest.raises(UserError, match=f"{n} of 20 patients to calibrate on"):
            risk_over_splits(np.zeros((20, 2)), n, 0.2, None)
