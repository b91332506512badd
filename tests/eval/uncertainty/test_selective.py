"""Rankings against brute force, scipy and scikit-learn, with and without ties; intervals by simulation."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.metrics import roc_auc_score

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics import bootstrap_interval
from nnunet_robust.eval.uncertainty.selective import (
    RankQuality,
    _aurc,
    _auroc,
    _Drawn,
    _Groups,
    _spearman,
    rank_correlation,
    rank_qualities,
    risk_coverage,
    risk_curve,
)


def rank_quality(uncertainty: ArrayLike, dice: ArrayLike, patients: list[str], **keywords: Any) -> RankQuality:
    """`rank_qualities` of a single score."""
    return rank_qualities({"": uncertainty}, dice, patients, **keywords)[""]


def _brute_force(uncertainty: np.ndarray, error: np.ndarray) -> float:
    """The mean, over all orders of equals, of the mean selective risk."""
    found = []
    for order in permutations(range(len(error))):
        scores = uncertainty[list(order)]
        if (np.diff(scores) >= 0).all():
            found.append(np.mean(np.cumsum(error[list(order)]) / np.arange(1, len(error) + 1)))
    return float(np.mean(found))


def test_a_curve_by_hand() -> None:
    found = risk_coverage([0.3, 0.1, 0.2], [0.9, 0.0, 0.3])
    assert found.coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.risk == pytest.approx([0, 0.15, 0.4])
    assert found.aurc == pytest.approx(0.55 / 3)
    assert found.optimal_aurc == pytest.approx(0.55 / 3)
    assert found.chance_aurc == pytest.approx(0.4)
    worst = risk_coverage([1, 3, 2], [0.9, 0.0, 0.3])
    assert worst.aurc == pytest.approx((0.9 + 0.6 + 0.4) / 3)


def test_the_area_is_the_mean_of_the_curve_and_of_all_orders_of_equals() -> None:
    rng = np.random.default_rng(0)
    for ties in (2, 3, 100):
        uncertainty, error = rng.integers(0, ties, 7).astype(float), rng.random(7)
        found = risk_coverage(uncertainty, error)
        assert found.aurc == pytest.approx(found.risk.mean()) == pytest.approx(_brute_force(uncertainty, error))
        assert found.optimal_aurc == pytest.approx(_brute_force(error, error))
        assert found.optimal_aurc <= found.aurc


def test_a_score_that_says_nothing_has_the_mean_error() -> None:
    error = np.random.default_rng(0).random(50)
    assert risk_coverage(np.zeros(50), error).aurc == pytest.approx(error.mean())


@pytest.mark.parametrize("ties", [4, 1000])
def test_weights_are_repetitions(ties: int) -> None:
    """What the bootstrap computes with weights is what a table with repeated rows gives."""
    rng = np.random.default_rng(1)
    scores, errors = rng.integers(0, ties, 40) / ties, rng.integers(0, ties, 40) / ties
    failed = errors > 0.6
    weights = rng.integers(0, 4, (5, 40))
    drawn, by_error = (_Drawn(weights.T.astype(float), _Groups(values)) for values in (scores, errors))
    found = {
        "aurc": _aurc(drawn, errors),
        "spearman": _spearman(drawn, by_error),
        "auroc": _auroc(drawn, failed),
    }
    for i, times in enumerate(weights):
        s, e, f = (np.repeat(values, times) for values in (scores, errors, failed))
        assert found["aurc"][i] == pytest.approx(risk_coverage(s, e).risk.mean())
        assert found["spearman"][i] == pytest.approx(stats.spearmanr(s, e).statistic)
        assert found["auroc"][i] == pytest.approx(roc_auc_score(f, s))


def test_rank_quality_is_scipys_and_sklearns() -> None:
    rng = np.random.default_rng(2)
    dice = rng.beta(4, 2, 60)
    uncertainty = 1 - dice + rng.normal(0, 0.15, 60)
    patients = [f"p{i % 30}" for i in range(60)]
    found = rank_quality(uncertainty, dice, patients, failure_below=0.6)
    assert (found.n_cases, found.n_patients, found.n_failures) == (60, 30, (dice < 0.6).sum())
    assert found.spearman.value == pytest.approx(stats.spearmanr(uncertainty, 1 - dice).statistic)
    assert found.failure_auroc.value == pytest.approx(roc_auc_score(dice < 0.6, uncertainty))
    curve = risk_coverage(uncertainty, 1 - dice)
    assert (found.aurc.value, found.excess_aurc.value) == pytest.approx((curve.aurc, curve.aurc - curve.optimal_aurc))
    assert (found.optimal_aurc, found.chance_aurc) == (curve.optimal_aurc, curve.chance_aurc)
    for each in (found.spearman, found.failure_auroc, found.aurc, found.excess_aurc):
        assert each.low < each.value < each.high
    assert found.failure_auroc.high <= 1
    assert rank_quality(uncertainty, dice, patients, failure_below=0.6) == found  # the same bytes again


def test_several_scores_and_trained_models_at_once() -> None:
    rng = np.random.default_rng(3)
    dice = rng.beta(4, 2, (2, 30))
    scores = {name: 1 - dice + rng.normal(0, spread, (2, 30)) for name, spread in (("good", 0.1), ("poor", 0.5))}
    patients = [f"p{i}" for i in range(30)]
    found = rank_qualities(scores, dice, patients)
    for name, score in scores.items():
        assert rank_quality(score, dice, patients) == found[name]  # the same resamples, whatever is beside it
        alone = [rank_quality(score[model], dice[model], patients) for model in range(2)]
        for number in ("spearman", "failure_auroc", "aurc", "excess_aurc"):
            expected = np.mean([getattr(of_one, number).value for of_one in alone])
            assert getattr(found[name], number).value == pytest.approx(expected)
        assert found[name].optimal_aurc == pytest.approx(np.mean([of_one.optimal_aurc for of_one in alone]))
        assert found[name].n_failures == sum(of_one.n_failures for of_one in alone)
    both = np.stack([dice[0], np.full(30, 0.9)])  # the second model never fails: there is no AUROC of both
    assert math.isnan(rank_quality(scores["good"], both, patients).failure_auroc.value)


@pytest.mark.parametrize("ties", [3, 1000])
def test_a_curve_at_even_coverages_is_the_curve(ties: int) -> None:
    rng = np.random.default_rng(4)
    uncertainty, dice = rng.integers(0, ties, 40) / ties, rng.beta(5, 2, 40)
    whole = risk_coverage(uncertainty, 1 - dice)
    patients = [f"p{i // 2}" for i in range(40)]
    found = risk_curve(uncertainty, dice, patients, n_points=10)
    assert found["coverage"].to_numpy() == pytest.approx(whole.coverage[3::4])
    assert found["mean"].to_numpy() == pytest.approx(whole.risk[3::4])
    assert found["optimal"].to_numpy() == pytest.approx(risk_coverage(1 - dice, 1 - dice).risk[3::4])
    assert (found["low"] < found["mean"]).all() and (found["mean"] < found["high"]).all()
    # At full coverage the risk is the mean error, whose interval is known.
    errors = pd.Series(1 - dice, index=patients)
    last = found.iloc[-1]
    assert (last["low"], last["high"]) == pytest.approx(bootstrap_interval(errors), rel=1e-9)


def test_a_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.integers(0, 6, 25).astype(float), rng.random((2, 25))
    patients = [f"p{i}" for i in range(25)]
    found = rank_correlation(first, second, patients)
    assert found.value == pytest.approx(np.mean([stats.spearmanr(first, other).statistic for other in second]))
    assert found.low < found.value < found.high
    assert math.isnan(rank_correlation([1.0, 1.0], [0.2, 0.3], ["a", "b"]).value)
    with pytest.raises(UserError, match="one score and one error"):
        rank_correlation([1.0], [0.2, 0.3], ["a"])


def test_rankings_that_are_not_defined() -> None:
    patients = ["a", "b", "c", "d"]
    constant = rank_quality([0.3] * 4, [0.9, 0.8, 0.2, 0.7], patients)
    assert math.isnan(constant.spearman.value)
    assert constant.failure_auroc.value == 0.5
    assert constant.aurc.value == pytest.approx(constant.chance_aurc) == pytest.approx(0.35)
    perfect = rank_quality([1, 2, 3, 4], [0.9, 0.8, 0.7, 0.6], patients)
    assert perfect.n_failures == 0
    assert math.isnan(perfect.failure_auroc.value)
    assert perfect.spearman.value == 1
    assert math.isnan(perfect.spearman.low)  # 1 in every resample: nothing is seen of its spread
    assert perfect.excess_aurc.value == 0
    assert rank_quality([1, 2], [0.5, 0.499], ["a", "b"]).n_failures == 1  # at the threshold is no failure
    single = rank_quality([0.1], [0.9], ["a"])
    assert single.aurc.value == pytest.approx(0.1)
    assert math.isnan(single.aurc.low)


@pytest.mark.parametrize(
    ("uncertainty", "dice", "message"),
    [
        ([], [], "one score and one error"),
        ([0.1], [0.1, 0.2], "one score and one error"),
        ([0.1, math.nan], [0.5, 0.6], "Case 2 has the score nan"),
    ],
)
def test_bad_rankings_are_refused(uncertainty: list, dice: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rank_quality(uncertainty, dice, ["a"] * len(dice))
    with pytest.raises(UserError, match="2 cases and 1 patients"):
        rank_quality([0.1, 0.2], [0.5, 0.6], ["a"])


def _normal_pair(rng: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=n)


@pytest.mark.slow
@pytest.mark.parametrize("cases_per_patient", [1, 3])
def test_intervals_cover_the_truth(cases_per_patient: int) -> None:
    """Of a rank correlation and an AUROC of 40 patients, whose cases are alike."""
    rng = numpy_generator("coverage", cases_per_patient)
    rho, n, trials = 0.6, 40, 300
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman's rho of two normal variables
    x, y = _normal_pair(rng, 2_000_000, rho)
    cut = float(stats.norm.ppf(0.7))
    auroc = stats.mannwhitneyu(x[y > cut], x[y <= cut]).statistic / ((y > cut).sum() * (y <= cut).sum())
    covered = np.zeros(2)
    for _ in range(trials):
        x, y = (np.repeat(values, cases_per_patient) for values in _normal_pair(rng, n, rho))
        patients = [str(i // cases_per_patient) for i in range(len(x))]
        found = rank_quality(x, -y, patients, failure_below=-cut, n_resamples=600)
        for i, (each, true) in enumerate(((found.spearman, truth), (found.failure_auroc, auroc))):
            covered[i] += each.low <= true <= each.high
    error = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert covered / trials == pytest.approx(0.95, abs=error + 0.02)  # two points are the BCa's own at this size
