"""Two things compared on the same cases, by patient: what attacks and denoising are judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nnunet_robust.eval.statistics import bca_intervals

CASE = ["dataset", "architecture", "line", "level", "patient", "case"]
"""What a score of one is paired with a score of the other by."""


def paired_means(
    first: pd.DataFrame, second: pd.DataFrame, metric: str, by: Sequence[str], names: tuple[str, str, str]
) -> pd.DataFrame:
    """Means over patients of two scores of the same cases, and of their difference.

    Args:
        first: the columns `CASE`, the metric and those of `by`; a row per trained model, case and level (and whatever
            else is told apart by `by`).
        second: the columns `CASE` and the metric, a row for each of these. Cases that it lacks are left out; where it
            has none at all of a group, the group keeps the first's means, and has no difference.
        metric: the column of scores.
        by: what has a row of its own, level among them; a patient's cases are averaged, then trained models.
        names: of the first, of the second, of the first less the second.

    Returns:
        The columns `by`; each of `names` with `_low` and `_high`, its BCa interval over patients (missing for a single
        one); n_cases, n_patients, n_trained. In the order of `first`.
    """
    keep = list(dict.fromkeys([*by, *CASE]))
    one, other, difference = names
    both = first[[*keep, metric]].rename(columns={metric: one})
    both = both.merge(second[[*CASE, metric]].rename(columns={metric: other}), on=CASE, how="left")
    found = []
    for key, part in both.groupby(list(by), sort=False):
        if part[other].notna().any():
            part = part[part[other].notna()]
        means = part.groupby(["line", "patient", "case"])[[one, other]].mean()
        means = means.groupby(["line", "patient"]).mean().groupby("patient").mean()
        values = np.column_stack([means[one], means[other], means[one] - means[other]])
        low, high = bca_intervals(values)
        row = dict(zip(by, key, strict=True))
        for at, name in enumerate((one, other, difference)):
            row |= {name: values[:, at].mean(), f"{name}_low": low[at], f"{name}_high": high[at]}
        counts = {"n_cases": part["case"].nunique(), "n_patients": len(values), "n_trained": part["line"].nunique()}
        found.append({**row, **counts})
    return pd.DataFrame(found, columns=columns(by, names))


def mean_points(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One of the means of `paired_means`, as points of a curve: its column and its interval's are renamed."""
    renamed = {name: "mean", f"{name}_low": "low", f"{name}_high": "high"}
    keys = ["dataset", "perturbation", "line", "level", *renamed, "n_cases", "n_patients", "n_trained"]
    return table[keys].rename(columns=renamed)


def columns(by: Sequence[str], names: tuple[str, str, str]) -> list[str]:
    """The columns that `paired_means` returns."""
    ends = [name + end for name in names for end in ("", "_low", "_high")]
    return [*by, *ends, "n_cases", "n_patients", "n_trained"]
