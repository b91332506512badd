"""Ensembles of architectures: how much each model's probabilities count in the mean of a case.

Equal weights need nothing. Weights by confidence go by the entropy of each model's prediction of this case. Weights by
complexity go by how hard its texture is, and by how each model did on calibration cases that were as hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout, blocks

LEAST_ERROR = 0.01
"""An expected error, 1 - Dice, below this counts as this: nobody knows it better, and no model gets all the weight."""

_WIDTHS = (math.inf, 0.4, 0.2, 0.1, 0.05)  # of the kernel, as a share of the range of divergences; the widest first


def uniform_weights(n_members: int) -> NDArray[np.float64]:
    """Weigh all members alike: (n_members,), 1 / n_members each.

    Raises:
        UserError: no members.
    """
    return _normalised([1.0] * n_members)


def mean_entropy_bits(probabilities: NDArray[np.floating], layout: LabelLayout, where: NDArray[np.bool_]) -> float:
    """Compute the mean entropy of one member's voxels, in bits.

    Args:
        probabilities: (heads, *spatial); worked through in blocks.
        layout: what the heads stand for.
        where: bool (*spatial), the same voxels for all members that are to be compared: the neighbourhood of what their
            uniform ensemble calls foreground. Where it is empty, the mean is that of the image.

    Raises:
        UserError: another shape, or numbers that are no probabilities.
    """
    if where.shape != probabilities.shape[1:]:
        raise UserError(f"Probabilities have the shape {probabilities.shape[1:]}, and the voxels' mask {where.shape}")
    total, count, everywhere = 0.0, 0, not where.any()
    for block in blocks(where.shape):
        entropy = layout.entropy_bits(layout.checked(probabilities[:, block]))
        total += float(entropy.sum(where=where[block] | everywhere, dtype=np.float64))
        count += entropy.size if everywhere else int(np.count_nonzero(where[block]))
    return total / count


def confidence_weights(mean_entropies_bits: Sequence[float], max_entropy_bits: float) -> NDArray[np.float64]:
    """Weigh members in proportion to their confidence, 1 - mean entropy / the largest that there is.

    Where no member has any, they are equal. A confident member need not be a good one: under a perturbation that it was
    not trained for, a network may be confident of a wrong label.

    Args:
        mean_entropies_bits: of each member, from `mean_entropy_bits`.
        max_entropy_bits: `LabelLayout.max_entropy_bits`.

    Returns:
        (members,), >= 0, with a sum of 1.

    Raises:
        UserError: no members, or entropies that are negative or not finite.

    Example:
        >>> confidence_weights([0.0, 0.5], max_entropy_bits=1.0).round(3)  # confidences of 1 and 0.5
        array([0.667, 0.333])
    """
    entropies = np.asarray(mean_entropies_bits, float)
    if not (np.isfinite(entropies).all() and (entropies >= 0).all()):
        raise UserError(f"Entropies must be finite and >= 0, got {entropies.tolist()}")
    confidence = np.clip(1 - entropies / max_entropy_bits, 0, 1)
    return _normalised(confidence if confidence.any() else np.ones(len(entropies)))


@dataclass(frozen=True)
class CompetenceCurve:
    """How well each member did on calibration cases, as a smooth function of the case's texture divergence.

    At a divergence x, a member's expected Dice is the mean over calibration cases i of its Dice, weighted by
    exp(-(x - x_i)^2 / (2 h^2)) (Nadaraya & Watson 1964), patients weighing alike. It lies between what was seen, and is
    constant beyond the hardest and the easiest case. h is the widest candidate that predicts patients who were left out
    no worse than the best one does, by less than a standard error of the difference over patients (Breiman et al.
    1984). One candidate is infinite, a flat curve: so weights follow the divergence only where it told something.

    No reference is there for a new image: measure the divergence, in the calibration set as in use, with the same
    mask, that of the members' uniform ensemble. Perturbed versions of the calibration cases make the curve reach
    further; blur raises the divergence and lowers the Dice, so that a curve need not rise.

    Attributes:
        divergences: (n,), bits.
        dice: (n, members).
        shares: (n,), each case's weight: 1 / its patient's number of cases.
        width: h, in bits; infinite for a curve that is flat.
        overall: (members,), the mean over all cases: for one whose divergence is not defined.
    """

    divergences: NDArray[np.float64]
    dice: NDArray[np.float64]
    shares: NDArray[np.float64]
    width: float
    overall: NDArray[np.float64]

    @classmethod
    def fit(cls, divergences: ArrayLike, dice: ArrayLike, patients: Sequence[str]) -> CompetenceCurve:
        """Fit a curve to calibration cases.

        Args:
            divergences: (n,), bits; NaN where it is not defined: such cases count towards `overall` alone.
            dice: (n, members), the true Dice of each member, in [0, 1].
            patients: (n,), whose case it is. With a single one no width can be chosen, and the curve is flat.

        Raises:
            UserError: no cases, arrays of different length, or a Dice outside of [0, 1].
        """
        x, y = np.asarray(divergences, float), np.asarray(dice, float)
        if y.ndim != 2 or not y.size or x.shape != (len(y),) or len(patients) != len(y):
            raise UserError(
                f"A curve needs a divergence, a patient and each member's Dice for each case, got {x.shape}, "
                f"{len(patients)} and {y.shape}"
            )
        if not ((y >= 0) & (y <= 1)).all():
            raise UserError(f"Dice must be in [0, 1], got {y.min():g} to {y.max():g}")
        _, of_case, sizes = np.unique(np.asarray(patients, str), return_inverse=True, return_counts=True)
        shares = 1.0 / sizes[of_case]
        known = np.isfinite(x)
        width = _best_width(x[known], y[known], shares[known], of_case[known])
        return cls(x[known], y[known], shares[known], width, np.average(y, axis=0, weights=shares))

    def expected_dice(self, divergence: float) -> NDArray[np.float64]:
        """Predict the Dice of each member, (members,).

        Args:
            divergence: of the new case, bits; NaN where it is not defined.
        """
        if not math.isfinite(divergence) or not self.divergences.size:
            return self.overall
        return _smooth(np.array([divergence]), self.divergences, self.dice, self.shares, self.width)[0]

    def weights(self, divergence: float) -> NDArray[np.float64]:
        """Weigh members in inverse proportion to their expected errors, 1 - Dice.

        As inverse variances would be for members that err independently; members of one data set do not quite.

        Args:
            divergence: see `expected_dice`.

        Returns:
            (members,), > 0, with a sum of 1.
        """
        return _normalised(1 / np.maximum(1 - self.expected_dice(divergence), LEAST_ERROR))


def _smooth(
    at: NDArray[np.float64],
    divergences: NDArray[np.float64],
    dice: NDArray[np.float64],
    shares: NDArray[np.float64],
    width: float,
    excluded: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """(k,) divergences -> (k, members), the kernel-weighted means; `excluded` (k, n) leaves cases out."""
    at = np.clip(at, divergences.min(), divergences.max())
    exponents = -((at[:, None] - divergences) ** 2) / (2 * width**2)
    if excluded is not None:
        exponents = np.where(excluded, -np.inf, exponents)
    kernel = np.exp(exponents - exponents.max(axis=1, keepdims=True)) * shares  # the nearest never vanishes
    means: NDArray[np.float64] = kernel @ dice / kernel.sum(axis=1, keepdims=True)
    return means


def _best_width(
    divergences: NDArray[np.float64], dice: NDArray[np.float64], shares: NDArray[np.float64], of_case: NDArray[np.intp]
) -> float:
    patients, of_case = np.unique(of_case, return_inverse=True)
    spread = float(np.ptp(divergences)) if divergences.size else 0.0
    if spread == 0.0 or len(patients) < 2:
        return math.inf
    same_patient = of_case[:, None] == of_case
    losses = {}
    for width in (share * spread for share in _WIDTHS):
        predicted = _smooth(divergences, divergences, dice, shares, width, same_patient)
        losses[width] = np.bincount(of_case, weights=shares * ((predicted - dice) ** 2).mean(axis=1))
    best = losses[min(losses, key=lambda width: losses[width].sum())]
    worse = {width: loss - best for width, loss in losses.items()}
    return next(width for width, w in worse.items() if w.mean() <= w.std(ddof=1) / math.sqrt(len(w)))


def _normalised(weights: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(weights, float)
    if not values.size or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise UserError(f"Weights must be finite, >= 0 and not all 0, got {values.tolist()}")
    shares: NDArray[np.float64] = values / values.sum()
    return shares
