"""Against scipy, statsmodels and brute force; false alarms where nothing changed; changes of several kinds."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.drift.two_sample import compare, mmd_test


def test_one_feature_as_scipy_and_scikit_learn_have_it() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=(30, 3)), rng.normal(0.5, 1, (12, 3))
    found = compare(before, now, ["a", "b", "c"])
    p = [stats.ks_2samp(before[:, i], now[:, i]).pvalue for i in range(3)]
    for i, shift in enumerate(found.features):
        assert shift.p == pytest.approx(p[i])
        assert shift.ks == pytest.approx(stats.ks_2samp(before[:, i], now[:, i]).statistic)
        assert shift.p_holm == pytest.approx(multipletests(p, method="holm")[1][i])
        truth = np.repeat([0, 1], [30, 12])
        assert shift.superiority == pytest.approx(roc_auc_score(truth, np.concatenate([before[:, i], now[:, i]])))
        assert shift.reference_median == pytest.approx(np.median(before[:, i]))
        assert (shift.name, shift.n_reference, shift.undefined_batch) == ("abc"[i], 30, 0)


def _mmd_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    both = np.concatenate([first, second])
    ranks = np.stack([stats.rankdata(column) for column in both.T], axis=1) / len(both)
    width = np.median([np.linalg.norm(a - b) for a, b in combinations(ranks, 2)])

    def mean(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean([math.exp(-np.sum((a - b) ** 2) / (2 * width**2)) for a in left for b in right]))

    x, y = ranks[: len(first)], ranks[len(first) :]
    return math.sqrt(max(mean(x, x) + mean(y, y) - 2 * mean(x, y), 0))


def test_mmd_by_hand_and_its_p_value_by_all_permutations() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(6, 2)), rng.normal(1, 1, (4, 2))
    mmd, p = mmd_test(first, second, permutations=4000)
    assert mmd == pytest.approx(_mmd_by_hand(first, second))
    both, all_splits = np.concatenate([first, second]), list(combinations(range(10), 4))
    as_large = 0
    for chosen in all_splits:
        rest = [i for i in range(10) if i not in chosen]
        as_large += _mmd_by_hand(both[rest], both[list(chosen)]) >= mmd - 1e-9
    assert p == pytest.approx(as_large / len(all_splits), abs=0.02)


def test_p_values_are_as_rare_as_they_say_where_nothing_changed() -> None:
    rng = np.random.default_rng(2)
    smallest, together = [], []
    for seed in range(300):
        # normal, tied, constant, and undefined at times
        rows = np.stack([rng.normal(size=40), rng.integers(0, 3, 40), np.ones(40), rng.normal(size=40)], axis=1)
        rows[rng.random(40) < 0.3, 3] = np.nan
        found = compare(rows[:25], rows[25:], list("abcd"), seed=seed, permutations=99)
        smallest.append(min(shift.p_holm for shift in found.features))
        together.append(found.p_mmd)
    # 300 draws at 5 %: 3 standard deviations above are 27
    assert np.sum(np.array(smallest) <= 0.05) <= 27
    assert 5 <= np.sum(np.array(together) <= 0.05) <= 27


@pytest.mark.parametrize("kind", ["higher", "wider", "undefined", "together"])
def test_changes_are_found(kind: str) -> None:
    rng = np.random.default_rng(3)
    before, now = rng.normal(size=(150, 3)), rng.normal(size=(150, 3))
    if kind == "higher":
        now[:, 0] += 2
    elif kind == "wider":
        now[:, 0] *= 5
    elif kind == "undefined":
        now[:80, 0] = np.nan
    else:  # each feature as before, but two of them now go together: seen by all of them only
        now[:, 1] = now[:, 0]
    found = compare(before, now, ["moved", "b", "c"])
    named = [shift.name for shift in found.features if shift.p_holm <= 0.01]
    assert named == ([] if kind == "together" else ["moved"])
    assert found.p_mmd <= 0.01
    if kind == "undefined":
        assert found.features[0].undefined_batch == 80 and math.isnan(found.features[0].batch_median)


def test_constants_and_undefined_everywhere_are_no_change() -> None:
    rows = np.column_stack([np.full(20, 3.0), np.full(20, np.nan)])
    found = compare(rows, rows[:6], ["constant", "never"])
    assert [(shift.p, shift.superiority) for shift in found.features] == [(1.0, 0.5)] * 2
    assert (found.mmd, found.p_mmd) == (0.0, 1.0)
    assert math.isnan(found.features[1].reference_median)


def test_units_do_not_count() -> None:
    rng = np.random.default_rng(4)
    before, now = rng.normal(size=(20, 2)), rng.normal(1, 1, (10, 2))
    first, second = compare(before, now, ["a", "b"]), compare(np.exp(3 * before), np.exp(3 * now), ["a", "b"])
    assert (first.mmd, first.p_mmd) == (second.mmd, second.p_mmd)
    assert [s.p for s in first.features] == [s.p for s in second.features]


def test_images_that_do_not_count_are_left_out_of_their_features() -> None:
    rng = np.random.default_rng(5)
    before, now = rng.normal(size=(20, 2)), rng.normal(size=(8, 2))
    counts = np.ones((20, 2), bool)
    counts[:12, 1] = False
    found = compare(before, now, ["a", "b"], measured=counts)
    assert [shift.n_reference for shift in found.features] == [20, 8]
    assert found.features[1].p == pytest.approx(stats.ks_2samp(before[12:, 1], now[:, 1]).pvalue)
    assert found.n_reference == 8
    assert (found.mmd, found.p_mmd) == mmd_test(before[12:], now)


def test_the_same_call_gives_the_same_and_bad_input_is_said() -> None:
    rng = np.random.default_rng(6)
    before, now = rng.normal(size=(20, 2)), rng.normal(size=(8, 2))
    assert compare(before, now, ["a", "b"]) == compare(before, now, ["a", "b"])
    with pytest.raises(UserError, match=r"a batch of images with 2 features expected, got the shape \(8, 1\)"):
        compare(before, now[:, :1], ["a", "b"])
    with pytest.raises(UserError, match="a batch of images"):
        compare(before, now[:0], ["a", "b"])
