"""Contrasts of architectures' means: how patients and trainings vary them, and intervals that hold for many at once.

A score of architecture a, trained model t and patient p is taken as

    y_atp = mean_a + patient_p + (architecture x patient)_ap + training_t + rest_tp,

so that patients are shared by all trained models, and trainings by all patients. Nothing is assumed of the distribution
of patients; trainings, which are few, are taken as normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES
from nnunet_robust.eval.statistics.tables import means_of_names

FEWEST_PATIENTS = 6
"""With fewer, no two architectures are told apart: all n differences have the same sign by chance in 2 of 2^n samples,
which is more than 5 % up to n = 5."""

NOTHING = 1e-20
"""A variance below this is that of rounding."""

_AT_ONCE = 1 << 22  # numbers in the largest temporary array: 32 MiB

Array: TypeAlias = NDArray[np.float64]


class Contrast(NamedTuple):
    """Sums of architectures' means, each with a weight, and the parts of their variance; arrays of one shape.

    Attributes:
        value: the sums.
        patients: variance by the patients, the rest's part included.
        trainings: variance by the trainings, the rest's part included; 0 where no architecture was trained repeatedly.
        rest: the rest's part, which both include.
        n_patients: number of patients.
        n_repeats: degrees of freedom between trainings: trained models less architectures.
    """

    value: Array
    patients: Array
    trainings: Array
    rest: Array
    n_patients: int
    n_repeats: int

    @property
    def variance(self) -> Array:
        """The variance over other patients and trainings, never less than either: for verdicts, which are cautious."""
        both = self.patients + self.trainings - self.rest
        return np.asarray(np.maximum(np.maximum(both, self.patients), self.trainings))

    @property
    def reml_variance(self) -> Array:
        """The variance over other patients, and over other trainings where these vary more than by the rest.

        A negative component is set to zero, as restricted maximum likelihood does.
        """
        return np.asarray(self.patients + np.maximum(self.trainings - self.rest, 0.0))

    @property
    def freedom(self) -> Array:
        """Satterthwaite's degrees of freedom of `reml_variance`, for Student's t.

        A component that is set to zero does not count, and there are never fewer than those of the weaker part, as for
        any sum of mean squares. `docs/statistics.md` has the error rates; without these two rules they are as low as
        .004 at a nominal .05 where patients and trainings do not vary.
        """
        of_patients = max(self.n_patients - 1, 1)
        if not self.n_repeats:
            return np.full(np.shape(self.patients), float(of_patients))
        used = np.where(self.trainings > self.rest, self.trainings, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = self.reml_variance**2 / (self.patients**2 / of_patients + used**2 / self.n_repeats)
        return np.asarray(np.maximum(found, min(of_patients, self.n_repeats)))


def contrast(scores: Array, owner: NDArray[np.intp], weights: Array) -> Contrast:
    """Estimate weighted sums of architectures' means.

    Args:
        scores: (trained models, patients, columns), no gaps, at least two patients.
        owner: (trained models,), the index of each one's architecture.
        weights: (sums, architectures).

    Returns:
        Arrays of shape (sums, columns).

    References: Searle, Casella & McCulloch 1992, "Variance Components" (crossed random effects from mean squares);
    Satterthwaite 1946.
    """
    n_lines, n_patients, _ = scores.shape
    n_names = weights.shape[1]
    repeats = np.bincount(owner, minlength=n_names)
    of_names = means_of_names(scores, owner, n_names)
    sums = np.einsum("qa,apc->qpc", weights, of_names)
    n_repeats = n_lines - n_names
    shares = (weights**2 @ (1 / repeats))[:, None]
    of_trainings = of_rest = np.zeros(scores.shape[2])
    if n_repeats:
        apart = scores - of_names[owner]
        of_lines = apart.mean(axis=1)
        of_trainings = (of_lines**2).sum(axis=0) / n_repeats
        of_rest = ((apart - of_lines[:, None]) ** 2).sum(axis=(0, 1)) / (n_repeats * (n_patients - 1))
    return Contrast(
        value=sums.mean(axis=1),
        patients=sums.var(axis=1, ddof=1) / n_patients,
        trainings=shares * of_trainings,
        rest=shares * of_rest / n_patients,
        n_patients=n_patients,
        n_repeats=n_repeats,
    )


def without_gaps(scores: Array) -> tuple[Array, int]:
    """Fill gaps so that `contrast` gives the means of those who have a level, and the variance of these means.

    Who lacks a level gets its mean there, which adds nothing to the variance; the deviations of the others are
    stretched by as much as the larger number of patients would make the variance too small. The covariance between two
    levels comes from the patients who have both.

    Args:
        scores: (trained models, levels, patients); NaN where a patient lacks a level, for all trained models alike.

    Returns:
        The same shape without gaps, and the number of patients of the level that has the fewest.

    Example:
        >>> import numpy as np
        >>> filled, fewest = without_gaps(np.array([[[0.5, 0.6, 0.7], [0.2, 0.4, np.nan]]]))
        >>> print(fewest, filled[0, 0], filled[0, 1].mean().round(6))  # the variance of the second mean is 0.1 ** 2
        2 [0.5 0.6 0.7] 0.3
        >>> print((filled[0, 1].var(ddof=1) / 3).round(6))
        0.01
    """
    present = np.isfinite(scores).all(axis=0)
    n, of_level = present.shape[1], present.sum(axis=1)
    fewest = int(of_level.min())
    if fewest == n:
        return scores, n
    means = np.nanmean(scores, axis=2, keepdims=True)
    stretch = np.sqrt(n * (n - 1) / np.maximum(of_level * (of_level - 1), 1))
    filled = means + np.where(present, scores - means, 0.0) * stretch[:, None]
    return filled, fewest


@dataclass(frozen=True)
class Sample:
    """The scores under one condition.

    Attributes:
        names: architectures.
        lines: trained models.
        owner: (lines,), the index of each one's architecture.
        patients: their names.
        scores: (lines, patients), no gaps, higher is better.
    """

    names: Sequence[str]
    lines: Sequence[str]
    owner: NDArray[np.intp]
    patients: Sequence[str]
    scores: Array

    @property
    def enough(self) -> bool:
        """Whether there are patients enough to tell any two architectures apart."""
        return len(self.patients) >= FEWEST_PATIENTS

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Every two architectures."""
        return list(combinations(range(len(self.names)), 2))

    @property
    def weights(self) -> Array:
        """(pairs, architectures): the first minus the second of each pair."""
        found = np.zeros((len(self.pairs), len(self.names)))
        for row, (first, second) in zip(found, self.pairs, strict=True):
            row[first], row[second] = 1.0, -1.0
        return found

    def differences(self) -> Contrast:
        """The differences of all pairs, (pairs,)."""
        found = contrast(self.scores[:, :, None], self.owner, self.weights)
        return found._replace(**{part: getattr(found, part)[:, 0] for part in Contrast._fields[:4]})


def critical_value(
    samples: Sequence[Sample], n_resamples: int = N_RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> float:
    """Compute by how many standard errors the intervals of all differences of all conditions must reach at once.

    It is the quantile of the largest |t| over all pairs of architectures and all conditions, were there no difference:
    each patient's deviations keep or change their sign together (the wild bootstrap with Rademacher's weights), and so
    keep their correlation between architectures and conditions. Trainings are drawn as normal. There are few of them,
    too few to know their correlation between conditions: they are drawn as independent, which is safe (Sidak 1967). Too
    few to know their variance: it is drawn, too, from its fiducial distribution (a scaled inverse chi-squared), and its
    estimate as chi-squared. Conditions with fewer than `FEWEST_PATIENTS` do not count.

    Args:
        samples: one per condition.
        n_resamples: number of draws.
        seed: of the draws.
        confidence: probability that all intervals cover at once, in (0, 1).

    Returns:
        The critical value; infinite where no condition has enough patients.

    References: Liu 1988, "Bootstrap procedures under some non-i.i.d. models" (the weights); Westfall & Young 1993 and
    Romano & Wolf 2005, "Exact and approximate stepdown methods for multiple hypothesis testing" (the studentised
    maximum); Weerahandi 1995, "Exact statistical methods for data analysis" (the variance's distribution).
    `docs/statistics.md` has its error rates by simulation.
    """
    samples = [sample for sample in samples if sample.enough and sample.pairs]
    if not samples:
        return float("inf")
    draws = _Draws(samples, n_resamples, seed)
    largest = np.zeros(n_resamples)
    for sample in samples:
        step = max(1, _AT_ONCE // n_resamples)
        for start in range(0, len(sample.pairs), step):
            np.maximum(largest, draws.largest(sample, slice(start, start + step)), out=largest)
    return float(np.quantile(largest, confidence, method="higher"))


class _Draws:
    """The same draws of patients' signs for every condition, and draws of trainings for each."""

    def __init__(self, samples: Sequence[Sample], n_resamples: int, seed: int) -> None:
        generator = numpy_generator(seed, "signs")
        patients = sorted({name for sample in samples for name in sample.patients})
        self._patients = {name: i for i, name in enumerate(patients)}
        self._signs = generator.integers(0, 2, (n_resamples, len(patients))) * 2.0 - 1
        self._generator, self._n_resamples = generator, n_resamples

    def largest(self, sample: Sample, of_pairs: slice) -> Array:
        """(n_resamples,): the largest |t| of these pairs under this condition."""
        n = len(sample.patients)
        weights = sample.weights[of_pairs]
        of_names = means_of_names(sample.scores, sample.owner, len(sample.names))
        deviations = weights @ (of_names - of_names.mean(axis=1, keepdims=True))  # (pairs, patients)
        signs = self._signs[:, [self._patients[name] for name in sample.patients]]
        drawn = signs @ deviations.T / n
        variance = ((deviations**2).mean(axis=1) - drawn**2) / (n - 1)
        n_repeats = len(sample.lines) - len(sample.names)
        if n_repeats:
            trainings, of_trainings = self._of_trainings(sample, weights, n_repeats)
            drawn, variance = drawn + trainings, variance + of_trainings
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.where(variance > NOTHING, np.abs(drawn) / np.sqrt(np.maximum(variance, NOTHING)), 0.0)
        return np.asarray(t.max(axis=1))

    def _of_trainings(self, sample: Sample, weights: Array, n_repeats: int) -> tuple[Array, Array]:
        """(n_resamples, pairs) each: what other trainings change, and the variance that would be estimated then."""
        of_lines = sample.scores.mean(axis=1)
        repeats = np.bincount(sample.owner, minlength=len(sample.names))
        apart = of_lines - (np.bincount(sample.owner, of_lines) / repeats)[sample.owner]
        draw = self._generator
        variance = (apart**2).sum() / draw.chisquare(n_repeats, self._n_resamples)  # what it may be, given its estimate
        drawn = draw.standard_normal((self._n_resamples, len(repeats))) * np.sqrt(variance[:, None] / repeats)
        estimated = variance * draw.chisquare(n_repeats, self._n_resamples) / n_repeats
        return drawn @ weights.T, estimated[:, None] * (weights**2 @ (1 / repeats))
