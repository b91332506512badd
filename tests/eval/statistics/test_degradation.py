"""The mean degradation by hand, its intervals against textbook formulas, and their coverage by simulation."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.eval.statistics import resample_counts
from nnunet_robust.eval.statistics.degradation import as_record, degradation, weights
from tests.eval.statistics.rows import frame

COUNTED = {"D1": ["noise", "blur"]}


def two_perturbations(seed: int = 0, n: int = 12, lines: tuple[str, ...] = ("A", "B")) -> pd.DataFrame:
    """Noise at two levels and blur at one; B loses twice as much as A."""
    rng = np.random.default_rng(seed)
    clean = {line: 0.9 + rng.normal(0, 0.03, n) for line in lines}
    parts = []
    for name, levels in {"noise": (0.1, 0.2), "blur": (3.0,)}.items():
        scores = {
            line: {0.0: clean[line]}
            | {x: clean[line] - (0.1 if line.startswith("A") else 0.2) * rng.gamma(4, 0.25, n) for x in levels}
            for line in lines
        }
        parts.append(frame(scores, name))
    return pd.concat(parts, ignore_index=True)


def of_patients(rows: pd.DataFrame, architecture: str) -> tuple[np.ndarray, np.ndarray]:
    """Clean scores and losses of each patient, noise and blur alike, the levels of noise alike, by pandas alone."""
    table = rows[rows["architecture"] == architecture].pivot_table(
        index="patient", columns=["perturbation", "level"], values="dice"
    )
    clean = table["noise", 0.0].to_numpy()
    perturbed = (table["noise", 0.1] + table["noise", 0.2]) / 4 + table["blur", 3.0] / 2
    return clean, clean - perturbed.to_numpy()


def test_no_interval_of_a_ratio_whose_difference_does_not_vary() -> None:
    rows = two_perturbations()
    twin = rows[rows["line"] == "A"].assign(line="B", architecture="B")
    table = degradation(pd.concat([rows[rows["line"] == "A"], twin]), COUNTED).set_index("line")
    assert table.loc["B", "ratio"] == pytest.approx(1)
    assert table.loc["B", ["ratio_low", "ratio_high"]].isna().all()


def test_by_hand() -> None:
    noise = frame(
        {"A": {0: [0.8, 1.0], 1: [0.7, 0.9], 2: [0.5, 0.9]}, "B": {0: [0.5, 0.7], 1: [0.5, 0.7], 2: [0.5, 0.7]}}
    )
    blur = frame({"A": {0: [0.8, 1.0], 3: [0.6, 0.6]}, "B": {0: [0.5, 0.7], 3: [0.6, 0.9]}}, "blur")
    table = degradation(pd.concat([noise, blur]), COUNTED).set_index("line")
    # A: clean .9; noise (.8 + .7) / 2 = .75, blur .6, together .675. B: clean .6; noise .6, blur .75, together .675
    assert table["degradation"].to_dict() == pytest.approx({"A": 0.225 / 0.9, "B": -0.075 / 0.6})
    assert table["clean"].to_dict() == pytest.approx({"A": 0.9, "B": 0.6})
    assert table["n_perturbations"].tolist() == [2, 2] and table["n_patients"].tolist() == [2, 2]
    only = degradation(pd.concat([noise, blur]), {"D1": ["blur"]}).set_index("line")
    assert only["degradation"].to_dict() == pytest.approx({"A": 0.3 / 0.9, "B": -0.15 / 0.6})
    distances = degradation(noise, {"D1": ["noise"]}, "hd95_mm").set_index("line")  # 10 (1 - Dice): 1 mm and 2.5 mm
    assert distances["degradation"].to_dict() == pytest.approx({"A": 1.5, "B": 0.0})


def test_weights_are_printed_and_sum_to_one() -> None:
    rows = two_perturbations()
    other = frame({"A": {0: [0.9], 1: [0.8]}, "B": {0: [0.9], 1: [0.8]}}, "ghosting")
    series = frame({"A": {0: [0.9], 1: [0.8]}, "B": {0: [0.9], 1: [0.8]}}, "site", series=True)
    together = pd.concat([rows, other, series[series["perturbation"] == "site"]])
    found = weights(together, {"D1": ["blur", "noise", "site", "clean", "absent"], "D2": ["noise"]})
    assert [(one.perturbation, one.levels, one.weight, one.of_level) for one in found] == [
        ("noise", (0.1, 0.2), 0.5, 0.25), ("blur", (3.0,), 0.5, 0.5)
    ]  # fmt: skip
    with_others = degradation(together, {"D1": ["blur", "noise", "site", "clean", "absent"]})
    pd.testing.assert_frame_equal(with_others, degradation(rows, COUNTED))
    assert weights(rows, {}) == [] and degradation(rows, {}).empty


def test_the_interval_is_that_of_a_ratio_of_means() -> None:
    rows = two_perturbations()
    table = degradation(rows, COUNTED).set_index("line")
    for name in "AB":
        clean, lost = of_patients(rows, name)
        share = lost.mean() / clean.mean()
        assert table.loc[name, "degradation"] == pytest.approx(share, rel=1e-12)
        error = stats.sem(lost - share * clean) / clean.mean()  # Cochran 1977, Sampling Techniques, 6.4
        expected = stats.t.interval(0.95, len(clean) - 1, share, error)
        assert tuple(table.loc[name, ["degradation_low", "degradation_high"]]) == pytest.approx(expected, rel=1e-9)


def test_the_ratio_and_fiellers_interval() -> None:
    rows = two_perturbations()
    table = degradation(rows, COUNTED, baseline="B").set_index("line")
    assert table.loc["B", "ratio"] == 1 and np.isnan(table.loc["B", "ratio_low"])
    assert (table["baseline"] == "B").all()
    parts = {}
    for name in "AB":
        clean, lost = of_patients(rows, name)
        parts[name] = (lost - lost.mean() / clean.mean() * clean) / clean.mean() + lost.mean() / clean.mean()
    a, b = parts["A"].mean(), parts["B"].mean()
    covariance = np.cov(parts["A"], parts["B"]) / len(parts["A"])
    t2 = stats.t.ppf(0.975, len(parts["A"]) - 1) ** 2
    # (a - r b)^2 = t^2 (v_aa - 2 r v_ab + r^2 v_bb), solved for r
    quadratic = [
        b**2 - t2 * covariance[1, 1], -2 * (a * b - t2 * covariance[0, 1]), a**2 - t2 * covariance[0, 0],
    ]  # fmt: skip
    expected = sorted(np.roots(quadratic))
    assert table.loc["A", "ratio"] == pytest.approx(a / b)
    assert list(table.loc["A", ["ratio_low", "ratio_high"]]) == pytest.approx(expected, rel=1e-6)


def test_no_ratio_to_a_baseline_that_may_lose_nothing() -> None:
    rng = np.random.default_rng(1)
    clean = 0.9 + rng.normal(0, 0.02, 10)
    scores = {"A": {0.0: clean, 1.0: clean + rng.normal(0, 0.01, 10)}, "B": {0.0: clean, 1.0: clean - 0.1 - clean / 50}}
    table = degradation(frame(scores), {"D1": ["noise"]}).set_index("line")
    assert table.loc["A", "degradation_low"] < 0 < table.loc["A", "degradation_high"]
    assert table[["ratio", "ratio_low", "ratio_high"]].isna().all().all()
    assert (table["baseline"] == "A").all()
    assert degradation(frame(scores), {"D1": ["noise"]}, baseline="other")["ratio"].isna().all()
    turned = degradation(frame(scores), {"D1": ["noise"]}, baseline="B").set_index("line")
    assert turned.loc["A", "ratio_low"] < 0 < turned.loc["A", "ratio_high"]


def test_the_rank_share_counts_bootstraps() -> None:
    rows = two_perturbations(seed=5, n=7)
    noisy = rows.assign(dice=rows["dice"] + np.random.default_rng(3).normal(0, 0.2, len(rows)))
    clean = noisy["level"] == 0  # the clean images are the same for every perturbation
    noisy.loc[clean, "dice"] = noisy[clean].groupby(["line", "patient"])["dice"].transform("first")
    table = degradation(noisy, COUNTED, n_resamples=500, seed=3).set_index("line")
    counts, lost = resample_counts(7, 500, 3), {}
    for name in "AB":
        of_clean, of_lost = of_patients(noisy, name)
        lost[name] = (counts @ of_lost) / (counts @ of_clean)
    expected = float((lost["A"] < lost["B"]).mean())
    assert 0.5 < expected < 1
    assert table["share_least"].to_dict() == pytest.approx({"A": expected, "B": 1 - expected})
    alike = pd.concat([rows[rows["line"] == "A"].assign(line=name, architecture=name) for name in "XYZ"])
    assert degradation(alike, COUNTED)["share_least"].tolist() == pytest.approx([1 / 3] * 3)


def test_trainings_count() -> None:
    """The same patients and means: what trainings vary widens the interval, and makes the least less sure."""
    n, shifts = 20, (-0.06, 0.0, 0.06)
    rng = np.random.default_rng(4)
    clean = 0.9 + rng.normal(0, 0.01, n)
    lost = {"A": 0.1 + rng.normal(0, 0.02, n), "B": 0.12 + rng.normal(0, 0.02, n)}
    scores = {name: {0.0: clean, 1.0: clean - lost[name]} for name in "AB"}
    repeated = {
        f"{name}/{seed}": {0.0: clean, 1.0: clean - lost[name] - shift}
        for name in "AB"
        for seed, shift in enumerate(shifts)
    }
    once, thrice = (degradation(frame(s), {"D1": ["noise"]}).set_index("line") for s in (scores, repeated))
    assert thrice["degradation"].to_dict() == pytest.approx(once["degradation"].to_dict())
    assert thrice["n_trained"].tolist() == [3, 3] and once["n_trained"].tolist() == [1, 1]
    reach = (thrice["degradation_high"] - thrice["degradation_low"]) / 2
    # the pooled variance of trainings has 4 degrees of freedom, and is nearly all there is
    assert reach["A"] == pytest.approx(stats.t.ppf(0.975, 4) * 0.06 / np.sqrt(3) / clean.mean(), rel=0.05)
    assert (reach > 3 * (once["degradation_high"] - once["degradation_low"]) / 2).all()
    assert once.loc["A", "share_least"] > 0.95 > 0.8 > thrice.loc["A", "share_least"] > 0.5


def test_who_lacks_a_perturbation_is_left_out() -> None:
    rows = two_perturbations(lines=("A/1", "A/2", "B"))
    lacking = rows[~((rows["line"] == "A/2") & (rows["perturbation"] == "blur"))]
    table = degradation(lacking, COUNTED).set_index("line")
    assert table["n_trained"].to_dict() == {"A": 1, "B": 1}
    without = rows[~((rows["line"] == "B") & (rows["perturbation"] == "blur"))]
    assert degradation(without, COUNTED)["line"].tolist() == ["A"]
    fewer = rows[~((rows["patient"] == "p0003") & (rows["perturbation"] == "blur"))]
    assert set(degradation(fewer, COUNTED)["n_patients"]) == {11}
    nothing = rows.assign(dice=rows["dice"].where(rows["line"] != "B", 0.0))
    assert degradation(nothing, COUNTED)["line"].tolist() == ["A"]
    disjoint = rows[(rows["perturbation"] == "noise") == (rows["line"] == "B")]
    assert degradation(disjoint, COUNTED).empty


def test_degenerate_samples_have_no_interval_and_warn_of_nothing() -> None:
    rows = two_perturbations(n=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = degradation(rows, COUNTED).set_index("line")
        alike = frame({"A": {0: [0.9] * 8, 1: [0.8] * 8}, "B": {0: [0.9] * 8, 1: [0.7] * 8}})
        same = degradation(alike, {"D1": ["noise"]}).set_index("line")
        lost = frame({"A": {0: [0.9, 0.8, 0.7], 1: [0.0, 0.0, 0.1]}})
        high = degradation(lost, {"D1": ["noise"]})["degradation_high"]
    ends = ["degradation_low", "degradation_high", "ratio_low", "ratio_high"]
    assert one[[*ends, "share_least"]].isna().all().all()
    assert one["ratio"].tolist() == pytest.approx([1.0, one.loc["B", "degradation"] / one.loc["A", "degradation"]])
    assert same[ends].isna().all().all() and same["ratio"].tolist() == pytest.approx([1.0, 2.0])
    assert high.tolist() == [1.0]  # nobody loses more than all


def test_the_record_is_json() -> None:
    rows = two_perturbations()
    table = degradation(rows, COUNTED)
    (record,) = json.loads(json.dumps(as_record(table, weights(rows, COUNTED), {"D1": "mri"}), allow_nan=False))
    assert (record["dataset"], record["metric"], record["preset"], record["baseline"]) == ("D1", "dice", "mri", "A")
    assert record["weights"][0] == {
        "perturbation": "noise", "levels": [0.1, 0.2], "weight": 0.5, "weight_of_level": 0.25,
    }  # fmt: skip
    first, second = record["architectures"]
    assert (first["architecture"], first["ratio"], first["ratio_low"]) == ("A", 1.0, None)
    assert second["degradation"] == pytest.approx(table["degradation"].iloc[1]) and second["n_patients"] == 12
    assert as_record(table, weights(rows, COUNTED), {})[0]["preset"] is None


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "degradation_coverage.py"
    specification = importlib.util.spec_from_file_location("degradation_coverage", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_patients", "n_trained", "least"), [(10, 1, 0.87), (20, 1, 0.9), (20, 3, 0.92), (20, 5, 0.92)]
)
def test_the_intervals_cover_what_they_should(n_patients: int, n_trained: int, least: float) -> None:
    """With 1 training each what is covered is the loss of these trained models; with more, of the architecture.

    Patients' losses are skewed, and intervals of few patients too narrow: docs/statistics.md has by how much.
    """
    covered = _benchmark().coverage(n_patients, n_trained, repeats=500)
    assert least <= covered["degradation"] <= 0.98
    assert 0.91 <= covered["ratio"] <= 0.99
    assert covered["wrong"] <= (0.1 if n_trained == 1 else 0.03)
