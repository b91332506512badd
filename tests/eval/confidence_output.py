"""What a made-up sweep has of confidence, bounds and experts, as `sweep --uncertainty --calibration` writes it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_robust.eval.conformal.loss_curves import SETTINGS
from nnunet_robust.eval.results.tables import CONDITION, IDENTITY, SCORES, arm_key
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW, N_BINS

ALPHA, INTERVAL_ALPHA = 0.1, 0.1


def _read(out: Path) -> pd.DataFrame:
    names = ["patient", "case", "fold"]
    return pd.read_csv(out / "results.csv", dtype=dict.fromkeys(names, str), keep_default_na=False)


def add_scores(
    out: Path, rng: np.random.Generator, uncertainty: bool, single: Collection[str] = (), experts: bool = False
) -> None:
    """The columns `SCORES` of results.csv: models in `single` have one member; with experts, their agreement."""
    results = _read(out)
    n = len(results)
    dice = results["dice"].to_numpy(float)
    several = ~results["model"].isin(single)
    is_ensemble = results["model"].str.startswith("ensemble")
    scores = pd.DataFrame("", index=results.index, columns=list(SCORES), dtype=object)
    scores["n_members"] = np.where(several, 3, 1)
    scores["entropy_bits"] = np.round(0.5 * (1 - dice) + rng.uniform(0, 0.2, n), 6)
    scores["soft_dice"] = np.round(np.clip(dice + rng.normal(0.03, 0.08, n), 0, 1), 6)
    for name, spread in (("predicted_dice", 0.05), ("pairwise_dice", 0.06)):
        scores[name] = pd.Series(np.round(np.clip(dice + rng.normal(0.05, spread, n), 0, 1), 6)).where(several, "")
    information = np.round(0.2 * (1 - dice) + rng.uniform(0, 0.05, n), 6)
    scores["mutual_information_bits"] = pd.Series(information).where(several, "")
    scores["predicted_divergence_bits"] = pd.Series(np.round(rng.uniform(0.1, 0.3, n), 6)).where(is_ensemble, "")
    scores["weights"] = np.where(is_ensemble, "0.5 0.5", "")
    if not uncertainty:
        scores = pd.DataFrame("", index=results.index, columns=list(SCORES), dtype=object)
    if experts:
        hardness = results["case"].str[-3:].astype(int).to_numpy() / 40
        scores["expert_agreement"] = np.round(0.93 - hardness, 6)
        scores["model_expert_dice"] = np.round(np.clip(dice - 0.5 * hardness, 0, 1), 6)
    pd.concat([results, scores], axis=1).to_csv(out / "results.csv", index=False)


def write_reliability(out: Path, rng: np.random.Generator) -> None:
    """`reliability.csv`: all models are a little too sure, and the more so the lower the Dice."""
    results = _read(out)
    probability = (np.arange(N_BINS) + 0.5) / N_BINS
    rows = []
    for row in results.to_dict("records"):
        labels = [CONFIDENCE_ROW, row["label"]] if row["label"] == results["label"].iloc[0] else [row["label"]]
        for label in labels:
            n = rng.integers(5, 60, N_BINS) * np.arange(1, N_BINS + 1) ** 2
            if label == CONFIDENCE_ROW:
                n[probability < 0.5] = 0
            right = np.clip(probability * (0.75 + 0.25 * float(row["dice"])), 0, 1)
            hits = rng.binomial(n, right)
            counted = {f"n_{i}": n[i] for i in range(N_BINS)}
            counted |= {f"p_{i}": round(float(n[i] * probability[i]), 6) for i in range(N_BINS)}
            counted |= {f"hits_{i}": hits[i] for i in range(N_BINS)}
            rows.append({**{name: row[name] for name in (*IDENTITY, *CONDITION)}, "label": label, **counted})
    pd.DataFrame(rows).to_csv(out / "reliability.csv", index=False)


def write_bounds(out: Path, rng: np.random.Generator, models: Collection[str]) -> None:
    """`bounds.csv` and the manifest's calibrations, of some of the models: promises hold where the Dice is high."""
    results = _read(out)
    rows = []
    for row in results[results["model"].isin(models)].to_dict("records"):
        dice = float(row["dice"])
        losses = dict(
            zip(SETTINGS, np.round(np.clip(0.9 * (1 - dice) * rng.uniform(0.3, 0.9, 4), 0, 1), 6), strict=True)
        )
        if row["outcome"] == "hallucinated":
            losses["outer_threshold"] = losses["outer_margin_mm"] = ""
        centre = 0.9 + rng.normal(0, 0.02)
        interval = {"dice": dice, "dice_low": round(centre - 0.12, 6), "dice_high": round(min(1, centre + 0.12), 6)}
        rows.append({**{name: row[name] for name in (*IDENTITY, *CONDITION, "label")}, **losses, **interval})
    pd.DataFrame(rows).to_csv(out / "bounds.csv", index=False)
    manifest = json.loads((out / "manifest.json").read_text())
    for row in results.drop_duplicates("model").to_dict("records"):
        if row["model"] not in models:
            continue
        names = ("model", "plans", "configuration", "fold", "patch_size", "tile_size")
        manifest["models"][arm_key(**{name: row[name] for name in names})]["calibration"] = {
            "sha256": "0" * 64,
            "condition": "clean images",
            "alpha": ALPHA,
            "delta": None,
            "interval_alpha": INTERVAL_ALPHA,
            "n_cases": 40,
            "n_patients": 40,
            "sentences": [
                "foreground: with the probability threshold 0.12, at most 10 % of the object lies outside of the outer "
                "mask, on average over patients (calibrated on 40 cases of 40 patients, clean images; there it was 7.1 "
                "%)."
            ],
            "uninformative": ["foreground: the inner mask by threshold is uninformative: the inner mask is empty."],
            "false_alarms": "False alarms: of these 40 cases, qa would flag 3.",
        }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2))
