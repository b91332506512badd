"""How stable the ranking of architectures is over bootstrap samples of the patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy  # whose parts are loaded when they are used: a sweep does not wait for them

from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES, resampled_means
from nnunet_robust.eval.statistics.tables import By, direction, patient_scores

_COLUMNS = [
    "dataset", "perturbation", "level", "line", "rank", "mean_rank", "low", "high", "share_first", "n_patients",
]  # fmt: skip


def rank_stability(
    rows: pd.DataFrame, metric: str, n_resamples: int = N_RESAMPLES, seed: int = 0, by: By = "architecture"
) -> pd.DataFrame:
    """The rank of each architecture's mean at each level, and how it varies over bootstrap samples of the patients.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples.
        seed: of the bootstrap; the same samples for every architecture and level.
        by: "line" takes each trained model for itself.

    Returns:
        Columns dataset, perturbation, level, line, rank (1 is the best mean; equal means share the better rank),
        mean_rank (over the bootstrap samples), low, high (their 2.5th and 97.5th percentile), share_first (of samples
        in which it is first; where several are first together each gets its part, so that the shares sum to 1),
        n_patients. Of a single patient only the rank is given: samples of one say nothing about others.

    Reference: Wiesenfarth et al. 2021, "Methods and open-source toolkit for analyzing and visualizing challenge
    results" (challengeR), aggregation by mean, then ranking.
    """
    found = []
    for scores in patient_scores(rows, metric, by):
        for j, level in enumerate(scores.levels):
            values = direction(metric) * scores.at(j)
            n_patients, n_names = values.shape
            if not n_patients:
                continue
            rank = _ranks(values.mean(axis=0)[None])[0]
            spread = np.full((n_names, 4), np.nan)
            if n_patients > 1:
                drawn = _ranks(resampled_means(values, n_resamples, seed).T)
                low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
                first = drawn == 1
                shares = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
                spread = np.column_stack([drawn.mean(axis=0), low, high, shares])
            for i, name in enumerate(scores.names):
                where = (scores.dataset, scores.perturbation, float(level), name)
                found.append((*where, int(rank[i]), *spread[i], n_patients))
    return pd.DataFrame(found, columns=_COLUMNS)


def _ranks(means: np.ndarray) -> np.ndarray:
    """(samples, names): from 1, the highest; equal up to rounding share the better rank."""
    return np.asarray(scipy.stats.rankdata(-np.round(means, 12), method="min", axis=1))
