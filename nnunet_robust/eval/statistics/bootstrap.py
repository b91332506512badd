"""The bootstrap over patients: resamples drawn once, BCa intervals of many means at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from nnunet_robust.common.seeding import numpy_generator

N_RESAMPLES = 2000
CONFIDENCE = 0.95

_AT_ONCE = 1 << 22  # numbers in the largest temporary array: 32 MiB
_EQUAL = 1e-12  # scores that differ by less, relative to the larger of 1 and the largest, are the same


def resample_counts(n_patients: int, n_resamples: int = N_RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Draw the bootstrap samples: how often each patient is in each of them.

    Args:
        n_patients: size of the sample, and of each resample.
        n_resamples: number of resamples.
        seed: the same seed and number of patients give the same resamples, so that all comparisons are paired.

    Returns:
        (n_resamples, n_patients), whole numbers; each row sums to `n_patients`. A resample's mean is
        `counts @ scores / n_patients`.
    """
    return _counts(n_patients, n_resamples, seed).astype(float)


@functools.lru_cache(maxsize=4)
def _counts(n_patients: int, n_resamples: int, seed: int) -> NDArray[np.uint16]:
    generator = numpy_generator(seed, "bootstrap")
    counts: NDArray[np.uint16] = np.empty((n_resamples, n_patients), np.uint16)
    step = max(1, _AT_ONCE // n_patients)
    for start in range(0, n_resamples, step):
        block = counts[start : start + step]
        drawn = generator.integers(0, n_patients, block.shape)  # as scipy.stats.bootstrap draws
        drawn += n_patients * np.arange(len(block))[:, None]
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    counts.flags.writeable = False
    return counts


def resampled_means(scores: NDArray[np.float64], n_resamples: int = N_RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """The mean of each column in each bootstrap sample of the patients.

    Args:
        scores: (patients, columns); NaN where a patient lacks a column, which then is the mean of those drawn who have
            it.
        n_resamples: number of resamples.
        seed: see `resample_counts`.

    Returns:
        (columns, n_resamples); NaN where nobody was drawn who has the column.
    """
    counts = _counts(len(scores), n_resamples, seed)
    present = np.isfinite(scores)
    complete = bool(present.all())
    filled = scores if complete else np.where(present, scores, 0.0)
    means = np.empty((scores.shape[1], n_resamples))
    step = max(1, _AT_ONCE // len(scores))
    for start in range(0, n_resamples, step):
        drawn = counts[start : start + step].T.astype(float)
        sums = filled.T @ drawn
        with np.errstate(invalid="ignore"):
            means[:, start : start + step] = sums / (len(scores) if complete else present.T.astype(float) @ drawn)
    return means


def bca_intervals(
    scores: ArrayLike, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The BCa bootstrap interval of each column's mean, patients being resampled.

    With z0 = Phi^-1(share of resampled means below the mean, ties counting half) and the acceleration of a mean,
    a = sum d^3 / (6 (sum d^2)^1.5) of the deviations d from it, the interval's ends are the resampled means' quantiles
    at Phi(z0 + (z0 + z) / (1 - a (z0 + z))) for z = Phi^-1((1 -+ confidence) / 2).

    Args:
        scores: (patients, columns), one row per patient; NaN where a patient lacks a column, which is then resampled
            among those who have it.
        n_resamples: number of resamples.
        confidence: nominal coverage, in (0, 1).
        seed: see `resample_counts`.

    Returns:
        low and high, (columns,) each: m and m where all have the same value m; NaN for fewer than two patients, of whom
        one says nothing about others.

    Reference: Efron 1987, "Better bootstrap confidence intervals", eqs. 2.3 and 4.4; as `scipy.stats.bootstrap`.

    Example:
        >>> low, high = bca_intervals([[0.7, 0.5], [0.8, 0.5], [0.9, 0.5]])  # three patients, two columns
        >>> low.round(2), high.round(2)
        (array([0.7, 0.5]), array([0.9, 0.5]))
    """
    scores = np.asarray(scores, dtype=float)
    low, high = np.full((2, scores.shape[1]), np.nan)
    patterns, which = np.unique(np.isfinite(scores), axis=1, return_inverse=True)
    step = max(1, _AT_ONCE // n_resamples)
    for i, kept in enumerate(patterns.T):
        if np.count_nonzero(kept) < 2:
            continue
        columns = np.flatnonzero(which.ravel() == i)
        for block in (columns[start : start + step] for start in range(0, len(columns), step)):
            low[block], high[block] = _bca(scores[np.ix_(kept, block)], n_resamples, confidence, seed)
    return low, high


def _bca(
    values: NDArray[np.float64], n_resamples: int, confidence: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = values.mean(axis=0)
    deviations = values - mean
    equal = _EQUAL * np.maximum(1.0, np.abs(values).max(axis=0))
    constant = np.ptp(values, axis=0) <= equal
    squares = np.where(constant, 1.0, (deviations**2).sum(axis=0))
    acceleration = (deviations**3).sum(axis=0) / (6 * squares**1.5)
    means = resampled_means(values, n_resamples, seed)
    means.sort(axis=1)
    low, high = bca_ends(mean, means, acceleration, confidence, equal)
    return np.where(constant, values[0], low), np.where(constant, values[0], high)


def bca_ends(
    value: NDArray[np.float64],
    resampled: NDArray[np.float64],
    acceleration: NDArray[np.float64],
    confidence: float,
    equal: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the ends of BCa intervals from resampled values; `bca_intervals` has the formula.

    Args:
        value: (columns,), the statistics of the sample itself.
        resampled: (columns, resamples), sorted along the second axis, finite.
        acceleration: (columns,), a = sum d^3 / (6 (sum d^2)^1.5) of the jackknife's deviations.
        confidence: nominal coverage, in (0, 1).
        equal: (columns,), numbers that differ by less are the same.

    Returns:
        low and high, (columns,) each.
    """
    n = resampled.shape[1]
    below = (resampled < (value - equal)[:, None]).sum(axis=1) + (resampled <= (value + equal)[:, None]).sum(axis=1)
    # never infinite, even where no resample lies on one side
    z0 = ndtri(np.clip(below / (2 * n), 0.5 / n, 1 - 0.5 / n))
    columns = np.arange(len(resampled))
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = z0 + ndtri(share)
        at = ndtr(z0 + z / np.maximum(1 - acceleration * z, 1e-9)) * (n - 1)
        lower = np.floor(at).astype(int)
        upper = np.minimum(lower + 1, n - 1)
        ends.append(resampled[columns, lower] + (at - lower) * (resampled[columns, upper] - resampled[columns, lower]))
    return ends[0], ends[1]


def bootstrap_interval(
    values_by_patient: pd.Series | Sequence[float] | NDArray[np.float64],
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The BCa bootstrap interval of one mean, clustered by patient; see `bca_intervals`.

    Args:
        values_by_patient: a series with patients as its index (several values of a patient are averaged first, so that
            patients are what is resampled), or one value per patient.
        n_resamples: number of resamples.
        confidence: nominal coverage, in (0, 1).
        seed: see `resample_counts`.

    Returns:
        (low, high); (m, m) where all patients have the same value m; None for a single patient, who says nothing about
        others.

    Raises:
        ValueError: no values, or values that are not finite.

    Example:
        >>> low, high = bootstrap_interval([0.7, 0.8, 0.9, 0.9, 0.6])  # one score per patient, whose mean is 0.78
        >>> round(low, 2), round(high, 2)
        (0.68, 0.88)
        >>> bootstrap_interval([0.9]) is None  # a single patient says nothing about others
        True
    """
    by_patient = (
        values_by_patient.groupby(level=0).mean() if isinstance(values_by_patient, pd.Series) else values_by_patient
    )
    values = np.asarray(by_patient, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"bootstrap_interval needs finite values of at least one patient, got {values.tolist()}")
    if values.size == 1:
        return None
    low, high = bca_intervals(values[:, None], n_resamples, confidence, seed)
    return float(low[0]), float(high[0])
