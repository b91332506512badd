"""Guarantees from a calibration set: a share of the object that is missed at most, an interval for a case's Dice.

Everything here works on numbers per patient and per case, not on images. The guarantees hold for new patients who are
drawn as those of the calibration set were; under any other condition they may break.

Two kinds of guarantee for a loss in [0, 1], averaged over the cases of a patient:

- in expectation: over calibration sets and new patients, the mean loss is at most alpha. Conformal risk control,
  Angelopoulos et al. 2022, arXiv 2208.02814.
- with confidence: with probability 1 - delta over calibration sets, the mean loss over new patients is at most alpha.
  Learn then test, Angelopoulos et al. 2021, arXiv 2110.01052, in a fixed sequence from the most cautious setting on,
  which needs no monotone losses; the test is by betting, Bates et al. 2021, arXiv 2101.02703, proposition 5
  (Waudby-Smith and Ramdas), which is much less wasteful than Hoeffding-Bentkus where losses vary little.

MAPIE controls thresholds only, and keeps each voxel once per threshold in memory; the tests compare with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator

_ROUNDING = 1e-9  # what is equal on paper need not be so in floating point
UNCERTAINTY_FLOOR = 0.02
"""Added to each uncertainty before errors are divided by it, so that no case counts as perfectly certain."""


def patient_losses(losses: NDArray[np.float64], patients: Sequence[str]) -> NDArray[np.float64]:
    """Compute the mean losses of each patient's cases.

    Args:
        losses: (cases, settings), in [0, 1].
        patients: of each case.

    Returns:
        (patients, settings), in an order that depends on nothing but the patients' names, and is no order by name: the
        test with confidence looks at one patient after the other, and names may follow time or place.

    Raises:
        UserError: losses that are no numbers in [0, 1], or another number of patients than of cases.
    """
    if losses.ndim != 2 or len(losses) != len(patients):
        raise UserError(f"losses must be (cases, settings), got {losses.shape} and {len(patients)} patients")
    if not ((losses >= 0) & (losses <= 1)).all():  # NaN fails too
        raise UserError(f"losses must be in [0, 1], got {losses.min():g} to {losses.max():g}")
    names = np.array(patients, dtype=str)
    order = numpy_generator("patients of a calibration").permutation(np.unique(names))
    return np.array([losses[names == name].mean(axis=0) for name in order]).reshape(-1, losses.shape[1])


def fewest_patients(alpha: float, delta: float | None = None) -> int:
    """Find the smallest calibration set that allows a guarantee, if none of its patients has any loss.

    Args:
        alpha: the largest mean loss, in (0, 1).
        delta: 1 - confidence, in (0, 1); None: in expectation. An interval of coverage 1 - alpha needs as many.

    Raises:
        UserError: alpha or delta out of range.
    """
    _check_rates(alpha, delta)
    if delta is None:
        return math.ceil((1 - _ROUNDING) / alpha - 1)
    too_few, enough = 0, 1
    while not _could_guarantee(enough, alpha, delta):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if _could_guarantee(middle, alpha, delta) else (middle, enough)
    return enough


def too_few_patients(n_patients: int, alpha: float, delta: float | None) -> str:
    """Say that a calibration set is too small, and how large it has to be."""
    wanted = f"alpha {alpha:g}" + ("" if delta is None else f" with confidence {100 * (1 - delta):.4g} %")
    return (
        f"{n_patients} calibration patients are too few for {wanted}: at least {fewest_patients(alpha, delta)} are "
        f"needed, more where the model errs; add cases, or allow more"
    )


def control_risk(losses: NDArray[np.float64], alpha: float, delta: float | None = None) -> int | None:
    """Find the boldest setting that holds the guarantee.

    Args:
        losses: (patients, settings), in [0, 1], the most cautious setting first.
        alpha: the largest mean loss, in (0, 1).
        delta: 1 - confidence, in (0, 1); None: in expectation.

    Returns:
        Index of the setting; None if not even the most cautious one holds the guarantee.

    Raises:
        UserError: alpha or delta out of range, or too few patients: says how many it takes.
    """
    if len(losses) < fewest_patients(alpha, delta):
        raise UserError(too_few_patients(len(losses), alpha, delta))
    if delta is None:
        # Conformal risk control needs losses that only rise: each setting answers for all that are more cautious.
        worst_so_far = np.maximum.accumulate(losses, axis=1)
        holds = worst_so_far.sum(axis=0) + 1 <= alpha * (len(losses) + 1) + _ROUNDING
    else:
        holds = betting_p_values(losses, alpha, delta) <= delta
    in_a_row = int(np.argmin(holds)) if not holds.all() else len(holds)
    return in_a_row - 1 if in_a_row else None


def betting_p_values(losses: NDArray[np.float64], alpha: float, delta: float) -> NDArray[np.float64]:
    """Compute for each setting a p-value of "its mean loss is above alpha", made to be compared with delta.

    A gambler with capital 1 bets on each loss that it is below alpha; were the mean above alpha, the capital would ever
    reach 1 / p with probability p at most (Ville). With the losses L_i in their order,

        K_i = product over j <= i of 1 - nu_j (L_j - alpha),  nu_j = min(1, sqrt(2 ln(1/delta) / (n s_{j-1}^2))),

    where s_j^2 is the running variance, and p = 1 / max_i K_i.

    Args:
        losses: (patients, settings), in [0, 1], patients independent.
        alpha: in (0, 1).
        delta: in (0, 1); sets how much is bet.

    Returns:
        (settings), in (0, 1].

    Reference: Bates et al. 2021, proposition 5.
    """
    n = len(losses)
    count = np.arange(1, n + 1)[:, None]
    mean = (0.5 + np.cumsum(losses, axis=0)) / (1 + count)
    variance = (0.25 + np.cumsum((losses - mean) ** 2, axis=0)) / (1 + count)
    known = np.concatenate([np.full((1, losses.shape[1]), 0.25), variance[:-1]])  # before the loss is seen
    bet = np.minimum(1, np.sqrt(2 * math.log(1 / delta) / (n * known)))
    capital = np.cumsum(np.log1p(-bet * (losses - alpha)), axis=0)
    return np.exp(-np.maximum(capital.max(axis=0), 0))


@dataclass(frozen=True)
class DiceInterval:
    """An interval that holds the Dice of a new patient's case with probability 1 - alpha: predicted ± quantile x scale.

    The scale is the case's uncertainty plus `UNCERTAINTY_FLOOR`.

    Attributes:
        quantile: of the calibration cases' |Dice - predicted| / scale.
        alpha: in (0, 1).
        n_cases: that it was calibrated on.
        n_patients: of these.
    """

    quantile: float
    alpha: float
    n_cases: int
    n_patients: int

    def around(self, predicted: float, uncertainty: float) -> tuple[float, float]:
        """Compute the interval of one case, within [0, 1].

        Args:
            predicted: its predicted Dice, in [0, 1], got as those of the calibration cases were.
            uncertainty: likewise, >= 0.

        Raises:
            UserError: one of them is out of its range.
        """
        _check_scores(np.array([predicted]), np.array([uncertainty]))
        width = self.quantile * (uncertainty + UNCERTAINTY_FLOOR)
        return max(0.0, predicted - width), min(1.0, predicted + width)


def calibrate_interval(
    dice: NDArray[np.float64],
    predicted: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    patients: Sequence[str],
    alpha: float,
) -> DiceInterval:
    """Calibrate an interval of the Dice by split conformal prediction, with errors normalised by an uncertainty.

    Cases of one patient are not independent: each patient's errors share one weight, which keeps the coverage for a
    case of a new patient. With a case per patient it is the usual quantile, of rank ceil((n + 1)(1 - alpha)).

    Args:
        dice: (cases), true, in [0, 1].
        predicted: (cases), in [0, 1], by what has seen none of these references.
        uncertainty: (cases), >= 0; all zero gives intervals of one width.
        patients: of each case.
        alpha: the share of cases whose Dice may lie outside, in (0, 1).

    Raises:
        UserError: alpha or a score out of range, arrays of different lengths, or too few patients.

    Reference: Lei et al. 2018; for patients Lee, Barber and Willett 2023, arXiv 2306.06342 (hierarchical).
    """
    needed = fewest_patients(alpha)
    if not len(dice) == len(predicted) == len(uncertainty) == len(patients):
        raise UserError(
            f"{len(dice)} Dice, {len(predicted)} predicted ones, {len(uncertainty)} uncertainties and {len(patients)} "
            f"patients: give one of each for every case"
        )
    _check_scores(predicted, uncertainty)
    if not ((dice >= 0) & (dice <= 1)).all():
        raise UserError(f"a Dice must be in [0, 1], got {dice.min():g} to {dice.max():g}")
    n_patients = len(set(patients))
    if n_patients < needed:
        raise UserError(
            f"{n_patients} calibration patients are too few for an interval that holds for "
            f"{100 * (1 - alpha):.4g} % of cases: at least {needed} are needed; add cases, or allow more"
        )
    errors = np.abs(dice - predicted) / (uncertainty + UNCERTAINTY_FLOOR)
    quantile = conformal_quantile(errors, patients, alpha)
    return DiceInterval(quantile, alpha, len(dice), n_patients)


def conformal_quantile(scores: NDArray[np.float64], patients: Sequence[str], rate: float) -> float:
    """Find what a new patient's case scores above with probability `rate` at most, or as near as patients allow.

    Each patient's cases share one weight. With a case per patient it is the score of rank ceil((n + 1)(1 - rate));
    where that is beyond the last, it is the largest, above which a new one is with probability 1 / (n + 1) at most.

    Args:
        scores: (cases), at least one.
        patients: of each case.
        rate: in (0, 1).
    """
    _, which, cases_of = np.unique(np.array(patients, dtype=str), return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    weight = np.cumsum(1 / cases_of[which[order]])
    rank = np.searchsorted(weight, (len(cases_of) + 1) * (1 - rate) - _ROUNDING)
    return float(scores[order][min(int(rank), len(scores) - 1)])


def _could_guarantee(n: int, alpha: float, delta: float) -> bool:
    return bool(betting_p_values(np.zeros((n, 1)), alpha, delta)[0] <= delta)


def _check_rates(alpha: float, delta: float | None) -> None:
    for name, rate in (("alpha", alpha), ("delta", delta)):
        if rate is not None and not 0 < rate < 1:
            raise UserError(f"{name} must be between 0 and 1, got {rate:g}: a usual one is 0.1")


def _check_scores(predicted: NDArray[np.float64], uncertainty: NDArray[np.float64]) -> None:
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise UserError(f"a predicted Dice must be in [0, 1], got {predicted.min():g} to {predicted.max():g}")
    if not ((uncertainty >= 0) & (uncertainty < math.inf)).all():
        raise UserError(f"an uncertainty must be a number >= 0, got {uncertainty.min():g} to {uncertainty.max():g}")
