"""What the images looked like that a model was trained on, and those that it was calibrated on.

Of training it is read from the model's folder: `dataset_fingerprint.json` (spacings, shapes), `dataset.json` and
`plans.json` (the normalisation, and the intensities of the object). What whole images look like is not in there: it
comes from the images of a calibration, where there are some (`ImageStatistics`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.json_files import OBJECT, read_json
from nnunet_robust.common.nnunet_files import DATASET, PLANS
from nnunet_robust.eval.images.image_statistics import ImageStatistics
from nnunet_robust.eval.images.normalisation import Normalisation

_SCHEMAS = {"dataset.json": DATASET, "plans.json": PLANS}


@dataclass(frozen=True)
class Training:
    """The images that a model was trained on, and those that it was calibrated on, in numbers.

    Attributes:
        channels: names of the channels, in order.
        normalisation: of the model.
        spacings_mm: (cases, axes).
        extents_mm: (cases, axes), of the part of each training image that is not zero.
        calibration: of the images of a calibration; none: whole images are not compared.
    """

    channels: tuple[str, ...]
    normalisation: Normalisation
    spacings_mm: NDArray[np.float64]
    extents_mm: NDArray[np.float64]
    calibration: tuple[ImageStatistics, ...] = ()


def read_training(model_folder: Path, configuration: str, calibration: Iterable[ImageStatistics] = ()) -> Training:
    """Read what a trained nnU-Net model's folder says of its training images.

    Args:
        model_folder: `<trainer>__<plans>__<configuration>`.
        configuration: 2d, 3d_fullres, ...
        calibration: of the images of a calibration.

    Raises:
        UserError: a file is missing or is not nnU-Net's.
    """
    files: dict[str, dict[str, Any]] = {}
    for name in ("dataset_fingerprint.json", "dataset.json", "plans.json"):
        path = model_folder / name
        if not path.is_file():
            raise UserError(
                f"no {path}: give a trained model's folder, or copy the file there from nnUNet_preprocessed"
            )
        files[name] = read_json(path, "restore it from nnUNet_preprocessed", _SCHEMAS.get(name, OBJECT), nan=True)
    fingerprint, dataset, plans = files.values()
    try:
        names = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
        channels = tuple(str(names[key]) for key in sorted(names, key=int))
        normalisation = Normalisation.of(plans, configuration)
        spacings = np.array(fingerprint["spacings"], float)
        extents = np.array(fingerprint["shapes_after_crop"], float) * spacings
        in_fingerprint = len(fingerprint["foreground_intensity_properties_per_channel"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{model_folder} has no nnU-Net fingerprint or plans of {configuration} ({error!r})") from error
    if not len(channels) == len(normalisation.schemes) == in_fingerprint:
        raise UserError(
            f"{model_folder}: {len(channels)} channels in dataset.json, {len(normalisation.schemes)} in plans.json, "
            f"{in_fingerprint} in dataset_fingerprint.json: the files are of different datasets"
        )
    return Training(channels, normalisation, spacings, extents, tuple(calibration))
