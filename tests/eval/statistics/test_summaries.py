"""Curves and summaries against hand-computed numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_robust.eval.statistics import comparable, curves, summary
from tests.eval.statistics.rows import frame, load, result


def _two_levels(model: str, clean: float, middle: float, high: float) -> list[dict]:
    levels = {("clean", 0.0): clean, ("gaussian_noise", 0.1): middle, ("gaussian_noise", 0.4): high}
    return [
        result(case, name, level, dice + shift, model=model)
        for (name, level), dice in levels.items()
        for case, shift in (("a", -0.05), ("b", 0.05))
    ]


def test_summary_by_hand(tmp_path: Path) -> None:
    rows = comparable(load(_two_levels("A", 0.9, 0.7, 0.5) + _two_levels("B", 0.8, 0.6, 0.85), tmp_path))[0]
    a, b = summary(rows).to_dict("records")
    assert (a["clean"], a["worst"], a["worst_level"]) == pytest.approx((0.9, 0.5, 0.4))
    assert (a["drop"], a["relative_drop"]) == pytest.approx((0.4, 4 / 9))
    # trapezoids over 0, 1/4, 1: 1/4 * (0.9 + 0.7) / 2 + 3/4 * (0.7 + 0.5) / 2
    assert a["auc"] == pytest.approx(0.65)
    assert (a["drop_low"], a["drop_high"]) == pytest.approx((0.4, 0.4))  # both patients lose the same: paired
    assert a["clean_low"] == pytest.approx(0.85)
    assert a["clean_high"] == pytest.approx(0.95)
    assert (b["worst"], b["worst_level"], b["drop"]) == pytest.approx((0.6, 0.1, 0.2))  # worst is not the highest level
    assert b["auc"] == pytest.approx(0.25 * 0.7 + 0.75 * 0.725)
    distance = summary(rows, "hd95_mm").iloc[0]  # 10 * (1 - dice): higher is worse
    assert (distance["clean"], distance["worst"], distance["drop"]) == pytest.approx((1.0, 5.0, 4.0))


def test_curves_start_at_the_clean_images(tmp_path: Path) -> None:
    rows = comparable(load(_two_levels("A", 0.9, 0.7, 0.5), tmp_path))[0]
    points = curves(rows, "dice")
    under_noise = points[points["perturbation"] == "gaussian_noise"]
    assert under_noise["level"].tolist() == [0.0, 0.1, 0.4]
    assert under_noise["mean"].tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert points.loc[points["perturbation"] == "clean", "mean"].tolist() == pytest.approx([0.9])


def test_one_patient_has_means_and_no_interval(tmp_path: Path) -> None:
    rows = comparable(load([result("a", "clean", 0, 0.9), result("a", "blur", 1, 0.8)], tmp_path))[0]
    assert curves(rows, "dice")[["low", "high"]].isna().all(axis=None)
    row = summary(rows).iloc[0]
    assert row["drop"] == pytest.approx(0.1)
    assert np.isnan(row["drop_low"])


def test_missed_and_hallucinated_are_counted_per_label_and_together(tmp_path: Path) -> None:
    rows = []
    for label in ("liver", "tumour"):
        rows += [result("a", "clean", 0, 0.9, label=label), result("b", "clean", 0, 0.9, label=label)]
        rows += [result("a", "blur", 1, 0.8, label=label)]
    rows.append(result("b", "blur", 1, 0.0, label="tumour", outcome="missed"))
    rows.append(result("b", "blur", 1, 0.0, label="liver", outcome="hallucinated"))
    rows[0] |= {"dice": 0.0, "outcome": "hallucinated"}
    table = summary(comparable(load(rows, tmp_path))[0]).set_index("label")
    counts = table[["missed", "hallucinated", "n_objects"]]
    assert counts.loc["(mean)"].tolist() == [1, 2, 8]
    assert counts.loc["liver"].tolist() == [0, 2, 4]
    assert counts.loc["tumour"].tolist() == [1, 0, 4]
    assert table.loc["liver", "clean"] == pytest.approx(0.45)
    assert table.loc["(mean)", "worst"] == pytest.approx(0.4)


# ---- several trained models ----


def test_seeds_of_an_architecture_are_one_line_and_their_spread_is_shown() -> None:
    seeds = {"A/1": {0: [0.9, 0.8], 1: [0.5, 0.5]}, "A/2": {0: [0.7, 0.8], 1: [0.1, 0.3]}, "B": {0: [1, 1], 1: [1, 0]}}
    rows = frame(seeds)
    points = curves(rows, "dice").set_index(["perturbation", "line", "level"])
    there = points.loc[("noise", "A", 1.0)]
    assert (there["mean"], there["trained_low"], there["trained_high"]) == pytest.approx((0.35, 0.2, 0.5))
    assert (there["n_trained"], points.loc[("noise", "B", 1.0), "n_trained"]) == (2, 1)
    assert (there["low"], there["high"]) == pytest.approx((0.3, 0.4))  # of the patients' means 0.3 and 0.4
    first, second = summary(rows).to_dict("records")
    assert (first["line"], first["n_trained"], first["n_objects"]) == ("A", 2, 8)
    assert (first["drop"], first["drop_low"]) == pytest.approx((0.8 - 0.35, 0.4))
    assert (second["line"], second["n_objects"]) == ("B", 4)
    assert summary(rows, by="line")["line"].tolist() == ["A/1", "A/2", "B"]


def test_the_seed_and_the_number_of_resamples_reach_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    rows = frame({"A": {0: rng.random(12), 1: rng.random(12)}})
    for table in (lambda **how: curves(rows, "dice", **how)["low"], lambda **how: summary(rows, **how)["drop_low"]):
        assert (table(seed=1) == table(seed=1)).all()
        assert (table(seed=1) != table(seed=2)).all()
        assert (table(n_resamples=500) != table(n_resamples=501)).all()
