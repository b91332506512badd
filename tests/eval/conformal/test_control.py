"""Risk control and intervals: against MAPIE, by hand, by scalar loops, and by simulation of what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from mapie.regression import SplitConformalRegressor
from mapie.risk_control import SemanticSegmentationController
from scipy import stats
from sklearn.dummy import DummyRegressor

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.control import (
    UNCERTAINTY_FLOOR,
    betting_p_values,
    calibrate_interval,
    control_risk,
    fewest_patients,
    patient_losses,
)
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, loss_curves

SETTING = np.linspace(0, 1, 41)  # a bolder mask costs more: losses of a patient with x are max(0, s - x) and the like


def one_each(n: int) -> list[str]:
    return [f"patient{index}" for index in range(n)]


# --- how many patients


@pytest.mark.parametrize("alpha", [0.3, 0.2, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("delta", [None, 0.2, 0.1, 0.05])
def test_the_fewest_patients_are_just_enough(alpha: float, delta: float | None) -> None:
    needed = fewest_patients(alpha, delta)
    assert control_risk(np.zeros((needed, 3)), alpha, delta) == 2
    with pytest.raises(
        UserError, match=rf"^{needed - 1} calibration patients are too few .* at least {needed} are needed"
    ):
        control_risk(np.zeros((needed - 1, 3)), alpha, delta)
    if delta is None:
        assert needed == math.ceil(round(1 / alpha - 1, 6))
    else:  # no test can do with fewer than (1 - alpha)^n <= delta; this one takes few more
        least = math.ceil(math.log(delta) / math.log(1 - alpha))
        assert least <= needed <= 1.25 * least + 2
        enough = [betting_p_values(np.zeros((n, 1)), alpha, delta)[0] <= delta for n in range(1, 2 * needed)]
        assert enough == [n >= needed for n in range(1, 2 * needed)]  # monotone, as the search takes for granted


def test_known_sizes() -> None:
    assert [fewest_patients(0.1), fewest_patients(0.05), fewest_patients(0.15)] == [9, 19, 6]
    assert [fewest_patients(0.1, 0.1), fewest_patients(0.05, 0.1)] == [25, 48]


# --- risk control


def test_conformal_risk_control_by_hand() -> None:
    """9 patients, alpha 0.2: losses may sum up to 0.2 * 10 - 1 = 1."""
    losses = np.zeros((9, 4))
    losses[0] = [0, 0.4, 1, 1]
    losses[1] = [0, 0, 0, 0.001]
    assert control_risk(losses, 0.2) == 2
    losses[1, 2] = 0.001
    assert control_risk(losses, 0.2) == 1
    assert control_risk(np.ones((9, 4)), 0.2) is None


def test_losses_that_fall_again_do_not_mend_a_promise() -> None:
    """The loss of an inner mask is not monotone: a bolder mask may be purer."""
    losses = np.zeros((100, 5))
    losses[:, 2] = 1
    assert control_risk(losses, 0.1) == 1
    assert control_risk(losses, 0.1, 0.1) == 1
    # Each patient's worst so far counts in expectation; with confidence each setting is a test of its own.
    turns = np.zeros((100, 3))
    turns[:8, 1] = turns[8:16, 2] = 1
    assert control_risk(turns, 0.1) == 1
    assert control_risk(turns, 0.2) == control_risk(turns, 0.2, 0.1) == 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_thresholds_as_by_mapie(seed: int, alpha: float) -> None:
    """MAPIE keeps probabilities above the threshold, all voxels of all cases at once; no probability is on one here."""
    rng = np.random.default_rng(seed)
    reference = rng.random((40, 16, 16)) < 0.3
    probability = (1 / (1 + np.exp(-rng.normal(np.where(reference, 1, -1), 2.5)))).astype(np.float32)
    curves = [loss_curves(r, p >= 0.5, (1.0, 1.0), p) for r, p in zip(reference, probability, strict=True)]
    losses = np.array([curve["outer_threshold"].losses for curve in curves])
    index = control_risk(patient_losses(losses, one_each(40)), alpha)
    assert index is not None
    thresholds = SETTINGS["outer_threshold"]
    asked = thresholds[(thresholds > 0) & (thresholds < 0.5)]
    controller = SemanticSegmentationController(
        lambda x: x, risk="recall", method="crc", target_level=1 - alpha, predict_params=asked
    )
    controller.calibrate(probability[:, None], reference[:, None].reshape(40, -1, 1).astype(int))
    assert thresholds[index] == controller.best_predict_param[0]
    assert asked[0] < thresholds[index] < asked[-1]


@pytest.mark.parametrize("seed", range(5))
def test_p_values_as_in_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, alpha, delta = 37, 0.15, 0.1
    losses = rng.beta(0.5, 6, (n, 3))
    losses[4, 1] = 1.0
    for column, found in enumerate(betting_p_values(losses, alpha, delta)):
        capital, best, seen, squares, variance = 1.0, 1.0, 0.0, 0.0, 0.25
        for i, loss in enumerate(losses[:, column], start=1):
            bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
            capital *= 1 - bet * (loss - alpha)
            best = max(best, capital)
            seen += loss
            squares += (loss - (0.5 + seen) / (1 + i)) ** 2
            variance = (0.25 + squares) / (1 + i)
        assert found == pytest.approx(1 / best, rel=1e-12)


def test_the_bet_is_placed_before_the_loss_is_seen() -> None:
    """A p-value up to a patient must not depend on who comes later."""
    rng = np.random.default_rng(0)
    losses = rng.beta(1, 9, (30, 1))
    other = losses.copy()
    other[-1] = 1.0
    assert betting_p_values(other, 0.2, 0.1)[0] >= betting_p_values(losses, 0.2, 0.1)[0]
    late_gain = np.concatenate([np.ones((29, 1)), np.zeros((1, 1))])
    assert betting_p_values(late_gain, 0.2, 0.1)[0] == 1


def test_patients_count_not_cases() -> None:
    losses = np.array([[0.0, 0.2], [0.0, 0.6], [0.1, 0.5]])
    found = patient_losses(losses, ["a", "a", "b"])
    np.testing.assert_allclose(sorted(found.tolist()), [[0.0, 0.4], [0.1, 0.5]])
    with pytest.raises(UserError, match="10 calibration patients are too few"):
        control_risk(patient_losses(np.zeros((1000, 2)), one_each(10) * 100), 0.05)


def test_the_order_of_cases_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    losses, names = rng.beta(1, 12, (60, 5)), np.array([f"p{i % 40}" for i in range(60)])
    shuffle = rng.permutation(60)
    a, b = patient_losses(losses, list(names)), patient_losses(losses[shuffle], list(names[shuffle]))
    np.testing.assert_allclose(a, b, rtol=1e-15)
    assert a[:, 0].tolist() != [losses[names == name, 0].mean() for name in np.unique(names)]


def test_bad_losses_and_rates() -> None:
    with pytest.raises(UserError, match=r"losses must be in \[0, 1\]"):
        patient_losses(np.array([[0.1], [np.nan]]), ["a", "b"])
    with pytest.raises(UserError, match=r"must be \(cases, settings\), got \(2, 1\) and 1 patients"):
        patient_losses(np.zeros((2, 1)), ["a"])
    for alpha, delta in ((0.0, None), (1.0, None), (float("nan"), None), (0.1, 0.0), (0.1, 1.5)):
        with pytest.raises(UserError, match="must be between 0 and 1"):
            control_risk(np.zeros((50, 2)), alpha, delta)


# --- intervals of the Dice


@pytest.mark.parametrize("n", [10, 11, 19, 37])  # MAPIE wants one more than are needed
@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3])
def test_intervals_of_one_width_as_by_mapie(n: int, alpha: float) -> None:
    rng = np.random.default_rng(n)
    dice = rng.beta(30, 4, n)
    interval = calibrate_interval(dice, np.full(n, 0.88), np.zeros(n), one_each(n), alpha)
    constant = DummyRegressor(strategy="constant", constant=0.88).fit(np.zeros((1, 1)), [0.0])
    mapie = SplitConformalRegressor(constant, confidence_level=1 - alpha, prefit=True)
    mapie.conformalize(np.zeros((n, 1)), dice)
    _, ends = mapie.predict_interval(np.zeros((1, 1)))
    low, high = interval.around(0.88, 0.0)
    assert low == pytest.approx(ends[0, 0, 0], abs=1e-12)
    assert high == pytest.approx(min(1, ends[0, 1, 0]), abs=1e-12)


def test_an_interval_by_hand() -> None:
    """Nine patients, alpha 0.2: the 8th smallest of the normalised errors."""
    uncertainty = np.array([0.08, 0.18] * 4 + [0.08])
    scale = uncertainty + UNCERTAINTY_FLOOR
    predicted = np.full(9, 0.7)
    dice = predicted + scale * np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9])
    interval = calibrate_interval(dice, predicted, uncertainty, one_each(9), 0.2)
    assert interval.quantile == pytest.approx(0.8)
    assert interval.around(0.7, 0.18) == pytest.approx((0.7 - 0.16, 0.7 + 0.16))
    assert interval.around(0.95, 0.18)[1] == 1.0 and interval.around(0.05, 0.18)[0] == 0.0
    assert calibrate_interval(dice, predicted, uncertainty, one_each(9), 0.1).quantile == pytest.approx(0.9)


def test_a_patient_with_many_cases_weighs_as_one() -> None:
    """Three patients, alpha 0.5: weight 2 of 3 + 1 is needed. The first has a hundred bad cases."""
    error = np.array([0.5] * 100 + [0.1, 0.2])
    names = ["a"] * 100 + ["b", "c"]
    interval = calibrate_interval(1 - error, np.ones(102), np.zeros(102), names, 0.5)
    assert interval.quantile * UNCERTAINTY_FLOOR == pytest.approx(0.2)
    assert (interval.n_cases, interval.n_patients) == (102, 3)


def test_bad_scores() -> None:
    ones, zeros, names = np.ones(20), np.zeros(20), one_each(20)
    with pytest.raises(UserError, match="20 calibration patients are too few for an interval that holds for 99 % of"):
        calibrate_interval(ones, ones, zeros, names, 0.01)
    with pytest.raises(UserError, match=r"2 calibration patients are too few .* at least 9 are needed"):
        calibrate_interval(ones, ones, zeros, ["a", "b"] * 10, 0.1)
    with pytest.raises(UserError, match="give one of each"):
        calibrate_interval(ones, ones, zeros[:3], names, 0.1)
    with pytest.raises(UserError, match="a Dice must be in"):
        calibrate_interval(ones + 1, ones, zeros, names, 0.1)
    with pytest.raises(UserError, match="a predicted Dice must be in"):
        calibrate_interval(ones, ones * np.nan, zeros, names, 0.1)
    interval = calibrate_interval(ones, ones, zeros, names, 0.1)
    with pytest.raises(UserError, match="an uncertainty must be a number >= 0"):
        interval.around(0.5, -0.1)


# --- by simulation: what is promised holds, and is not given away


def monotone(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """loss = 1 where the setting is beyond x ~ U(0, 1), else 0: its true mean is the setting."""
    x = rng.random(n)
    return (x[:, None] < SETTING).astype(float), SETTING


def graded(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """loss = setting * b, b ~ Beta(2, 2): its true mean is half the setting."""
    return SETTING * rng.beta(2, 2, n)[:, None], SETTING / 2


def restless(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Not monotone in the setting: a fresh Bernoulli loss at each, whose mean waves up and down."""
    mean = 0.12 + 0.06 * np.sin(8 * SETTING) + 0.05 * SETTING
    return (rng.random((n, len(SETTING))) < mean).astype(float), mean


@pytest.mark.slow
@pytest.mark.parametrize("draw", [monotone, graded, restless])
@pytest.mark.parametrize(("n", "alpha"), [(30, 0.1), (80, 0.15)])
def test_the_mean_risk_is_at_most_alpha(
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]], n: int, alpha: float
) -> None:
    rng = np.random.default_rng(n)
    risks = []
    for _ in range(3000):
        losses, truth = draw(rng, n)
        index = control_risk(losses, alpha)
        risks.append(0.0 if index is None else truth[index])
    error = np.std(risks) / math.sqrt(len(risks))
    assert np.mean(risks) <= alpha + 3 * error
    if draw is not restless:  # its theory: at least alpha - 2 / (n + 1), less a step between settings
        assert np.mean(risks) >= alpha - 2 / (n + 1) - SETTING[1] - 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("draw", [monotone, graded, restless])
@pytest.mark.parametrize(("n", "alpha", "delta"), [(40, 0.1, 0.1), (100, 0.15, 0.2)])
def test_the_risk_is_above_alpha_in_at_most_delta_of_calibrations(
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]], n: int, alpha: float, delta: float
) -> None:
    rng = np.random.default_rng(n)
    broken, risks = 0, []
    for _ in range(3000):
        losses, truth = draw(rng, n)
        index = control_risk(losses, alpha, delta)
        risks.append(0.0 if index is None else truth[index])
        broken += risks[-1] > alpha
    assert broken <= stats.binom.ppf(0.999, 3000, delta)
    if draw is not restless:
        assert np.mean(risks) > alpha / 4  # a bound that promises nothing would be kept too


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_intervals_hold_for_new_patients_of_many_sizes(alpha: float) -> None:
    """Cases of a patient share an error; patients with many cases are worse: weighing by cases would get that wrong."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(4000):
        sizes = rng.choice([1, 1, 2, 12], 31)
        shared = rng.normal(0, 0.02, 31) * np.where(sizes == 12, 3, 1)
        names = np.repeat(np.arange(31), sizes)
        uncertainty = rng.random(len(names)) * 0.1
        predicted = np.full(len(names), 0.7)
        dice = np.clip(predicted + shared[names] + rng.normal(0, 1, len(names)) * (0.01 + uncertainty / 3), 0, 1)
        old = names < 30
        interval = calibrate_interval(
            dice[old], predicted[old], uncertainty[old], [str(name) for name in names[old]], alpha
        )
        new = int(np.flatnonzero(~old)[0])
        low, high = interval.around(predicted[new], uncertainty[new])
        held.append(low <= dice[new] <= high)
    error = math.sqrt(alpha * (1 - alpha) / len(held))
    assert 1 - alpha - 3 * error <= np.mean(held) <= 1 - alpha + 1 / 31 + 3 * error + 0.01
