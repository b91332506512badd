"""Whether a calibration's guarantees hold on the images of a sweep, whatever was done to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.calibration import Calibration
from nnunet_robust.eval.conformal.calibration_file import read_calibration
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, LossCurve, loss_curves
from nnunet_robust.eval.inference.members import Prediction
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.predictor import model_identity, predicted_dice
from nnunet_robust.eval.results.manifest import CalibrationEntry
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.uncertainty.uncertainty import StructureScores


@dataclass(frozen=True)
class Guarantees:
    """A calibration whose guarantees a sweep checks.

    Attributes:
        calibration: of one of the sweep's models.
        digest: SHA-256 of its file.
    """

    calibration: Calibration
    digest: str

    def described(self) -> CalibrationEntry:
        """The calibration as the manifest tells of it."""
        return CalibrationEntry(sha256=self.digest, **self.calibration.described())

    def rows(self, prediction: Prediction, scores: Mapping[str, StructureScores], scene: Scene) -> list[dict[str, Any]]:
        """The rows of `bounds.csv` of one prediction, one a structure.

        Args:
            prediction: with its members.
            scores: structure -> its scores of uncertainty.
            scene: the case.
        """
        uncertainty = prediction.found
        assert uncertainty is not None
        layout = scene.label_layout
        valid = None if scene.ignore_label is None else scene.label != scene.ignore_label
        made = []
        for name, bounds in self.calibration.bounds.items():
            reference, segmentation = layout.mask(scene.label, name), layout.mask(prediction.labels, name)
            probability = np.clip(uncertainty.mean[layout.index[name]], 0, 1)  # rounding goes beyond
            curves = loss_curves(reference, segmentation, scene.spacing_mm, probability, valid)
            row: dict[str, Any] = {"label": name}
            row |= {kind: _loss(curves[kind], kind, bound.setting) for kind, bound in bounds.items()}
            interval = self.calibration.intervals.get(name)
            ends: Sequence[Any] = ("", "")
            if interval is not None:
                ends = interval.around(predicted_dice(scores[name], uncertainty.n_members), scores[name].entropy_bits)
            made.append({**row, "dice_low": ends[0], "dice_high": ends[1]})
        return made


def _loss(curve: LossCurve, kind: Any, setting: float | None) -> Any:
    """The share of the object that is missed, or of the mask that is not object; empty without a guarantee."""
    if setting is None or (kind.startswith("outer") and curve.of[0] == 0):
        return ""
    (where,) = np.nonzero(SETTINGS[kind] == setting)
    return float(curve.losses[where[0]])


def read_guarantees(
    files: Sequence[Path],
    models: Sequence[Model],
    members: Sequence[str],
    precision: str,
    digests: Sequence[Mapping[str, str | None]],
    patients: Mapping[str, str],
) -> dict[str, Guarantees]:
    """Model key -> the calibration of that model.

    Args:
        files: from `nnunet-robust calibrate`, at most one for each model.
        models: of the sweep.
        members: that the sweep tells apart.
        precision: of the sweep.
        digests: of the sweep's cases, name -> digest, and those of each test set of a series.
        patients: case -> patient.

    Raises:
        UserError: a file is no calibration, is of no model of the sweep, or was made on one of its cases.
    """
    found: dict[str, Guarantees] = {}
    for path in files:
        calibration = read_calibration(path)
        identities = {model.key: model_identity(model, members, precision) for model in models}
        fits = [key for key, identity in identities.items() if identity == calibration.model]
        if not fits:
            same = [i for i in identities.values() if i["checkpoints"] == calibration.model.get("checkpoints")]
            if same:
                calibration.check_model(same[0])  # says in what they differ
            raise UserError(
                f"--calibration {path}: it is of {calibration.model.get('trainer')}, fold "
                f"{calibration.model.get('fold')}, and no model of this sweep has its checkpoints: calibrate those"
            )
        if fits[0] in found:
            raise UserError(f"--calibration {path}: {fits[0]} has one already: give one for each model")
        for of_set in digests:
            calibration.check_unseen({name: digest for name, digest in of_set.items() if digest}, patients)
        found[fits[0]] = Guarantees(calibration, sha256(path))
    return found


def members_calibrated(files: Sequence[Path]) -> Sequence[str]:
    """What the members of the calibrated models are told apart by; nothing without calibrations."""
    return read_calibration(files[0]).model["members"] if files else ()
