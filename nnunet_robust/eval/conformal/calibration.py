"""A calibration: what was measured on which cases under which condition, and the guarantees that rest on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_robust.common.digest import digest_of_images
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.control import (
    DiceInterval,
    calibrate_interval,
    control_risk,
    fewest_patients,
    patient_losses,
    too_few_patients,
)
from nnunet_robust.eval.conformal.false_alarms import FalseAlarms
from nnunet_robust.eval.conformal.informative import MaskSize, UsualInterval, kind_in_words, mask_size
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, Kind, LossCurve
from nnunet_robust.eval.images.image_statistics import ImageStatistics


@dataclass(frozen=True)
class CaseScores:
    """The scores of one structure in one calibration case.

    Attributes:
        curves: its losses, a curve per kind.
        dice: of the segmentation, in [0, 1].
        predicted_dice: by a score that needs no reference, in [0, 1]; None: there is no such score.
        uncertainty: by another, >= 0; None likewise.
    """

    curves: dict[Kind, LossCurve]
    dice: float
    predicted_dice: float | None = None
    uncertainty: float | None = None


@dataclass(frozen=True)
class CalibrationCase:
    """A case that a model was calibrated on, and had not been trained on.

    Attributes:
        case: its name.
        patient: that it is of.
        digest: SHA-256 of its files.
        image: its image in a few numbers.
        labels: structure -> what is known of it.
    """

    case: str
    patient: str
    digest: str
    image: ImageStatistics
    labels: dict[str, CaseScores]


@dataclass(frozen=True)
class Bound:
    """A guarantee about the outer or inner masks of one structure.

    Attributes:
        setting: of the kind's masks: a probability, or mm; None: no setting can guarantee it.
        mean_loss: at this setting, over the calibration patients, rounded to 9 decimals; None where there is none.
        n_cases: that it was calibrated on; for an outer mask those that have the object.
        n_patients: of these.
    """

    setting: float | None
    mean_loss: float | None
    n_cases: int
    n_patients: int


@dataclass(frozen=True)
class Calibration:
    """Guarantees, and all that they rest on. `calibrate` makes one, `calibration_file` stores it.

    Attributes:
        model: what tells the model from others: names, and the digests of its checkpoints.
        condition: what the calibration images were, in words: "clean images".
        alpha: the largest mean loss of a mask, in (0, 1).
        delta: 1 - the confidence of that; None: in expectation.
        interval_alpha: the share of cases whose Dice may lie outside of its interval.
        cases: the calibration set, by name.
        bounds: structure -> kind -> guarantee.
        intervals: structure -> interval; none for structures whose cases have no predicted Dice.
        training: what is known of whether the model was trained on these cases, in words.
        false_alarms: how often `qa` would speak of these cases; None: it was not measured.
    """

    model: dict[str, Any]
    condition: str
    alpha: float
    delta: float | None
    interval_alpha: float
    cases: tuple[CalibrationCase, ...]
    bounds: dict[str, dict[Kind, Bound]]
    intervals: dict[str, DiceInterval]
    training: str = ""
    false_alarms: FalseAlarms | None = None

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Make sure that a model is the one that was calibrated.

        Raises:
            UserError: it is another.
        """
        other = sorted(key for key in {*self.model, *model} if self.model.get(key) != model.get(key))
        if other:
            before, now = self.model.get(other[0]), model.get(other[0])
            raise UserError(
                f"the calibration is of another model ({other[0]} is {before!r} there, {now!r} now): calibrate this one"
            )

    def check_unseen(self, digests: Mapping[str, str], patients: Mapping[str, str]) -> None:
        """Make sure that guarantees are not measured on what they rest on.

        Args:
            digests: case -> SHA-256 of its files; of its images that counts, whatever its labels.
            patients: case -> patient; one that is named as the case is no record of who it is.

        Raises:
            UserError: a case, or another case of its patient, is of the calibration set.
        """
        channels = len(self.cases[0].image.percentiles)
        used = {digest_of_images(case.digest, channels): case.case for case in self.cases}
        known = {case.patient: case.case for case in self.cases if case.patient != case.case}
        both = {
            name: used.get(digest_of_images(digest, channels)) or known.get(patients.get(name, ""))
            for name, digest in digests.items()
        }
        seen = sorted((name, there) for name, there in both.items() if there)
        if seen:
            raise UserError(
                f"{len(seen)} of {len(digests)} cases are of the calibration set, or of its patients (first "
                f"{seen[0][0]!r}, there {seen[0][1]!r}): what was promised on them proves nothing there; leave them out"
            )

    def described(self) -> dict[str, Any]:
        """Describe it for a manifest, JSON-ready."""
        return {
            "condition": self.condition,
            "alpha": self.alpha,
            "delta": self.delta,
            "interval_alpha": self.interval_alpha,
            "n_cases": len(self.cases),
            "n_patients": len({case.patient for case in self.cases}),
            "training": self.training,
            "sentences": [sentence for label in self.bounds for sentence in self.sentences(label)],
            "uninformative": self.uninformative(),
            "false_alarms": "" if self.false_alarms is None else self.false_alarms.sentence(),
        }

    def sizes(self, label: str) -> dict[Kind, MaskSize]:
        """How large the masks of a structure are in the calibration cases; without kinds that have no setting."""
        scores = [case.labels[label] for case in self.cases]
        return {
            kind: mask_size(kind, bound.setting, [score.curves for score in scores])
            for kind, bound in self.bounds[label].items()
            if bound.setting is not None
        }

    def uninformative(self) -> list[str]:
        """Write a sentence for each bound and interval that says nothing of where or how good a structure is."""
        said = []
        for label in self.bounds:
            sizes = self.sizes(label).items()
            said += [
                f"{label}: the {kind_in_words(kind)} is uninformative: {size.in_words(kind)}."
                for kind, size in sizes
                if size.uninformative(kind)
            ]
            if (usual := self.usual_interval(label)) is not None and usual.uninformative:
                said.append(f"{label}: the interval of the Dice is uninformative: {usual.in_words()}.")
        return said

    def usual_interval(self, label: str) -> UsualInterval | None:
        """The interval of the Dice in the median of the calibration cases; None: none could be made."""
        interval = self.intervals.get(label)
        if interval is None:
            return None
        scores = [case.labels[label] for case in self.cases]
        return UsualInterval.of([interval.around(s.predicted_dice or 0.0, s.uncertainty or 0.0) for s in scores])

    def sentences(self, label: str) -> list[str]:
        """Write a sentence for each guarantee of a structure; each holds on its own, not all at once."""
        sizes = self.sizes(label)
        sentences = [_sentence(self, label, kind, bound, sizes.get(kind)) for kind, bound in self.bounds[label].items()]
        if (usual := self.usual_interval(label)) is not None:
            interval = self.intervals[label]
            sentences.append(
                f"{label}: a Dice lies in its interval in {_percent(1 - interval.alpha)} of cases "
                f"({_on(interval.n_cases, interval.n_patients, self.condition)}). "
                f"{'Uninformative: ' if usual.uninformative else 'There '}{usual.in_words()}."
            )
        return sentences


def calibrate(
    cases: Iterable[CalibrationCase],
    model: Mapping[str, Any],
    condition: str,
    alpha: float,
    delta: float | None = None,
    interval_alpha: float = 0.1,
    training: str = "",
) -> Calibration:
    """Make the guarantees that a calibration set allows.

    Args:
        cases: that the model was not trained on, drawn as those to come will be.
        model: JSON-ready, what tells the model from others.
        condition: what the images are, in words.
        alpha: the largest mean loss of a mask, in (0, 1).
        delta: 1 - the confidence of that, in (0, 1); None: in expectation.
        interval_alpha: the share of cases whose Dice may lie outside of its interval, in (0, 1).
        training: what is known of whether the model was trained on these cases, in words.

    Raises:
        UserError: a case twice, cases that differ in what is known of them, a rate out of range, too few patients.
    """
    ordered = tuple(sorted(cases, key=lambda case: case.case))
    _check_cases(ordered)
    n_patients = len({case.patient for case in ordered})
    if n_patients < fewest_patients(alpha, delta):
        raise UserError(too_few_patients(n_patients, alpha, delta))
    bounds: dict[str, dict[Kind, Bound]] = {}
    intervals = {}
    for label in ordered[0].labels:
        scores = [case.labels[label] for case in ordered]
        patients = [case.patient for case in ordered]
        bounds[label] = {
            kind: _bound(label, kind, [score.curves[kind] for score in scores], patients, alpha, delta)
            for kind in scores[0].curves
        }
        predicted = [score.predicted_dice for score in scores if score.predicted_dice is not None]
        if predicted:
            intervals[label] = calibrate_interval(
                np.array([score.dice for score in scores]),
                np.array(predicted),
                np.array([score.uncertainty or 0.0 for score in scores]),
                patients,
                interval_alpha,
            )
    return Calibration(dict(model), condition, alpha, delta, interval_alpha, ordered, bounds, intervals, training)


def _bound(
    label: str, kind: Kind, curves: list[LossCurve], patients: list[str], alpha: float, delta: float | None
) -> Bound:
    outer = kind in ("outer_threshold", "outer_margin_mm")
    # Where there is no object nothing can be missed: such cases would make the guarantee cheap for those that have one.
    used = [index for index, curve in enumerate(curves) if not outer or curve.of[0] > 0]
    whose = [patients[index] for index in used]
    n_patients = len(set(whose))
    if n_patients < fewest_patients(alpha, delta):
        return Bound(None, None, len(used), n_patients)
    losses = patient_losses(np.array([curves[index].losses for index in used]), whose)
    index = control_risk(losses, alpha, delta)
    if index is None:
        return Bound(None, None, len(used), n_patients)
    return Bound(float(SETTINGS[kind][index]), round(float(losses[:, index].mean()), 9), len(used), n_patients)


def _check_cases(cases: tuple[CalibrationCase, ...]) -> None:
    for before, case in itertools.pairwise(cases):
        if before.case == case.case:
            raise UserError(f"case {case.case!r} is twice in the calibration set: leave one out")
    known = {case.case: _known(case) for case in cases}
    for name, what in known.items():
        if what != known[cases[0].case]:
            raise UserError(
                f"case {name!r} has other structures, masks or scores than {cases[0].case!r}: measure all alike"
            )


def _known(case: CalibrationCase) -> dict[str, tuple[list[Kind], bool, bool]]:
    return {
        label: (sorted(scores.curves), scores.predicted_dice is None, scores.uncertainty is None)
        for label, scores in case.labels.items()
    }


def _sentence(calibration: Calibration, label: str, kind: Kind, bound: Bound, size: MaskSize | None) -> str:
    side, by = kind.split("_", 1)
    wrong = "of the object lies outside of the outer mask" if side == "outer" else "of the inner mask is not object"
    confidence = "" if calibration.delta is None else f", with confidence {_percent(1 - calibration.delta)}"
    who = "patients who have it" if side == "outer" else "patients"
    average = f"on average over {who}" + (" and calibration sets" if calibration.delta is None else "")
    where = _on(bound.n_cases, bound.n_patients, calibration.condition)
    how = "probability threshold" if by == "threshold" else "margin"
    at_most = _percent(calibration.alpha)
    if bound.setting is None or bound.mean_loss is None:
        needed = fewest_patients(calibration.alpha, calibration.delta)
        why = f"; at least {needed} patients are needed" if bound.n_patients < needed else ""
        return f"{label}: no {how} can promise that at most {at_most} {wrong}, on average{confidence} ({where}{why})."
    setting = f"{bound.setting:.4g}" + (" mm" if by == "margin_mm" else "")
    assert size is not None
    return (
        f"{label}: with the {how} {setting}, at most {at_most} {wrong}, {average}{confidence} "
        f"({where}; there it was {_percent(bound.mean_loss)}). "
        f"{size.sentence(kind)}"
    )


def _on(n_cases: int, n_patients: int, condition: str) -> str:
    return f"calibrated on {n_cases} cases of {n_patients} patients, {condition}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
