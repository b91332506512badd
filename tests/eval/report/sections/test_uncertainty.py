"""How well scores rank images by their error, against the rows that it was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from nnunet_robust.eval.report import Analysis, analyse
from nnunet_robust.eval.report.sections.uncertainty import main_scores, ranking, risk_curves
from tests.eval.report.sections.measured_confidence import ENSEMBLE, A, N, row_at, rows_of
from tests.eval.sweep_output import write_sweep_output


@pytest.mark.parametrize(
    ("perturbation", "level", "stored"),
    [("speckle_noise", 0.45, "speckle_noise"), ("gaussian_blur", 0, "clean")],
)
def test_rankings_are_scipys_and_sklearns(
    confidence: Analysis, confidence_sweep: Path, perturbation: str, level: float, stored: str
) -> None:
    for model, line in ((A, "nnUNetTrainer"), (ENSEMBLE, "Ensemble of 2")):
        rows = rows_of(confidence_sweep, "results", model, stored, level)
        for score in ("predicted_dice", "soft_dice", "entropy_bits", "mutual_information_bits"):
            sign = -1 if score.endswith("dice") else 1
            found = row_at(ranking(confidence), line, perturbation, level, score=score)
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


def test_what_is_not_defined_is_said_and_is_not_0(confidence: Analysis) -> None:
    alone = ranking(confidence)[ranking(confidence)["line"] == "nnUNetTrainerNoSkip"].set_index("score")
    for score in ("predicted_dice", "mutual_information_bits"):
        assert alone.loc[score, ["spearman", "aurc", "excess_aurc"]].isna().all().all()
        assert (alone.loc[score, "note"] == "a single member, which agrees with itself").all()
    assert alone.loc["soft_dice", "spearman"].notna().all()
    assert main_scores(ranking(confidence)) == {"Dataset501_Textures": "soft_dice"}  # the one that all of them have


def test_several_trained_models_are_averaged_and_replicates_are_images(tmp_path: Path) -> None:
    seeds = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2")
    out = write_sweep_output(tmp_path, seeds, 6, levels={"speckle_noise": [0.45]}, pictures=False, uncertainty=True)
    rows = pd.read_csv(out / "results.csv", dtype={"fold": str})
    noisy = rows[rows["perturbation"] == "speckle_noise"]
    again = noisy.assign(replicate=1, entropy_bits=noisy["entropy_bits"][::-1].to_numpy())
    pd.concat([rows, again]).to_csv(out / "results.csv", index=False)
    found = row_at(ranking(analyse([out])), "nnUNetTrainer", "speckle_noise", 0.45, score="entropy_bits")
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
    table = ranking(analyse([out]))
    equal = row_at(table, "nnUNetTrainer", "clean", 0, score="entropy_bits")
    assert np.isnan(equal["spearman"]) and "all scores are equal" in equal["note"]
    assert equal["aurc"] == pytest.approx(equal["chance_aurc"])
    assert row_at(table, "nnUNetTrainer", "clean", 0, score="soft_dice")["n_cases"] == 4
    assert row_at(table, "nnUNetTrainer", "speckle_noise", 0.1, score="soft_dice")["n_cases"] == 5


def test_risk_curves_are_of_the_clean_images_and_the_highest_levels(
    confidence: Analysis, confidence_sweep: Path
) -> None:
    curves = risk_curves(confidence)
    conditions = list(dict.fromkeys(zip(curves["perturbation"], curves["level"], strict=True)))
    assert conditions == [("clean", 0.0), ("speckle_noise", 0.45), ("gaussian_blur", 4.0)]
    rows = rows_of(confidence_sweep, "results", A, "speckle_noise", 0.45)
    mine = curves[(curves["line"] == "nnUNetTrainer") & (curves["perturbation"] == "speckle_noise")].set_index("x")
    assert list(mine.loc[1.0, ["mean", "optimal"]]) == pytest.approx([(1 - rows["dice"]).mean()] * 2)
    half = rows.sort_values("soft_dice", ascending=False)["dice"][: N // 2]
    assert mine.loc[0.5, "mean"] == pytest.approx((1 - half).mean())
    assert mine.loc[0.5, "optimal"] == pytest.approx((1 - rows["dice"].nlargest(N // 2)).mean())
