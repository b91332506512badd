"""How well scores of uncertainty rank images by their error, under every condition.

An image is a case under a condition, each draw of the noise (replicate) for itself; its Dice and its scores are means
over its structures. What is measured of each trained model of an architecture is averaged over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.eval.uncertainty.selective import FAILURE_BELOW, Estimate, RankQuality, rank_qualities, risk_curve

SCORES = {
    "predicted_dice": "1 − predicted Dice",
    "soft_dice": "1 − soft Dice",
    "entropy_bits": "entropy",
    "mutual_information_bits": "mutual information",
}
"""Column of results.csv -> the score of uncertainty that is made from it, higher is less sure."""

_OF_MEMBERS = ("predicted_dice", "mutual_information_bits")  # with one member these say nothing
_CONDITION = ["dataset", "perturbation", "level", "architecture"]
_IMAGE = ["patient", "case", "replicate"]
_MEASURES = ("spearman", "failure_auroc", "aurc", "excess_aurc")
_COLUMNS = [
    "dataset", "perturbation", "level", "line", "score",
    *(name + end for name in _MEASURES for end in ("", "_low", "_high")),
    "optimal_aurc", "chance_aurc", "n_failures", "n_cases", "n_patients", "n_trained", "note",
]  # fmt: skip


class _Images(NamedTuple):
    """One architecture's images under one condition.

    Attributes:
        condition: of `_CONDITION`.
        dice: (trained models, images).
        scores: column of results.csv -> uncertainty (trained models, images), NaN where it was not measured.
        members: of the ensembles that the scores are made from, at most; NaN where nothing was measured.
        patients: (images,).
    """

    condition: tuple[str, str, float, str]
    dice: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    members: float
    patients: NDArray[np.str_]

    def with_score(self, score: str) -> NDArray[np.bool_]:
        """(images,): those of which every trained model has it."""
        present: NDArray[np.bool_] = np.isfinite(self.scores[score]).all(axis=0)
        return present


def _images(rows: pd.DataFrame) -> Iterator[_Images]:
    if "soft_dice" not in rows or rows["soft_dice"].isna().all():
        return
    keys = [*_CONDITION, "line", *_IMAGE]
    names = ["dice", *SCORES]
    groups = rows.groupby(keys, sort=False)
    means = groups[names].mean().where(groups[names].count().eq(groups.size(), axis=0))
    means["n_members"] = groups["n_members"].max()
    for condition, part in means.reset_index().groupby(_CONDITION, sort=False):
        ordered = part.sort_values(["line", *_IMAGE], kind="stable")
        n_trained = ordered["line"].nunique()
        tables = {name: ordered[name].to_numpy(float).reshape(n_trained, -1) for name in names}
        yield _Images(
            condition,
            tables["dice"],
            {name: 1 - tables[name] if name.endswith("_dice") else tables[name] for name in SCORES},
            float(ordered["n_members"].max()),
            ordered["patient"].to_numpy(str)[: tables["dice"].shape[1]],
        )


def ranking(rows: pd.DataFrame) -> pd.DataFrame:
    """How well each score ranks the images of each architecture under each condition by 1 - Dice.

    Args:
        rows: what `comparable` returns; empty is returned where they have no scores.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), score (a key of `SCORES`), the attributes of
        `RankQuality` with their intervals (`spearman`, `spearman_low`, `spearman_high`, ...), n_failures, n_cases
        (images), n_patients, n_trained, and note: why a number is not defined, empty where all are.
    """
    found = []
    known: dict[tuple[bytes, ...], dict[str, RankQuality]] = {}  # clean images are level 0 of every perturbation
    for images in _images(rows):
        if np.isnan(images.members):
            continue
        groups: dict[bytes, list[str]] = {}
        for score in SCORES:
            groups.setdefault(images.with_score(score).tobytes(), []).append(score)
        for of_mask, scores in groups.items():
            kept = np.frombuffer(of_mask, bool)
            dice, patients = images.dice[:, kept], images.patients[kept]
            uncertainties = {score: images.scores[score][:, kept] for score in scores}
            qualities: dict[str, RankQuality] = {}
            if kept.any():
                key = (dice.tobytes(), patients.tobytes(), *(u.tobytes() for u in uncertainties.values()))
                if key not in known:
                    known[key] = rank_qualities(uncertainties, dice, list(patients))
                qualities = known[key]
            for score in scores:
                row = _row(qualities.get(score), dice, uncertainties[score], images, score)
                found.append({**dict(zip(_COLUMNS, (*images.condition, score), strict=False)), **row})
    table = pd.DataFrame(found, columns=_COLUMNS)
    table["score_at"] = table["score"].map(list(SCORES).index)
    order = table.groupby(["dataset", "perturbation", "level", "line"], sort=False).ngroup()
    return table.assign(order=order).sort_values(["order", "score_at"], kind="stable", ignore_index=True)[_COLUMNS]


def _row(
    quality: RankQuality | None,
    dice: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    images: _Images,
    score: str,
) -> dict[str, Any]:
    counts = {"n_cases": dice.shape[1], "n_trained": len(dice)}
    if quality is None:
        alone = images.members == 1 and score in _OF_MEMBERS
        said = "a single member, which agrees with itself" if alone else "not measured"
        return {**counts, "n_patients": 0, "n_failures": 0, "note": said}
    notes = []
    if np.isnan(quality.spearman.value):
        same = (np.ptp(uncertainty, axis=1) == 0).any()
        notes.append("no Spearman: all scores are equal" if same else "no Spearman: all Dice are equal")
    if np.isnan(quality.failure_auroc.value):
        none = (dice >= FAILURE_BELOW).all(axis=1).any()
        notes.append(f"no AUROC: {'no image has' if none else 'all images have'} a Dice below {FAILURE_BELOW:g}")
    estimates: dict[str, Estimate] = {name: getattr(quality, name) for name in _MEASURES}
    return {
        **{name: each.value for name, each in estimates.items()},
        **{f"{name}_low": each.low for name, each in estimates.items()},
        **{f"{name}_high": each.high for name, each in estimates.items()},
        "optimal_aurc": quality.optimal_aurc,
        "chance_aurc": quality.chance_aurc,
        "n_failures": quality.n_failures,
        "n_patients": quality.n_patients,
        **counts,
        "note": "; ".join(notes),
    }


def main_scores(table: pd.DataFrame) -> dict[str, str]:
    """For each dataset, the score that its risk-coverage curves are drawn of: one that all architectures have.

    Args:
        table: what `ranking` returns.

    Returns:
        Dataset -> the predicted Dice; the soft Dice where it is missing anywhere.
    """
    predicted = table[table["score"] == "predicted_dice"]
    complete = predicted.groupby("dataset")["aurc"].apply(lambda values: bool(values.notna().all()))
    return {str(name): "predicted_dice" if full else "soft_dice" for name, full in complete.items()}


def risk_curves(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Risk-coverage curves on clean images and at the highest level.

    Args:
        rows: what `comparable` returns.
        table: what `ranking` returns of them.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), score, x (coverage), mean (risk), low, high,
        optimal, n_cases, n_patients.
    """
    shown = hardest(table)
    scores = main_scores(table)
    found = []
    for images in _images(rows[rows.set_index(["dataset", "perturbation", "level"]).index.isin(shown)]):
        dataset, perturbation, level, line = images.condition
        score = scores.get(dataset, "soft_dice")
        kept = images.with_score(score)
        if not kept.any():
            continue
        patients = images.patients[kept]
        curve = risk_curve(images.scores[score][:, kept], images.dice[:, kept], list(patients))
        place = {"dataset": dataset, "perturbation": perturbation, "level": level, "line": line, "score": score}
        counts = {"n_cases": int(kept.sum()), "n_patients": len(set(patients))}
        found.append(curve.rename(columns={"coverage": "x"}).assign(**place, **counts))
    order = ["dataset", "perturbation", "level", "line", "score", "x", "mean", "low", "high", "optimal", "n_cases"]
    columns = [*order, "n_patients"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def hardest(table: pd.DataFrame) -> list[tuple[str, str, float]]:
    """The conditions that are looked at closely: the clean images, and the highest level of each perturbation.

    Args:
        table: columns dataset, perturbation, level.
    """
    highest = table.groupby(["dataset", "perturbation"], sort=False)["level"].max().reset_index()
    return [
        (str(dataset), str(name), float(level)) for dataset, name, level in highest.itertuples(index=False, name=None)
    ]
