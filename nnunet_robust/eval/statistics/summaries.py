"""Curves over the level, and what is lost along them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy  # see `comparisons`
from numpy.typing import NDArray

from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES, bca_intervals
from nnunet_robust.eval.statistics.tables import CLEAN, By, Scores, direction, patient_scores

MEAN_OF_LABELS = "(mean)"  # the label's name in the rows that average over several labels

_CURVES = [
    "dataset", "perturbation", "line", "level", "mean", "low", "high", "n_cases", "n_patients", "n_trained",
    "trained_low", "trained_high",
]  # fmt: skip


def curves(
    rows: pd.DataFrame, metric: str, n_resamples: int = N_RESAMPLES, seed: int = 0, by: By = "architecture"
) -> pd.DataFrame:
    """Compute the mean over patients with its interval, for each architecture, perturbation and level.

    Level 0 is the clean images, but for a series, which has the levels that it has.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples, see `bca_intervals`.
        seed: of the bootstrap.
        by: "line" takes each trained model for itself.

    Returns:
        Columns dataset, perturbation, line (the architecture's or the trained model's name), level (ascending within a
        line), mean, low, high, n_cases, n_patients, n_trained, trained_low, trained_high. low and high are the BCa
        interval over patients, with the trained models as they are, and missing where there is a single patient.
        trained_low and trained_high are the lowest and the highest mean of the `n_trained` trained models, each for
        itself; with one, both are its mean.
    """
    points = []
    for scores in patient_scores(rows, metric, by):
        n_names, n_levels, n_patients = scores.values.shape
        low, high = (
            end.reshape(n_names, n_levels)
            for end in bca_intervals(scores.values.reshape(-1, n_patients).T, n_resamples, CONFIDENCE, seed)
        )
        with_score = np.isfinite(scores.values)
        for i, name in enumerate(scores.names):
            of_trained = np.nanmean(scores.by_line[scores.owner == i], axis=2)
            means = _means(scores.values[i])
            for j, level in enumerate(scores.levels):
                if not with_score[i, j].any():
                    continue
                place = (scores.dataset, scores.perturbation, name, float(level))
                interval = (float(means[j]), low[i, j], high[i, j])
                counts = (int(scores.n_cases[j]), int(with_score[i, j].sum()), len(of_trained))
                ends = (float(of_trained[:, j].min()), float(of_trained[:, j].max()))
                points.append((*place, *interval, *counts, *ends))
    return pd.DataFrame(points, columns=_CURVES)


def summary(
    rows: pd.DataFrame, metric: str = "dice", n_resamples: int = N_RESAMPLES, seed: int = 0, by: By = "architecture"
) -> pd.DataFrame:
    """Summarise what each architecture loses under each perturbation of each dataset, and for each of several labels.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples, see `bca_intervals`.
        seed: of the bootstrap.
        by: "line" takes each trained model for itself.

    Returns:
        Columns dataset, perturbation, label ("(mean)" for the average over several), line, and

        - clean, worst: mean score on clean images, and at `worst_level`, the perturbed level where it is worst;
        - drop, relative_drop: what is lost between them (positive is worse, for every metric), and as a share of clean;
        - auc: area under the curve over levels, trapezoid rule, with the levels from 0 to the highest scaled to [0, 1]:
          the score's average over levels, in the metric's unit;
        - *_low, *_high: bootstrap intervals of clean, worst, drop (paired by patient, the worst level
          taken as given) and auc;
        - in a series, clean is the score on the dataset's own test set, which is no level of it: the levels run from
          the lowest, and missed and hallucinated count the series alone. Where not every patient is at both places, or
          at every level, drop and auc are those of the means, and have no interval;
        - missed, hallucinated: how often, over all levels (0 included), of `n_objects` rows (case x level x replicate x
          label x trained model);
        - n_cases, n_patients; n_trained, the trained models that were averaged.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "perturbation": "blur", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: str, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": patient, "case": patient, "level": level,
        ...             "dice": dice}
        >>> dice = {"plain": {0.0: 0.9, 0.3: 0.5}, "no skip": {0.0: 0.8, 0.3: 0.7}}  # the same for both patients
        >>> rows = pd.DataFrame([row(a, p, x, y) for a, curve in dice.items() for p in "ab" for x, y in curve.items()])
        >>> summary(rows)[["line", "clean", "worst", "drop", "auc"]].round(4).values.tolist()
        [['plain', 0.9, 0.5, 0.4, 0.7], ['no skip', 0.8, 0.7, 0.1, 0.75]]
    """
    perturbed = rows[rows["perturbation"] != CLEAN]
    labels = list(dict.fromkeys(perturbed["label"]))
    parts = [(labels[0], perturbed)] if len(labels) == 1 else [(MEAN_OF_LABELS, perturbed)] if labels else []
    if len(labels) > 1:
        parts += [(label, perturbed[perturbed["label"] == label]) for label in labels]
    found = []
    for label, part in parts:
        own = rows[(rows["perturbation"] == CLEAN) & (rows["label"].eq(label) if label in labels else True)]
        clean = {scores.dataset: scores for scores in patient_scores(own, metric, by)}
        keys = ["dataset", "perturbation", by]
        outcomes = part.groupby([*keys, "outcome"]).size().unstack("outcome", fill_value=0)
        for scores in patient_scores(part, metric, by):
            for row in _summary_rows(scores, clean.get(scores.dataset), metric, n_resamples, seed):
                counts = outcomes.loc[(scores.dataset, scores.perturbation, row["line"])]
                row["missed"], row["hallucinated"] = (int(counts.get(name, 0)) for name in ("missed", "hallucinated"))
                row["n_objects"] = int(counts.sum())
                found.append({"label": label, **row})
    if not found:
        return pd.DataFrame(columns=["dataset", "perturbation", "label", "line"])
    table = pd.DataFrame(found)
    order = ["dataset", "perturbation", "label", "line"]
    ranks = {name: {value: i for i, value in enumerate(dict.fromkeys(table[name]))} for name in order}
    table = table.sort_values(order, key=lambda column: column.map(ranks[str(column.name)]), ignore_index=True)
    counted = ["missed", "hallucinated", "n_objects", "n_cases", "n_patients", "n_trained"]
    return table[[*order, *(name for name in table if name not in (*order, *counted)), *counted]]


def _summary_rows(
    scores: Scores, own_clean: Scores | None, metric: str, n_resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    sign = direction(metric)
    for i, name in enumerate(scores.names):
        values, levels = scores.values[i], scores.levels
        if scores.in_series:
            known = own_clean is not None and name in own_clean.names
            clean = own_clean.values[own_clean.names.index(name), 0] if own_clean and known else np.full(0, np.nan)
            clean_patients = own_clean.patients if own_clean and known else []
        else:
            clean, clean_patients = values[0], scores.patients
        means = _means(values)
        candidates = [j for j in range(len(levels)) if np.isfinite(means[j]) and (scores.in_series or levels[j] > 0)]
        if not candidates:
            continue
        worst = min(candidates, key=lambda j: sign * means[j])
        clean_mean = float(_means(clean[None])[0])
        drop = sign * (clean_mean - float(means[worst]))
        areas = _areas(values, levels)
        complete = np.isfinite(values).all()
        row: dict[str, Any] = {"dataset": scores.dataset, "perturbation": scores.perturbation, "line": name}
        row["clean"] = clean_mean
        row["clean_low"], row["clean_high"] = _interval(clean, n_resamples, seed)
        row["worst_level"], row["worst"] = float(levels[worst]), float(means[worst])
        row["worst_low"], row["worst_high"] = _interval(values[worst], n_resamples, seed)
        row["drop"] = drop
        here = np.isfinite(values[worst])
        paired = clean_patients == [p for p, there in zip(scores.patients, here, strict=True) if there]
        losses = sign * (clean - values[worst][here]) if paired else np.full(0, np.nan)
        row["drop_low"], row["drop_high"] = _interval(losses, n_resamples, seed)
        row["relative_drop"] = drop / clean_mean if clean_mean else float("nan")
        row["auc"] = float(areas.mean()) if complete else float(_areas(means[:, None], levels)[0])
        row["auc_low"], row["auc_high"] = _interval(areas, n_resamples, seed) if complete else _NONE
        row |= {"n_cases": int(scores.n_cases[worst]), "n_patients": int(here.sum())}
        yield {**row, "n_trained": int((scores.owner == i).sum())}


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(levels,): the mean of those patients who have a level; NaN for a level that nobody has."""
    present = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1)


def _areas(values: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each patient's area under the curve over the levels, scaled to [0, 1]; the value where there is one level."""
    if len(levels) == 1:
        return values[0]
    return np.asarray(scipy.integrate.trapezoid(values, (levels - levels[0]) / (levels[-1] - levels[0]), axis=0))


_NONE = (float("nan"), float("nan"))


def _interval(values: NDArray[np.float64], n_resamples: int, seed: int) -> tuple[float, float]:
    if not len(values):
        return _NONE
    low, high = bca_intervals(values[:, None], n_resamples, CONFIDENCE, seed)
    return float(low[0]), float(high[0])
