"""The recipe on planted data, on identical models, on the papers' means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.statistics import (
    NO_DIFFERENCE,
    bootstrap_interval,
    comparable,
    load_results,
    recipe,
    recipe_ranges,
    recipe_sentence,
    resample_counts,
    summary,
)
from tests.eval.statistics.papers import ATTENTION, NO_SKIP, PAPERS, U_NET, write_papers
from tests.eval.statistics.rows import frame


def _planted(n: int = 40, noise: float = 0.01) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patients = rng.normal(0, 0.05, n)
    means = {"standard": (0.93, 0.90, 0.70, 0.50), "noskip": (0.90, 0.89, 0.85, 0.80), "third": (0.5, 0.5, 0.5, 0.5)}
    return frame(
        {
            name: {x: mean + patients + rng.normal(0, noise, n) for x, mean in zip((0, 0.1, 0.2, 0.4), of, strict=True)}
            for name, of in means.items()
        },
        "speckle_noise",
    )


def test_a_planted_recipe_is_found() -> None:
    rows = _planted()
    table = recipe(rows, margin=0.005)
    assert table["verdict"].tolist() == ["standard", "standard", "noskip", "noskip"]
    assert table["level"].tolist() == [0, 0.1, 0.2, 0.4]
    assert table["agreement"].tolist() == pytest.approx([1, 1, 1, 1], abs=0.02)
    last = table.iloc[-1]
    assert last["advantage"] == pytest.approx(0.3, abs=0.01)
    assert last["advantage_low"] < last["advantage"] < last["advantage_high"]
    clean = rows[rows["perturbation"] == "clean"].pivot(index="patient", columns="line", values="dice")
    cost = clean["standard"] - clean["noskip"]
    assert last["clean_cost"] == pytest.approx(cost.mean())
    assert (last["clean_cost_low"], last["clean_cost_high"]) == pytest.approx(bootstrap_interval(cost))
    assert table.iloc[0][["clean_cost", "clean_cost_low", "clean_cost_high"]].tolist() == [0, 0, 0]
    assert (table["n_patients"] == 40).all()
    assert recipe(rows, margin=0.02).iloc[1]["equivalent"] == ("noskip",)
    ranges = recipe_ranges(table)
    assert ranges[["from_level", "to_level", "verdict"]].to_numpy().tolist() == [
        [0, 0.1, "standard"],
        [0.2, 0.4, "noskip"],
    ]
    assert ranges["agreement"].tolist() == [table["agreement"][:2].min(), table["agreement"][2:].min()]
    unsure = recipe_ranges(table.assign(agreement=[0.9, 0.7, 0.8, 1.0]))
    assert unsure["agreement"].tolist() == [0.7, 0.8]
    sentence = recipe_sentence(ranges)
    assert sentence.startswith("speckle noise, 40 patients: up to level 0.1 standard (at least ")
    assert f"which on clean images costs {cost.mean():.3f} Dice [" in sentence


def test_agreement_is_the_share_of_bootstraps_within_the_margin_of_the_best() -> None:
    rng = np.random.default_rng(2)
    values = 0.7 + rng.normal(0, 0.1, (12, 3)) + np.array([0.0, 0.01, -0.02])
    rows = frame({name: {0: column, 1: column} for name, column in zip("ABC", values.T, strict=True)})
    row = recipe(rows, margin=0.03, n_resamples=400, seed=7).iloc[1]
    means = resample_counts(12, 400, seed=7) @ values / 12
    best = values.mean(axis=0).argmax()
    assert row["verdict"] == "ABC"[best]
    assert row["agreement"] == pytest.approx((means[:, best] >= means.max(axis=1) - 0.03).mean())
    assert 0 < row["agreement"] < 1
    assert recipe(rows, margin=0.03, n_resamples=400, seed=8).iloc[1]["agreement"] != row["agreement"]
    wide = recipe(rows, margin=0.08, n_resamples=400, seed=7).iloc[1]
    assert wide["verdict"] == NO_DIFFERENCE
    assert wide["agreement"] == pytest.approx((np.ptp(means, axis=1) <= 0.08).mean())
    assert wide["equivalent"] == ("A", "B", "C")
    assert wide["clean_cost"] == 0


def test_what_few_bootstraps_agree_with_is_not_settled() -> None:
    ranges = pd.DataFrame(
        [
            {"from_level": 0.0, "to_level": 0.1, "verdict": "A", "agreement": 0.7999, "clean_cost": 0.0},
            {"from_level": 0.2, "to_level": 0.2, "verdict": NO_DIFFERENCE, "agreement": 0.24, "clean_cost": 0.0},
            {"from_level": 0.3, "to_level": 0.4, "verdict": "B", "agreement": 0.8, "clean_cost": 0.0042},
            {"from_level": 0.5, "to_level": 0.5, "verdict": "A", "agreement": 0.999, "clean_cost": 0.0},
        ]
    ).assign(dataset="D", perturbation="gaussian_noise", n_patients=9, clean_cost_low=-0.001, clean_cost_high=0.01)
    assert recipe_sentence(ranges) == (
        "gaussian noise, 9 patients: up to level 0.1 not settled: A (at least 79 % of bootstraps agree); at level 0.2 "
        "not settled: no difference that matters (24 % of bootstraps agree); from level 0.3 to 0.4 B (at least 80 % of "
        "bootstraps agree), which on clean images costs 0.004 Dice [−0.001, 0.010]; from level 0.5 A (99 % of "
        "bootstraps agree)."
    )


def test_identical_models_do_not_differ() -> None:
    values = np.random.default_rng(1).random(20)
    table = recipe(frame({name: {0: values, 1: values / 2} for name in "ABC"}), margin=0.0)
    assert (table["verdict"] == NO_DIFFERENCE).all()
    assert (table["agreement"] == 1).all()
    assert (table[["advantage", "advantage_low", "advantage_high"]] == 0).all(axis=None)
    (only,) = recipe_ranges(table).to_dict("records")
    assert (only["from_level"], only["to_level"]) == (0, 1)
    assert "at every level (0 to 1) no difference that matters" in recipe_sentence(recipe_ranges(table))


@pytest.mark.slow
def test_models_that_differ_by_chance_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(5)
    verdicts = []
    for _ in range(300):
        patients = rng.normal(0.7, 0.1, 60)
        scores = {m: {x: patients + rng.normal(0, 0.02, 60) for x in (0.0, 1.0)} for m in "AB"}
        verdicts += recipe(frame(scores), n_resamples=200)["verdict"].tolist()
    # the difference of means has a standard deviation of 0.0037: above 0.01 in 0.7 % of trials
    assert np.mean([v != NO_DIFFERENCE for v in verdicts]) < 0.03


def test_everyone_misses_everything() -> None:
    rows = frame({name: {0: [0.9, 0.8, 0.85], 1: [0.0] * 3} for name in "AB"})
    row = recipe(rows).iloc[1]
    assert (row["verdict"], row["agreement"], row["advantage"]) == (NO_DIFFERENCE, 1.0, 0.0)


def test_one_model_and_one_patient() -> None:
    alone = recipe(frame({"A": {0: [0.9, 0.8], 1: [0.5, 0.6]}})).iloc[1]
    assert (alone["verdict"], alone["agreement"], alone["equivalent"]) == ("A", 1.0, ())
    assert np.isnan(alone["advantage"])
    table = recipe(frame({"A": {0: [0.9], 1: [0.2]}, "B": {0: [0.8], 1: [0.5]}}))
    assert table["verdict"].tolist() == ["A", "B"]
    assert table[["agreement", "advantage_low", "clean_cost_low"]].isna().all(axis=None)
    said = recipe_sentence(recipe_ranges(table))
    assert "1 patient: up to level 0 A (a single patient, so that no share of bootstraps can be given)" in said
    assert said.endswith("which on clean images costs 0.100 Dice.")


def test_a_difference_of_exactly_the_margin_does_not_matter() -> None:
    table = recipe(frame({"A": {0: [0.9] * 4, 1: [0.07] * 4}, "B": {0: [0.5] * 4, 1: [0.06] * 4}}), margin=0.01)
    assert table["verdict"].tolist() == ["A", NO_DIFFERENCE]
    assert recipe(frame({"A": {0: [0.9], 1: [0.31]}, "B": {0: [0.5], 1: [0.3]}}), margin=0.009)["verdict"][1] == "A"
    for margin in (-0.1, float("nan")):
        with pytest.raises(UserError, match="margin must be >= 0"):
            recipe(_planted(), margin=margin)


def test_distances_are_better_when_lower() -> None:
    rows = _planted()
    table = recipe(rows, "hd95_mm", margin=0.05)
    assert table["verdict"].tolist() == ["standard", "standard", "noskip", "noskip"]
    assert table["advantage"].gt(0).all()
    assert table["clean_cost"].tolist() == pytest.approx(10 * recipe(rows, margin=0.005)["clean_cost"])
    assert " mm [" in recipe_sentence(recipe_ranges(table), "hd95_mm")


def test_a_series_costs_what_its_own_test_set_says() -> None:
    clean = frame({"A": {0: [0.9, 0.8]}, "B": {0: [0.8, 0.7]}}, "clean")
    site = frame({"A": {3: [0.2, 0.3, 0.1]}, "B": {3: [0.5, 0.6, 0.4]}}, "site", series=True)
    site["patient"] = site["case"] = "other_" + site["patient"]
    (row,) = recipe(pd.concat([clean, site], ignore_index=True)).to_dict("records")
    assert (row["verdict"], row["level"], row["clean_cost"], row["n_patients"]) == ("B", 3.0, pytest.approx(0.1), 3)
    assert np.isnan(recipe(site)["clean_cost"][0])


def test_the_papers_conclusions_come_out_of_their_table(tmp_path: Path) -> None:
    rows, left_out = comparable(load_results(write_papers(tmp_path) / "results.csv"))
    assert left_out == []
    verdicts = {(r["dataset"], round(r["level"] ** 2, 1)): r["verdict"] for r in recipe(rows).to_dict("records")}
    for dataset in PAPERS:  # attention-gated is best on clean images, everywhere
        assert verdicts[dataset, 0.0] == ATTENTION
    for dataset in ("Heart", "Spleen"):  # and falls under noise, which only the network without skips bears
        assert verdicts[dataset, 0.1] == verdicts[dataset, 0.3] == NO_SKIP
    assert verdicts["BUSI", 0.1] == verdicts["BUSI", 0.3] == NO_SKIP
    assert verdicts["GlaS", 0.1] == ATTENTION  # mild noise on histology: it still leads, by 0.011
    assert verdicts["GlaS", 0.3] == U_NET
    table = summary(rows).set_index(["dataset", "line"])
    assert table.loc[("Heart", ATTENTION), "drop"] == pytest.approx(0.929 - 0.033)
    for dataset in ("BUSI", "Heart", "Spleen"):  # without skips the least is lost
        assert table.loc[dataset, "drop"].idxmin() == NO_SKIP
    assert table["drop_low"].isna().all()  # one mean a dataset: nothing is said about patients
