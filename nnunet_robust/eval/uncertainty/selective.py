"""How well does a score of uncertainty tell good segmentations from bad ones, before anybody has looked at them?

A score of uncertainty ranks cases; their true error is known here. If the most certain share of them (the coverage) is
accepted and the rest goes to a reader, the error of what was accepted (the selective risk) should be low. Cases whose
scores are equal are taken in no order: their error counts as that of their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.statistics import CONFIDENCE, N_RESAMPLES
from nnunet_robust.eval.statistics.patient_bootstrap import Estimate, estimate, estimates

FAILURE_BELOW = 0.5
"""A case has failed when its Dice is below this."""


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve of a score.

    Attributes:
        coverage: (n,), shares 1/n, 2/n, ..., 1 of the cases that are accepted, the least uncertain first.
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


@dataclass(frozen=True)
class RankQuality:
    """How well a score of uncertainty ranks cases by 1 - Dice; intervals are bootstraps over patients.

    Of several trained models, each number is the mean of what each of them has; NaN where one has none.

    Attributes:
        n_cases: ranked.
        n_patients: whose cases they are.
        n_failures: cases below the threshold, of all trained models.
        spearman: rank correlation of uncertainty and error, in [-1, 1]: 1 where the most uncertain are the worst. NaN
            where all scores or all errors are equal.
        failure_auroc: the chance that a failure is more uncertain than a case that is none, in [0, 1], 0.5 for a score
            that says nothing. NaN without failures, or with nothing else.
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
    """Compute the risk-coverage curve: cases are accepted from the least to the most uncertain.

    Args:
        uncertainty: (n,), higher is more uncertain; of a predicted Dice, take 1 less it.
        error: (n,), higher is worse, e.g. 1 - Dice.

    Raises:
        UserError: no cases, arrays of different length, or numbers that are not finite.

    Reference: Geifman & El-Yaniv 2017, "Selective classification for deep neural networks"; Geifman et al. 2019,
    "Bias-reduced uncertainty estimation for deep neural classifiers" (AURC, E-AURC).

    Example:
        >>> found = risk_coverage(uncertainty=[0.3, 0.1, 0.2], error=[0.9, 0.0, 0.3])  # the least uncertain is the best
        >>> found.risk.round(2)  # 0, then (0 + 0.3) / 2, then (0 + 0.3 + 0.9) / 3
        array([0.  , 0.15, 0.4 ])
        >>> found.aurc == found.optimal_aurc
        True
    """
    scores, errors = _checked(uncertainty, error)
    ranks, once = _Groups(scores), np.ones((len(scores), 1))
    smoothed: NDArray[np.float64] = np.repeat(ranks.sums(errors[:, None])[:, 0] / ranks.sizes, ranks.sizes)
    number = np.arange(1, len(scores) + 1)
    return RiskCoverage(
        coverage=number / len(scores),
        risk=np.cumsum(smoothed) / number,
        aurc=float(_aurc(_Drawn(once, ranks), errors)[0]),
        optimal_aurc=float(_aurc(_Drawn(once, _Groups(errors)), errors)[0]),
        chance_aurc=float(errors.mean()),
    )


def rank_qualities(
    uncertainties: Mapping[str, ArrayLike],
    dice: ArrayLike,
    patients: Sequence[str],
    failure_below: float = FAILURE_BELOW,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, RankQuality]:
    """Measure how well scores rank the cases of one model, or of several trained alike, under one condition.

    Args:
        uncertainties: name -> (n,), one number a case, higher is more uncertain; of a predicted Dice, take 1 less it.
            Of several trained models (trained, n).
        dice: (n,) or (trained, n), the true one, in [0, 1].
        patients: (n,), whose case it is; intervals are clustered by them.
        failure_below: a Dice below this is a failure.
        n_resamples: of the bootstrap.
        confidence: nominal coverage of the intervals, in (0, 1).
        seed: of the bootstrap; the same gives the same resamples, whatever the score.

    Returns:
        Name -> quality.

    Raises:
        UserError: as `risk_coverage`.
    """
    values = np.atleast_2d(np.asarray(dice, float))
    scores = {name: np.atleast_2d(np.asarray(score, float)) for name, score in uncertainties.items()}
    for score in scores.values():
        _checked(score.ravel(), values.ravel())
    _check_patients(values.shape[1], patients)
    errors, failed = 1 - values, values < failure_below
    best = [_Groups(error) for error in errors]
    ranks = {name: [_Groups(of_model) for of_model in score] for name, score in scores.items()}

    def of_resamples(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.zeros((4 * len(ranks), len(weights)))
        for model, error in enumerate(errors):
            by_error = _Drawn(weights.T, best[model])
            least = _aurc(by_error, error)
            for place, groups in enumerate(ranks.values()):
                drawn = _Drawn(weights.T, groups[model])
                area = _aurc(drawn, error)
                found = (_spearman(drawn, by_error), _auroc(drawn, failed[model]), area, area - least)
                sums[4 * place : 4 * place + 4] += found
        return sums / len(errors)

    found = estimates(of_resamples, patients, n_resamples, confidence, seed)
    least = float(np.mean([risk_coverage(error, error).aurc for error in errors]))
    return {
        name: RankQuality(
            n_cases=values.shape[1],
            n_patients=len(set(patients)),
            n_failures=int(np.count_nonzero(failed)),
            spearman=found[4 * place],
            failure_auroc=found[4 * place + 1],
            aurc=found[4 * place + 2],
            excess_aurc=found[4 * place + 3],
            optimal_aurc=least,
            chance_aurc=float(errors.mean()),
        )
        for place, name in enumerate(ranks)
    }


def risk_curve(uncertainty: ArrayLike, dice: ArrayLike, patients: Sequence[str], n_points: int = 20) -> pd.DataFrame:
    """Compute the risk-coverage curve at evenly spread coverages, with intervals over patients, each for itself.

    Args:
        uncertainty: (n,) or (trained, n), as for `rank_qualities`.
        dice: likewise.
        patients: (n,), whose case it is.
        n_points: at the coverages 1/n_points, 2/n_points, ..., 1; between cases, the error rises in a straight line.

    Returns:
        Columns coverage, mean (the risk: the mean 1 - Dice of those accepted; over trained models), low, high, optimal
        (the least possible at this coverage).

    Raises:
        UserError: as `risk_coverage`.
    """
    scores, values = (np.atleast_2d(np.asarray(table, float)) for table in (uncertainty, dice))
    _checked(scores.ravel(), values.ravel())
    _check_patients(values.shape[1], patients)
    errors = 1 - values
    coverage = np.arange(1, n_points + 1) / n_points
    ranks, best = ([_Groups(of_model) for of_model in table] for table in (scores, errors))

    def risks(weights: NDArray[np.float64], groups: Sequence[_Groups]) -> NDArray[np.float64]:
        pairs = zip(groups, errors, strict=True)
        return np.mean([_risk_at(coverage, _Drawn(weights.T, of_model), error) for of_model, error in pairs], axis=0)

    found = estimates(lambda weights: risks(weights, ranks), patients)
    return pd.DataFrame(
        {
            "coverage": coverage,
            "mean": [each.value for each in found],
            "low": [each.low for each in found],
            "high": [each.high for each in found],
            "optimal": risks(np.ones((1, values.shape[1])), best)[:, 0],
        }
    )


def rank_correlation(first: ArrayLike, second: ArrayLike, patients: Sequence[str]) -> Estimate:
    """Compute Spearman's rank correlation of two numbers of each case, with its bootstrap interval over patients.

    Args:
        first: (n,), finite.
        second: (n,) or (several, n): the mean of the correlations with each.
        patients: (n,), whose case it is.

    Returns:
        In [-1, 1]; NaN where all numbers of one are equal.

    Raises:
        UserError: as `risk_coverage`.
    """
    a, others = np.asarray(first, float), np.atleast_2d(np.asarray(second, float))
    for other in others:
        _checked(a, other)
    _check_patients(len(a), patients)
    ranks, of_others = _Groups(a), [_Groups(other) for other in others]

    def of_resamples(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = _Drawn(weights.T, ranks)
        found: NDArray[np.float64] = np.mean(
            [_spearman(drawn, _Drawn(weights.T, other)) for other in of_others], axis=0
        )
        return found

    return estimate(of_resamples, patients)


class _Groups:
    """Cases in the order of a score, equal ones together."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.sizes: NDArray[np.intp] = np.diff(np.append(self._starts, len(scores)))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(cases, B) -> (groups, B)."""
        ordered = values[self.order]
        return ordered if len(self._starts) == len(ordered) else np.add.reduceat(ordered, self._starts, axis=0)


class _Drawn:
    """The groups of a score in resamples.

    Attributes:
        weights: (cases, B), how often each case is drawn, in whole numbers.
        groups: of the score.
        inside: (groups, B), how many of a group are drawn.
        before: (groups, B), how many of those before it.
    """

    def __init__(self, weights: NDArray[np.float64], groups: _Groups) -> None:
        self.weights, self.groups = weights, groups
        self.inside = groups.sums(weights)
        self.before = _before(self.inside)

    @cached_property
    def ranks(self) -> NDArray[np.float64]:
        """(cases, B): rank in the sample less the mean rank, equal ones sharing a mean one."""
        # the mean rank, exactly
        of_group = self.before + (self.inside + 1) / 2 - (self.weights.sum(axis=0) + 1) / 2
        ranks = np.empty(self.weights.shape)
        several = len(of_group) < len(ranks)
        ranks[self.groups.order] = np.repeat(of_group, self.groups.sizes, axis=0) if several else of_group
        return ranks

    @cached_property
    def spread(self) -> NDArray[np.float64]:
        """(B,): the sum of squared ranks."""
        return np.einsum("ij,ij,ij->j", self.weights, self.ranks, self.ranks)


def _before(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(sums, axis=0) - sums


def _aurc(drawn: _Drawn, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """With W cases of error sum R accepted before, the j-th of w equals of mean error r makes the risk
    (R + j r) / (W + j) = r + (R - r W) / (W + j), and sum_j 1 / (W + j) = H(W + w) - H(W), H the harmonic numbers.
    """
    total = drawn.groups.sums(drawn.weights * errors[:, None])
    r = total / np.maximum(drawn.inside, 1)
    n = drawn.weights.sum(axis=0)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(n.max()) + 1))])
    before = drawn.before.astype(np.intp)
    inverse = harmonic[before + drawn.inside.astype(np.intp)] - harmonic[before]
    area: NDArray[np.float64] = (total + (_before(total) - r * drawn.before) * inverse).sum(axis=0) / n
    return area


def _risk_at(coverage: NDArray[np.float64], drawn: _Drawn, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(coverages, B): the mean error of the least uncertain of each sample."""
    total = drawn.groups.sums(drawn.weights * errors[:, None])
    accepted, lost = (np.cumsum(sums, axis=0) for sums in (drawn.inside, total))
    start = np.zeros(1)
    risks = np.empty((len(coverage), drawn.weights.shape[1]))
    for sample in range(risks.shape[1]):
        at = coverage * accepted[-1, sample]
        curve = np.concatenate([start, accepted[:, sample]]), np.concatenate([start, lost[:, sample]])
        risks[:, sample] = np.interp(at, *curve) / at
    return risks


def _spearman(a: _Drawn, b: _Drawn) -> NDArray[np.float64]:
    covariance = np.einsum("ij,ij,ij->j", a.weights, a.ranks, b.ranks)
    variances = a.spread * b.spread
    return np.where(variances > 0, covariance / np.sqrt(np.where(variances > 0, variances, 1)), np.nan)


def _auroc(drawn: _Drawn, failed: NDArray[np.bool_]) -> NDArray[np.float64]:
    failures = drawn.groups.sums(drawn.weights * failed[:, None])
    others = drawn.inside - failures
    pairs = failures.sum(axis=0) * others.sum(axis=0)
    right = (failures * (_before(others) + others / 2)).sum(axis=0)
    return np.where(pairs > 0, right / np.maximum(pairs, 1), np.nan)


def _check_patients(n_cases: int, patients: Sequence[str]) -> None:
    if len(patients) != n_cases:
        raise UserError(f"There are {n_cases} cases and {len(patients)} patients' names: give one for each case")


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
