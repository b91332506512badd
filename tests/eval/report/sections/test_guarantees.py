"""What guarantees came to, against the losses that it was computed from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_robust.eval.conformal.loss_curves import SETTINGS
from nnunet_robust.eval.report import Analysis, analyse
from nnunet_robust.eval.report.sections.guarantees import (
    BROKEN,
    HOLDS,
    INTERVAL,
    OPEN,
    SECTION,
    UNKNOWN,
    _exact_intervals,
    breaks,
    guarantees,
    left_out,
    sentences,
    verdict,
)
from nnunet_robust.eval.results.display_names import PLAIN
from nnunet_robust.eval.statistics import bca_intervals
from tests.eval.report.sections.measured_confidence import A, B, row_at, rows_of
from tests.eval.sweep_output import write_sweep_output


@pytest.mark.parametrize(
    ("guarantee", "guaranteed", "mean", "low", "high", "n", "expected"),
    [
        ("outer_threshold", 0.1, 0.05, 0.02, 0.1, 40, HOLDS),
        ("outer_threshold", 0.1, 0.0, 0.0, 0.0, 35, OPEN),  # 0.9 ** 35 = 0.0250
        ("outer_threshold", 0.1, 0.0, 0.0, 0.0, 36, HOLDS),
        ("outer_threshold", 0.1, 0.15, 0.1, 0.2, 40, OPEN),
        ("outer_threshold", 0.1, 0.15, 0.101, 0.2, 40, BROKEN),
        ("outer_threshold", 0.1, 0.11, 0.11, 0.11, 5, OPEN),  # one more, who loses nothing: 0.55 / 6
        ("outer_threshold", 0.1, 0.3, np.nan, np.nan, 1, UNKNOWN),
        (INTERVAL, 0.9, 0.95, 0.9, 1.0, 40, HOLDS),
        (INTERVAL, 0.9, 0.85, 0.8, 0.9, 40, OPEN),
        (INTERVAL, 0.9, 0.7, 0.5, 0.89, 40, BROKEN),
    ],
)
def test_verdicts(
    guarantee: str, guaranteed: float, mean: float, low: float, high: float, n: int, expected: str
) -> None:
    assert verdict(guarantee, guaranteed, mean, low, high, n) == expected


def test_the_interval_of_a_share_is_exact() -> None:
    scores = np.array([[1, 1, 0, np.nan], [1, 0, 0, 1.0], [1, 1, 0, np.nan], [1, 1, 0, np.nan]], float)
    low, high = _exact_intervals(scores)
    for column, held in enumerate((4, 3, 0)):
        exact = stats.binomtest(held, 4).proportion_ci(0.95, "exact")
        assert (low[column], high[column]) == pytest.approx((exact.low, exact.high))
    assert np.isnan(low[3]) and np.isnan(high[3])  # of one patient


@pytest.mark.parametrize("n", [5, 10, 20, 40, 60])
def test_a_guarantee_that_is_broken_is_seldom_said_to_hold(n: int) -> None:
    """Losses that are rare and large: one patient in seven loses all. The guarantee is a tenth."""
    rng = np.random.default_rng(0)
    losses = (rng.uniform(size=(2000, n)) < 1 / 7).astype(float)
    low, high = bca_intervals(losses.T)
    called = [verdict("outer_threshold", 0.1, m, a, b, n) for m, a, b in zip(losses.mean(1), low, high, strict=True)]
    assert called.count(HOLDS) < 0.05 * len(called)


def test_losses_are_means_over_patients_and_breaks_the_lowest_level(
    confidence: Analysis, confidence_sweep: Path
) -> None:
    table = guarantees(confidence)
    assert set(table["line"]) == {"nnUNetTrainer", "nnUNetTrainerNoSkip"}  # the ensemble was not calibrated
    for perturbation, level, stored in (("speckle_noise", 0.45, "speckle_noise"), ("gaussian_blur", 0.0, "clean")):
        rows = rows_of(confidence_sweep, "bounds", A, stored, level)
        for kind in SETTINGS:
            found = row_at(table, "nnUNetTrainer", perturbation, level, guarantee=kind)
            assert found["mean"] == pytest.approx(rows[kind].mean())
            assert found["guaranteed"] == 0.1 and found["low"] < found["mean"] < found["high"]
        inside = rows["dice"].between(rows["dice_low"], rows["dice_high"])
        assert row_at(table, "nnUNetTrainer", perturbation, level, guarantee=INTERVAL)["mean"] == pytest.approx(
            inside.mean()
        )
    for row in breaks(confidence).to_dict("records"):
        keys = ["perturbation", "line", "label", "guarantee"]
        own = table[(table[keys] == pd.Series({key: row[key] for key in keys})).all(axis=1)]
        broken = own.loc[own["verdict"] == BROKEN, "level"]
        assert row["level"] == broken.min() if len(broken) else np.isnan(row["level"])
    assert breaks(confidence)["level"].notna().any() and breaks(confidence)["level"].isna().any()


def test_an_outer_loss_leaves_out_those_without_an_object(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (A,), 6, levels={"speckle_noise": [0.1]}, pictures=False, calibrated=(A,))
    bounds = pd.read_csv(out / "bounds.csv", dtype={"fold": str})
    bounds.loc[bounds["case"] == "tex_000", ["outer_threshold", "outer_margin_mm"]] = np.nan
    bounds["inner_margin_mm"] = np.nan  # no setting gives the guarantee
    bounds[["dice_low", "dice_high"]] = np.nan
    bounds.to_csv(out / "bounds.csv", index=False)
    table = guarantees(analyse([out]))
    assert set(table["guarantee"]) == {"outer_threshold", "inner_threshold", "outer_margin_mm"}
    counts = table.query("perturbation == 'clean'").set_index("guarantee")["n_patients"]
    assert counts.to_dict() == {"outer_threshold": 5, "inner_threshold": 6, "outer_margin_mm": 5}


def test_the_sentences_name_the_first_level_and_claim_no_more() -> None:
    columns = ["dataset", "perturbation", "line", "label", "guarantee", "level", "mean", "low", "high", "highest"]
    breaks = pd.DataFrame(
        [("D", "some_noise", "A", "liver", "outer_threshold", 0.3, 0.2, 0.15, 0.25, 0.4),
         ("D", "some_noise", "A", "liver", "inner_threshold", 0.0, 0.5, 0.4, 0.6, 0.4),
         ("D", "some_noise", "A", "liver", "interval", np.nan, np.nan, np.nan, np.nan, 0.4),
         ("D", "blur", "A", "liver", "interval", np.nan, np.nan, np.nan, np.nan, 2.0)],
        columns=columns,
    )  # fmt: skip
    assert list(sentences(breaks, True, PLAIN, lambda dataset, name, level: f"{level:g} of {dataset}")) == [
        "D, some noise, A: first broken on the clean images: the inner threshold (0.500 [0.400, 0.600]); at "
        "level 0.3 of D: the outer threshold (0.200 [0.150, 0.250]); not shown to be broken up to level 0.4 of D: the "
        "interval of the Dice.",
        "D, blur, A: no guarantee is shown to be broken up to level 2 of D.",
    ]


def test_guarantees_that_say_nothing_stand_first(confidence: Analysis) -> None:
    lists = {title: list(made(confidence)) for title, made in SECTION.lists.items()}
    assert next(iter(lists)) == "Guarantees that say nothing"
    said = lists["Guarantees that say nothing"]
    assert len(said) == len(set(said)) > 1
    for sentence in said:
        assert sentence.startswith("nnUNetTrainer")
        assert sentence.endswith(": foreground: the inner mask by threshold is uninformative: the inner mask is empty.")
    alarms = lists["Alarms on the calibration's own cases"]
    assert len(alarms) == len(said)
    assert all(one.endswith(": False alarms: of these 40 cases, qa would flag 3.") for one in alarms)


def test_trained_models_of_different_guarantees_are_not_averaged(tmp_path: Path) -> None:
    seeds = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2", B)
    out = write_sweep_output(tmp_path, seeds, 4, levels={"speckle_noise": [0.1]}, pictures=False, calibrated=seeds)
    manifest = json.loads((out / "manifest.json").read_text())
    next(iter(manifest["models"].values()))["calibration"]["alpha"] = 0.05
    (out / "manifest.json").write_text(json.dumps(manifest))
    analysis = analyse([out])
    assert set(guarantees(analysis)["line"]) == {"nnUNetTrainerNoSkip"}
    (said,) = left_out(analysis)
    assert "nnUNetTrainer is left out" in said
