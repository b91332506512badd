"""Where curves cross, against hand-computed numbers, Fieller's formula and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.statistics import crossings, resample_counts
from tests.eval.statistics.rows import frame


def _alike(*means: float, n: int = 30, spread: float = 0.05) -> dict[float, np.ndarray]:
    shifts = spread * np.linspace(-1, 1, n)
    return {level: mean + shifts for level, mean in zip((0.0, 0.1, 0.2, 0.4), means, strict=False)}


def test_a_crossing_between_levels_is_where_the_lines_meet() -> None:
    rows = frame({"A": _alike(0.9, 0.8, 0.5), "B": _alike(0.8, 0.75, 0.7)})
    (found,) = crossings(rows).query("perturbation == 'noise'").to_dict("records")
    assert (found["first"], found["second"]) == ("A", "B")  # A is better below
    assert found["level"] == pytest.approx(0.1 + 0.1 * 0.05 / 0.25)
    assert (found["low"], found["high"], found["share"]) == pytest.approx((found["level"], found["level"], 1.0))
    assert found["n_patients"] == 30  # all patients differ alike, so that every bootstrap crosses at the same place
    swapped = crossings(frame({"B": _alike(0.8, 0.75, 0.7), "A": _alike(0.9, 0.8, 0.5)})).query("level.notna()")
    assert swapped[["first", "second"]].to_numpy().tolist() == [["A", "B"]]
    distances = crossings(rows, "hd95_mm").query("level.notna()").iloc[0]  # 10 (1 - dice): lower is better
    assert (distances["first"], distances["level"]) == ("A", pytest.approx(found["level"]))


@pytest.mark.parametrize(
    ("differences", "levels"),
    [
        ((0.1, 0.0, -0.1), [0.1]),  # through a level where they are equal
        ((0.1, 0.0, 0.0, -0.1), [0.15]),  # together for a while: the middle
        ((0.1, 0.0, 0.1), []),  # they meet and part on the same side
        ((0.0, 0.1, 0.2), []),
        ((0.0, 0.0, 0.0), []),
        ((0.1, -0.1, 0.1, -0.1), [0.05, 0.15, 0.3]),
    ],
)
def test_what_counts_as_a_crossing(differences: tuple[float, ...], levels: list[float]) -> None:
    rows = frame({"A": _alike(*(0.5 + d for d in differences)), "B": _alike(*(0.5 for _ in differences))})
    found = crossings(rows).query("perturbation == 'noise'")
    assert found["level"].dropna().tolist() == pytest.approx(levels)
    assert len(found) == max(1, len(levels))
    assert (found["share"] == float(bool(levels))).all()
    if len(levels) > 1:
        assert found["first"].tolist() == ["A", "B", "A"]


def test_the_share_tells_how_sure_a_crossing_is() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 40)
    noise = 0.1 * (noise - noise.mean()) / noise.std()
    touch = frame(
        {"A": {0: np.full(40, 0.6), 1: 0.5 + noise - 0.0158}, "B": {0: np.full(40, 0.5), 1: np.full(40, 0.5)}}
    )
    found = crossings(touch).query("perturbation == 'noise'").iloc[0]
    # a mean of -0.0158 with a standard error of 0.1 / sqrt(40): below 0 in about Phi(1) of samples
    assert found["share"] == pytest.approx(0.84, abs=0.04)
    assert 0 < found["low"] < found["level"] <= found["high"] <= 1
    apart = frame(
        {"A": {0: np.full(40, 0.6), 1: 0.5 + noise + 0.0158}, "B": {0: np.full(40, 0.5), 1: np.full(40, 0.5)}}
    )
    missed = crossings(apart).query("perturbation == 'noise'").iloc[0]
    assert np.isnan(missed["level"])
    assert missed["share"] == pytest.approx(0.16, abs=0.04)


def test_only_crossings_in_the_same_direction_agree() -> None:
    rng = np.random.default_rng(3)
    differences = {x: mean + rng.normal(0, 0.06, 20) for x, mean in ((0, 0.01), (1, -0.01))}
    rows = frame({"A": {x: 0.5 + d for x, d in differences.items()}, "B": {x: np.full(20, 0.5) for x in differences}})
    found = crossings(rows, n_resamples=500, seed=2).query("perturbation == 'noise'").iloc[0]
    before, after = (resample_counts(20, 500, seed=2) @ differences[x] / 20 for x in (0, 1))
    forth, back = (before > 0) & (after < 0), (before < 0) & (after > 0)
    assert found["share"] == forth.mean()
    assert back.mean() > 0.1
    at = before[forth] / (before[forth] - after[forth])
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(at, [0.025, 0.975])))


def test_one_patient_crosses_without_an_interval() -> None:
    found = crossings(frame({"A": {0: [0.9], 1: [0.1]}, "B": {0: [0.8], 1: [0.2]}})).dropna(subset="level").iloc[0]
    assert found["level"] == pytest.approx(0.5)
    assert np.isnan([found["low"], found["high"], found["share"]]).all()


def test_a_series_with_other_patients_at_each_level_crosses_too() -> None:
    rng = np.random.default_rng(1)
    parts = []
    for level, (a, b) in {1.0: (0.9, 0.8), 2.0: (0.5, 0.7)}.items():
        shift = rng.normal(0, 0.02, 20)
        part = frame({"A": {level: a + shift}, "B": {level: b + shift}}, "site", series=True)
        parts.append(part.assign(patient=part["patient"] + f"_{level}", case=part["case"] + f"_{level}"))
    (found,) = crossings(pd.concat(parts, ignore_index=True)).to_dict("records")
    assert found["level"] == pytest.approx(1 + 0.1 / 0.3, abs=0.001)
    assert found["share"] == 1.0


@pytest.mark.slow
def test_a_planted_crossing_is_found_and_its_interval_covers_it() -> None:
    levels, true, covered, n_trials = np.array([0.0, 0.1, 0.2, 0.4]), 0.25, 0, 300
    rng = np.random.default_rng(4)
    for _ in range(n_trials):
        patients = rng.normal(0, 0.08, 40)
        a, b = ({x: 0.9 - slope * x + patients + rng.normal(0, 0.03, 40) for x in levels} for slope in (1.0, 0.6))
        b = {x: values - 0.4 * true for x, values in b.items()}
        found = crossings(frame({"A": a, "B": b}), n_resamples=500).query("perturbation == 'noise'").iloc[0]
        covered += found["low"] <= true <= found["high"]
    assert 0.90 <= covered / n_trials <= 0.98  # nominal 0.95, Monte-Carlo standard error 0.013
