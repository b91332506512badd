"""The limits of the Dice below which a segmentation is looked at, or rejected.

They come from the calibration's own cases, or from the user.

A limit that suits one model and one object makes no triage of another's: where every case is below it, all are to be
looked at. So the default goes by what is usual for this model, on images like those of its calibration.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.qa.rating import Rule, dice_rule, share_rule
from nnunet_robust.eval.conformal.calibration import Calibration
from nnunet_robust.eval.conformal.control import conformal_quantile
from nnunet_robust.eval.conformal.informative import LEAST_DICE

REVIEWED = 0.05
"""The share of cases like those of the calibration that are to be looked at for the Dice of one structure."""
Pair = tuple[float, float]


def check_limits(dice: Pair | None, share: Pair | None) -> None:
    """Make sure that limits, to review and then to reject, are in [0, 1] and in order.

    Raises:
        UserError: limits out of [0, 1], or the one to reject is the milder.
    """
    for name, limits, sign in (("dice", dice, 1), ("share", share, -1)):
        if limits is not None and not (min(limits) >= 0 and max(limits) <= 1 and sign * limits[0] >= sign * limits[1]):
            review, reject = limits
            raise UserError(f"--{name}-limits {review:g} {reject:g}: give two in [0, 1], to review and then to reject")


def rules_of(
    calibration: Calibration, dice: Pair | None = None, share: Pair | None = None
) -> dict[str, tuple[Rule, ...]]:
    """Make the rules that the segmentations of each structure are rated by.

    Args:
        calibration: of the model.
        dice: limits of the lower end of the Dice's interval, to review and to reject; None: `usual_dice`.
        share: of the share of the outer mask that is not in the inner one; None: it is not judged.

    Raises:
        UserError: see `check_limits`.
    """
    check_limits(dice, share)
    shared = () if share is None else (share_rule(*share),)
    return {
        structure: (usual_dice(calibration, structure) if dice is None else dice_rule(*dice), *shared)
        for structure in calibration.bounds
    }


def usual_dice(calibration: Calibration, structure: str) -> Rule:
    """Derive limits of the lower end of the Dice's interval from those of the calibration's own cases.

    Amber is what is below their `REVIEWED` quantile, of the conformal rank: a new case is with that probability at
    most (with fewer than 19 patients: 1 / (patients + 1)), on average over calibration sets. Patients have one weight
    each. Red is what is further below the lowest of them than that is below their median; never, where that is below 0.

    Args:
        calibration: of the model.
        structure: one of it; without an interval the rule finds nothing known, which is amber.
    """
    interval = calibration.intervals.get(structure)
    if interval is None:
        return dice_rule(0.0, 0.0)
    scores = [(case.patient, case.labels[structure]) for case in calibration.cases]
    lows = np.array([interval.around(score.predicted_dice or 0.0, score.uncertainty or 0.0)[0] for _, score in scores])
    patients = [patient for patient, _ in scores]
    review = -conformal_quantile(-lows, patients, REVIEWED)
    lowest, median = float(lows.min()), float(np.median(lows))
    rate = max(REVIEWED, 1 / (len(set(patients)) + 1))
    why_amber = f", as in at most {100 * rate:.3g} % of cases like those of the calibration"
    if review < LEAST_DICE:
        why_amber = ", which is to say that nothing is known of it"
    why_red = (
        f": further below the lowest of the calibration's {len(lows)} cases ({lowest:.3f}) than that is below their "
        f"median ({median:.3f})"
    )
    return dice_rule(max(review, LEAST_DICE), max(2 * lowest - median, 0.0), (why_amber, why_red))


def described(rules: Mapping[str, tuple[Rule, ...]]) -> dict[str, dict[str, dict[str, float]]]:
    """Describe the limits of each structure's rules, for a manifest."""
    return {
        structure: {rule.name: {"amber": rule.amber, "red": rule.red} for rule in of_structure}
        for structure, of_structure in rules.items()
    }
