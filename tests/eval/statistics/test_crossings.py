"""Where curves cross, against hand-computed numbers, Fieller's formula and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.slope_and_crossing_errors import SPREADS, crossing_coverage
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
    assert found["share"] == ((before > 0) & (after < 0)).mean()
    assert ((before < 0) & (after > 0)).mean() > 0.1


# ---- Fieller's intervals ----


def _two_levels(rng: np.random.Generator, n: int, before: float, after: float, spread: float = 0.06) -> tuple:
    start, end = rng.normal(before, spread, n), rng.normal(after, spread, n)
    return frame({"A": {0: 0.5 + start, 1: 0.5 + end}, "B": {0: np.full(n, 0.5), 1: np.full(n, 0.5)}}), start, end


def test_the_interval_is_fiellers() -> None:
    rows, start, end = _two_levels(np.random.default_rng(0), 20, 0.1, -0.15)
    found = crossings(rows).query("perturbation == 'noise'").iloc[0]
    # the ratio of the means of start and start - end, by the roots of Fieller's quadratic
    top, bottom = start, start - end
    t2 = stats.t.ppf(0.975, 19) ** 2 / 20
    covariance = np.cov(top, bottom)
    quadratic = [
        bottom.mean() ** 2 - t2 * covariance[1, 1],
        -2 * (top.mean() * bottom.mean() - t2 * covariance[0, 1]),
        top.mean() ** 2 - t2 * covariance[0, 0],
    ]
    assert (found["low"], found["high"]) == pytest.approx(sorted(np.roots(quadratic)), abs=1e-4)
    assert found["open"] == ""
    assert found["low"] < found["level"] < found["high"]


@pytest.mark.parametrize(
    ("before", "after", "open_at"), [(0.02, -0.3, "below"), (0.3, -0.02, "above"), (0.01, -0.01, "both")]
)
def test_an_interval_that_reaches_the_last_level_is_open(before: float, after: float, open_at: str) -> None:
    noise = np.linspace(-1, 1, 16) * 0.2
    scores = {0: 0.5 + before + noise, 1: 0.5 + after + noise[::-1]}
    found = crossings(frame({"A": scores, "B": {x: np.full(16, 0.5) for x in scores}})).dropna(subset="level").iloc[0]
    assert found["open"] == open_at
    assert (found["low"] == 0) == (open_at != "above")
    assert (found["high"] == 1) == (open_at != "below")


def test_without_a_crossing_it_says_where_one_is_possible() -> None:
    rows, *_ = _two_levels(np.random.default_rng(1), 20, 0.3, 0.02)
    near = crossings(rows).query("perturbation == 'noise'").iloc[0]
    assert np.isnan(near["level"])
    assert 0.5 < near["low"] < near["high"] == 1
    assert near["open"] == "above"
    far = crossings(_two_levels(np.random.default_rng(1), 20, 0.3, 0.3)[0]).query("perturbation == 'noise'").iloc[0]
    assert np.isnan([far["low"], far["high"]]).all()
    assert far["open"] == ""


def test_two_crossings_have_intervals_of_their_own() -> None:
    noise = np.random.default_rng(2).normal(0, 0.02, 20)
    rows = frame({"A": {x: 0.5 + d + noise for x, d in ((0, 0.3), (1, -0.3), (2, 0.3))}, "B": _flat((0, 1, 2))})
    first, second = crossings(rows).query("perturbation == 'noise'").to_dict("records")
    assert 0 < first["low"] < 0.5 < first["high"] < 1 < second["low"] < 1.5 < second["high"] < 2


def _flat(levels: tuple[float, ...], n: int = 20) -> dict[float, np.ndarray]:
    return {x: np.full(n, 0.5) for x in levels}


def test_trainings_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    patients = rng.normal(0, 0.01, 20)
    seeds = {f"A/{i}": {0: 0.6 + s + patients, 1: 0.4 + s + patients} for i, s in enumerate((-0.03, 0.0, 0.03))}
    fixed = {f"B/{i}": {x: values + rng.normal(0, 1e-3, 20) for x, values in _flat((0, 1)).items()} for i in range(3)}
    several = crossings(frame(seeds | fixed)).dropna(subset="level").iloc[0]
    one = crossings(frame({"A": seeds["A/1"], "B": fixed["B/0"]})).dropna(subset="level").iloc[0]
    assert several["level"] == pytest.approx(one["level"], abs=0.01)
    # A's trainings vary by 0.03 and B's by nothing: pooled, each mean of three, t of 4 degrees of freedom, slope 0.2
    half = stats.t.ppf(0.975, 4) * (0.03**2 * 2 / 4 * 2 / 3) ** 0.5 / 0.2
    assert (several["high"] - several["low"]) / 2 == pytest.approx(half, rel=0.1)
    assert one["high"] - one["low"] < 0.1
    each = crossings(frame(seeds | fixed), by="line").query("first.str.startswith('A') and second.str.startswith('B')")
    assert len(each) == 9
    assert (each["high"] - each["low"] < 0.1).all()  # each trained model for itself


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
@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("seeds", "training"), [(1, 0.0), (3, 0.02)])
def test_the_intervals_hold_a_planted_crossing(n: int, spread: str, seeds: int, training: float) -> None:
    found = crossing_coverage(400, n, seeds, 0.4, spread, training)
    error = 2 * (0.05 * 0.95 / 400) ** 0.5  # of the simulation, two standard errors
    assert 0.92 - error <= found["covered"] <= 0.97 + error
