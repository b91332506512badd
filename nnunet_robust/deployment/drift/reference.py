"""A reference: in-distribution images, measured. One JSON file of raw numbers, of which all else is made again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_robust import __version__
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.common.schemas import check_schema
from nnunet_robust.common.text_files import file_fault
from nnunet_robust.deployment.drift.bottleneck import Basis, basis_patients

FORMAT = 1

_AGAIN = "fit it again with nnunet-robust monitor fit"
_OF_A_VERSION = {"type": "object", "required": ["format"]}
IMAGES: Mapping[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "case": {"type": "string"},
            "patient": {"type": "string"},
            "digest": {"type": "string"},
            "features": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
            "activations": {"type": "array"},
        },
        "required": ["case", "patient", "digest", "features", "activations"],
    },
}
"""The schema of measured images."""
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "model": {"type": "object"},
        "condition": {"type": "string"},
        "n_left_out": {"type": "integer", "minimum": 0},
        "rate": {"type": "number"},
        "setup": {"type": "object", "additionalProperties": {"type": "string"}},
        "images": IMAGES,
    },
    "required": ["model", "condition", "n_left_out", "rate", "setup", "images"],
}
_IN_USE: Mapping[str, Any] = {
    "properties": {
        "setup": {"required": ["folder", "checkpoint", "file_ending", "patient", "training"]},
        "model": {
            "properties": {
                "fold": {"type": "string"},
                "mirroring": {"type": "boolean"},
                "members": {"type": "array", "items": {"type": "string"}},
                "precision": {"type": "string"},
            },
            "required": ["trainer", "plans", "configuration", "fold", "mirroring", "members", "precision"],
        },
    }
}
"""What new images need."""

FEWEST_PATIENTS = 10
"""The fewest patients of a reference.

Simulated, at a rate of 1 %, where one feature of ten leaves all that the reference has: with 5 patients
43 % of streams set off an alarm within 150 images, with 10 all (benchmarks/drift_simulation.py).
"""


@dataclass(frozen=True)
class MeasuredImage:
    """An image that was measured.

    Attributes:
        case: its name.
        patient: that it is of.
        digest: SHA-256 of its files.
        features: name -> number; NaN: not defined.
        activations: means of a layer's channels, see `mean_activation`; none where the layer is not known.
    """

    case: str
    patient: str
    digest: str
    features: dict[str, float]
    activations: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The images of a time when all was well, measured. `of` makes one.

    Attributes:
        model: what tells the model from others: names, and the digests of its checkpoints.
        condition: what the images are, in words: "clean images of the test set".
        images: measured, by patient and case, the first of each patient.
        n_left_out: number of further images of the same patients, which do not count.
        rate: of false alarms over the whole stream that follows, in (0, 1).
        setup: how later images are to be read: "folder" of the model, its "checkpoint", the "file_ending" and number of
            "channels" of images, the "patient" pattern of their names, and what is known of the model's "training".
    """

    model: dict[str, Any]
    condition: str
    images: tuple[MeasuredImage, ...]
    n_left_out: int
    rate: float = 0.01
    setup: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        images: Iterable[MeasuredImage],
        model: Mapping[str, Any],
        condition: str,
        rate: float = 0.01,
        setup: Mapping[str, str] | None = None,
    ) -> Reference:
        """Make a reference of images that the model was not trained on.

        Of each patient the image counts whose name is the first: images of one patient are more alike than those of
        several, and a test that takes them for as many would give false alarms.

        Raises:
            UserError: too few patients, images twice, images that were not measured alike, or a rate that is none.
        """
        check_rate(rate)
        given = sorted(images, key=lambda image: (image.patient, image.case))
        for image in given:
            _check_measured_like(given[0], image)
        _check_none_twice(given)
        firsts = tuple({image.patient: image for image in reversed(given)}.values())[::-1]
        check_patients(len(firsts))
        return cls(dict(model), condition, firsts, len(given) - len(firsts), rate, dict(setup or {}))

    def leaving_out(self, n_left_out: int) -> Reference:
        """Return the same reference, with a number of further images of its patients that were not even measured."""
        return replace(self, n_left_out=n_left_out)

    @cached_property
    def basis(self) -> Basis | None:
        """The basis that activations are reduced by, made of half of the patients; None without activations."""
        if not self.images[0].activations:
            return None
        return Basis.of([image.activations for image in self.images if image.patient in self._in_basis])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all features, in a fixed order."""
        return (*self.images[0].features, *self._reduced(self.images[0]))

    def row(self, image: MeasuredImage) -> NDArray[np.float64]:
        """Return a new image's features (features,), in the order of `names`; NaN: not defined.

        Raises:
            UserError: it was measured otherwise than the reference.
        """
        _check_measured_like(self.images[0], image)
        return np.array([image.features[name] for name in self.images[0].features] + [*self._reduced(image).values()])

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """The features of all images (images, features), see `row`."""
        return np.array([self.row(image) for image in self.images])

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Whether a feature of an image counts (images, features): not those of the basis, for images that made it."""
        counts = np.ones(self.rows.shape, bool)
        from_basis = [image.patient in self._in_basis for image in self.images]
        counts[from_basis, len(self.images[0].features) :] = False
        return counts

    @cached_property
    def _in_basis(self) -> frozenset[str]:
        return basis_patients([image.patient for image in self.images])

    def _reduced(self, image: MeasuredImage) -> dict[str, float]:
        return {} if self.basis is None else self.basis.features(image.activations)


def check_rate(rate: float) -> None:
    """Make sure that a rate of false alarms is in (0, 1).

    Raises:
        UserError: it is not.
    """
    if not 0 < rate < 1:
        raise UserError(f"the rate of false alarms must be between 0 and 1, got {rate:g}: give e.g. 0.01")


def check_patients(n_patients: int) -> None:
    """Make sure that a reference has enough patients.

    Raises:
        UserError: it has not.
    """
    if n_patients < FEWEST_PATIENTS:
        raise UserError(
            f"a reference of {n_patients} patients: give images of {FEWEST_PATIENTS} or more, "
            f"with fewer even a large change is seldom found"
        )


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference, whole or not at all; the same one gives the same bytes."""
    head = {
        "format": FORMAT,
        "version": __version__,
        "model": reference.model,
        "condition": reference.condition,
        "n_left_out": reference.n_left_out,
        "rate": reference.rate,
        "setup": dict(reference.setup),
    }
    write_atomically(path, lines_to_json(head, map(image_to_json, reference.images)))


def read_reference(path: Path) -> Reference:
    """Read a reference.

    Raises:
        UserError: no such file, not a reference, or of another version of this package.
    """
    if not path.is_file():
        raise UserError(f"no reference {path}: make one with nnunet-robust monitor fit")
    content = read_json(path, _AGAIN, _OF_A_VERSION)
    if content["format"] != FORMAT:
        raise UserError(f"{path} is of another version of this package ({content.get('version')}): {_AGAIN}")
    check_schema(content, _SCHEMA, lambda what: file_fault(path, what, _AGAIN))
    try:
        images = [image_from_json(image) for image in content["images"]]
        made = Reference.of(images, content["model"], content["condition"], content["rate"], content["setup"])
        return made.leaving_out(int(content["n_left_out"]))
    except UserError as error:  # of its images
        raise file_fault(path, str(error), _AGAIN) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{path} is not a reference ({type(error).__name__}: {one_line(error)}): {_AGAIN}") from error


def check_setup(path: Path, reference: Reference) -> None:
    """Make sure that a reference says how new images are to be read, and by which model.

    Args:
        path: of its file, for messages.
        reference: as read.

    Raises:
        UserError: it lacks something.
    """
    stored = {"setup": dict(reference.setup), "model": reference.model}
    check_schema(stored, _IN_USE, lambda what: file_fault(path, what, _AGAIN))


def lines_to_json(head: Mapping[str, Any], images: Iterable[Mapping[str, Any]]) -> str:
    """Write a JSON object with a line for each entry and each image, for people to look into."""
    entries = [f"{json.dumps(name)}: {_dumps(value)}" for name, value in head.items()]
    return "{\n" + ",\n".join(entries) + ',\n"images": [\n' + ",\n".join(map(_dumps, images)) + "\n]\n}\n"


def image_to_json(image: MeasuredImage) -> dict[str, Any]:
    """Turn a measured image into what JSON can hold; what is not defined is null."""
    features = {name: None if math.isnan(value) else value for name, value in image.features.items()}
    who = {"case": image.case, "patient": image.patient, "digest": image.digest}
    return {**who, "features": features, "activations": list(image.activations)}


def image_from_json(image: Mapping[str, Any]) -> MeasuredImage:
    """Restore the image that `image_to_json` was given.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it was given none.
    """
    features = {name: math.nan if value is None else float(value) for name, value in image["features"].items()}
    activations = tuple(float(value) for value in image["activations"])
    who = (image["case"], image["patient"], image["digest"])
    if not all(isinstance(name, str) for name in who):
        raise TypeError(f"names {who}")
    return MeasuredImage(*who, features, activations)


def _check_measured_like(first: MeasuredImage, image: MeasuredImage) -> None:
    if image.features.keys() != first.features.keys():
        differing = ", ".join(sorted(image.features.keys() ^ first.features.keys()))
        raise UserError(f"{image.case} was measured otherwise than {first.case}: only one of them has {differing}")
    n, m = len(image.activations), len(first.activations)
    if n != m:
        raise UserError(f"{image.case} has {n} activations and {first.case} {m}: take those of one layer")


def _check_none_twice(images: Sequence[MeasuredImage]) -> None:
    by_digest: dict[str, str] = {}
    for image in images:
        other = by_digest.setdefault(image.digest, image.case)
        if other != image.case:
            raise UserError(f"{image.case} and {other} are the same image: leave one of them out")
    if len({image.case for image in images}) < len(images):
        raise UserError("two images have one name: give each its own")


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
