"""`calibration.json`: a calibration with every case's digest and loss curves, so that its guarantees can be made again.

Reading it does that: a file whose guarantees do not follow from its cases is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_robust import __version__
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.common.schemas import check_schema
from nnunet_robust.common.text_files import file_fault
from nnunet_robust.eval.conformal.calibration import Calibration, CalibrationCase, CaseScores, calibrate
from nnunet_robust.eval.conformal.false_alarms import FalseAlarms
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, Kind, LossCurve
from nnunet_robust.eval.images.image_statistics import ImageStatistics
from nnunet_robust.eval.images.normalisation import NetworkView

FORMAT = 3
_EARLIER = 2
"""Of the version before: without sizes of outer masks, what the network sees of an image, and false alarms."""
_AGAIN = "calibrate again"
_OF_A_VERSION = {"type": "object", "required": ["format", "settings"]}
_CASE = {
    "type": "object",
    "properties": {
        "case": {"type": "string"},
        "patient": {"type": "string"},
        "digest": {"type": "string"},
        "image": {"type": "object"},
        "labels": {"type": "object", "additionalProperties": {"type": "object"}},
    },
    "required": ["case", "patient", "digest", "image", "labels"],
}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "model": {
            "type": "object",
            "properties": {
                "fold": {"type": "string"},
                "mirroring": {"type": "boolean"},
                "members": {"type": "array", "items": {"type": "string"}},
                "precision": {"type": "string"},
            },
            "required": ["fold", "mirroring", "members", "precision"],
        },
        "condition": {"type": "string"},
        "alpha": {"type": "number"},
        "delta": {"type": ["number", "null"]},
        "interval_alpha": {"type": "number"},
        "training": {"type": "string"},
        "false_alarms": {"type": ["object", "null"]},
        "cases": {"type": "array", "items": _CASE},
    },
    "required": ["model", "condition", "alpha", "delta", "interval_alpha", "training", "cases"],
}
_GIVEN = ("model", "condition", "alpha", "delta", "interval_alpha", "training")


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration, whole or not at all; the same calibration gives the same bytes."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        **{name: getattr(calibration, name) for name in _GIVEN},
        **_guarantees(calibration),
        "false_alarms": None if calibration.false_alarms is None else calibration.false_alarms.to_json(),
        "settings": settings(),
    }
    # A line for each: a file to look into.
    head = [f"{json.dumps(name)}: {_dumps(value)}" for name, value in content.items()]
    cases = ",\n".join(_dumps(case_to_json(case)) for case in calibration.cases)
    write_atomically(path, "{\n" + ",\n".join(head) + ',\n"cases": [\n' + cases + "\n]\n}\n")


def read_calibration(path: Path) -> Calibration:
    """Read a calibration and make its guarantees again from its curves.

    Raises:
        UserError: no such file, not a calibration, of another version of this package, or one whose guarantees are not
            those of its cases.
    """
    if not path.is_file():
        raise UserError(f"no calibration {path}: make one with nnunet-robust calibrate")
    content = read_json(path, _AGAIN, _OF_A_VERSION)
    if content["format"] not in (FORMAT, _EARLIER) or content["settings"] != settings():
        raise UserError(f"{path} is of another version of this package ({content.get('version')}): {_AGAIN}")
    check_schema(content, _SCHEMA, lambda what: file_fault(path, what, _AGAIN))
    try:
        cases = [case_from_json(case) for case in content["cases"]]
        calibration = calibrate(cases, **{name: content[name] for name in _GIVEN})
        if (counted := content.get("false_alarms")) is not None:
            calibration = replace(calibration, false_alarms=FalseAlarms.from_json(counted))
        made = _guarantees(calibration)
        if content["format"] == _EARLIER:  # which had other words
            made = {name: made[name] for name in ("bounds", "intervals")}
        stored = {name: content[name] for name in made}
    except UserError as error:  # of its cases
        raise file_fault(path, str(error), _AGAIN) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{path} is not a calibration ({type(error).__name__}: {one_line(error)}): {_AGAIN}") from error
    if stored != made:
        raise UserError(f"the promises in {path} are not those of its cases: the file was changed, calibrate again")
    return calibration


def _guarantees(calibration: Calibration) -> dict[str, Any]:
    """What follows from the cases, JSON-ready."""
    return {
        "in_words": [sentence for label in calibration.bounds for sentence in calibration.sentences(label)],
        "uninformative": calibration.uninformative(),
        "sizes": {
            label: {kind: asdict(size) for kind, size in calibration.sizes(label).items()}
            for label in calibration.bounds
        },
        "bounds": {
            label: {kind: asdict(bound) for kind, bound in kinds.items()} for label, kinds in calibration.bounds.items()
        },
        "intervals": {label: asdict(interval) for label, interval in calibration.intervals.items()},
    }


def settings() -> dict[str, list[float]]:
    """List the settings that curves have a number for, JSON-ready."""
    return {kind: settings.tolist() for kind, settings in SETTINGS.items()}


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def case_to_json(case: CalibrationCase) -> dict[str, Any]:
    """Turn a case into what JSON can hold."""
    labels = {
        label: {
            "dice": scores.dice,
            "predicted_dice": scores.predicted_dice,
            "uncertainty": scores.uncertainty,
            "curves": {kind: _curve_to_json(kind, curve) for kind, curve in scores.curves.items()},
        }
        for label, scores in case.labels.items()
    }
    who = {"case": case.case, "patient": case.patient, "digest": case.digest}
    return {**who, "image": asdict(case.image), "labels": labels}


def case_from_json(case: Mapping[str, Any]) -> CalibrationCase:
    """Restore the case that `case_to_json` was given.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it was given none.
    """
    labels = {
        label: CaseScores(
            {kind: _curve(kind, curve) for kind, curve in scores["curves"].items()},
            scores["dice"],
            scores["predicted_dice"],
            scores["uncertainty"],
        )
        for label, scores in case["labels"].items()
    }
    image = case["image"]
    percentiles = tuple((low, median, high) for low, median, high in image["percentiles"])
    network = None if image.get("network") is None else NetworkView.from_json(image["network"])
    statistics = ImageStatistics(percentiles, image["noise_sigma"], image["blur"], tuple(image["polarity"]), network)
    return CalibrationCase(case["case"], case["patient"], case["digest"], statistics, labels)


def _curve_to_json(kind: Kind, curve: LossCurve) -> dict[str, list[int]]:
    counts = {"wrong": curve.wrong.tolist(), "of": curve.of.tolist()}
    if kind.startswith("outer") and curve.size is not None:  # an inner mask's size is what it is wrong of
        counts["size"] = curve.size.tolist()
    return counts


def _curve(kind: Kind, curve: Mapping[str, list[int]]) -> LossCurve:
    wrong, of = np.array(curve["wrong"]), np.array(curve["of"])
    size = np.array(curve["size"]) if "size" in curve else of if kind.startswith("inner") else None
    if wrong.shape != SETTINGS[kind].shape or of.shape != wrong.shape or not ((wrong >= 0) & (wrong <= of)).all():
        raise ValueError(f"a curve of {kind} that is none")
    if size is not None and (size.shape != wrong.shape or not (size >= 0).all()):
        raise ValueError(f"sizes of {kind} that are none")
    return LossCurve(wrong, of, size)
