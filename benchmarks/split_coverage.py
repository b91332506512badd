"""Would guarantees have held? Over random splits of one set of cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.conformal.control import calibrate_interval, control_risk


@dataclass(frozen=True)
class SplitRisks:
    """A guarantee, calibrated on one part of the patients and checked on the other, once per split.

    Attributes:
        chosen: int (splits), index of the setting; -1 where none could be guaranteed.
        test_risk: float (splits), mean loss of the other patients at it; NaN where there was none.
    """

    chosen: NDArray[np.int64]
    test_risk: NDArray[np.float64]


def risk_over_splits(
    losses: NDArray[np.float64], n_calibration: int, alpha: float, delta: float | None, splits: int = 100, seed: int = 0
) -> SplitRisks:
    """Split patients at random, again and again. The splits share patients: they are no independent trials.

    Args:
        losses: (patients, settings), as for `control_risk`.
        n_calibration: patients to calibrate on; the others test.
        alpha: as for `control_risk`.
        delta: as for `control_risk`.
        splits: number of splits.
        seed: of the splits.

    Raises:
        UserError: as `control_risk`; no patients left to test on.
    """
    chosen, risks = np.full(splits, -1), np.full(splits, np.nan)
    for split, (calibration, test) in enumerate(_splits(len(losses), n_calibration, splits, seed)):
        index = control_risk(losses[calibration], alpha, delta)
        if index is not None:
            chosen[split], risks[split] = index, losses[test, index].mean()
    return SplitRisks(chosen, risks)


def interval_coverage_over_splits(
    dice: NDArray[np.float64],
    predicted: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    patients: Sequence[str],
    n_calibration: int,
    alpha: float,
    splits: int = 100,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Split patients at random, again and again, and see how often intervals of the Dice cover it.

    Args:
        dice: (cases), as for `calibrate_interval`.
        predicted: (cases), as for `calibrate_interval`.
        uncertainty: (cases), as for `calibrate_interval`.
        patients: of each case.
        n_calibration: patients to calibrate on; the others test.
        alpha: as for `calibrate_interval`.
        splits: number of splits.
        seed: of the splits.

    Returns:
        float (splits): the share of test cases whose Dice lies in its interval, each patient with the same weight.

    Raises:
        UserError: as `calibrate_interval`; no patients left to test on.
    """
    names, which = np.unique(np.array(patients, dtype=str), return_inverse=True)
    shares = np.empty(splits)
    for split, (calibration, _) in enumerate(_splits(len(names), n_calibration, splits, seed)):
        used = np.isin(which, calibration)
        made = calibrate_interval(
            dice[used],
            predicted[used],
            uncertainty[used],
            [patients[int(index)] for index in np.flatnonzero(used)],
            alpha,
        )
        held: dict[str, list[bool]] = {name: [] for name in names}
        for index in np.flatnonzero(~used):
            low, high = made.around(float(predicted[index]), float(uncertainty[index]))
            held[patients[int(index)]].append(bool(low <= dice[index] <= high))
        shares[split] = np.mean([np.mean(of_patient) for of_patient in held.values() if of_patient])
    return shares


def _splits(n: int, n_calibration: int, splits: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    if not 0 < n_calibration < n:
        raise UserError(f"{n_calibration} of {n} patients to calibrate on: some must be left to test on, take fewer")
    orders = [numpy_generator(seed, "split", split).permutation(n) for split in range(splits)]
    return [(order[:n_calibration], order[n_calibration:]) for order in orders]
