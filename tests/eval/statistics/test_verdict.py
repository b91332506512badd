"""The verdict: intervals by hand, sets, margins, and what is never told apart."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.statistics.contrasts import Sample
from nnunet_robust.eval.statistics.verdict import (
    Interval,
    Verdict,
    decide,
    pair_table,
    verdict_table,
    verdicts,
)
from tests.eval.statistics.rows import frame


def made(half: float = 0.02, margin: float = 0.01, n_patients: int = 30, n_trained: int = 1, **means: float) -> Verdict:
    """A verdict by hand: every interval reaches `half` to both sides."""
    order = sorted(means, key=lambda name: -means[name])
    pairs = {}
    for first, second in combinations(means, 2):
        value = means[first] - means[second]
        pairs[first, second] = Interval(value, value - half, value + half)
    best = tuple(name for name in order if means[order[0]] - means[name] - half <= 0 or name == order[0])
    return Verdict({name: means[name] for name in order}, pairs, best, margin, n_patients, n_trained, n_trained, 0.03)


def sample(scores: np.ndarray, owner: tuple[int, ...] = (0, 1)) -> Sample:
    lines = [f"{'AB C'[i]}{k}" for k, i in enumerate(owner)]
    patients = [f"p{i}" for i in range(scores.shape[1])]
    return Sample("AB", lines, np.array(owner), patients, scores)


def test_intervals_by_hand() -> None:
    """One pair, one condition, 8 patients: the critical value by all 256 signs, the error by the t test's formula."""
    differences = np.array([0.03, 0.01, 0.05, -0.01, 0.04, 0.02, 0.00, 0.06])
    base = np.linspace(0.6, 0.9, 8)
    found = decide({"here": sample(np.stack([base + differences, base]))}, n_resamples=20_000)["here"]
    centred = differences - differences.mean()
    flipped = [abs(stats.ttest_1samp(np.array(signs) * centred, 0).statistic) for signs in product((1, -1), repeat=8)]
    critical = np.quantile(flipped, 0.95)
    error = differences.std(ddof=1) / np.sqrt(8)
    pair = found.pairs["A", "B"]
    assert pair.value == pytest.approx(0.025)
    assert pair.high - pair.value == pytest.approx(critical * error, rel=0.02)
    assert pair.value - pair.low == pytest.approx(pair.high - pair.value)
    assert found.best == ("A",)
    assert found.settled and not found.matters
    assert stats.nct.sf(critical, 7, found.detectable / error) == pytest.approx(0.9, abs=0.01)


def test_repeated_trainings_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    base, rest = rng.normal(0.8, 0.05, 30), rng.normal(0, 0.01, (6, 30))
    trainings = np.array([0.03, 0.0, -0.03, 0.03, 0.0, -0.03])[:, None]
    owner = (0, 0, 0, 1, 1, 1)
    shift = np.where(np.array(owner) == 0, 0.02, 0.0)[:, None]
    same = decide({0: sample(base + rest + shift, owner)})[0]
    apart = decide({0: sample(base + rest + shift + trainings, owner)})[0]
    assert same.settled
    assert not apart.settled
    assert apart.means == pytest.approx(same.means)
    assert apart.n_trained == 3
    # 0.03 is their SD: the variance of the difference is at least 2 * 0.03^2 / 3
    assert apart.pairs["A", "B"].high - apart.pairs["A", "B"].value > 2.7 * 0.03 * np.sqrt(2 / 3)


def test_more_comparisons_widen_every_interval() -> None:
    rng = np.random.default_rng(4)
    samples = {i: sample(rng.normal(0.8, 0.1, (2, 15))) for i in range(30)}
    one, all_of_them = (decide(part)[0].pairs["A", "B"] for part in ({0: samples[0]}, samples))
    assert all_of_them.value == one.value
    assert all_of_them.low < one.low < one.high < all_of_them.high


def test_below_six_patients_nothing_is_told_apart() -> None:
    apart = np.stack([np.full(6, 0.9), np.full(6, 0.1)]) + np.linspace(0, 0.05, 6) * np.array([[1], [-1]])
    few = decide({0: sample(apart[:, :5])})[0]
    assert few.best == ("A", "B")
    assert not (few.settled or few.matters or few.better_than("B") or few.within_margin_of("A"))
    assert np.isnan([few.pairs["A", "B"].low, few.pairs["A", "B"].high, few.detectable]).all()
    assert decide({0: sample(apart)})[0].settled
    both = decide({0: sample(apart[:, :5]), 1: sample(apart)})
    assert not both[0].settled
    assert both[1].settled


def test_identical_models_and_constant_scores() -> None:
    values = np.random.default_rng(1).random(20)
    found = decide({0: sample(np.stack([values, values]))})[0]
    assert found.best == ("A", "B")
    assert found.lead == (0, 0, 0)
    assert found.within_margin_of("A") and found.within_margin_of("B")
    missed = decide({0: sample(np.zeros((2, 20)))})[0]
    assert (missed.best, missed.lead) == (("A", "B"), (0, 0, 0))
    assert np.isnan(missed.detectable)  # no study with such scores tells how much they vary


def test_pairs_that_are_alike_to_the_last_digit_do_not_make_others_easier_to_tell() -> None:
    scores = np.random.default_rng(1).random((3, 20))
    alike = Sample("ABC", "ABC", np.arange(3), [str(i) for i in range(20)], scores[[0, 0, 1]])
    two = decide({0: sample(scores[:2])})[0].detectable
    assert decide({0: alike})[0].detectable == pytest.approx(two)


def test_a_set_and_what_matters() -> None:
    found = made(A=0.70, B=0.80, C=0.79, D=0.775)
    assert found.highest == "B"
    assert found.names == ["A", "B", "C", "D"]
    assert found.best == ("B", "C")
    assert not found.settled
    assert found.lead == pytest.approx((0.01, -0.01, 0.03))
    assert found.difference("C", "A") == pytest.approx((0.09, 0.07, 0.11))
    assert found.difference("A", "C") == pytest.approx((-0.09, -0.11, -0.07))
    assert found.difference("A", "A") == (0, 0, 0)
    assert found.better_than("A") == ("B", "C")
    assert found.better_than("D") == ("B",)  # C is not told from it
    assert found.better_than("B") == ()
    settled = made(A=0.70, B=0.80)
    assert settled.settled and settled.matters
    little = made(A=0.775, B=0.80)
    assert little.settled and not little.matters
    third = made(A=0.70, B=0.80, C=0.775)
    assert third.settled and not third.matters


def test_the_margin_exactly() -> None:
    within = made(half=0.0, A=0.07, B=0.06)  # 0.07 - 0.06 is above 0.01 by rounding
    assert within.settled
    assert not within.better_than("B")
    assert within.within_margin_of("B")
    beyond = made(half=0.0, A=0.071, B=0.06)
    assert beyond.better_than("B") == ("A",)
    assert not beyond.within_margin_of("B")
    assert beyond.within_margin_of("A")
    for margin in (-0.1, float("nan")):
        with pytest.raises(UserError, match="margin must be >= 0"):
            decide({}, margin=margin)


def _rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patients = rng.normal(0, 0.05, 30)
    means = {"standard": (0.93, 0.7), "noskip": (0.9, 0.85)}
    return frame({name: {x: mean + patients + rng.normal(0, 0.01, 30) for x, mean in zip((0, 0.4), of, strict=True)}
                  for name, of in means.items()})  # fmt: skip


def test_rows_become_conditions_with_clean_images_once() -> None:
    found = verdicts(_rows())
    assert set(found) == {("D1", "clean", 0.0), ("D1", "noise", 0.4)}
    assert found["D1", "clean", 0.0].best == ("standard",)
    assert found["D1", "noise", 0.4].best == ("noskip",)
    assert {one.n_patients for one in found.values()} == {30}
    assert verdicts(_rows()) == found  # the same draws
    distances = verdicts(_rows(), "hd95_mm", margin=0.1)
    assert distances["D1", "noise", 0.4].best == ("noskip",)  # lower is better
    assert distances["D1", "noise", 0.4].lead == pytest.approx(
        tuple(10 * end for end in found["D1", "noise", 0.4].lead)
    )


def test_datasets_are_families_of_their_own() -> None:
    rows = _rows()
    both = pd.concat([rows, rows.assign(dataset="D2")], ignore_index=True)
    found = verdicts(both)
    assert found["D1", "noise", 0.4] == found["D2", "noise", 0.4] == verdicts(rows)["D1", "noise", 0.4]


def test_a_series_has_patients_of_its_own_at_every_level() -> None:
    rng = np.random.default_rng(2)
    parts = []
    for level, n, drop in ((0.0, 12, 0.0), (1.0, 5, 0.3), (2.0, 9, 0.3)):
        base = rng.normal(0.8, 0.02, n)
        part = frame({"A": {level: base - drop + rng.normal(0, 0.01, n)}, "B": {level: base}}, "site", series=True)
        part = part[part["perturbation"] == "site"]
        parts.append(part.assign(patient=f"{level}_" + part["patient"], case=f"{level}_" + part["case"]))
    found = verdicts(pd.concat(parts, ignore_index=True))
    assert [(key[2], one.n_patients) for key, one in found.items()] == [(0.0, 12), (1.0, 5), (2.0, 9)]
    assert [one.settled for one in found.values()] == [False, False, True]  # five patients settle nothing


def test_one_architecture_and_one_patient() -> None:
    alone = verdicts(frame({"A": {0: [0.9, 0.8], 1: [0.5, 0.6]}}))["D1", "noise", 1.0]
    assert (alone.best, alone.settled, alone.matters, alone.pairs) == (("A",), False, False, {})
    assert np.isnan(alone.lead).all()
    assert alone.names == ["A"]
    single = verdicts(frame({"A": {0: [0.9], 1: [0.2]}, "B": {0: [0.8], 1: [0.5]}}))["D1", "noise", 1.0]
    assert (single.highest, single.best, single.n_patients) == ("B", ("B", "A"), 1)
    assert single.lead.value == pytest.approx(0.3)
    assert np.isnan(single.lead.low)


def test_tables_say_what_the_verdicts_say() -> None:
    found = {("D", "clean", 0.0): made(A=0.7, B=0.8), ("D", "noise", 0.2): made(A=0.8, B=0.81)}
    table = verdict_table(found)
    assert table[["highest", "best", "settled", "matters"]].to_numpy().tolist() == [
        ["B", ("B",), True, True],
        ["B", ("B", "A"), False, False],
    ]
    assert table[["lead", "lead_low", "lead_high"]].to_numpy() == pytest.approx(
        np.array([[0.1, 0.08, 0.12], [0.01, -0.01, 0.03]])
    )
    pairs = pair_table(found)
    assert pairs[["first", "second"]].to_numpy().tolist() == [["A", "B"]] * 2
    assert pairs["difference"].tolist() == pytest.approx([-0.1, -0.01])
    assert (pairs["low"] < pairs["difference"]).all()
    assert verdict_table({}).empty
    assert pair_table({}).empty
