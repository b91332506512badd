"""The bootstrap of any statistic against the package's own of means, and against scipy's; its coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.eval.statistics import bootstrap_interval, patient_bootstrap
from nnunet_robust.eval.statistics.patient_bootstrap import Statistic, estimate, estimates


def mean_of(values: np.ndarray) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_of_a_mean_it_is_the_bootstrap_of_means() -> None:
    values = np.random.default_rng(0).beta(5, 2, 12)
    names = [f"p{i:02d}" for i in range(12)]
    found = estimate(mean_of(values), names, seed=3)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(values, seed=3), rel=1e-9)


def test_patients_are_drawn_with_all_their_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    per_patient = pd.Series(rng.random(9), index=[f"p{i}" for i in range(9)])
    twice = pd.concat([per_patient, per_patient])
    found = estimate(mean_of(twice.to_numpy()), list(twice.index))
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(per_patient), rel=1e-9)
    monkeypatch.setattr(patient_bootstrap, "_AT_ONCE", 40)  # a few resamples at a time
    in_blocks = estimate(mean_of(twice.to_numpy()), list(twice.index))
    assert (in_blocks.low, in_blocks.high) == pytest.approx((found.low, found.high), rel=1e-12)


def test_several_statistics_have_the_same_resamples_as_each_for_itself() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 12))
    names = [f"p{i % 8}" for i in range(12)]
    both = estimates(lambda w: np.stack([mean_of(first)(w), mean_of(second)(w)]), names)
    assert both == [estimate(mean_of(values), names) for values in (first, second)]
    none = estimates(lambda w: np.stack([mean_of(first)(w), np.full(len(w), np.nan)]), names)
    assert none[0] == both[0] and math.isnan(none[1].value)


def test_of_another_statistic_it_is_scipys() -> None:
    values = np.random.default_rng(2).gamma(2, 1, 30)

    def deviation(weights: np.ndarray) -> np.ndarray:
        mean = weights @ values / weights.sum(axis=1)
        return np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1) / weights.sum(axis=1))

    found = estimate(deviation, [f"p{i:02d}" for i in range(30)], n_resamples=20000)
    expected = stats.bootstrap((values,), np.std, n_resamples=20000, method="BCa", rng=5).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_where_nothing_can_be_said_there_is_no_interval() -> None:
    values = np.array([0.2, 0.6])
    single = estimate(mean_of(values), ["p", "p"])
    assert single.value == pytest.approx(0.4)
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert math.isnan(estimate(mean_of(np.array([0.5, 0.5])), ["p", "q"]).low)  # no variation to be seen

    def undefined_without_the_first(weights: np.ndarray) -> np.ndarray:
        return np.where(weights[:, 0] > 0, weights @ np.arange(20.0), np.nan)

    found = estimate(undefined_without_the_first, [f"p{i}" for i in range(20)])
    assert found.value == 190
    assert math.isnan(found.low)  # a third of the resamples lack the first patient
    nowhere = estimate(lambda weights: np.full(len(weights), np.nan), ["p", "q"])
    assert math.isnan(nowhere.value)
