"""BCa bootstrap intervals of any statistic of cases, patients being resampled; of means, see `bootstrap_interval`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from nnunet_robust.eval.statistics import CONFIDENCE, N_RESAMPLES
from nnunet_robust.seeding import numpy_generator

MAX_UNDEFINED = 0.05
"""The share of resamples in which a statistic may be undefined (no failure was drawn, say); above, no interval."""

_AT_ONCE = 1 << 21  # numbers in an array of weights: 16 MiB

# How often each case was drawn, (B, cases) -> the statistic of each of the B samples, (B,); NaN where it is undefined.
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
    """A statistic of cases with its BCa interval, clustered by patient.

    With z0 = Phi^-1(share of resamples below the value, ties counting half) and the acceleration
    a = sum d^3 / (6 (sum d^2)^1.5) of the jackknife's deviations d (the mean less the value without a patient), the
    ends are the resamples' quantiles at Phi(z0 + (z0 + z) / (1 - a (z0 + z))) for z = Phi^-1((1 -+ confidence) / 2).

    There is no interval of a single patient; none where the statistic is undefined in more than `MAX_UNDEFINED` of the
    resamples (up to that many are left out); and none where all resamples agree, as a perfect ranking does in each:
    the bootstrap then sees no variation, which is not to say that there is none.

    Args:
        statistic: of weights, how often each case counts.
        patients: of each case; a patient is drawn with all cases.
        n_resamples: number of resamples.
        confidence: nominal coverage, in (0, 1).
        seed: the same seed and number of patients give the same resamples, so that comparisons are paired.

    Reference: Efron 1987, "Better bootstrap confidence intervals".
    """
    names, of_case = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n_patients, n_cases = len(names), len(of_case)
    value = float(statistic(np.ones((1, n_cases)))[0])
    none = Estimate(value, math.nan, math.nan)
    if n_patients < 2 or math.isnan(value):
        return none
    drawn = numpy_generator(seed, "bootstrap").integers(0, n_patients, (n_resamples, n_patients))
    step = max(1, _AT_ONCE // n_cases)
    resampled = np.concatenate(
        [statistic(_counts(drawn[start : start + step])[:, of_case]) for start in range(0, n_resamples, step)]
    )
    defined = np.sort(resampled[np.isfinite(resampled)])
    if len(defined) < (1 - MAX_UNDEFINED) * n_resamples or defined[-1] - defined[0] <= 1e-12:
        return none
    left_out = np.concatenate(
        [
            statistic((np.arange(start, min(start + step, n_patients))[:, None] != of_case).astype(float))
            for start in range(0, n_patients, step)
        ]
    )
    left_out = left_out[np.isfinite(left_out)]
    low, high = _bca_ends(value, defined, left_out, confidence)
    return Estimate(value, low, high)


def _counts(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """(B, n) numbers of the patients that were drawn -> (B, n), how often each was."""
    n = drawn.shape[1]
    offsets = n * np.arange(len(drawn))[:, None]
    return np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


def _bca_ends(
    value: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    n = len(resampled)
    equal = 1e-12 * max(1.0, abs(value))
    below = (np.count_nonzero(resampled < value - equal) + np.count_nonzero(resampled <= value + equal)) / (2 * n)
    z0 = float(ndtri(np.clip(below, 0.5 / n, 1 - 0.5 / n)))
    deviations = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    squares = float((deviations**2).sum())
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = z0 + float(ndtri(share))
        ends.append(float(np.quantile(resampled, ndtr(z0 + z / max(1 - acceleration * z, 1e-9)))))
    return ends[0], ends[1]
