"""Reading, naming, pairing and averaging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.statistics import case_scores, comparable, curves, load_results, summary
from nnunet_robust.eval.statistics.tables import patient_scores
from tests.eval.statistics.rows import load, result
from tests.eval.sweep_output import write_sweep_output


def test_names_stay_text_and_infinite_volume_ratios_are_read(tmp_path: Path) -> None:
    results = load([result("007", "clean", 0, 0.9, patient="NA", fold="0+1", volume_ratio=np.inf)], tmp_path)
    row = results.iloc[0]
    assert (row["case"], row["patient"], row["fold"], row["label"]) == ("007", "NA", "0+1", "1")
    assert np.isinf(row["volume_ratio"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([result("a", "clean", 0, 0.9), result("a", "clean", 0, 0.8)], "line 3: case 'a' of 'A' is there twice"),
        ([result("a", "clean", 0, 0.9, hd95_mm=np.nan)], "line 2: hd95_mm is nan"),
        ([result("a", "clean", 0, 0.9, outcome="lost")], "'lost'"),
        ([result("a", "clean", 0, 0.9) | {"dice": "good"}], "good"),
        ([{"case": "a"}], "lacks the columns dataset, model"),
    ],
)
def test_bad_results_are_refused_in_one_line(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(rows, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No results at"):
        load_results(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("")
    with pytest.raises(UserError, match="the file is empty"):
        load_results(tmp_path / "results.csv")
    pd.DataFrame([result("a", "clean", 0, 0.9)]).iloc[:0].to_csv(tmp_path / "results.csv", index=False)
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
    results = load([result("a", "clean", 0, 0.9, **variant) for variant in variants], tmp_path)
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


def test_labels_and_replicates_then_cases_then_patients_are_averaged(tmp_path: Path) -> None:
    rows = [
        result("a1", "clean", 0, 0.8, patient="a", label="1"),
        result("a1", "clean", 0, 0.6, patient="a", label="2"),
        result("a2", "clean", 0, 0.9, patient="a", label="1"),
        result("a2", "clean", 0, 0.9, patient="a", label="2"),
        result("b1", "clean", 0, 0.4, patient="b", label="1"),
        result("b1", "clean", 0, 0.2, patient="b", label="2"),
    ]
    results = load(rows, tmp_path)
    assert case_scores(results, "dice").set_index("case")["dice"].to_dict() == pytest.approx(
        {"a1": 0.7, "a2": 0.9, "b1": 0.3}
    )
    point = curves(comparable(results)[0], "dice").iloc[0]
    assert point["mean"] == pytest.approx((0.8 + 0.3) / 2)
    assert (point["n_cases"], point["n_patients"]) == (3, 2)
    with pytest.raises(UserError, match="'volume'"):
        case_scores(results, "volume")


def test_an_architecture_is_the_line_without_seed_and_fold(tmp_path: Path) -> None:
    named = {
        ("A_seed1", "0"): "A",
        ("A_seed2", "0"): "A",
        ("B_ps64_seed0@Dataset501_X", "0"): "B_ps64@Dataset501_X",
        ("B_seeded", "0"): "B_seeded",
        ("C", "0"): "C",
        ("C", "1"): "C",
        ("E_seed1", "0"): "E · single folds",
        ("E_seed1", "1"): "E · single folds",
        ("E_seed1", "0+1"): "E · 2 folds averaged",
    }
    results = load([result("a", "clean", 0, 0.9, model=model, fold=fold) for model, fold in named], tmp_path)
    assert results["architecture"].tolist() == list(named.values())
    assert results["line"].nunique() == len(named)


def test_an_architecture_keeps_apart_what_is_no_seed(tmp_path: Path) -> None:
    variants = [
        {"model": "A_seed1", "configuration": "2d"},
        {"model": "A_seed2", "configuration": "3d_fullres"},
        {"model": "B_seed1"},
        {"model": "B_seed1", "tile_size": "32x32"},
    ]
    results = load([result("a", "clean", 0, 0.9, **variant) for variant in variants], tmp_path)
    assert results["architecture"].tolist() == ["A · 2d", "A · 3d_fullres", "B", "B (tile 32x32)"]
    assert results["line"].tolist() == ["A_seed1", "A_seed2", "B_seed1", "B_seed1 (tile 32x32)"]


def test_several_sweeps_are_named_alike_though_their_patch_sizes_differ(tmp_path: Path) -> None:
    for name, size in (("one", "64x64"), ("two", "96x96")):
        (tmp_path / name).mkdir()
        load([result("a", "clean", 0, 0.9, dataset=name, patch_size=size, tile_size=size)], tmp_path / name)
    both = load_results(tmp_path / "one" / "results.csv", tmp_path / "two" / "results.csv")
    assert both[["dataset", "line", "architecture"]].to_numpy().tolist() == [["one", "A", "A"], ["two", "A", "A"]]
    rows = [result("a", "clean", 0, 0.9, patch_size=size, tile_size=size) for size in ("64x64", "96x96")]
    with pytest.raises(UserError, match="A with two patch sizes"):
        load(rows, tmp_path)


def test_scores_are_averaged_over_cases_then_over_trained_models(tmp_path: Path) -> None:
    rows = []
    for seed, dice in ((1, 0.8), (2, 0.6)):
        rows.append(result("a1", "clean", 0, dice, patient="a", model=f"A_seed{seed}"))
        rows.append(result("a2", "clean", 0, dice + 0.1, patient="a", model=f"A_seed{seed}"))
        rows.append(result("b1", "clean", 0, dice / 2, patient="b", model=f"A_seed{seed}"))
    rows = comparable(load(rows, tmp_path))[0]
    (scores,) = patient_scores(rows, "dice")
    assert (scores.names, scores.lines, scores.patients) == (["A"], ["A_seed1", "A_seed2"], ["a", "b"])
    assert scores.values[0, 0].tolist() == pytest.approx([(0.85 + 0.65) / 2, (0.4 + 0.3) / 2])
    assert scores.at(0).T.tolist() == scores.values[:, 0].tolist()
    point = curves(rows, "dice").iloc[0]
    assert point["mean"] == pytest.approx((0.75 + 0.35) / 2)
    assert (point["n_trained"], point["n_patients"], point["n_cases"]) == (2, 2, 3)
    assert (point["trained_low"], point["trained_high"]) == pytest.approx(((0.65 + 0.3) / 2, (0.85 + 0.4) / 2))
    by_line = curves(rows, "dice", by="line")
    assert by_line["line"].tolist() == ["A_seed1", "A_seed2"]
    assert by_line["mean"].tolist() == pytest.approx([(0.85 + 0.4) / 2, (0.65 + 0.3) / 2])
    assert (by_line["trained_low"] == by_line["mean"]).all()


def test_only_common_cases_and_levels_are_compared_and_the_rest_is_named(tmp_path: Path) -> None:
    rows = []
    for model in ("A", "B"):
        for case in ("a", "b", "c"):
            rows.append(result(case, "clean", 0, 0.9, model=model))
            rows += [result(case, "noise", level, 0.9 - level, model=model) for level in (0.1, 0.2)]
    rows = [r for r in rows if (r["model"], r["case"], r["level"]) != ("B", "c", 0.2)]  # killed before its end
    rows += [result(case, "noise", 0.3, 0.1, model="A") for case in ("a", "b")]  # a level of A's only
    rows += [result("a", "noise", 0.1, 0.0, model="A", replicate=1)]  # a replicate of A's only
    rows += [result(case, "blur", 1, 0.5, model="B") for case in ("a", "b", "c")]  # a perturbation of B's only
    kept, left_out = comparable(load(rows, tmp_path))
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
    rows = [result("a", "clean", 0, 0.9), result("a", "noise", 1, 0.5), result("a", "noise", 1, 0.5, model="B")]
    kept, left_out = comparable(load(rows, tmp_path))
    assert set(kept["line"]) == {"A"}
    assert any("B is left out, for it has no clean images" in sentence for sentence in left_out)


def test_datasets_are_never_mixed(tmp_path: Path) -> None:
    rows = [result("a", "clean", 0, dice, dataset=name) for name, dice in (("D1", 0.9), ("D2", 0.1))]
    rows += [result("a", "noise", 1, dice, dataset=name) for name, dice in (("D1", 0.8), ("D2", 0.0))]
    table = summary(comparable(load(rows, tmp_path))[0]).set_index("dataset")
    assert table["clean"].to_dict() == pytest.approx({"D1": 0.9, "D2": 0.1})


def test_a_whole_sweep_leaves_nothing_out_and_finds_what_was_planted(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, labels=("disc", "ring"), pictures=False)
    rows, left_out = comparable(load_results(out / "results.csv"))
    assert left_out == []
    table = summary(rows)
    assert table["label"].unique().tolist() == ["(mean)", "disc", "ring"]
    together = table[table["label"] == "(mean)"].set_index(["perturbation", "line"])
    steep = "nnUNetTrainer_2epochs_50iters"
    assert together.loc[("speckle_noise", steep), "missed"] == 2  # one case, both labels
    assert together.loc[("speckle_noise", steep), "drop"] > 0.5
    assert (together["n_cases"] == 12).all()
