"""One paired comparison by Wilcoxon's signed ranks: the test, the shift with its interval, the effect's size."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import scipy  # whose parts are loaded when they are used: a sweep does not wait for them
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

EXACT_UP_TO = 50  # differences; the normal approximation above it


class SignedRank(NamedTuple):
    """A paired comparison.

    Attributes:
        shift: the Hodges-Lehmann estimate, the median of the means of all pairs of differences (each with itself too).
        low: lower end of its distribution-free interval; NaN where there are too few differences for one.
        high: upper end of it.
        p: two-sided, of Wilcoxon's signed-rank test; 1 where all differences are zero.
        smallest_p: the smallest p that n differences other than zero can give: 2 / 2^n, at most 1.
        rank_biserial: (W+ - W-) / (W+ + W-) in [-1, 1]: how far the positive differences outweigh the negative ones, in
            ranks; 0 where all are zero.
        n_ties: differences that are zero.
    """

    shift: float
    low: float
    high: float
    p: float
    smallest_p: float
    rank_biserial: float
    n_ties: int


def signed_rank(differences: ArrayLike, confidence: float = 0.95) -> SignedRank:
    """Compare paired scores by their differences.

    Zero differences are left out of the test and of the effect's size (Wilcoxon's own way, `zero_method="wilcox"`), and
    kept in the shift and its interval, which they pull to zero. Up to `EXACT_UP_TO` differences the test's distribution
    is exact, given the ties among them (mid-ranks); above it `scipy.stats.wilcoxon(method="asymptotic")`, with its
    correction for ties and none for continuity.

    Args:
        differences: one for each patient, at least one, finite.
        confidence: nominal coverage of the interval. It is exact up to `EXACT_UP_TO` differences where they are
            continuous and symmetrically distributed, and covers more often where they are tied.

    References: Hollander, Wolfe & Chicken 2014, "Nonparametric Statistical Methods", sections 3.1 to 3.3; Kerby 2014,
    "The simple difference formula" (matched-pairs rank-biserial correlation).

    Example:
        >>> found = signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        >>> found.shift, found.p, found.rank_biserial  # all six are positive: 2 / 2**6
        (0.35, 0.03125, 1.0)
    """
    # equal up to rounding is equal: means over labels or cases differ in the last bit
    values = np.round(np.asarray(differences, dtype=float), 12)
    shift, low, high = _shift(values, confidence)
    kept = values[values != 0]
    if not len(kept):
        return SignedRank(shift, low, high, 1.0, 1.0, 0.0, len(values))
    ranks = scipy.stats.rankdata(np.abs(kept))
    positive, total = float(ranks[kept > 0].sum()), float(ranks.sum())
    if len(kept) <= EXACT_UP_TO:
        p = _exact_p(ranks, min(positive, total - positive))
    else:
        p = float(scipy.stats.wilcoxon(kept, zero_method="wilcox", correction=False, method="asymptotic").pvalue)
    smallest = min(1.0, 2.0 ** (1 - len(kept)))
    return SignedRank(shift, low, high, p, smallest, (2 * positive - total) / total, len(values) - len(kept))


def _shift(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    first, second = _pairs(len(values))
    walsh = (values[first] + values[second]) / 2
    middle, last = (len(walsh) - 1) // 2, len(walsh) - 1
    rank = _rank_of_end(len(values), confidence)
    ends = [rank - 1, last - (rank - 1)] if rank else []
    walsh.partition(sorted({middle, last - middle, *ends}))
    shift = (walsh[middle] + walsh[last - middle]) / 2
    low, high = (float(walsh[end]) for end in ends) if rank else (float("nan"), float("nan"))
    return float(shift), low, high


@functools.lru_cache(maxsize=4)
def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(n)


@functools.lru_cache
def _rank_of_end(n: int, confidence: float) -> int:
    """Which of the sorted means of pairs is the interval's lower end, from 1; 0 where none is low enough."""
    tail = (1 - confidence) / 2
    if n > EXACT_UP_TO:
        mean, variance = n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24
        return int(mean + ndtri(tail) * variance**0.5)
    cumulated = np.cumsum(_distribution(np.arange(1.0, n + 1)))
    return int(np.searchsorted(cumulated, tail * (1 - 1e-12)))


def _exact_p(ranks: NDArray[np.float64], smaller: float) -> float:
    tail = _distribution(ranks)[: round(smaller * _scale(ranks)) + 1].sum()
    return float(min(1.0, 2 * tail))


def _scale(ranks: NDArray[np.float64]) -> int:
    """2 where ties make half ranks, so that twice the ranks are whole."""
    return 2 if (ranks % 1 != 0).any() else 1


def _distribution(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(W+ = w) where each rank is in the sum or not, with even chances; at w = 0, 1, ... / `_scale(ranks)`."""
    steps = np.round(ranks * _scale(ranks)).astype(int)
    ways = np.zeros(steps.sum() + 1)
    ways[0] = 1.0
    for step in steps:  # whole numbers up to 2^50: exact
        ways[step:] += ways[:-step].copy()
    return ways / 2.0 ** len(steps)
