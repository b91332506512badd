"""From images with labels to `calibration.json`. What is finished is kept beside it, until all is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_robust import __version__
from nnunet_robust.common.console import quiet, warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import flush_to_disk, write_atomically
from nnunet_robust.common.json_files import parse_state
from nnunet_robust.common.locks import exclusive_lock
from nnunet_robust.eval.conformal.calibration import Calibration, CalibrationCase, CaseScores, calibrate
from nnunet_robust.eval.conformal.calibration_file import (
    FORMAT,
    case_from_json,
    case_to_json,
    settings,
    write_calibration,
)
from nnunet_robust.eval.conformal.control import fewest_patients, too_few_patients
from nnunet_robust.eval.conformal.false_alarms import FalseAlarms
from nnunet_robust.eval.conformal.loss_curves import loss_curves
from nnunet_robust.eval.images.cases import CaseFiles, sha256_of_case
from nnunet_robust.eval.images.image_files import check_stored
from nnunet_robust.eval.images.image_statistics import ImageStatistics
from nnunet_robust.eval.images.normalisation import NetworkView, Normalisation, NormalisedImage
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.predictor import Predicted, Predictor
from nnunet_robust.eval.uncertainty.label_layout import Mask

Track = Callable[[Sequence[CaseFiles]], Iterable[CaseFiles]]
Judge = Callable[[Calibration], FalseAlarms | None]

LEAST_RATE = 1e-6
"""What is rarer no calibration tells: it would need as many patients."""


@dataclass(frozen=True)
class Guarantee:
    """What is to be guaranteed; see `calibrate`.

    Attributes:
        alpha: the largest mean loss of a mask, in (0, 1).
        delta: 1 - the confidence of that, in (0, 1); None: in expectation.
        interval_alpha: the share of cases whose Dice may lie outside of its interval, in (0, 1).
        condition: what the images are, in words.

    Raises:
        UserError: a number out of its range.
    """

    alpha: float
    delta: float | None
    interval_alpha: float
    condition: str

    def __post_init__(self) -> None:
        for name in ("alpha", "delta", "interval_alpha"):
            rate = getattr(self, name)
            if rate is not None and not LEAST_RATE <= rate < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {rate:g}: give a number between 0 and 1, as 0.1")


def run_calibration(
    predictor: Predictor,
    cases: Sequence[CaseFiles],
    guarantee: Guarantee,
    training: str,
    output: Path,
    track: Track,
    judge: Judge | None = None,
) -> Calibration:
    """Calibrate a model and write the file; a run that was killed goes on where it stood.

    Args:
        predictor: the model.
        cases: to calibrate on.
        guarantee: what is to be guaranteed.
        training: what is known of whether the model was trained on these cases.
        output: of the calibration, a `.json`.
        track: wraps the cases that are gone through, for a progress bar.
        judge: measures false alarms, which are stored with the calibration; None: they are not measured.

    Raises:
        UserError: too few patients, another process that works on the same file, or cases that cannot be read: all of
            them are named, and nothing is computed.
    """
    n_patients = len({case.patient for case in cases})
    for alpha, delta in ((guarantee.alpha, guarantee.delta), (guarantee.interval_alpha, None)):
        if n_patients < fewest_patients(alpha, delta):
            raise UserError(too_few_patients(n_patients, alpha, delta))
    _check_readable(predictor, cases)
    held = f"another process is calibrating into {output}: wait for it, or give another -o"
    with exclusive_lock(output.with_name(f".{output.name}.lock"), held):  # there is one list of finished cases
        return _run(predictor, cases, guarantee, training, output, track, judge)


def _run(
    predictor: Predictor,
    cases: Sequence[CaseFiles],
    guarantee: Guarantee,
    training: str,
    output: Path,
    track: Track,
    judge: Judge | None,
) -> Calibration:
    unfinished = _Unfinished(output.with_name(f".{output.name}.unfinished"), predictor.identity)
    measured = []
    for case in track(cases):
        digest = sha256_of_case(case, predictor.model.channels)
        found = unfinished.cases.get((case.name, case.patient, digest))
        if found is None:
            found = measure_case(predictor, case, digest)
            unfinished.add(found)
        measured.append(found)
    calibration = calibrate(
        measured,
        predictor.identity,
        guarantee.condition,
        guarantee.alpha,
        guarantee.delta,
        guarantee.interval_alpha,
        training,
    )
    if judge is not None:
        calibration = replace(calibration, false_alarms=judge(calibration))
    write_calibration(output, calibration)
    unfinished.path.unlink()
    return calibration


def measure_case(predictor: Predictor, files: CaseFiles, digest: str) -> CalibrationCase:
    """Predict a case and count what every setting of a bound would have cost on it.

    Args:
        predictor: the model.
        files: of the case.
        digest: SHA-256 of these.

    Raises:
        UserError: see `Model.read`; or it cannot be predicted.
    """
    model = predictor.model
    with quiet():
        loaded = model.read(files)
    predicted = predictor.predict(loaded.image, loaded.properties)
    valid = None if model.ignore_label is None else loaded.label != model.ignore_label
    labels = {}
    for name in model.label_layout.structures:
        reference, mask = model.label_layout.mask(loaded.label, name), predicted.mask(name)
        labels[name] = CaseScores(
            loss_curves(reference, mask, predicted.spacing_mm, predicted.probability(name), valid, sizes=True),
            _dice(reference, mask, valid),
            predicted.predicted_dice(name),
            predicted.scores[name].entropy_bits,
        )
    statistics = _statistics(model, loaded.image, predicted)
    return CalibrationCase(files.name, files.patient, digest, statistics, labels)


def _statistics(model: Model, image: NDArray[np.float32], predicted: Predicted) -> ImageStatistics:
    plans = model.predictor.plans_manager.plans
    normalised = NormalisedImage.of(image, Normalisation.of(plans, model.configuration))
    statistics = ImageStatistics.of(image, predicted.spacing_mm)
    view = NetworkView.of(normalised, predicted.spacing_mm).with_segmentation(normalised, predicted.segmented)
    return replace(statistics, network=view)


def _dice(reference: Mask, mask: Mask, valid: Mask | None) -> float:
    if valid is not None:
        reference, mask = reference & valid, mask & valid
    both = int(np.count_nonzero(reference)) + int(np.count_nonzero(mask))
    return 2 * int(np.count_nonzero(reference & mask)) / both if both else 1.0


def _check_readable(predictor: Predictor, cases: Sequence[CaseFiles]) -> None:
    faults = []
    for case in cases:
        try:
            with quiet():
                notes = predictor.model.read(case).notes
            check_stored(case)
        except UserError as error:
            faults.append(str(error))
            continue
        for note in notes:
            warn(f"{case.title}: {note}")
    if faults:
        raise UserError(
            f"{len(faults)} of {len(cases)} calibration cases cannot be used, and cases that are left out in silence "
            f"would change what is promised; mend or remove them: {'; '.join(faults)}"
        )


class _Unfinished:
    """The finished cases of a calibration that is not: a line for what they were measured with, then one for each."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.cases: dict[tuple[str, str, str], CalibrationCase] = {}
        header = {"format": FORMAT, "version": __version__, "model": dict(identity), "settings": settings()}
        first, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else [""]
        if first != json.dumps(header):
            write_atomically(path, json.dumps(header) + "\n")
            return
        whole = []
        for line in lines[:-1]:  # what follows the last line break was being written
            if (case := _measured(line)) is not None:
                self.cases[case.case, case.patient, case.digest] = case
                whole.append(line)
        if len(whole) < len(lines) - 1:
            warn(f"{path}: {len(lines) - 1 - len(whole)} lines are damaged: their cases are measured again")
        write_atomically(path, "\n".join([first, *whole]) + "\n")

    def add(self, case: CalibrationCase) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(case_to_json(case)) + "\n")
        flush_to_disk(self.path)


def _measured(line: str) -> CalibrationCase | None:
    """The case of a line; None where the line is damaged."""
    try:
        return case_from_json(parse_state(line))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        return None
