"""New images on disk: found, told apart by patient, predicted and measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.nnunet_files import recorded_patients
from nnunet_robust.deployment.drift.deepest import Deepest
from nnunet_robust.deployment.drift.features import image_features, prediction_features
from nnunet_robust.deployment.drift.reference import MeasuredImage
from nnunet_robust.deployment.qa.input_checks import check_form
from nnunet_robust.deployment.qa.training import read_training
from nnunet_robust.eval.images.image_files import ImageFiles, UnreadableError, check_stored, find_images, read_image
from nnunet_robust.eval.inference.predictor import Predictor


def new_images(
    folder: Path, file_ending: str, channels: int, patient: str = "", order: str = "name"
) -> list[ImageFiles]:
    """Find the images of a folder, each with its patient, in order.

    Who a patient is comes from the name, by a pattern; without one from a raw dataset's `dataset.json` beside the
    folder, where a converter of ours has recorded it; else each image is a patient's only one.

    Args:
        folder: of images, see `find_images`.
        file_ending: of the images.
        channels: how many channels an image has.
        patient: a regular expression whose first group, at the beginning of a case's name, is the patient; empty: none.
        order: name, or time: of the files' last change, then name.

    Raises:
        UserError: no such folder or images, no such order, a pattern without a group, or a name that does not fit it.
    """
    if order not in ("name", "time"):
        raise UserError(f"--order {order}: take name or time")
    found = find_images(folder, file_ending, channels)
    names = [image.name for image in found]
    patients = _by_pattern(names, patient) if patient else recorded_patients(folder.absolute().parent)
    images = [replace(image, patient=patients.get(image.name, image.name)) for image in found]
    images.sort(key=lambda image: image.name)
    if order == "time":
        images.sort(key=lambda image: max(path.stat().st_mtime_ns for path in image.images))
    return images


def _by_pattern(cases: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient {pattern!r} is no regular expression ({error})") from error
    if not compiled.groups:
        raise UserError(f"--patient {pattern!r} has no group: put what names the patient in brackets, as in '([^_]+)_'")
    matches = {case: compiled.match(case) for case in cases}
    if others := [case for case, match in matches.items() if not match or not match[1]]:
        raise UserError(
            f"--patient {pattern!r} does not fit {len(others)} of {len(cases)} names, such as {others[0]!r}: "
            f"rename those images, or give another pattern"
        )
    return {case: match[1] for case, match in matches.items() if match}


class Meter:
    """Measures images with one model.

    Args:
        predictor: the model.

    Raises:
        UserError: the model's folder lacks what nnU-Net puts there.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._training = read_training(predictor.model.folder, predictor.model.configuration)
        self._deepest = Deepest(predictor.window)

    def measure(self, image: ImageFiles, digest: str) -> MeasuredImage:
        """Read, predict and measure an image.

        Args:
            image: its files.
            digest: SHA-256 of these.

        Raises:
            UserError: it cannot be read or predicted: truncated, other channels, voxels that are no numbers, constant.
        """
        check_stored(image)
        try:
            with quiet():
                loaded = read_image(image, self._predictor.model.reader)
        except UnreadableError as error:
            raise UserError(f"it cannot be read: {error.reason}") from error
        faults = [check.reason for check in check_form(loaded.image, self._training) if check.verdict == "reject"]
        if faults:
            raise UserError(faults[0])
        features, activations = self.features(loaded.image, loaded.properties)
        return MeasuredImage(image.name, image.patient, digest, features, activations)

    def features(
        self, array: NDArray[np.float32], properties: dict[str, Any]
    ) -> tuple[dict[str, float], tuple[float, ...]]:
        """Measure an image in memory.

        Args:
            array: (C, *spatial), finite raw intensities as nnU-Net's reader gives them.
            properties: what the reader gave beside it.

        Returns:
            See `image_features` and `prediction_features`; and `Deepest.activations`.

        Raises:
            UserError: see `Predictor.predict`.
            ValueError: the network's activations are not finite.
        """
        activations: list[tuple[float, ...]] = []
        predicted = self._predictor.predict(
            array, properties, also=lambda data: activations.append(self._deepest.activations(data))
        )
        masks = {name: predicted.mask(name) for name in predicted.label_layout.structures}
        of_image = image_features(array, predicted.spacing_mm, self._training.channels)
        of_prediction = prediction_features(array, predicted.spacing_mm, masks, predicted.scores)
        return {**of_image, **of_prediction}, activations[0]
