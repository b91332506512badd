"""Scores over what was measured of the inputs: texture divergence, and foreground ratio by patch size.

A point is a patient under a condition: the score of an architecture (averaged over its trained models, labels,
replicates and the patient's cases), and what `inputs.csv` has of the same images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunet_robust.eval.report.read import Sweep
from nnunet_robust.eval.statistics import CLEAN, bootstrap_interval, case_scores

DIVERGENCE = "texture_divergence_bits"
RATIO = "foreground_ratio"
_PLACE = ["dataset", "perturbation", "level", "patient"]
_MOST_BINS = 8
_PATIENTS_OF_A_BIN = 3  # at least, as far as the quantiles allow
_VARIES = 1.05  # the ratio of two levels' mean foreground ratios from which a series counts as one of sizes


class Relation(NamedTuple):
    """One panel: scores over something measured.

    Attributes:
        title: what it shows.
        means: columns line, x (mean of what was measured), lowest, highest (the bin's ends), mean, low, high (of the
            score, its interval by patient), n_patients, n_points.
        cloud: columns line, x and the metric, a row per point.
    """

    title: str
    means: pd.DataFrame
    cloud: pd.DataFrame


def points(sweeps: Sequence[Sweep], metric: str, measured: str) -> pd.DataFrame:
    """Each patient's score under each condition, with what was measured of its images there.

    Args:
        sweeps: their `inputs` may be None, or lack the column.
        metric: a key of `COMPARABLE`.
        measured: a column of `inputs.csv`.

    Returns:
        Columns dataset, perturbation, level, patient, architecture, the metric's name, x; clean images once; without
        attacks, which the models that are not attacked mostly withstand. Empty where nothing was measured.
    """
    found = []
    for sweep in sweeps:
        if sweep.inputs is None or measured not in sweep.inputs:
            continue
        scores = case_scores(sweep.rows[~sweep.rows["perturbation"].isin(list(sweep.attacks))], metric)
        for keys in ([*_PLACE, "architecture", "line"], [*_PLACE, "architecture"]):  # cases, then trained models
            scores = scores.groupby(keys, sort=False)[metric].mean().reset_index()
        x = sweep.inputs.groupby(_PLACE)[measured].mean().rename("x").reset_index().dropna()
        # Level 0 of a perturbation is the clean image again, which the inputs have once.
        found.append(scores.merge(x[np.isfinite(x["x"])], on=_PLACE))
    return (
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*_PLACE, "architecture", metric, "x"])
    )


class Divergence(NamedTuple):
    """Score over texture divergence.

    Attributes:
        relations: one per architecture, all at the same points.
        n_points: how many.
        left_out: a sentence where it was measured and cannot be shown, else empty.
    """

    relations: list[Relation]
    n_points: int
    left_out: str


def over_divergence(sweeps: Sequence[Sweep], metric: str) -> Divergence:
    """Score over texture divergence, across datasets and conditions: one relation per architecture.

    The architectures are compared at the same points only: those of the datasets and conditions that all of them have,
    in bins with about as many points each. There is nothing where the divergence was not measured or does not vary.
    """
    table = points(sweeps, metric, DIVERGENCE)
    lines = list(dict.fromkeys(table["architecture"]))
    place = table.groupby(_PLACE)["architecture"].transform("nunique")
    table = table[place == len(lines)]
    if lines and table.empty:
        said = "Dice over texture divergence: there is no condition of a dataset that all architectures were run under."
        return Divergence([], 0, said)
    if table["x"].nunique() < 2:
        return Divergence([], 0, "")
    of_one = table[table["architecture"] == lines[0]]
    n_patients = len(of_one[["dataset", "patient"]].drop_duplicates())
    if n_patients < 2 * _PATIENTS_OF_A_BIN:
        return Divergence([], 0, f"Dice over texture divergence: too few patients for bins ({n_patients}).")
    edges = _edges(of_one["x"], n_patients)
    relations = []
    for line, of_line in table.groupby("architecture", sort=False):
        means = _binned(of_line, metric, edges).assign(line=line)
        relations.append(Relation(str(line), means, of_line.rename(columns={"architecture": "line"})))
    return Divergence(relations, len(of_one), "")


def over_ratio(sweeps: Sequence[Sweep], metric: str) -> list[Relation]:
    """Score over foreground ratio, a line for each patch size (and tile size), a panel for each architecture without.

    Where sizes of patches differ, or in a series whose test sets differ in foreground ratio; from unperturbed images
    only, as perturbations leave the ratio what it is. A series' points are its levels, others are bins of patients.
    Where there is one size of patch alone, the panel has all architectures as its lines.
    """
    relations = []
    for sweep in sweeps:
        table = points([sweep], metric, RATIO)
        if table.empty:
            continue
        sizes = _sizes(sweep)
        several = len(set(sizes["size"])) > 1
        table = table.merge(sizes, on=["dataset", "architecture"])
        for (dataset, name), part in table.groupby(["dataset", "perturbation"], sort=False):
            in_series = name in sweep.series
            levels = part.groupby("level")["x"].mean()
            if in_series and levels.max() <= _VARIES * levels.min():
                continue
            binned = name == CLEAN and several and part["x"].nunique() > 1
            if not in_series and not (binned and part["patient"].nunique() >= 2 * _PATIENTS_OF_A_BIN):
                continue
            panels = part.groupby("without_size", sort=False) if several else [("all architectures", part)]
            where = f"{dataset}, {'clean images' if name == CLEAN else sweep.names[str(name)]}"
            for title, of_panel in panels:
                line = of_panel["size"] if several else of_panel["architecture"]
                relations.append(_ratio_relation(f"{where}: {title}", of_panel.assign(line=line), metric, in_series))
    return relations


def _ratio_relation(title: str, table: pd.DataFrame, metric: str, in_series: bool) -> Relation:
    means = []
    for line, of_line in table.groupby("line", sort=False):
        if in_series:
            levels = [_mean(part, metric) for _, part in of_line.groupby("level")]
            means.append(pd.DataFrame(levels).sort_values("x").assign(line=line))
        else:
            edges = _edges(of_line["x"], of_line["patient"].nunique())
            means.append(_binned(of_line, metric, edges).assign(line=line))
    return Relation(title, pd.concat(means, ignore_index=True), table)


def _sizes(sweep: Sweep) -> pd.DataFrame:
    """Each architecture's patch size in words, and its name without what says it."""
    arms = sweep.rows[["dataset", "architecture", "patch_size", "tile_size"]].drop_duplicates(
        ["dataset", "architecture"]
    )
    tile = (", tile " + arms["tile_size"]).where(arms["tile_size"] != arms["patch_size"], "")
    bare = [re.sub(r"_ps\d+(x\d+)*| \(tile [^)]*\)", "", name) for name in arms["architecture"]]
    return arms[["dataset", "architecture"]].assign(size="patch " + arms["patch_size"] + tile, without_size=bare)


def _edges(values: pd.Series, n_patients: int) -> np.ndarray:
    """Ends of bins with about as many values each."""
    n_bins = int(np.clip(n_patients // _PATIENTS_OF_A_BIN, 1, _MOST_BINS))
    return np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))


def _binned(table: pd.DataFrame, metric: str, edges: np.ndarray) -> pd.DataFrame:
    """`_mean` of each bin, in the order of x."""
    which = np.clip(np.searchsorted(edges, table["x"], side="right") - 1, 0, max(len(edges) - 2, 0))
    return pd.DataFrame([_mean(part, metric) for _, part in table.groupby(which)])


def _mean(part: pd.DataFrame, metric: str) -> dict[str, float]:
    by_patient = part.groupby(["dataset", "patient"])[metric].mean()
    low, high = bootstrap_interval(by_patient.to_numpy(float)) or (np.nan, np.nan)
    return {
        "x": float(part["x"].mean()),
        "lowest": float(part["x"].min()),
        "highest": float(part["x"].max()),
        "mean": float(by_patient.mean()),
        "low": low,
        "high": high,
        "n_patients": len(by_patient),
        "n_points": len(part),
    }
