"""Is a batch of images of the same kind as the reference? Each feature by itself, and all of them together.

A test of one batch, once. Done again every day, it gives false alarms from time to time: what watches a stream is
`martingale`. Slow changes, to which that one gets used, are seen here: the reference alone is what a batch is compared
with. Images are those of different patients; where a feature is not defined, see `ordered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ks_2samp, rankdata

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.deployment.drift.features import ordered
from nnunet_robust.eval.statistics.comparisons import holm

PERMUTATIONS = 999

_EQUAL = 1e-12  # statistics that differ by less are the same but for rounding


@dataclass(frozen=True)
class FeatureShift:
    """The difference of one feature between a batch and the reference.

    Attributes:
        name: of the feature.
        ks: the largest difference of the two shares of images below any one value, in [0, 1]; Kolmogorov and Smirnov.
        p: of that, exact for small samples, at most conservative with equal values.
        p_holm: adjusted for the number of features.
        superiority: the probability that an image of the batch is higher than one of the reference, equal ones half, in
            [0, 1]; 0.5: neither.
        reference_median: NaN: not defined in most images.
        batch_median: likewise.
        n_reference: images of the reference that count for this feature.
        undefined_reference: of these, those where it is not defined.
        undefined_batch: images of the batch where it is not defined.
    """

    name: str
    ks: float
    p: float
    p_holm: float
    superiority: float
    reference_median: float
    batch_median: float
    n_reference: int
    undefined_reference: int
    undefined_batch: int


@dataclass(frozen=True)
class TwoSample:
    """The difference between a batch and the reference.

    Attributes:
        features: one by one.
        mmd: maximum mean discrepancy between the ranks of both, in [0, sqrt(2)].
        p_mmd: of that, by permutation; NaN where fewer than two images of the reference count for all features.
        n_reference: images of the reference that count for all features.
        n_batch: images of the batch.
        n_permutations: drawn; p_mmd is at least 1 / (n_permutations + 1).
    """

    features: tuple[FeatureShift, ...]
    mmd: float
    p_mmd: float
    n_reference: int
    n_batch: int
    n_permutations: int


def compare(
    reference: ArrayLike,
    batch: ArrayLike,
    names: Sequence[str],
    *,
    measured: ArrayLike | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> TwoSample:
    """Compare a batch of images with the reference.

    Args:
        reference: (images, features); NaN: not defined.
        batch: (images, features), likewise.
        names: of the features.
        measured: bool, of the reference's shape, False where an image does not count for a feature; None: all do.
        seed: of the permutations.
        permutations: how many.

    Raises:
        UserError: other shapes, or no images.
    """
    before, now = ordered(np.asarray(reference, float)), ordered(np.asarray(batch, float))
    counts = np.ones(before.shape, bool) if measured is None else np.asarray(measured, bool)
    for what, rows in (("reference", before), ("batch", now)):
        if rows.ndim != 2 or rows.shape[1] != len(names) or not rows.size:
            raise UserError(f"a {what} of images with {len(names)} features expected, got the shape {rows.shape}")
    found = [_shift(name, before[counts[:, i], i], now[:, i]) for i, name in enumerate(names)]
    adjusted = holm([shift.p for shift in found])
    shifts = tuple(replace(shift, p_holm=float(p)) for shift, p in zip(found, adjusted, strict=True))
    complete = before[counts.all(axis=1)]
    mmd, p_mmd = mmd_test(complete, now, seed, permutations) if len(complete) > 1 else (np.nan, np.nan)
    return TwoSample(shifts, mmd, p_mmd, len(complete), len(now), permutations)


def mmd_test(
    reference: NDArray[np.float64], batch: NDArray[np.float64], seed: int = 0, permutations: int = PERMUTATIONS
) -> tuple[float, float]:
    """Test whether two samples differ in any way: maximum mean discrepancy, its p-value by permutation.

    Each feature is replaced by its rank in both samples together, divided by their size: whatever units it has and
    however far it is out. The kernel is exp(-d^2 / (2 h^2)), h the median distance of all pairs.

    Args:
        reference: (n, features), not NaN; minus infinity: not defined, see `ordered`.
        batch: (m, features), likewise.
        seed: of the permutations.
        permutations: how many.

    Returns:
        The discrepancy (its biased estimate, >= 0), and (1 + permutations with as large a one) / (1 + permutations).

    Reference: Gretton et al., "A kernel two-sample test", JMLR 2012, equation 5.
    """
    n, m = len(reference), len(batch)
    ranks = rankdata(np.concatenate([reference, batch]), axis=0) / (n + m)
    squares = (ranks**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * ranks @ ranks.T, 0))
    width = float(np.median(distances[np.triu_indices(n + m, 1)])) or 1.0
    kernel = np.exp(-((distances / width) ** 2) / 2)
    weights = np.concatenate([np.full(n, -1 / n), np.full(m, 1 / m)])
    generator = numpy_generator("drift", "mmd", seed)
    drawn = generator.permuted(np.tile(weights, (permutations, 1)), axis=1)
    squared = np.einsum("pi,pi->p", drawn @ kernel, drawn)
    observed = float(weights @ kernel @ weights)
    p = (1 + int((squared >= observed - _EQUAL).sum())) / (1 + permutations)
    return float(np.sqrt(max(observed, 0.0))), p


def _shift(name: str, before: NDArray[np.float64], now: NDArray[np.float64]) -> FeatureShift:
    """Of one feature, as if it were the only one."""
    n, m = len(before), len(now)
    ranks = rankdata(np.concatenate([before, now]))
    found = ks_2samp(ranks[:n], ranks[n:])
    return FeatureShift(
        name=name,
        ks=float(found.statistic),
        p=float(found.pvalue),
        p_holm=float(found.pvalue),
        superiority=float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m)),
        reference_median=_median(before),
        batch_median=_median(now),
        n_reference=n,
        undefined_reference=int(np.isneginf(before).sum()),
        undefined_batch=int(np.isneginf(now).sum()),
    )


def _median(values: NDArray[np.float64]) -> float:
    """Of the numbers; NaN where most are none."""
    numbers = values[np.isfinite(values)]
    return float(np.median(numbers)) if 2 * len(numbers) > len(values) else float("nan")
