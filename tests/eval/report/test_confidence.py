"""What a report says of confidence, calibration, bounds and experts, against the rows that it was computed from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from nnunet_robust.eval.conformal.loss_curves import SETTINGS
from nnunet_robust.eval.report import Analysis, analyse
from nnunet_robust.eval.report.promises import (
    BROKEN,
    INTERVAL,
    KEPT,
    OPEN,
    UNKNOWN,
    _exact_intervals,
    left_out,
    sentences,
    verdict,
)
from nnunet_robust.eval.report.ranking import main_scores
from nnunet_robust.eval.report.read import read_sweeps
from nnunet_robust.eval.results.display_names import PLAIN
from nnunet_robust.eval.results.tables import ARM
from nnunet_robust.eval.statistics import bca_intervals, bootstrap_interval
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW
from tests.eval.sweep_output import write_sweep_output

A, B = "nnUNetTrainer_seed1", "nnUNetTrainerNoSkip_seed1"
ENSEMBLE = f"ensemble_uniform({A}+{B})"
LEVELS = {"speckle_noise": [0.1, 0.45], "gaussian_blur": [4.0]}
N = 14


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(
        tmp_path_factory.mktemp("sweep"), (A, B, ENSEMBLE), N, levels=LEVELS, pictures=False, uncertainty=True,
        single=(B,), calibrated=(A, B), experts=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def analysis(sweep: Path) -> Analysis:
    return analyse([sweep])


def _rows(sweep: Path, table: str, model: str, perturbation: str, level: float) -> pd.DataFrame:
    rows = pd.read_csv(sweep / f"{table}.csv")
    same = (rows["model"] == model) & (rows["perturbation"] == perturbation) & (rows["level"] == level)
    return rows[same].sort_values("case", ignore_index=True)


def _at(table: pd.DataFrame, line: str, perturbation: str, level: float, **more: str) -> pd.Series:
    wanted = {"line": line, "perturbation": perturbation, "level": level, **more}
    found = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert len(found) == 1, wanted
    return found.iloc[0]


# ---- rankings ----


@pytest.mark.parametrize(
    ("perturbation", "level", "stored"),
    [("speckle_noise", 0.45, "speckle_noise"), ("gaussian_blur", 0, "clean")],
)
def test_rankings_are_scipys_and_sklearns(
    analysis: Analysis, sweep: Path, perturbation: str, level: float, stored: str
) -> None:
    for model, line in ((A, "nnUNetTrainer"), (ENSEMBLE, "ensemble of 2, uniform")):
        rows = _rows(sweep, "results", model, stored, level)
        for score in ("predicted_dice", "soft_dice", "entropy_bits", "mutual_information_bits"):
            sign = -1 if score.endswith("dice") else 1
            found = _at(analysis.ranking, line, perturbation, level, score=score)
            assert found["spearman"] == pytest.approx(stats.spearmanr(sign * rows[score], 1 - rows["dice"]).statistic)
            # cases whose scores are equal count with their mean error
            errors = (1 - rows["dice"]).groupby(rows[score]).transform("mean")
            risks = errors.to_numpy()[np.argsort(sign * rows[score])].cumsum() / np.arange(1, N + 1)
            assert found["aurc"] == pytest.approx(risks.mean())
            assert found["chance_aurc"] == pytest.approx((1 - rows["dice"]).mean())
            assert found["spearman_low"] < found["spearman"] < found["spearman_high"]
            failed = rows["dice"] < 0.5
            assert (found["n_failures"], found["n_cases"], found["n_patients"]) == (failed.sum(), N, N)
            if 0 < failed.sum() < N:
                assert found["failure_auroc"] == pytest.approx(roc_auc_score(failed, sign * rows[score]))
            else:
                assert np.isnan(found["failure_auroc"]) and "no AUROC" in found["note"]


def test_what_is_not_defined_is_said_and_is_not_0(analysis: Analysis) -> None:
    alone = analysis.ranking[analysis.ranking["line"] == "nnUNetTrainerNoSkip"].set_index("score")
    for score in ("predicted_dice", "mutual_information_bits"):
        assert alone.loc[score, ["spearman", "aurc", "excess_aurc"]].isna().all().all()
        assert (alone.loc[score, "note"] == "a single member, which agrees with itself").all()
    assert alone.loc["soft_dice", "spearman"].notna().all()
    assert main_scores(analysis.ranking) == {"Dataset501_Textures": "soft_dice"}  # the one that all of them have


def test_several_trained_models_are_averaged_and_replicates_are_images(tmp_path: Path) -> None:
    seeds = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2")
    out = write_sweep_output(tmp_path, seeds, 6, levels={"speckle_noise": [0.45]}, pictures=False, uncertainty=True)
    rows = pd.read_csv(out / "results.csv", dtype={"fold": str})
    noisy = rows[rows["perturbation"] == "speckle_noise"]
    again = noisy.assign(replicate=1, entropy_bits=noisy["entropy_bits"][::-1].to_numpy())
    pd.concat([rows, again]).to_csv(out / "results.csv", index=False)
    found = _at(analyse([out]).ranking, "nnUNetTrainer", "speckle_noise", 0.45, score="entropy_bits")
    each = []
    for seed in seeds:
        of_seed = pd.concat([noisy, again]).set_index("model").loc[seed]
        each.append(stats.spearmanr(of_seed["entropy_bits"], 1 - of_seed["dice"]).statistic)
    assert found["spearman"] == pytest.approx(np.mean(each))
    assert (found["n_cases"], found["n_patients"], found["n_trained"]) == (12, 6, 2)


def test_scores_that_are_equal_and_scores_that_are_missing(tmp_path: Path) -> None:
    out = write_sweep_output(
        tmp_path, (A,), 5, ("disc", "ring"), {"speckle_noise": [0.1]}, pictures=False, uncertainty=True
    )
    rows = pd.read_csv(out / "results.csv", dtype={"fold": str})
    rows["entropy_bits"] = 0.25
    lacking = (rows["case"] == "tex_000") & (rows["level"] == 0) & (rows["label"] == "disc")  # one structure of it
    rows.loc[lacking, "soft_dice"] = np.nan
    rows.to_csv(out / "results.csv", index=False)
    table = analyse([out]).ranking
    equal = _at(table, "nnUNetTrainer", "clean", 0, score="entropy_bits")
    assert np.isnan(equal["spearman"]) and "all scores are equal" in equal["note"]
    assert equal["aurc"] == pytest.approx(equal["chance_aurc"])
    assert _at(table, "nnUNetTrainer", "clean", 0, score="soft_dice")["n_cases"] == 4
    assert _at(table, "nnUNetTrainer", "speckle_noise", 0.1, score="soft_dice")["n_cases"] == 5


def test_risk_curves_are_of_the_clean_images_and_the_highest_levels(analysis: Analysis, sweep: Path) -> None:
    curves = analysis.risk_curves
    conditions = list(dict.fromkeys(zip(curves["perturbation"], curves["level"], strict=True)))
    assert conditions == [("clean", 0.0), ("speckle_noise", 0.45), ("gaussian_blur", 4.0)]
    rows = _rows(sweep, "results", A, "speckle_noise", 0.45)
    mine = curves[(curves["line"] == "nnUNetTrainer") & (curves["perturbation"] == "speckle_noise")].set_index("x")
    assert list(mine.loc[1.0, ["mean", "optimal"]]) == pytest.approx([(1 - rows["dice"]).mean()] * 2)
    half = rows.sort_values("soft_dice", ascending=False)["dice"][: N // 2]
    assert mine.loc[0.5, "mean"] == pytest.approx((1 - half).mean())
    assert mine.loc[0.5, "optimal"] == pytest.approx((1 - rows["dice"].nlargest(N // 2)).mean())


# ---- calibration ----


def test_calibration_errors_are_those_of_the_summed_bins(analysis: Analysis, sweep: Path) -> None:
    for perturbation, level, stored in (("speckle_noise", 0.1, "speckle_noise"), ("speckle_noise", 0.0, "clean")):
        rows = _rows(sweep, "reliability", B, stored, level)
        for label in (CONFIDENCE_ROW, "foreground"):
            own = rows[rows["label"] == label]
            n, p, hits = (own.filter(regex=f"^{name}_").sum().to_numpy() for name in ("n", "p", "hits"))
            found = _at(analysis.calibration, "nnUNetTrainerNoSkip", perturbation, level, label=label)
            assert found["mean"] == pytest.approx(np.abs(hits - p).sum() / n.sum())
            assert found["gap"] == pytest.approx((p.sum() - hits.sum()) / n.sum())
            assert found["low"] < found["mean"] < found["high"]
            assert (found["n_voxels"], found["n_cases"]) == (n.sum(), N)
    mine = analysis.diagrams.query("line == 'nnUNetTrainerNoSkip' and perturbation == 'speckle_noise'")
    rows = _rows(sweep, "reliability", B, "speckle_noise", 0.45)
    own = rows[rows["label"] == CONFIDENCE_ROW]
    n, hits = (own.filter(regex=f"^{name}_").sum().to_numpy() for name in ("n", "hits"))
    np.testing.assert_allclose(mine["mean"], (hits / np.maximum(n, 1))[n > 0])
    assert list(mine["n_voxels"]) == list(n[n > 0]) and (n == 0).any()


# ---- bounds ----


@pytest.mark.parametrize(
    ("promise", "promised", "mean", "low", "high", "n", "expected"),
    [
        ("outer_threshold", 0.1, 0.05, 0.02, 0.1, 40, KEPT),
        ("outer_threshold", 0.1, 0.0, 0.0, 0.0, 35, OPEN),  # 0.9 ** 35 = 0.0250
        ("outer_threshold", 0.1, 0.0, 0.0, 0.0, 36, KEPT),
        ("outer_threshold", 0.1, 0.15, 0.1, 0.2, 40, OPEN),
        ("outer_threshold", 0.1, 0.15, 0.101, 0.2, 40, BROKEN),
        ("outer_threshold", 0.1, 0.11, 0.11, 0.11, 5, OPEN),  # one more, who loses nothing: 0.55 / 6
        ("outer_threshold", 0.1, 0.3, np.nan, np.nan, 1, UNKNOWN),
        (INTERVAL, 0.9, 0.95, 0.9, 1.0, 40, KEPT),
        (INTERVAL, 0.9, 0.85, 0.8, 0.9, 40, OPEN),
        (INTERVAL, 0.9, 0.7, 0.5, 0.89, 40, BROKEN),
    ],
)
def test_verdicts(promise: str, promised: float, mean: float, low: float, high: float, n: int, expected: str) -> None:
    assert verdict(promise, promised, mean, low, high, n) == expected


def test_the_interval_of_a_share_is_exact() -> None:
    scores = np.array([[1, 1, 0, np.nan], [1, 0, 0, 1.0], [1, 1, 0, np.nan], [1, 1, 0, np.nan]], float)
    low, high = _exact_intervals(scores)
    for column, held in enumerate((4, 3, 0)):
        exact = stats.binomtest(held, 4).proportion_ci(0.95, "exact")
        assert (low[column], high[column]) == pytest.approx((exact.low, exact.high))
    assert np.isnan(low[3]) and np.isnan(high[3])  # of one patient


@pytest.mark.parametrize("n", [5, 10, 20, 40, 60])
def test_a_promise_that_is_broken_is_seldom_called_kept(n: int) -> None:
    """Losses that are rare and large: one patient in seven loses all. The promise is a tenth."""
    rng = np.random.default_rng(0)
    losses = (rng.uniform(size=(2000, n)) < 1 / 7).astype(float)
    low, high = bca_intervals(losses.T)
    called = [verdict("outer_threshold", 0.1, m, a, b, n) for m, a, b in zip(losses.mean(1), low, high, strict=True)]
    assert called.count(KEPT) < 0.05 * len(called)


def test_losses_are_means_over_patients_and_breaks_the_lowest_level(analysis: Analysis, sweep: Path) -> None:
    table = analysis.promises
    assert set(table["line"]) == {"nnUNetTrainer", "nnUNetTrainerNoSkip"}  # the ensemble was not calibrated
    for perturbation, level, stored in (("speckle_noise", 0.45, "speckle_noise"), ("gaussian_blur", 0.0, "clean")):
        rows = _rows(sweep, "bounds", A, stored, level)
        for kind in SETTINGS:
            found = _at(table, "nnUNetTrainer", perturbation, level, promise=kind)
            assert found["mean"] == pytest.approx(rows[kind].mean())
            assert found["promised"] == 0.1 and found["low"] < found["mean"] < found["high"]
        inside = rows["dice"].between(rows["dice_low"], rows["dice_high"])
        assert _at(table, "nnUNetTrainer", perturbation, level, promise=INTERVAL)["mean"] == pytest.approx(
            inside.mean()
        )
    for row in analysis.breaks.to_dict("records"):
        keys = ["perturbation", "line", "label", "promise"]
        own = table[(table[keys] == pd.Series({key: row[key] for key in keys})).all(axis=1)]
        broken = own.loc[own["verdict"] == BROKEN, "level"]
        assert row["level"] == broken.min() if len(broken) else np.isnan(row["level"])
    assert analysis.breaks["level"].notna().any() and analysis.breaks["level"].isna().any()


def test_an_outer_loss_leaves_out_those_without_an_object(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (A,), 6, levels={"speckle_noise": [0.1]}, pictures=False, calibrated=(A,))
    bounds = pd.read_csv(out / "bounds.csv", dtype={"fold": str})
    bounds.loc[bounds["case"] == "tex_000", ["outer_threshold", "outer_margin_mm"]] = np.nan
    bounds["inner_margin_mm"] = np.nan  # no setting could be promised
    bounds[["dice_low", "dice_high"]] = np.nan
    bounds.to_csv(out / "bounds.csv", index=False)
    table = analyse([out]).promises
    assert set(table["promise"]) == {"outer_threshold", "inner_threshold", "outer_margin_mm"}
    counts = table.query("perturbation == 'clean'").set_index("promise")["n_patients"]
    assert counts.to_dict() == {"outer_threshold": 5, "inner_threshold": 6, "outer_margin_mm": 5}


def test_the_sentences_name_the_first_level_and_claim_no_more() -> None:
    columns = ["dataset", "perturbation", "line", "label", "promise", "level", "mean", "low", "high", "highest"]
    breaks = pd.DataFrame(
        [("D", "some_noise", "A", "liver", "outer_threshold", 0.3, 0.2, 0.15, 0.25, 0.4),
         ("D", "some_noise", "A", "liver", "inner_threshold", 0.0, 0.5, 0.4, 0.6, 0.4),
         ("D", "some_noise", "A", "liver", "interval", np.nan, np.nan, np.nan, np.nan, 0.4),
         ("D", "blur", "A", "liver", "interval", np.nan, np.nan, np.nan, np.nan, 2.0)],
        columns=columns,
    )  # fmt: skip
    assert list(sentences(breaks, True, PLAIN)) == [
        "D, some noise, A: first broken at level 0: the inner threshold (0.500 [0.400, 0.600]); at "
        "level 0.3: the outer threshold (0.200 [0.150, 0.250]); not shown to be broken up to level 0.4: the interval "
        "of the Dice.",
        "D, blur, A: no promise is shown to be broken up to level 2.",
    ]


def test_trained_models_of_different_promises_are_not_averaged(tmp_path: Path) -> None:
    seeds = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2", B)
    out = write_sweep_output(tmp_path, seeds, 4, levels={"speckle_noise": [0.1]}, pictures=False, calibrated=seeds)
    manifest = json.loads((out / "manifest.json").read_text())
    next(iter(manifest["models"].values()))["calibration"]["alpha"] = 0.05
    (out / "manifest.json").write_text(json.dumps(manifest))
    analysis = analyse([out])
    assert set(analysis.promises["line"]) == {"nnUNetTrainerNoSkip"}
    (said,) = left_out(analysis.sweeps)
    assert "nnUNetTrainer is left out" in said


# ---- experts ----


def test_the_model_beside_the_experts(analysis: Analysis, sweep: Path) -> None:
    rows = _rows(sweep, "results", A, "speckle_noise", 0.1)
    found = _at(analysis.experts, "nnUNetTrainer", "speckle_noise", 0.1)
    difference = (rows["model_expert_dice"] - rows["expert_agreement"]).set_axis(rows["patient"])
    mean = difference.groupby(level=0).mean().mean()
    ends = found[["difference", "difference_low", "difference_high"]]
    assert list(ends) == pytest.approx([mean, *bootstrap_interval(difference)])
    assert found["experts"] == pytest.approx(rows["expert_agreement"].mean())
    assert found["model"] == pytest.approx(rows["model_expert_dice"].mean())


def test_difficulty_is_asked_of_the_same_cases(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (A, B), 9, levels={"speckle_noise": [0.1]}, pictures=False, experts=True)
    inputs = pd.read_csv(out / "inputs.csv")
    clean = inputs["perturbation"] == "clean"
    inputs.loc[clean, "texture_divergence_bits"] = np.random.default_rng(0).random(clean.sum())
    inputs.loc[clean & (inputs["case"] == "tex_003"), "texture_divergence_bits"] = np.nan
    inputs.to_csv(out / "inputs.csv", index=False)
    rows = _rows(out, "results", B, "clean", 0).merge(inputs[clean], on="case").dropna(subset="texture_divergence_bits")
    table = analyse([out]).difficulty
    own = table[table["line"] == "nnUNetTrainerNoSkip"].set_index("measure")
    for measure in ("expert_agreement", "texture_divergence_bits"):
        assert own.loc[measure, "spearman"] == pytest.approx(stats.spearmanr(rows[measure], rows["dice"]).statistic)
        assert own.loc[measure, "n_cases"] == 8


# ---- reading ----


def test_tables_that_are_beside_the_results_follow_the_pairing(sweep: Path, tmp_path: Path) -> None:
    copy = write_sweep_output(
        tmp_path, (A, B), 5, levels=LEVELS, pictures=False, uncertainty=True, calibrated=(A, B)
    )  # fmt: skip
    results = pd.read_csv(copy / "results.csv", dtype={"fold": str})
    results = results[~((results["model"] == B) & (results["case"] == "tex_002") & (results["level"] == 0.1))]
    results.to_csv(copy / "results.csv", index=False)
    (read,) = analyse([copy]).sweeps
    for table in (read.reliability, read.bounds):
        assert table is not None
        noise = table[table["perturbation"] == "speckle_noise"]
        assert set(noise["case"]) == {"tex_000", "tex_001", "tex_003", "tex_004"}
        assert set(noise["level"]) == {0, 0.1, 0.45}
        assert set(table.loc[table["perturbation"] == "gaussian_blur", "case"]) > set(noise["case"])
        assert not table.duplicated([*ARM, "perturbation", "level", "case", "label"]).any()


def test_without_any_of_it_there_is_nothing(tmp_path: Path) -> None:
    plain = analyse([write_sweep_output(tmp_path, (A, B), 3, levels={"speckle_noise": [0.1]}, pictures=False)])
    for table in (plain.ranking, plain.risk_curves, plain.calibration, plain.diagrams, plain.promises, plain.breaks,
                  plain.experts, plain.difficulty):  # fmt: skip
        assert table.empty


def test_ensembles_have_short_names_that_no_other_has(tmp_path: Path) -> None:
    third = "nnUNetTrainerDenseSkip_seed1"
    three = f"ensemble_confidence({A}+{B}+{third})"
    write_sweep_output(tmp_path / "two", (A, B, third, ENSEMBLE, three), n_cases=3, pictures=False)
    (sweep,) = read_sweeps([tmp_path / "two"])
    assert set(sweep.results["line"]) >= {"ensemble of 2, uniform", "ensemble of 3, confidence"}
    assert sweep.ensembles["ensemble of 2, uniform"] == ENSEMBLE.replace("_seed1", "")
    other = f"ensemble_uniform({A}+{third})"
    write_sweep_output(tmp_path / "alike", (A, B, third, ENSEMBLE, other), n_cases=3, pictures=False)
    (sweep,) = read_sweeps([tmp_path / "alike"])
    assert not sweep.ensembles and {ENSEMBLE, other} <= set(sweep.results["line"])  # which of them would it be?
