"""Do probabilities mean what they say? The voxels of a case, counted into bins of probability.

Bins of several cases are added up; `eval/report/calibration.py` makes reliability diagrams and the expected calibration
error of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.tables import N_BINS
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout, blocks

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


def reliability_bins(
    probabilities: NDArray[np.floating],
    reference: NDArray[np.integer],
    layout: LabelLayout,
    where: NDArray[np.bool_] | None = None,
    ignore_label: int | None = None,
    n_bins: int = N_BINS,
) -> ReliabilityBins:
    """Count the voxels of one case into bins.

    Over a whole image the error mostly says how much of it is plain background. Better take the surroundings of
    reference and prediction together, `where=neighbourhood(reference | prediction, ...)`, and report that with the
    number.

    Args:
        probabilities: (heads, *spatial).
        reference: integers (*spatial).
        layout: what the heads stand for.
        where: bool (*spatial), the voxels to count; None for all.
        ignore_label: voxels where the reference has this label are not counted.
        n_bins: N.

    Raises:
        UserError: other shapes, or numbers that are no probabilities.

    Reference: Guo et al. 2017, "On calibration of modern neural networks" (confidence); Kull et al. 2019, "Beyond
    temperature scaling" (classwise).

    Example:
        >>> import numpy as np
        >>> probabilities = np.array([[[0.1, 0.6]], [[0.9, 0.4]]])  # background and tumour, two voxels
        >>> bins = reliability_bins(probabilities, np.array([[1, 1]]), LabelLayout({"tumour": 1}), n_bins=2)
        >>> bins.names, bins.hits.tolist()  # of 0.9 (tumour) and 0.6 (background) one is right
        (('(confidence)', 'tumour'), [[0, 1], [1, 1]])
    """
    shape = probabilities.shape[1:]
    if reference.shape != shape or (where is not None and where.shape != shape):
        other = reference.shape if reference.shape != shape or where is None else where.shape
        raise UserError(f"Probabilities have the shape {shape}, and what they are compared with has {other}")
    names = (CONFIDENCE_ROW, *layout.structures)
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
        p, truth = layout.checked(probabilities[:, block])[:, kept], truth[kept]
        if layout.class_order is None:
            count(0, p.max(axis=0), p.argmax(axis=0) == truth)
        for row, (name, labels) in enumerate(layout.labels.items(), start=1):
            own, there = p[layout.index[name]], np.isin(truth, labels)
            count(row, own, there)
            if layout.class_order is not None:
                count(0, np.maximum(own, 1 - own), (own > 0.5) == there)
    return ReliabilityBins(names, counts, sums, hits)
