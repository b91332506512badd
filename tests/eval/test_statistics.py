"""Statistics against hand-computed numbers and against scipy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.errors import UserError
from nnunet_robust.eval.statistics import (
    bootstrap_interval,
    case_scores,
    comparable,
    curves,
    load_results,
    summary,
)
from nnunet_robust.seeding import numpy_generator
from tests.eval.sweep_output import write_sweep_output


def _row(case: str, perturbation: str, level: float, dice: float, **other: object) -> dict:
    row = {"dataset": "D1", "model": "A", "plans": "nnUNetPlans", "configuration": "2d", "fold": "0", "patient": case}
    row |= {"patch_size": "64x64", "tile_size": "64x64"}
    row |= {"case": case, "perturbation": perturbation, "level": level, "replicate": 0, "label": "1", "dice": dice}
    row |= {"iou": 0.5, "hd95_mm": 10 * (1 - dice), "assd_mm": 1.0, "nsd": 0.5, "volume_ratio": 1.0}
    return row | {"n_ref": 10, "n_pred": 10, "outcome": "ok"} | other


def _load(rows: list[dict], folder: Path) -> pd.DataFrame:
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    return load_results(folder / "results.csv")


# ---- reading ----


def test_names_stay_text_and_infinite_volume_ratios_are_read(tmp_path: Path) -> None:
    results = _load([_row("007", "clean", 0, 0.9, patient="NA", fold="0+1", volume_ratio=np.inf)], tmp_path)
    row = results.iloc[0]
    assert (row["case"], row["patient"], row["fold"], row["label"]) == ("007", "NA", "0+1", "1")
    assert np.isinf(row["volume_ratio"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([_row("a", "clean", 0, 0.9), _row("a", "clean", 0, 0.8)], "line 3: case 'a' of 'A' is there twice"),
        ([_row("a", "clean", 0, 0.9, hd95_mm=np.nan)], "line 2: hd95_mm is nan"),
        ([_row("a", "clean", 0, 0.9, outcome="lost")], "'lost'"),
        ([_row("a", "clean", 0, 0.9) | {"dice": "good"}], "good"),
        ([{"case": "a"}], "lacks the columns dataset, model"),
    ],
)
def test_bad_results_are_refused_in_one_line(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _load(rows, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No results at"):
        load_results(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("")
    with pytest.raises(UserError, match="not a table"):
        load_results(tmp_path / "results.csv")
    pd.DataFrame([_row("a", "clean", 0, 0.9)]).iloc[:0].to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(UserError, match="no rows"):
        load_results(tmp_path / "results.csv")


def test_line_names_are_lengthened_only_as_far_as_needed(tmp_path: Path) -> None:
    variants = [
        {"model": "A"},
        {"model": "B", "configuration": "2d", "fold": "0"},
        {"model": "B", "configuration": "3d_fullres", "fold": "1"},
        {"model": "C", "fold": "0"},
        {"model": "C", "fold": "0+1"},
        {"model": "E", "configuration": "2d", "fold": "0"},
        {"model": "E", "configuration": "2d", "fold": "1"},
        {"model": "E", "configuration": "3d_fullres", "fold": "0"},
    ]
    results = _load([_row("a", "clean", 0, 0.9, **variant) for variant in variants], tmp_path)
    assert list(results["line"]) == [
        "A",
        "B · 2d",
        "B · 3d_fullres",
        "C · fold 0",
        "C · fold 0+1",
        "E · 2d · fold 0",
        "E · 2d · fold 1",
        "E · 3d_fullres · fold 0",
    ]


# ---- intervals ----


def test_the_interval_is_scipys_bca() -> None:
    values = np.array([0.91, 0.85, 0.40, 0.88, 0.93, 0.79, 0.90, 0.95])
    rng = numpy_generator(3, "bootstrap")
    expected = stats.bootstrap((values,), np.mean, n_resamples=2000, method="BCa", rng=rng).confidence_interval
    assert bootstrap_interval(values, seed=3) == (expected.low, expected.high)
    assert bootstrap_interval(values, seed=4) != (expected.low, expected.high)
    percentile = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    assert expected.low < percentile.low  # skewed to low scores: BCa reaches further down


def test_cases_of_a_patient_count_once() -> None:
    rng = np.random.default_rng(0)
    patients = pd.Series(rng.random(10), index=[f"p{i}" for i in range(10)])
    each_ten_times = pd.concat([patients] * 10)
    assert bootstrap_interval(each_ten_times) == pytest.approx(bootstrap_interval(patients), rel=1e-12)
    low, high = bootstrap_interval(each_ten_times.to_numpy())
    assert high - low < 0.5 * np.ptp(bootstrap_interval(patients))  # what forgetting the clusters would claim


def test_degenerate_samples_are_defined_and_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
        assert bootstrap_interval([0.1 + 0.2, 0.3, 0.3]) == pytest.approx((0.3, 0.3))
        assert bootstrap_interval([0.5]) is None
        assert bootstrap_interval(pd.Series([0.5, 0.7], index=["p", "p"])) is None
        for values in ([0.0, 1.0], [0, 0, 1.0], [1.0] * 50 + [0.0]):
            low, high = bootstrap_interval(values)
            assert 0 <= low < high <= 1
    for bad in ([], [0.5, np.nan]):
        with pytest.raises(ValueError, match="finite"):
            bootstrap_interval(bad)


def test_intervals_cover_the_true_mean_of_a_known_case() -> None:
    rng = np.random.default_rng(1)
    n_trials, covered = 300, 0
    for _ in range(n_trials):
        low, high = bootstrap_interval(rng.normal(0.8, 0.1, size=40), n_resamples=400)
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / n_trials <= 0.98  # nominal 0.95, Monte-Carlo standard error 0.013


# ---- scores, curves, summary ----


def test_labels_and_replicates_then_cases_then_patients_are_averaged(tmp_path: Path) -> None:
    rows = [
        _row("a1", "clean", 0, 0.8, patient="a", label="1"),
        _row("a1", "clean", 0, 0.6, patient="a", label="2"),
        _row("a2", "clean", 0, 0.9, patient="a", label="1"),
        _row("a2", "clean", 0, 0.9, patient="a", label="2"),
        _row("b1", "clean", 0, 0.4, patient="b", label="1"),
        _row("b1", "clean", 0, 0.2, patient="b", label="2"),
    ]
    results = _load(rows, tmp_path)
    assert case_scores(results, "dice").set_index("case")["dice"].to_dict() == pytest.approx(
        {"a1": 0.7, "a2": 0.9, "b1": 0.3}
    )
    point = curves(comparable(results)[0], "dice").iloc[0]
    assert point["mean"] == pytest.approx((0.8 + 0.3) / 2)
    assert (point["n_cases"], point["n_patients"]) == (3, 2)
    with pytest.raises(UserError, match="'volume'"):
        case_scores(results, "volume")


def _two_levels(model: str, clean: float, middle: float, high: float) -> list[dict]:
    levels = {("clean", 0.0): clean, ("gaussian_noise", 0.1): middle, ("gaussian_noise", 0.4): high}
    return [
        _row(case, name, level, dice + shift, model=model)
        for (name, level), dice in levels.items()
        for case, shift in (("a", -0.05), ("b", 0.05))
    ]


def test_summary_by_hand(tmp_path: Path) -> None:
    rows = comparable(_load(_two_levels("A", 0.9, 0.7, 0.5) + _two_levels("B", 0.8, 0.6, 0.85), tmp_path))[0]
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
    rows = comparable(_load(_two_levels("A", 0.9, 0.7, 0.5), tmp_path))[0]
    points = curves(rows, "dice")
    under_noise = points[points["perturbation"] == "gaussian_noise"]
    assert under_noise["level"].tolist() == [0.0, 0.1, 0.4]
    assert under_noise["mean"].tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert points.loc[points["perturbation"] == "clean", "mean"].tolist() == pytest.approx([0.9])


def test_one_patient_has_means_and_no_interval(tmp_path: Path) -> None:
    rows = comparable(_load([_row("a", "clean", 0, 0.9), _row("a", "blur", 1, 0.8)], tmp_path))[0]
    assert curves(rows, "dice")[["low", "high"]].isna().all(axis=None)
    row = summary(rows).iloc[0]
    assert row["drop"] == pytest.approx(0.1)
    assert np.isnan(row["drop_low"])


def test_missed_and_hallucinated_are_counted_per_label_and_together(tmp_path: Path) -> None:
    rows = []
    for label in ("liver", "tumour"):
        rows += [_row("a", "clean", 0, 0.9, label=label), _row("b", "clean", 0, 0.9, label=label)]
        rows += [_row("a", "blur", 1, 0.8, label=label)]
    rows.append(_row("b", "blur", 1, 0.0, label="tumour", outcome="missed"))
    rows.append(_row("b", "blur", 1, 0.0, label="liver", outcome="hallucinated"))
    rows[0] |= {"dice": 0.0, "outcome": "hallucinated"}
    table = summary(comparable(_load(rows, tmp_path))[0]).set_index("label")
    counts = table[["missed", "hallucinated", "n_objects"]]
    assert counts.loc["(mean)"].tolist() == [1, 2, 8]
    assert counts.loc["liver"].tolist() == [0, 2, 4]
    assert counts.loc["tumour"].tolist() == [1, 0, 4]
    assert table.loc["liver", "clean"] == pytest.approx(0.45)
    assert table.loc["(mean)", "worst"] == pytest.approx(0.4)


# ---- pairing ----


def test_only_common_cases_and_levels_are_compared_and_the_rest_is_named(tmp_path: Path) -> None:
    rows = []
    for model in ("A", "B"):
        for case in ("a", "b", "c"):
            rows.append(_row(case, "clean", 0, 0.9, model=model))
            rows += [_row(case, "noise", level, 0.9 - level, model=model) for level in (0.1, 0.2)]
    rows = [r for r in rows if (r["model"], r["case"], r["level"]) != ("B", "c", 0.2)]  # killed before its end
    rows += [_row(case, "noise", 0.3, 0.1, model="A") for case in ("a", "b")]  # a level of A's only
    rows += [_row("a", "noise", 0.1, 0.0, model="A", replicate=1)]  # a replicate of A's only
    rows += [_row(case, "blur", 1, 0.5, model="B") for case in ("a", "b", "c")]  # a perturbation of B's only
    kept, left_out = comparable(_load(rows, tmp_path))
    noise = kept[kept["perturbation"] == "noise"]
    assert set(noise["case"]) == {"a", "b"}
    assert sorted(set(noise["level"])) == [0.0, 0.1, 0.2]
    assert len(noise) == 2 * 2 * 3
    assert set(kept.loc[kept["perturbation"] == "clean", "case"]) == {"a", "b", "c"}
    text = " ".join(left_out)
    assert "D1, noise: level 0.3 is left out" in text
    assert "1 of 3 cases (c) left out" in text
    assert "1 rows (replicates or labels)" in text
    assert "D1, blur: A is left out, for it was not run under this perturbation." in text
    assert len(left_out) == 4
    assert set(summary(kept).query("perturbation == 'blur'")["line"]) == {"B"}


def test_a_model_without_clean_images_is_left_out_and_named(tmp_path: Path) -> None:
    rows = [_row("a", "clean", 0, 0.9), _row("a", "noise", 1, 0.5), _row("a", "noise", 1, 0.5, model="B")]
    kept, left_out = comparable(_load(rows, tmp_path))
    assert set(kept["line"]) == {"A"}
    assert any("B is left out, for it has no clean images" in sentence for sentence in left_out)


def test_datasets_are_never_mixed(tmp_path: Path) -> None:
    rows = [_row("a", "clean", 0, dice, dataset=name) for name, dice in (("D1", 0.9), ("D2", 0.1))]
    rows += [_row("a", "noise", 1, dice, dataset=name) for name, dice in (("D1", 0.8), ("D2", 0.0))]
    table = summary(comparable(_load(rows, tmp_path))[0]).set_index("dataset")
    assert table["clean"].to_dict() == pytest.approx({"D1": 0.9, "D2": 0.1})


def test_a_whole_sweep_leaves_nothing_out_and_finds_what_was_planted(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, labels=("disc", "ring"), pictures=False)
    rows, left_out = comparable(load_results(out / "results.csv"))
    assert left_out == []
    table = summary(rows)
    assert table["label"].unique().tolist() == ["(mean)", "disc", "ring"]
    together = table[table["label"] == "(mean)"].set_index(["perturbation", "line"])
    steep = "nnUNetTrainer_2epochs_50iters_seed1"
    assert together.loc[("speckle_noise", steep), "missed"] == 2  # one case, both labels
    assert together.loc[("speckle_noise", steep), "drop"] > 0.5
    assert (together["n_cases"] == 12).all()
