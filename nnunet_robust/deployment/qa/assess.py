"""One new image: checked, predicted, bounded and rated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from nnunet_robust.common.digest import digest_of_case, digest_of_images
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.deployment.qa.input_checks import (
    Check,
    CheckedImage,
    Verdict,
    check_file,
    check_segmented,
    worst,
)
from nnunet_robust.deployment.qa.limits import Pair, rules_of
from nnunet_robust.deployment.qa.rating import COLOUR_OF, Evidence, Rating, Rule, rate
from nnunet_robust.deployment.qa.training import Training, read_training
from nnunet_robust.eval.conformal.calibration import Calibration
from nnunet_robust.eval.conformal.loss_curves import Kind, bound_mask
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.predictor import Predicted, Predictor
from nnunet_robust.eval.uncertainty.label_layout import Mask

By = Literal["threshold", "margin"]
KINDS: dict[By, tuple[Kind, Kind]] = {  # inner, outer
    "threshold": ("inner_threshold", "outer_threshold"),
    "margin": ("inner_margin_mm", "outer_margin_mm"),
}
NO_CALIBRATION = "without a calibration the verdict rests on checks of the image alone"


@dataclass(frozen=True)
class Finding:
    """The findings on one structure of one image.

    Attributes:
        evidence: what the rating rests on.
        rating: the colour, and why.
        inner: mask (*spatial); None: none was calibrated.
        outer: likewise.
    """

    evidence: Evidence
    rating: Rating
    inner: Mask | None
    outer: Mask | None


@dataclass(frozen=True)
class Assessment:
    """The findings on one image.

    Attributes:
        case: its name.
        checked: the image, and its checks.
        checks: those, and those that needed a prediction.
        predicted: None where there is nothing that could be predicted.
        findings: structure -> what was found; empty likewise.
        verdict: the strictest of all structures.
        reasons: for it, the gravest first.
    """

    case: str
    checked: CheckedImage
    checks: tuple[Check, ...]
    predicted: Predicted | None
    findings: dict[str, Finding]
    verdict: Verdict
    reasons: tuple[str, ...]


def load_calibrated(
    folder: Path, checkpoint: str, device: torch.device, calibration: Calibration, trusted: bool = False
) -> Predictor:
    """Load a model as it was calibrated: its folds, mirroring, members and precision; `trusted` as in `load_model`.

    Raises:
        UserError: it is another model.
    """
    given = calibration.model
    model = load_model(folder, given["fold"].split("+"), checkpoint, device, given["mirroring"], None, trusted)
    predictor = Predictor(model, given["members"], given["precision"])
    calibration.check_model(predictor.identity)
    return predictor


class Assessor:
    """Assesses new images with one model.

    Args:
        predictor: the model.
        calibration: of this model; None: images are judged by checks alone.
        by: what the masks are made with.
        dice_limits: of the ratings, to review and to reject; see `rules_of`.
        share_limits: likewise.

    Raises:
        UserError: the calibration is of another model, `by` is neither, limits that are none, or the model's folder
            lacks what checks go by.
    """

    def __init__(
        self,
        predictor: Predictor,
        calibration: Calibration | None,
        by: By = "threshold",
        dice_limits: Pair | None = None,
        share_limits: Pair | None = None,
    ) -> None:
        if by not in KINDS:
            raise UserError(f"--kind {by}: take {' or '.join(KINDS)}")
        if calibration is not None:
            calibration.check_model(predictor.identity)
        self._predictor, self._calibration, self._kinds = predictor, calibration, KINDS[by]
        self.rules: dict[str, tuple[Rule, ...]] = (
            rules_of(calibration, dice_limits, share_limits) if calibration else {}
        )
        model = predictor.model
        seen = [case.image for case in calibration.cases] if calibration else []
        self.training: Training = read_training(model.folder, model.configuration, seen)
        # The last part of a case's digest is its label's.
        used = calibration.cases if calibration else ()
        self._calibrated_on = {digest_of_images(case.digest, len(case.image.percentiles)): case.case for case in used}

    @property
    def structures(self) -> tuple[str, ...]:
        """The names of the model's structures."""
        return tuple(self._predictor.model.label_layout.structures)

    @property
    def channels(self) -> int:
        """How many channels the images have that the model takes."""
        return len(self.training.channels)

    @property
    def file_ending(self) -> str:
        """The file ending of the images that the model takes."""
        return str(self._predictor.model.predictor.dataset_json["file_ending"])

    def assess(self, files: ImageFiles) -> Assessment:
        """Assess one image.

        Args:
            files: of the image.
        """
        case, checked = files.name, check_file(files, self._predictor.model.reader, self.training)
        checks, predicted = list(checked.checks), None
        if checked.predictable and checked.image is not None:
            checks += self._known(files)
            try:
                predicted = self._predictor.predict(checked.image, checked.properties)
            except Exception as error:  # whatever nnU-Net raises: the other images are not to wait for it
                checks.append(Check("predicted", "reject", one_line(error)))
        if predicted is None or checked.image is None:
            reasons = tuple(f"{check.name}: {check.reason}" for check in checks if check.verdict == "reject")
            return Assessment(case, checked, tuple(checks), None, {}, "reject", reasons)
        if checked.statistics is not None and checked.statistics.network and checked.normalised:
            view = checked.statistics.network.with_segmentation(checked.normalised, predicted.segmented)
            checks += check_segmented(view, self.training)
        findings = {name: self._finding(name, predicted, tuple(checks)) for name in predicted.label_layout.structures}
        verdict = worst(finding.rating.verdict for finding in findings.values())
        reasons = _together({name: finding.rating for name, finding in findings.items()}, verdict)
        return Assessment(case, checked, tuple(checks), predicted, findings, verdict, reasons)

    def _known(self, files: ImageFiles) -> list[Check]:
        case = self._calibrated_on.get(digest_of_case(files.images, self.channels))
        if case is None:
            return []
        reason = f"it is case {case!r} of the calibration: what was promised with it proves nothing on it"
        return [Check("new image", "review", reason)]

    def _finding(self, name: str, predicted: Predicted, checks: tuple[Check, ...]) -> Finding:
        mask = predicted.mask(name)
        inner, outer = (self._bound(kind, name, predicted, mask) for kind in self._kinds)
        interval = self._calibration.intervals.get(name) if self._calibration else None
        unit, size = unit_of(predicted.spacing_mm, mask.shape)
        evidence = Evidence(
            dice=interval.around(predicted.predicted_dice(name), predicted.scores[name].entropy_bits)
            if interval and mask.any()  # of nothing, nothing is known
            else None,
            dice_confidence=1 - interval.alpha if interval else None,
            segmentation=size * np.count_nonzero(mask),
            inner=None if inner is None else size * np.count_nonzero(inner),
            outer=None if outer is None else size * np.count_nonzero(outer),
            unit=unit,
            checks=checks,
        )
        rating = rate(evidence, self.rules.get(name, ()))
        if self._calibration is None:
            rating = replace(rating, reasons=(*rating.reasons, NO_CALIBRATION))
        return Finding(evidence, rating, inner, outer)

    def _bound(self, kind: Kind, name: str, predicted: Predicted, mask: Mask) -> Mask | None:
        bound = self._calibration.bounds[name][kind] if self._calibration else None
        if bound is None or bound.setting is None:
            return None
        probability = predicted.probability(name) if kind.endswith("threshold") else None
        return bound_mask(kind, bound.setting, mask, predicted.spacing_mm, probability)


def unit_of(spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[str, float]:
    """Return the unit of sizes, and how much of it a voxel is: ml, or mm² of what nnU-Net read from a 2d format."""
    # There the readers give a voxel 999 times the depth of its other sides.
    if shape[0] == 1 and spacing_mm[0] >= 999 * max(spacing_mm[1:]) * (1 - 1e-6):
        return "mm²", float(np.prod(spacing_mm[1:]))
    return "ml", float(np.prod(spacing_mm)) / 1000


def _together(ratings: Mapping[str, Rating], verdict: Verdict) -> tuple[str, ...]:
    """The reasons of all structures: those that all have once, others with the structure's name."""
    colours = [colour for colour in ("red", "amber", "green") if verdict == "accept" or colour != "green"]
    shared = set.intersection(*(set(rating.reasons) for rating in ratings.values()))
    found = [
        reason if reason in shared else f"{name}: {reason}"
        for colour in colours
        for name, rating in ratings.items()
        if rating.colour == colour
        for reason in rating.reasons
    ]
    return tuple(dict.fromkeys(found))


def colour_of(assessment: Assessment) -> str:
    """Return the colour of an image, as a rating has it."""
    return COLOUR_OF[assessment.verdict]
