"""Ranks over bootstraps, by hand and against plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nnunet_robust.eval.statistics import rank_stability, resample_counts
from tests.eval.statistics.rows import frame


def test_ranks_are_those_of_resampled_means() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((15, 4))
    rows = frame({name: {0: column} for name, column in zip("ABCD", values.T, strict=True)}, "clean")
    table = rank_stability(rows, "dice", n_resamples=300, seed=5)
    drawn = [np.repeat(np.arange(15), counts.astype(int)) for counts in resample_counts(15, 300, seed=5)]
    ranks = np.array([stats.rankdata(-values[patients].mean(axis=0)) for patients in drawn])
    assert table["rank"].tolist() == stats.rankdata(-values.mean(axis=0)).tolist()
    assert table["mean_rank"].tolist() == pytest.approx(ranks.mean(axis=0))
    assert table["share_first"].tolist() == pytest.approx((ranks == 1).mean(axis=0))
    assert table["low"].tolist() == pytest.approx(np.quantile(ranks, 0.025, axis=0))
    assert table["high"].tolist() == pytest.approx(np.quantile(ranks, 0.975, axis=0))
    assert (table["n_patients"] == 15).all()
    other = rank_stability(rows, "dice", n_resamples=300, seed=6)
    assert (other["mean_rank"] != table["mean_rank"]).any()


def test_the_best_is_first_for_every_metric() -> None:
    rows = frame({"A": {0: [0.9, 0.8], 1: [0.1, 0.2]}, "B": {0: [0.7, 0.6], 1: [0.5, 0.4]}})
    for metric in ("dice", "hd95_mm"):
        table = rank_stability(rows, metric).query("perturbation == 'noise'").set_index(["level", "line"])
        assert table["rank"].to_dict() == {(0.0, "A"): 1, (0.0, "B"): 2, (1.0, "A"): 2, (1.0, "B"): 1}
        assert table["share_first"].to_dict() == {(0.0, "A"): 1, (0.0, "B"): 0, (1.0, "A"): 0, (1.0, "B"): 1}


def test_identical_models_share_the_first_rank() -> None:
    values = np.random.default_rng(1).random(9)
    table = rank_stability(frame({name: {0: values} for name in "ABC"}, "clean"), "dice")
    assert table["rank"].tolist() == [1, 1, 1]
    assert table["share_first"].tolist() == pytest.approx([1 / 3] * 3)
    assert (table[["mean_rank", "low", "high"]] == 1).all(axis=None)


def test_one_patient_has_a_rank_and_no_stability_and_one_model_is_first() -> None:
    table = rank_stability(frame({"A": {0: [0.5]}, "B": {0: [0.6]}}, "clean"), "dice")
    assert table["rank"].tolist() == [2, 1]
    assert table[["mean_rank", "low", "high", "share_first"]].isna().all(axis=None)
    alone = rank_stability(frame({"A": {0: [0.5, 0.7]}}, "clean"), "dice").iloc[0]
    assert (alone["rank"], alone["share_first"]) == (1, 1.0)
