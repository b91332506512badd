"""Do probabilities mean what they say? Reliability diagrams and the expected calibration error of voxels.

Voxels are counted into bins of probability, case by case; bins of several cases are added up:

    bins = [reliability_bins(probabilities, reference, heads, where) for ...]
    sum_of(bins).diagram(), calibration_errors(bins, patients)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.results import N_BINS
from nnunet_robust.eval.statistics import CONFIDENCE, N_RESAMPLES
from nnunet_robust.eval.statistics.patient_bootstrap import Estimate, estimate
from nnunet_robust.eval.uncertainty.label_layout import Heads, blocks

CONFIDENCE_ROW = "(confidence)"
"""The row that is binned by confidence: the probability of the label that is called, and how often that is right."""


@dataclass(frozen=True)
class ReliabilityBins:
    """Counts of voxels in N bins of equal width, (0, 1/N], (1/N, 2/N], ...; a probability of 0 is in the first.

    The first row bins the confidence, the probability of the label that is called, and counts how often it is right.
    (Regions: each head calls yes above 0.5; all heads are pooled.) The other rows, one a structure, bin its own
    probability and count how often it is there.

    Attributes:
        names: of the rows.
        counts: int64 (rows, N), voxels.
        probabilities: float64 (rows, N), their sums.
        hits: int64 (rows, N), how many were right, or had the structure.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    hits: NDArray[np.int64]

    def __add__(self, other: ReliabilityBins) -> ReliabilityBins:
        """The bins of the voxels of both.

        Raises:
            UserError: other structures, or another number of bins.
        """
        if self.names != other.names or self.counts.shape != other.counts.shape:
            raise UserError(
                f"Bins of {', '.join(self.names)} ({self.counts.shape[1]} each) cannot be added to those of "
                f"{', '.join(other.names)} ({other.counts.shape[1]} each)"
            )
        return ReliabilityBins(
            self.names,
            self.counts + other.counts,
            self.probabilities + other.probabilities,
            self.hits + other.hits,
        )

    @property
    def errors(self) -> dict[str, float]:
        """Row -> expected calibration error, in [0, 1]: sum over bins of n_b / n |share of hits - mean probability|.

        NaN without voxels.
        """
        gaps = np.abs(self.hits - self.probabilities).sum(axis=1)
        totals = self.counts.sum(axis=1)
        return {name: float(gap / n) if n else math.nan for name, gap, n in zip(self.names, gaps, totals, strict=True)}

    @property
    def classwise_error(self) -> float:
        """The mean over structures of their calibration errors (Kull et al. 2019, the background left out)."""
        errors = self.errors
        return float(np.mean([errors[name] for name in self.names[1:]]))

    def diagram(self) -> pd.DataFrame:
        """The diagram: columns row, bin, n_voxels, probability (mean) and frequency; bins without voxels left out."""
        rows, bins = np.nonzero(self.counts)
        n = self.counts[rows, bins]
        return pd.DataFrame(
            {
                "row": [self.names[row] for row in rows],
                "bin": bins,
                "n_voxels": n,
                "probability": self.probabilities[rows, bins] / n,
                "frequency": self.hits[rows, bins] / n,
            }
        )


def reliability_bins(
    probabilities: NDArray[np.floating],
    reference: NDArray[np.integer],
    heads: Heads,
    where: NDArray[np.bool_] | None = None,
    ignore_label: int | None = None,
    n_bins: int = N_BINS,
) -> ReliabilityBins:
    """The bins of one case.

    Over a whole image the error mostly says how much of it is plain background. What is asked for is
    `where`: the surroundings of reference and prediction together, `neighbourhood(reference | prediction, ...)`, which
    has to be said with the number.

    Args:
        probabilities: (heads, *spatial).
        reference: integers (*spatial).
        heads: what the heads stand for.
        where: bool (*spatial), the voxels to count; None for all.
        ignore_label: voxels where the reference has this label are not counted.
        n_bins: N.

    Raises:
        UserError: other shapes, or numbers that are no probabilities.

    Reference: Guo et al. 2017, "On calibration of modern neural networks" (confidence); Kull et al. 2019, "Beyond
    temperature scaling" (classwise).
    """
    shape = probabilities.shape[1:]
    if reference.shape != shape or (where is not None and where.shape != shape):
        other = reference.shape if reference.shape != shape or where is None else where.shape
        raise UserError(f"Probabilities have the shape {shape}, and what they are compared with has {other}")
    names = (CONFIDENCE_ROW, *heads.structures)
    counts: NDArray[np.int64] = np.zeros((len(names), n_bins), np.int64)
    sums: NDArray[np.float64] = np.zeros((len(names), n_bins))
    hits: NDArray[np.int64] = np.zeros((len(names), n_bins), np.int64)
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]

    def count(row: int, p: NDArray[np.float32], hit: NDArray[np.bool_]) -> None:
        bins = np.atleast_1d(np.searchsorted(edges, p))
        counts[row] += np.bincount(bins, minlength=n_bins)
        sums[row] += np.bincount(bins, weights=p, minlength=n_bins)
        hits[row] += np.bincount(bins[hit], minlength=n_bins)

    for block in blocks(shape):
        truth = reference[block]
        kept = np.ones(truth.shape, bool) if where is None else where[block]
        kept = kept if ignore_label is None else kept & (truth != ignore_label)
        p, truth = heads.checked(probabilities[:, block])[:, kept], truth[kept]
        if heads.class_order is None:
            count(0, p.max(axis=0), p.argmax(axis=0) == truth)
        for row, (name, labels) in enumerate(heads.labels.items(), start=1):
            own, there = p[heads.index[name]], np.isin(truth, labels)
            count(row, own, there)
            if heads.class_order is not None:
                count(0, np.maximum(own, 1 - own), (own > 0.5) == there)
    return ReliabilityBins(names, counts, sums, hits)


def sum_of(bins: Sequence[ReliabilityBins]) -> ReliabilityBins:
    """The bins of all cases together.

    Raises:
        UserError: no cases, or bins that do not fit together.
    """
    if not bins:
        raise UserError("There are no cases to count voxels of")
    return reduce(ReliabilityBins.__add__, bins)


def calibration_errors(
    bins: Sequence[ReliabilityBins],
    patients: Sequence[str],
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Row -> the calibration error of all cases' voxels together, with its bootstrap interval over patients.

    Large cases have more voxels and weigh more.

    Args:
        bins: of each case.
        patients: of each case.
        n_resamples: of the bootstrap.
        confidence: nominal coverage, in (0, 1).
        seed: of the bootstrap.

    Raises:
        UserError: as `sum_of`, or another number of patients' names than of cases.
    """
    names = sum_of(bins).names
    if len(patients) != len(bins):
        raise UserError(f"There are {len(bins)} cases and {len(patients)} patients' names: give one for each case")
    gaps = np.stack([case.hits - case.probabilities for case in bins])
    totals = np.stack([case.counts.sum(axis=1) for case in bins])

    def of_row(row: int) -> Estimate:
        def error(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            n = weights @ totals[:, row]
            return np.where(n > 0, np.abs(weights @ gaps[:, row]).sum(axis=1) / np.maximum(n, 1), np.nan)

        return estimate(error, patients, n_resamples, confidence, seed)

    return {name: of_row(row) for row, name in enumerate(names)}
