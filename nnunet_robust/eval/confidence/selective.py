"""How well does a score tell the good cases from the bad ones, before anybody has looked at them?

A score of uncertainty ranks cases; their true error is known here. If the surest share of them (the coverage) is
accepted and the rest goes to a reader, the error of what was accepted (the selective risk) should be low. Cases whose
scores are equal are taken in no order: their error counts as that of their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from nnunet_robust.errors import UserError
from nnunet_robust.eval.statistics import CONFIDENCE, N_RESAMPLES
from nnunet_robust.eval.statistics.patient_bootstrap import Estimate, estimate

FAILURE_BELOW = 0.5
"""A case has failed when its Dice is below this."""


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve of a score.

    Attributes:
        coverage: (n,), shares 1/n, 2/n, ..., 1 of the cases that are accepted, the surest first.
        risk: (n,), the mean error of those.
        aurc: the area under the curve: the mean of `risk`.
        optimal_aurc: that of a score that ranks the cases by their error itself, the smallest that there is.
        chance_aurc: that of a score that says nothing: the mean error of all cases.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    aurc: float
    optimal_aurc: float
    chance_aurc: float

    @property
    def excess(self) -> float:
        """E-AURC: how far the area is above the smallest, >= 0."""
        return self.aurc - self.optimal_aurc


@dataclass(frozen=True)
class RankQuality:
    """How well a score of uncertainty ranks cases by 1 - Dice; intervals are bootstraps over patients.

    Attributes:
        n_cases: ranked.
        n_patients: whose cases they are.
        n_failures: cases below the threshold.
        spearman: rank correlation of uncertainty and error, in [-1, 1]: 1 where the unsurest are the worst. NaN where
            all scores or all errors are equal.
        failure_auroc: the chance that a failure is less sure than a case that is none, in [0, 1], 0.5 for a score that
            says nothing. NaN without failures, or with nothing else.
        aurc: area under the risk-coverage curve, in units of 1 - Dice.
        excess_aurc: what it has above `optimal_aurc`; depends, as all areas do, on how large errors are.
        optimal_aurc: the smallest possible.
        chance_aurc: mean error, the area of a score that says nothing.
    """

    n_cases: int
    n_patients: int
    n_failures: int
    spearman: Estimate
    failure_auroc: Estimate
    aurc: Estimate
    excess_aurc: Estimate
    optimal_aurc: float
    chance_aurc: float


def risk_coverage(uncertainty: ArrayLike, error: ArrayLike) -> RiskCoverage:
    """The risk-coverage curve: cases are accepted from the surest to the least sure.

    Args:
        uncertainty: (n,), higher is less sure; of a predicted Dice, take 1 less it.
        error: (n,), higher is worse, e.g. 1 - Dice.

    Raises:
        UserError: no cases, arrays of different length, or numbers that are not finite.

    Reference: Geifman & El-Yaniv 2017, "Selective classification for deep neural networks"; Geifman et al. 2019,
    "Bias-reduced uncertainty estimation for deep neural classifiers" (AURC, E-AURC).
    """
    scores, errors = _checked(uncertainty, error)
    once = np.ones((1, len(scores)))
    ranks = _Groups(scores)
    smoothed: NDArray[np.float64] = np.repeat(ranks.sums(errors[None])[0] / ranks.sizes, ranks.sizes)
    number = np.arange(1, len(scores) + 1)
    return RiskCoverage(
        coverage=number / len(scores),
        risk=np.cumsum(smoothed) / number,
        aurc=float(_aurc(once, ranks, errors)[0]),
        optimal_aurc=float(_aurc(once, _Groups(errors), errors)[0]),
        chance_aurc=float(errors.mean()),
    )


def rank_quality(
    uncertainty: ArrayLike,
    dice: ArrayLike,
    patients: Sequence[str],
    failure_below: float = FAILURE_BELOW,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> RankQuality:
    """How well a score ranks the cases of one model under one condition.

    Args:
        uncertainty: (n,), one number a case, higher is less sure; of a predicted Dice, take 1 less it.
        dice: (n,), the true one, in [0, 1].
        patients: (n,), whose case it is; intervals are clustered by them.
        failure_below: a Dice below this is a failure.
        n_resamples: of the bootstrap.
        confidence: nominal coverage of the intervals, in (0, 1).
        seed: of the bootstrap; the same gives the same resamples, whatever the score.

    Raises:
        UserError: as `risk_coverage`.
    """
    scores, values = _checked(uncertainty, dice)
    if len(patients) != len(scores):
        raise UserError(f"There are {len(scores)} cases and {len(patients)} patients' names: give one for each case")
    errors, failed = 1 - values, values < failure_below
    ranks, best = _Groups(scores), _Groups(errors)
    interval = partial(estimate, patients=patients, n_resamples=n_resamples, confidence=confidence, seed=seed)
    curve = risk_coverage(scores, errors)
    return RankQuality(
        n_cases=len(scores),
        n_patients=len(set(patients)),
        n_failures=int(np.count_nonzero(failed)),
        spearman=interval(lambda weights: _spearman(weights, ranks, best)),
        failure_auroc=interval(lambda weights: _auroc(weights, ranks, failed)),
        aurc=interval(lambda weights: _aurc(weights, ranks, errors)),
        excess_aurc=interval(lambda weights: _aurc(weights, ranks, errors) - _aurc(weights, best, errors)),
        optimal_aurc=curve.optimal_aurc,
        chance_aurc=curve.chance_aurc,
    )


class _Groups:
    """Cases in the order of a score, equal ones together."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.sizes: NDArray[np.intp] = np.diff(np.append(self._starts, len(scores)))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, cases) -> (B, groups)."""
        return np.add.reduceat(values[:, self.order], self._starts, axis=1)

    def midranks(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, cases), how often each is drawn -> (B, cases), its rank in the sample, equal ones sharing a mean one."""
        in_group = self.sums(weights)
        of_group = _before(in_group) + (in_group + 1) / 2
        ranks = np.empty(weights.shape)
        ranks[:, self.order] = np.repeat(of_group, self.sizes, axis=1)
        return ranks


def _before(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(sums, axis=1) - sums


def _aurc(weights: NDArray[np.float64], ranks: _Groups, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """With W cases of error sum R accepted before, the j-th of w equals of mean error r makes the risk
    (R + j r) / (W + j) = r + (R - r W) / (W + j), and sum_j 1 / (W + j) = digamma(W + w + 1) - digamma(W + 1).
    """
    w, total = ranks.sums(weights), ranks.sums(weights * errors)
    before, error_before = _before(w), _before(total)
    r = total / np.maximum(w, 1)
    risks = total + (error_before - r * before) * (digamma(before + w + 1) - digamma(before + 1))
    return risks.sum(axis=1) / weights.sum(axis=1)


def _spearman(weights: NDArray[np.float64], ranks: _Groups, others: _Groups) -> NDArray[np.float64]:
    a, b = ranks.midranks(weights), others.midranks(weights)
    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2  # the mean rank, exactly
    a, b = a - middle, b - middle
    covariance = (weights * a * b).sum(axis=1)
    variances = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    return np.where(variances > 0, covariance / np.sqrt(np.where(variances > 0, variances, 1)), np.nan)


def _auroc(weights: NDArray[np.float64], ranks: _Groups, failed: NDArray[np.bool_]) -> NDArray[np.float64]:
    failures, others = ranks.sums(weights * failed), ranks.sums(weights * ~failed)
    pairs = failures.sum(axis=1) * others.sum(axis=1)
    right = (failures * (_before(others) + others / 2)).sum(axis=1)
    return np.where(pairs > 0, right / np.maximum(pairs, 1), np.nan)


def _checked(uncertainty: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores, values = np.asarray(uncertainty, float), np.asarray(other, float)
    if scores.ndim != 1 or scores.shape != values.shape or not scores.size:
        raise UserError(f"A ranking needs one score and one error for each case, got {scores.shape} and {values.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        at = int(np.argmin(np.isfinite(scores) & np.isfinite(values)))
        raise UserError(
            f"Case {at + 1} has the score {scores[at]} and the error {values[at]}: leave it out, and say so"
        )
    return scores, values
