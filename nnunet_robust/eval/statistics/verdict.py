"""The verdict: at each level the architectures that cannot be told from the best, with intervals that hold at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES
from nnunet_robust.eval.statistics.contrasts import NOTHING, Contrast, Sample, critical_value
from nnunet_robust.eval.statistics.tables import CLEAN, Scores, direction, patient_scores

MARGIN = 0.01
ROUNDING = 1e-12
"""A difference of exactly the margin is within it, however it is rounded."""

_POWER = 1.2816  # normal quantile of 90 %
_COLUMNS = [
    "dataset", "perturbation", "level", "highest", "best", "settled", "matters", "lead", "lead_low", "lead_high",
    "n_patients", "n_trained",
]  # fmt: skip

Key = TypeVar("Key")


class Interval(NamedTuple):
    """A difference with its simultaneous interval; the ends are NaN where there is none."""

    value: float
    low: float
    high: float

    def reversed(self) -> Interval:
        """The difference the other way round."""
        return Interval(-self.value, -self.high, -self.low)


@dataclass(frozen=True)
class Verdict:
    """What the scores under one condition say of the architectures.

    Attributes:
        means: architecture -> mean score, higher is better; the highest first.
        pairs: two architectures -> the first's mean minus the second's.
        best: the architectures that cannot be told from the best: the lower end of the best mean's lead over them is
            not above 0. The highest mean first. With too few patients, all.
        margin: the difference that matters.
        n_patients: patients.
        n_trained: trained models of the architecture that has the fewest.
        most_trained: trained models of the architecture that has the most.
        detectable: the smallest difference of two architectures that is found with a probability of 90 %: median over
            the pairs whose difference varies between patients or trainings; NaN without any, and with too few patients.
    """

    means: Mapping[str, float]
    pairs: Mapping[tuple[str, str], Interval]
    best: tuple[str, ...]
    margin: float
    n_patients: int
    n_trained: int
    most_trained: int
    detectable: float

    def difference(self, first: str, second: str) -> Interval:
        """The first architecture's mean minus the second's; exactly 0 of one and the same."""
        if first == second:
            return Interval(0.0, 0.0, 0.0)
        known = self.pairs.get((first, second))
        return self.pairs[second, first].reversed() if known is None else known

    @property
    def names(self) -> list[str]:
        """The architectures in the order of the rows."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair)) or list(self.means)

    @property
    def highest(self) -> str:
        """The architecture with the highest mean."""
        return next(iter(self.means))

    @property
    def settled(self) -> bool:
        """Whether one architecture is told from all others."""
        return len(self.means) > 1 and len(self.best) == 1

    @property
    def lead(self) -> Interval:
        """The highest mean minus the next one; NaN of a single architecture."""
        first, *others = self.means
        return self.difference(first, others[0]) if others else Interval(*[float("nan")] * 3)

    @property
    def matters(self) -> bool:
        """Whether it is settled by more than the margin, over all others."""
        first, *others = self.means
        return self.settled and all(self.difference(first, other).low > self.margin for other in others)

    def better_than(self, name: str) -> tuple[str, ...]:
        """The best ones that are told from an architecture, unless they are better by the margin at most."""
        return tuple(
            other
            for other in self.best
            if (lead := self.difference(other, name)).low > 0 and lead.high > self.margin + ROUNDING
        )

    def within_margin_of(self, name: str) -> bool:
        """Whether it is shown that no architecture is better than this one by more than the margin."""
        return all(self.difference(other, name).high <= self.margin + ROUNDING for other in self.means)


def decide(
    samples: Mapping[Key, Sample], margin: float = MARGIN, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[Key, Verdict]:
    """Compare all architectures under all conditions of a dataset at once.

    The intervals of all differences, of every two architectures under every condition, cover at once with a probability
    of 95 %. So whatever they are read for, one architecture is wrongly told from another in about 5 % of the studies
    (6 % with 6 to 8 patients), which `docs/statistics.md` shows by simulation, with where it does not hold: where rare
    failures decide a mean.

    Args:
        samples: the scores under each condition.
        margin: difference that matters, in the metric's unit, >= 0.
        n_resamples: number of draws, see `contrasts.critical_value`.
        seed: of the draws.

    Raises:
        UserError: a margin that is negative or not a number.
    """
    if not margin >= 0:
        raise UserError(f"The margin must be >= 0, in the unit of the metric, got {margin}.")
    critical = critical_value(list(samples.values()), n_resamples, seed, CONFIDENCE)
    return {key: _verdict(sample, critical, margin) for key, sample in samples.items()}


def _verdict(sample: Sample, critical: float, margin: float) -> Verdict:
    names = [str(name) for name in sample.names]
    means = np.array([sample.scores[sample.owner == i].mean() for i in range(len(names))])
    order = np.argsort(-np.round(means, 12), kind="stable")  # of equal ones the first
    of_pairs = [means[i] - means[j] for i, j in sample.pairs]
    errors, detectable = np.full(len(of_pairs), np.nan), float("nan")
    if sample.enough and of_pairs:
        differences = sample.differences()
        errors, detectable = np.sqrt(differences.variance), _detectable(differences, critical)
    pairs = {
        (names[i], names[j]): Interval(float(value), float(value - critical * error), float(value + critical * error))
        for (i, j), value, error in zip(sample.pairs, of_pairs, errors, strict=True)
    }
    found = Verdict(
        means={names[i]: float(means[i]) for i in order},
        pairs=pairs,
        best=(),
        margin=margin,
        n_patients=len(sample.patients),
        n_trained=int(np.bincount(sample.owner).min()),
        most_trained=int(np.bincount(sample.owner).max()),
        detectable=detectable,
    )
    best = tuple(name for name in found.means if not found.difference(found.highest, name).low > ROUNDING)
    return replace(found, best=best)


def _detectable(differences: Contrast, critical: float) -> float:
    """Estimate the difference that is told apart with a probability of 90 %, median over the pairs.

    An approximation of the noncentral t distribution, good to 1 % from 5 degrees of freedom on: Johnson & Welch 1940.
    """
    varies = differences.variance > NOTHING
    if not varies.any():
        return float("nan")
    freedom = differences.freedom[varies]
    in_errors = critical * (1 - 1 / (4 * freedom)) + _POWER * np.sqrt(1 + critical**2 / (2 * freedom))
    return float(np.median(in_errors * np.sqrt(differences.variance[varies])))


def verdicts(
    rows: pd.DataFrame, metric: str = "dice", margin: float = MARGIN, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[tuple[str, str, float], Verdict]:
    """Compare the architectures under every condition of each dataset.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`. Differences are positive in favour of the first, whichever way the metric runs.
        margin: difference that matters, in the metric's unit, >= 0.
        n_resamples: number of draws, see `contrasts.critical_value`.
        seed: of the draws.

    Returns:
        (dataset, perturbation, level) -> verdict, the clean images (`CLEAN`, 0) once and first.

    Raises:
        UserError: an unknown metric, or a margin that is negative or not a number.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: int, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": str(patient), "case": str(patient),
        ...             "perturbation": "blur" if level else "clean", "level": level, "dice": dice + 0.01 * patient}
        >>> dice = {"plain": {0.0: 0.9, 0.3: 0.5}, "no skip": {0.0: 0.9, 0.3: 0.7}}
        >>> found = verdicts(pd.DataFrame([row(a, i, x, y) for a, of in dice.items() for i in range(8)
        ...                                for x, y in of.items()]))
        >>> {key[2]: (one.best, one.settled) for key, one in found.items()}
        {0.0: (('plain', 'no skip'), False), 0.3: (('no skip',), True)}
    """
    found: dict[tuple[str, str, float], Verdict] = {}
    of_datasets: dict[str, dict[tuple[str, str, float], Sample]] = {}
    for scores in patient_scores(rows, metric):
        samples = of_datasets.setdefault(scores.dataset, {})
        samples.update(_samples(scores, direction(metric)))
    for samples in of_datasets.values():
        found |= decide(samples, margin, n_resamples, seed)
    return found


def _samples(scores: Scores, sign: float) -> dict[tuple[str, str, float], Sample]:
    """What there is to compare, level by level; the clean images only under their own name."""
    found = {}
    for j, level in enumerate(scores.levels):
        present = np.isfinite(scores.by_line[:, j]).all(axis=0)
        if not present.any() or (scores.perturbation != CLEAN and level == 0 and not scores.in_series):
            continue
        patients = [name for name, there in zip(scores.patients, present, strict=True) if there]
        found[scores.dataset, scores.perturbation, float(level)] = Sample(
            scores.names, scores.lines, scores.owner, patients, sign * scores.by_line[:, j, present]
        )
    return found


def verdict_table(found: Mapping[tuple[str, str, float], Verdict]) -> pd.DataFrame:
    """Make a table of verdicts.

    Args:
        found: what `verdicts` returns.

    Returns:
        A row per condition. Columns dataset, perturbation, level, highest (the architecture with the highest mean),
        best (those that cannot be told from it, itself included), settled, matters, lead, lead_low, lead_high (the
        highest mean minus the next one, with its simultaneous interval), n_patients, n_trained (the fewest).
    """
    return pd.DataFrame(
        [
            (*key, one.highest, one.best, one.settled, one.matters, *one.lead, one.n_patients, one.n_trained)
            for key, one in found.items()
        ],
        columns=_COLUMNS,
    )


def pair_table(found: Mapping[tuple[str, str, float], Verdict]) -> pd.DataFrame:
    """Make a table of all differences.

    Args:
        found: what `verdicts` returns.

    Returns:
        A row per condition and pair. Columns dataset, perturbation, level, first, second, difference (first minus
        second), low, high (simultaneous), n_patients.
    """
    rows = [
        (*key, first, second, *pair, one.n_patients)
        for key, one in found.items()
        for (first, second), pair in one.pairs.items()
    ]
    columns = ["dataset", "perturbation", "level", "first", "second", "difference", "low", "high", "n_patients"]
    return pd.DataFrame(rows, columns=columns)
