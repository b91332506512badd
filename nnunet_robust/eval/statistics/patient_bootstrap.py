"""BCa bootstrap intervals of any statistic of cases, patients being resampled; of means, see `bootstrap_interval`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES, bca_ends, resample_counts

MAX_UNDEFINED = 0.05
"""The share of resamples in which a statistic may be undefined (no failure was drawn, say); above, no interval."""

_AT_ONCE = 1 << 16  # numbers in an array of weights: half a MiB, which stays in the processor's cache
_EQUAL = 1e-12

# How often each case was drawn, (B, cases) in whole numbers -> the statistic of each of the B samples, (B,), or several
# statistics, (K, B); NaN where one is undefined. Columns lie together in memory: what works case by case is fast.
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval over patients.

    Attributes:
        value: of the sample; NaN where it is not defined.
        low: lower end; NaN where there is no interval.
        high: upper end; likewise.
    """

    value: float
    low: float
    high: float


def estimate(
    statistic: Statistic,
    patients: Sequence[str],
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Compute a single statistic of cases with its interval, as `estimates` does several."""
    return estimates(lambda weights: statistic(weights)[None], patients, n_resamples, confidence, seed)[0]


def estimates(
    statistics: Statistic,
    patients: Sequence[str],
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Estimate]:
    """Compute statistics of cases with their BCa intervals, clustered by patient, from the same resamples.

    The interval is that of `bca_intervals`, with the jackknife's deviations d: the mean of the values without one
    patient, less each.

    There is no interval of a single patient; none where the statistic is undefined in more than `MAX_UNDEFINED` of the
    resamples (up to that many are left out); and none where all resamples agree, as a perfect ranking does in each:
    the bootstrap then sees no variation, which is not to say that there is none.

    Args:
        statistics: of weights, how often each case counts.
        patients: of each case; a patient is drawn with all cases.
        n_resamples: number of resamples.
        confidence: nominal coverage, in (0, 1).
        seed: the same seed and number of patients give the same resamples, so that comparisons are paired.

    Reference: Efron 1987, "Better bootstrap confidence intervals".
    """
    names, of_case = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n_patients = len(names)
    values = statistics(np.ones((1, len(of_case))))[:, 0]
    if n_patients < 2 or np.isnan(values).all():
        return [Estimate(float(value), math.nan, math.nan) for value in values]
    counts = resample_counts(n_patients, n_resamples, seed)
    resampled = _in_blocks(statistics, counts, of_case)
    left_out = _in_blocks(statistics, 1 - np.eye(n_patients), of_case)
    return [
        Estimate(float(value), *_interval(float(value), drawn, without, confidence))
        for value, drawn, without in zip(values, resampled, left_out, strict=True)
    ]


def _in_blocks(statistics: Statistic, counts: NDArray[np.float64], of_case: NDArray[np.intp]) -> NDArray[np.float64]:
    """(resamples, patients), how often each was drawn -> (statistics, resamples)."""
    step = max(1, _AT_ONCE // len(of_case))
    blocks = [counts[start : start + step].T[of_case].T for start in range(0, len(counts), step)]
    return np.concatenate([statistics(weights) for weights in blocks], axis=1)


def _interval(
    value: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    defined = np.sort(resampled[np.isfinite(resampled)])
    enough = not math.isnan(value) and len(defined) >= (1 - MAX_UNDEFINED) * len(resampled)
    if not enough or defined[-1] - defined[0] <= _EQUAL:
        return math.nan, math.nan
    left_out = left_out[np.isfinite(left_out)]
    deviations = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    squares = float((deviations**2).sum())
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    low, high = bca_ends(
        np.array([value]),
        defined[None],
        np.array([acceleration]),
        confidence,
        np.array([_EQUAL * max(1.0, abs(value))]),
    )
    return float(low[0]), float(high[0])
