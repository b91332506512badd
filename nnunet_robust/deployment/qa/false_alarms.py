"""How often does quality assurance speak of ordinary images? The calibration's own cases, each judged without itself.

Each patient's cases are judged as new images would be, by the default limits and by a calibration on all other patients
(leave-one-patient-out): the images that they are compared with, the limits of the Dice, and the inner mask. What was
measured of them is stored in the calibration, so that no image is read or predicted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.qa.input_checks import Check, check_content, check_segmented
from nnunet_robust.deployment.qa.limits import rules_of
from nnunet_robust.deployment.qa.rating import Evidence, Rating, Rule, rate
from nnunet_robust.deployment.qa.training import Training
from nnunet_robust.eval.conformal.calibration import Calibration, CalibrationCase, calibrate
from nnunet_robust.eval.conformal.false_alarms import FalseAlarms
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, Kind

_GROUPS = 50
"""More patients than this are left out in so many groups, each of which takes a calibration."""


def false_alarms(calibration: Calibration, training: Training) -> FalseAlarms:
    """Count how many of a calibration's cases would be flagged.

    Args:
        calibration: whose cases hold what the network sees of each image.
        training: what the model was trained on; images to compare with come from the calibration.
    """
    patients = sorted({case.patient for case in calibration.cases})
    rated: list[tuple[CalibrationCase, list[Rating]]] = []
    all_remade = True
    for group in range(min(len(patients), _GROUPS)):
        left_out = set(patients[group::_GROUPS])
        others, remade = _without(calibration, left_out)
        all_remade &= remade
        known = replace(training, calibration=tuple(case.image for case in others.cases))
        rules = rules_of(others)
        rated += [(case, _rate(case, others, known, rules)) for case in calibration.cases if case.patient in left_out]
    flagged = [(case, ratings) for case, ratings in rated if any(one.colour != "green" for one in ratings)]
    accepted = [case for case, ratings in rated if all(one.colour == "green" for one in ratings)]
    reasons = Counter(about for _, ratings in flagged for about in {name for one in ratings for name in one.about})
    return FalseAlarms(
        n_cases=len(rated),
        n_patients=len(patients),
        n_flagged=len(flagged),
        n_rejected=sum(any(one.colour == "red" for one in ratings) for _, ratings in flagged),
        reasons=dict(sorted(reasons.items())),
        dice_flagged=_median_of_lowest([case for case, _ in flagged]),
        dice_accepted=_median_of_lowest(accepted),
        remade=all_remade,
    )


def _without(calibration: Calibration, patients: set[str]) -> tuple[Calibration, bool]:
    """The calibration on all other patients, and whether they are enough to make its guarantees anew."""
    cases = tuple(case for case in calibration.cases if case.patient not in patients)
    known = calibration
    try:
        return calibrate(cases, known.model, known.condition, known.alpha, known.delta, known.interval_alpha), True
    except UserError:
        return replace(calibration, cases=cases), False


def _rate(
    case: CalibrationCase, others: Calibration, training: Training, rules: Mapping[str, tuple[Rule, ...]]
) -> list[Rating]:
    checks = check_content(case.image, training)
    if case.image.network is not None:
        checks = (*checks, *check_segmented(case.image.network, training))
    return [rate(_evidence(case, others, label, checks), rules[label]) for label in others.bounds]


def _evidence(case: CalibrationCase, others: Calibration, label: str, checks: tuple[Check, ...]) -> Evidence:
    """What `Assessor` would find on a case, from what is stored of it; sizes are in voxels."""
    scores, interval = case.labels[label], others.intervals.get(label)
    segmentation = int(scores.curves["inner_margin_mm"].of[-1])  # the last setting leaves it as it is
    inner, outer = (_mask_size(case, others, label, kind) for kind in ("inner_threshold", "outer_threshold"))
    return Evidence(
        dice=interval.around(scores.predicted_dice or 0.0, scores.uncertainty or 0.0)
        if interval and segmentation
        else None,
        dice_confidence=1 - interval.alpha if interval else None,
        segmentation=segmentation,
        inner=inner,
        outer=outer,
        unit="voxels",
        checks=checks,
    )


def _mask_size(case: CalibrationCase, others: Calibration, label: str, kind: Kind) -> float | None:
    bound, curve = others.bounds[label].get(kind), case.labels[label].curves.get(kind)
    if bound is None or bound.setting is None or curve is None or curve.size is None:
        return None
    return float(curve.size[int(np.argmax(SETTINGS[kind] == bound.setting))])


def _median_of_lowest(cases: list[CalibrationCase]) -> float | None:
    lowest = [min(scores.dice for scores in case.labels.values()) for case in cases]
    return round(float(np.median(lowest)), 9) if lowest else None
