"""Tests against published worked examples (R's help pages, Hollander & Wolfe), scipy, and by simulation."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_robust.eval.statistics import failures, friedman, pairwise
from nnunet_robust.eval.statistics.signed_rank import EXACT_UP_TO, signed_rank
from tests.eval.statistics.rows import frame

# Hollander & Wolfe 1973, p. 29 (R: ?wilcox.test): depression scale before and after tranquilizers
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
# Hollander & Wolfe 1973, p. 140 (R: ?friedman.test): rounding first base by three methods, 22 players
ROUNDING = np.array([
    5.40, 5.50, 5.55, 5.85, 5.70, 5.75, 5.20, 5.60, 5.50, 5.55, 5.50,
    5.40, 5.90, 5.85, 5.70, 5.45, 5.55, 5.60, 5.40, 5.40, 5.35, 5.45,
    5.50, 5.35, 5.25, 5.15, 5.00, 5.85, 5.80, 5.70, 5.25, 5.20, 5.10,
    5.65, 5.55, 5.45, 5.60, 5.35, 5.45, 5.05, 5.00, 4.95, 5.50, 5.50,
    5.40, 5.45, 5.55, 5.50, 5.55, 5.55, 5.35, 5.45, 5.50, 5.55, 5.50,
    5.45, 5.25, 5.65, 5.60, 5.40, 5.70, 5.65, 5.55, 6.30, 6.30, 6.25,
]).reshape(22, 3)  # fmt: skip


# ---- signed ranks ----


def test_hollander_and_wolfes_example_of_signed_ranks() -> None:
    found = signed_rank(BEFORE - AFTER)
    assert found.p == pytest.approx(2 * 0.01953, abs=1e-5)  # R: V = 40, one-sided p-value = 0.01953
    assert found.rank_biserial == pytest.approx((40 - 5) / 45)
    assert found.shift == pytest.approx(0.46)
    assert (found.low, found.high) == pytest.approx((0.010, 0.786))  # H&W, example 3.3: 96.1 %
    assert found.smallest_p == 2 / 2**9
    swapped = signed_rank(AFTER - BEFORE)
    assert (swapped.shift, swapped.low, swapped.high) == pytest.approx((-found.shift, -found.high, -found.low))
    assert (swapped.p, swapped.rank_biserial) == pytest.approx((found.p, -found.rank_biserial))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 13, 30, EXACT_UP_TO, EXACT_UP_TO + 1, 200])
def test_untied_p_values_are_scipys(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.2, 1, n)
    method = "exact" if n <= EXACT_UP_TO else "asymptotic"
    assert signed_rank(differences).p == pytest.approx(stats.wilcoxon(differences, method=method).pvalue, rel=1e-9)


def test_ties_and_zeros_by_enumerating_every_sign() -> None:
    differences = np.array([0.1, -0.1, 0.2, 0.2, 0.2, -0.3, 0.0, 0.0, 0.4, 0.4])
    kept = differences[differences != 0]
    ranks = stats.rankdata(np.abs(kept))
    observed = min(ranks[kept > 0].sum(), ranks[kept < 0].sum())
    sums = [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=len(kept))]
    found = signed_rank(differences)
    assert found.p == pytest.approx(min(1.0, 2 * np.mean([s <= observed + 1e-9 for s in sums])))
    assert found.n_ties == 2
    assert found.smallest_p == 2 / 2**8
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(differences, 2)]
    assert found.shift == pytest.approx(np.median(walsh))


def test_rounding_in_the_last_bit_makes_no_difference() -> None:
    others = [0.4, 0.6, 0.1, 0.9]
    assert signed_rank([0.1 + 1e-17, 0.1 + 0.2, 0.1 + 0.2 - 0.3, *others]) == signed_rank([0.1, 0.3, 0.0, *others])


def test_too_few_patients_are_told_and_none_hidden() -> None:
    five, six = signed_rank([1, 2, 3, 4, 5]), signed_rank([1, 2, 3, 4, 5, 6])
    assert (five.p, five.smallest_p) == (2 / 32, 2 / 32)
    assert np.isnan([five.low, five.high]).all()  # five give 93.75 % at best
    assert (six.low, six.high) == (1.0, 6.0)  # 96.9 %
    one = signed_rank([0.3])
    assert (one.shift, one.p, one.smallest_p) == (0.3, 1.0, 1.0)
    same = signed_rank(np.zeros(8))
    assert same == (0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 8)


def test_the_interval_holds_the_shifts_that_the_test_does_not_reject() -> None:
    for n in (9, EXACT_UP_TO + 30):
        differences = np.random.default_rng(n).normal(0.3, 1, n)
        found = signed_rank(differences)
        for inside, outside in ((found.low + 1e-6, found.low - 1e-6), (found.high - 1e-6, found.high + 1e-6)):
            p_in, p_out = signed_rank(differences - inside).p, signed_rank(differences - outside).p
            assert p_in > 0.05 - 0.002 * (n > EXACT_UP_TO)
            assert p_out < 0.05 + 0.002 * (n > EXACT_UP_TO)


@pytest.mark.slow
@pytest.mark.parametrize("n", [12, 60])
def test_the_interval_of_the_shift_covers_at_its_rate(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [signed_rank(rng.laplace(0.1, 1, n)) for _ in range(2000)]
    covered = np.mean([f.low <= 0.1 <= f.high for f in found])
    assert 0.94 <= covered <= 0.97  # at least nominal by its construction; Monte-Carlo standard error 0.005
    assert 0.03 <= np.mean([f.p <= 0.05 for f in (signed_rank(rng.normal(0, 1, n)) for _ in range(2000))]) <= 0.06


# ---- over rows ----


def _methods(values: np.ndarray) -> pd.DataFrame:
    return frame({f"method {i}": {0: column} for i, column in enumerate(values.T, 1)}, "clean")


def test_hollander_and_wolfes_example_of_friedmans_test() -> None:
    (found,) = friedman(_methods(ROUNDING), "dice").to_dict("records")
    assert found["statistic"] == pytest.approx(11.143, abs=5e-4)  # R: chi-squared = 11.143, df = 2, p-value = 0.003805
    assert found["p"] == pytest.approx(0.003805, abs=5e-7)
    assert found["kendalls_w"] == pytest.approx(11.143 / 44, abs=1e-5)
    assert (found["n_patients"], found["n_models"]) == (22, 3)


def test_kendalls_w_is_the_mean_agreement_of_patients() -> None:
    values = np.random.default_rng(0).random((7, 4))
    rhos = [stats.spearmanr(a, b).statistic for a, b in itertools.combinations(values, 2)]
    found = friedman(_methods(values), "dice").iloc[0]
    assert found["kendalls_w"] == pytest.approx(1 / 7 + 6 / 7 * np.mean(rhos))


def test_friedmans_test_of_ties_constants_and_few() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (same,) = friedman(_methods(np.full((5, 3), 0.5)), "dice").to_dict("records")
        assert (same["statistic"], same["p"], same["kendalls_w"]) == (0.0, 1.0, 0.0)
        alike = friedman(_methods(np.tile([0.1, 0.2, 0.3], (5, 1))), "dice").iloc[0]
        assert alike["kendalls_w"] == pytest.approx(1.0)
        assert friedman(_methods(np.ones((5, 2))), "dice").empty
        assert friedman(_methods(np.ones((1, 3))), "dice").empty
        assert friedman(_methods(np.ones((1, 3))), "dice").columns[0] == "dataset"


def test_pairs_at_each_level_and_holm_within_the_perturbation() -> None:
    rng = np.random.default_rng(3)
    scores = {m: {x: rng.random(20) - x * (m == "C") for x in (0.0, 0.3, 0.6)} for m in "ABC"}
    table = pairwise(pd.concat([frame(scores), frame(scores, "blur")]).drop_duplicates(), "dice")
    assert table.groupby("perturbation").size().to_dict() == {"noise": 9, "clean": 3, "blur": 9}
    noise = table[table["perturbation"] == "noise"]
    row = noise[(noise["level"] == 0.6) & (noise["first"] == "A") & (noise["second"] == "C")].iloc[0]
    differences = scores["A"][0.6] - scores["C"][0.6]
    assert row["p"] == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert row["shift"] == pytest.approx(0.6, abs=0.2)
    assert row["low"] < row["shift"] < row["high"]
    assert noise["p_holm"].to_numpy() == pytest.approx(multipletests(noise["p"], method="holm")[1])
    assert noise["p_holm"].max() > noise["p_holm"].min()
    assert table.groupby("perturbation")["n_family"].unique().map(list).to_dict() == {
        "blur": [9], "clean": [3], "noise": [9],
    }  # fmt: skip
    assert pairwise(frame({"A": {0: [0.5, 0.6]}}), "dice").empty


def test_a_metric_whose_lower_values_are_better_keeps_its_unit() -> None:
    rows = frame({"A": {0: [0.9, 0.8, 0.7]}, "B": {0: [0.8, 0.7, 0.6]}}, "clean")
    assert pairwise(rows, "dice")["shift"].tolist() == pytest.approx([0.1])
    assert pairwise(rows, "hd95_mm")["shift"].tolist() == pytest.approx([-1.0])
    assert pairwise(rows, "hd95_mm")["rank_biserial"].tolist() == [-1.0]


def test_seeds_are_averaged_before_they_are_compared() -> None:
    rows = frame({"A/1": {0: [0.9, 0.8]}, "A/2": {0: [0.7, 0.8]}, "B": {0: [0.5, 0.9]}}, "clean")
    (row,) = pairwise(rows, "dice").to_dict("records")
    assert row["shift"] == pytest.approx(np.median([0.3, -0.1, 0.1]))
    assert len(pairwise(rows, "dice", by="line")) == 3


@pytest.mark.slow
def test_holm_keeps_the_family_wise_error() -> None:
    rng = np.random.default_rng(8)
    families, n_trials = 0, 400
    for _ in range(n_trials):
        patients = rng.normal(0.7, 0.1, 15)
        scores = {m: {x: patients + rng.normal(0, 0.05, 15) for x in (0.0, 0.1)} for m in "ABCD"}
        table = pairwise(frame(scores), "dice").query("perturbation == 'noise'")
        families += bool((table["p_holm"] <= 0.05).any())
    assert families / n_trials <= 0.05 + 2.5 * 0.011  # all models are alike; Monte-Carlo standard error 0.011


# ---- failures ----


def _outcomes(**failed: list[bool]) -> pd.DataFrame:
    rows = frame({name: {0: np.zeros(len(values))} for name, values in failed.items()}, "clean")
    return rows.assign(outcome=np.where(np.concatenate(list(failed.values())), "missed", "ok"))


def test_mcnemar_on_approval_ratings() -> None:
    # Agresti 1990, p. 350 (R: ?mcnemar.test): 794 approve twice, 150 the first time only, 86 the second, 570 never
    first = [True] * 794 + [True] * 150 + [False] * 86 + [False] * 570
    second = [True] * 794 + [False] * 150 + [True] * 86 + [False] * 570
    (row,) = failures(_outcomes(A=first, B=second)).to_dict("records")
    assert (row["only_first"], row["only_second"], row["n"]) == (150, 86, 1600)
    assert row["p"] == pytest.approx(stats.binomtest(86, 236).pvalue)
    assert row["p"] == pytest.approx(3.7e-05, rel=0.02)  # R: binom.test(86, 236)


def test_failures_of_few_and_of_none_and_of_all() -> None:
    table = failures(_outcomes(A=[True] * 4 + [False], B=[False] * 5, C=[True] * 5)).set_index(["first", "second"])
    assert table.loc[("A", "B"), ["only_first", "only_second", "p", "smallest_p"]].tolist() == [4, 0, 0.125, 0.125]
    assert table.loc[("A", "C"), ["only_first", "only_second", "p", "smallest_p"]].tolist() == [0, 1, 1.0, 1.0]
    assert table.loc[("B", "C"), "p_holm"] == pytest.approx(3 * 2 / 2**5)
    everything = failures(_outcomes(A=[True] * 5, B=[True] * 5)).iloc[0]
    assert (everything["p"], everything["p_holm"], everything["n"]) == (1.0, 1.0, 5)


def test_an_object_fails_where_most_of_its_rows_do() -> None:
    seeds = _outcomes(**{"A/1": [True, True, False], "A/2": [True, False, False], "B": [False] * 3})
    assert failures(seeds)[["only_first", "only_second"]].to_numpy().tolist() == [[1, 0]]  # half is not most
    two_labels = pd.concat([seeds, seeds.assign(label="2", outcome="hallucinated")])
    row = failures(two_labels).iloc[0]
    assert (row["n"], row["only_first"]) == (6, 1)  # on label 2 both fail everywhere
