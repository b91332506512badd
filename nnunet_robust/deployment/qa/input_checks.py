"""Is an image what the model was trained on? Each check accepts it, asks a person to look, or rejects it, and says why.

What training looked like is read from the model's folder: `dataset_fingerprint.json` (spacings, shapes, and the
intensities of the object), `dataset.json` and `plans.json`. What whole images look like is not in there: it comes from
the images of a calibration, where there are some (`ImageStatistics`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.image_files import ImageFiles, UnreadableError, check_stored, read_image
from nnunet_robust.eval.images.image_statistics import PERCENTILES, ImageStatistics
from nnunet_robust.eval.uncertainty.label_layout import Mask

Verdict = Literal["accept", "review", "reject"]
VERDICTS: tuple[Verdict, ...] = ("accept", "review", "reject")
"""From the mildest to the strictest."""


@dataclass(frozen=True)
class Limits:
    """The limits of a check. A factor of 1.1 means 10 % above the largest seen, or below the smallest.

    Attributes:
        review: from here on a person should look.
        reject: from here on the image is rejected; infinite: never for this reason.
    """

    review: float
    reject: float


LIMITS: dict[str, Limits] = {
    "spacing": Limits(review=1.1, reject=2.0),  # a factor, per axis
    "extent": Limits(review=1.25, reject=4.0),  # a factor, per axis, of the part that is not zero
    "intensity range": Limits(review=0.5, reject=3.0),  # in widths of what was seen, beyond it
    # Factors, against the calibration's images. Of clean hippocampus MRIs (80) and breast ultrasounds (65), 30 at
    # random to calibrate on, 200 times, none of the others was beyond; all were with Gaussian noise of 0.05, and with a
    # blur of 1 voxel (MRI) or 2 pixels. What noise does to a segmentation no factor tells, so that it rejects nothing.
    "noise": Limits(review=1.2, reject=math.inf),
    "smoothness": Limits(review=1.3, reject=math.inf),  # less noise than was ever seen
    "blur": Limits(review=1.2, reject=math.inf),  # of what blur has left over, 1 - blur
    # In widths of what was seen, beyond it; with the other sign than all that were seen, in any case. Of the same
    # images all were beyond when inverted, and 1 % (MRI) or fewer (ultrasound) when not.
    "contrast": Limits(review=0.25, reject=math.inf),
}
_LEAST_WIDTH = 0.1  # of what a few images that are alike have shown of contrast
_LEAST_NOISE = 3e-3  # rounding to 8 bits alone makes 0.001 to 0.002
_LEAST_SHARPNESS = 1e-2
NOTHING_TO_PREDICT = ("readable", "channels", "finite", "not empty", "dimensions")
"""Checks that, where they reject, leave nothing that a model could be run on."""
_OBJECT_VOXELS = 1e-4
"""Fewer voxels than this share with an intensity of the object: review. None at all: reject."""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: of the check.
        verdict: accept, review or reject.
        reason: what was measured, and on what it is judged.
    """

    name: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Training:
    """The images that a model was trained on, and those that it was calibrated on, in numbers.

    Attributes:
        channels: names of the channels, in order.
        fixed_units: for each channel whether its intensities have a unit that all images share (nnU-Net's CT
            normalisation). Others are arbitrary, and no image is rejected for them.
        spacings_mm: (cases, axes).
        extents_mm: (cases, axes), of the part of each training image that is not zero.
        object_intensities: for each channel the 0.5th and 99.5th percentile inside the objects, over all cases.
        calibration: of the images of a calibration; none: whole images are not compared.
    """

    channels: tuple[str, ...]
    fixed_units: tuple[bool, ...]
    spacings_mm: NDArray[np.float64]
    extents_mm: NDArray[np.float64]
    object_intensities: tuple[tuple[float, float], ...]
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
        try:
            files[name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}): restore it from nnUNet_preprocessed") from error
    fingerprint, dataset, plans = files.values()
    try:
        names = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
        channels = tuple(str(names[key]) for key in sorted(names, key=int))
        schemes = _normalisation(plans["configurations"], configuration)
        spacings = np.array(fingerprint["spacings"], float)
        extents = np.array(fingerprint["shapes_after_crop"], float) * spacings
        found = fingerprint["foreground_intensity_properties_per_channel"]
        objects = tuple(
            (float(found[key]["percentile_00_5"]), float(found[key]["percentile_99_5"]))
            for key in sorted(found, key=int)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{model_folder} has no nnU-Net fingerprint or plans of {configuration} ({error!r})") from error
    fixed_units = tuple(scheme == "CTNormalization" for scheme in schemes)
    if not len(channels) == len(fixed_units) == len(objects):
        raise UserError(
            f"{model_folder}: {len(channels)} channels in dataset.json, {len(fixed_units)} in plans.json, "
            f"{len(objects)} in dataset_fingerprint.json: the files are of different datasets"
        )
    return Training(channels, fixed_units, spacings, extents, objects, tuple(calibration))


@dataclass(frozen=True)
class CheckedImage:
    """An image, and the results of its checks.

    Attributes:
        checks: one for each.
        image: float32 (C, *spatial), raw intensities; None where it cannot be read.
        properties: what nnU-Net's reader gave beside it.
        statistics: of the image; None where nothing can be predicted on it.
    """

    checks: tuple[Check, ...]
    image: NDArray[np.float32] | None
    properties: dict[str, Any]
    statistics: ImageStatistics | None

    @property
    def predictable(self) -> bool:
        """Whether a model can be run on it."""
        return not any(check.name in NOTHING_TO_PREDICT and check.verdict == "reject" for check in self.checks)


def check_file(files: ImageFiles, reader: BaseReaderWriter, training: Training) -> CheckedImage:
    """Read an image, and check it if it can be read.

    Args:
        files: of the image.
        reader: nnU-Net's reader for the dataset's format.
        training: what the model was trained on.
    """
    try:
        check_stored(files)
        with quiet():
            loaded = read_image(files, reader)
    except UserError as error:
        reason = error.reason if isinstance(error, UnreadableError) else str(error)
        return CheckedImage((Check("readable", "reject", reason),), None, {}, None)
    image, properties, spacing_mm = loaded.image, loaded.properties, loaded.spacing_mm
    done = (Check("readable", "accept", "the file can be read"), *check_form(image, training))
    found = CheckedImage(done, image, properties, None)
    if not found.predictable:
        return found
    statistics = ImageStatistics.of(image, spacing_mm)
    checks = (*done, *check_content(image, spacing_mm, training, statistics))
    return CheckedImage(checks, image, properties, statistics)


def check_form(image: NDArray[np.floating], training: Training) -> tuple[Check, ...]:
    """Check what an image must be for a model to be run on it.

    Args:
        image: (C, *spatial), raw intensities as nnU-Net's reader gives them.
        training: what the model was trained on.

    Returns:
        A check each; what comes after a rejection is left out.
    """
    if len(image) != len(training.channels):
        expected = f"the model takes {len(training.channels)} ({', '.join(training.channels)})"
        return (Check("channels", "reject", f"the image has {len(image)} channels, {expected}"),)
    done = [Check("channels", "accept", f"{len(image)}, as in training")]
    broken = image.size - int(np.count_nonzero(np.isfinite(image)))
    if broken or not image.size:
        return (*done, Check("finite", "reject", f"{broken} of {image.size} voxels are NaN or infinite"))
    done.append(Check("finite", "accept", "every voxel is a number"))
    flat = [name for name, channel in zip(training.channels, image, strict=True) if channel.min() == channel.max()]
    if flat:
        return (*done, Check("not empty", "reject", f"{flat[0]} has the same value in every voxel"))
    done.append(Check("not empty", "accept", "voxels differ"))
    slices = np.rint(training.extents_mm[:, 0] / training.spacings_mm[:, 0])
    flat_training = bool((slices == 1).all())
    one_slice = image.shape[1] == 1
    if image.ndim - 1 != training.spacings_mm.shape[1] or (flat_training and not one_slice):
        expected = "2d images" if flat_training else "volumes"
        return (*done, Check("dimensions", "reject", f"{image.shape[1:]} voxels, the model takes {expected}"))
    if one_slice and slices.min() > 1:
        return (*done, Check("dimensions", "reject", f"a single slice, in training at least {slices.min():.0f}"))
    return (*done, Check("dimensions", "accept", f"{image.shape[1:]} voxels"))


def check_content(
    image: NDArray[np.floating], spacing_mm: Sequence[float], training: Training, statistics: ImageStatistics
) -> tuple[Check, ...]:
    """Check whether an image that has the right form looks as those of training and calibration did.

    Args:
        image: (C, *spatial), finite, not constant.
        spacing_mm: the voxel's size along each axis.
        training: what the model was trained on.
        statistics: of the image.
    """
    done = [_within_factor("spacing", np.array(spacing_mm), training.spacings_mm, "a voxel is")]
    filled = image.any(axis=0)
    extent = [_extent(filled, axis) * size for axis, size in enumerate(spacing_mm)]
    done.append(_within_factor("extent", np.array(extent), training.extents_mm, "what is not zero measures"))
    for index, name in enumerate(training.channels):
        done.append(_object_intensities(image[index], index, name, training))
        if training.calibration:
            done.append(_intensity_range(statistics, index, name, training))
            done += _contrast(statistics, index, name, training.calibration)
    return (*done, *_quality(statistics, training.calibration))


def check_segmented(image: NDArray[np.floating], segmentation: Mask, training: Training) -> tuple[Check, ...]:
    """Check whether what a model calls an object has intensities of the objects in training.

    Args:
        image: (C, *spatial), finite.
        segmentation: bool (*spatial), all that the model calls an object.
        training: what the model was trained on.

    Returns:
        A check per channel; none where nothing was segmented.
    """
    if not segmentation.any():
        return ()
    return tuple(
        _segmented_intensities(image[index][segmentation], index, name, training)
        for index, name in enumerate(training.channels)
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the strictest of some verdicts; accept, if there are none."""
    return max(verdicts, key=VERDICTS.index, default="accept")


def _within_factor(name: str, found: NDArray[np.float64], seen: NDArray[np.float64], what: str) -> Check:
    low, high = seen.min(axis=0), seen.max(axis=0)
    factor = np.maximum(found / high, low / np.maximum(found, 1e-12))
    axis = int(np.argmax(factor))
    verdict = _beyond(name, float(factor[axis]))
    seen_there = f"{low[axis]:.3g} to {high[axis]:.3g} mm in {len(seen)} training images"
    return Check(name, verdict, f"along axis {axis} {what} {found[axis]:.3g} mm, {seen_there}")


def _object_intensities(channel: NDArray[np.floating], index: int, name: str, training: Training) -> Check:
    low, high = training.object_intensities[index]
    share = np.count_nonzero((channel >= low) & (channel <= high)) / channel.size
    verdict = "reject" if share == 0 else "review" if share < _OBJECT_VOXELS else "accept"
    training_range = f"the object in training ({low:.4g} to {high:.4g})"
    reason = f"{100 * share:.2g} % of the voxels of {name} have an intensity of {training_range}"
    return Check("object's intensities", _mildly(verdict, training.fixed_units[index]), reason)


def _quality(found: ImageStatistics, calibration: Sequence[ImageStatistics]) -> list[Check]:
    """Noise and blur, against those of the calibration's images; nothing where they cannot be measured."""
    checks = []
    seen = [image.noise_sigma for image in calibration if image.noise_sigma is not None]
    if seen and found.noise_sigma is not None:
        low, high, now = (max(value, _LEAST_NOISE) for value in (min(seen), max(seen), found.noise_sigma))
        verdict = max(_beyond("noise", now / high), _beyond("smoothness", low / now), key=VERDICTS.index)
        reason = f"the noise is {found.noise_sigma:.3g} of the image's range, {_seen(seen)}"
        checks.append(Check("noise", verdict, reason))
    seen = [image.blur for image in calibration if image.blur is not None]
    if seen and found.blur is not None:
        left, now = (max(1 - value, _LEAST_SHARPNESS) for value in (max(seen), found.blur))
        reason = f"the blur is {found.blur:.3g} (0 is sharp, 1 the most), {_seen(seen)}"
        checks.append(Check("blur", _beyond("blur", left / now), reason))
    return checks


def _contrast(
    statistics: ImageStatistics, index: int, name: str, calibration: Sequence[ImageStatistics]
) -> list[Check]:
    """Do bright details prevail, or dark ones, as in the calibration's images? Nothing where it cannot be measured."""
    found = statistics.polarity[index]
    seen = [image.polarity[index] for image in calibration]
    known = [value for value in seen if value is not None]
    if found is None or not known:
        return []
    low, high = min(known), max(known)
    verdict = _beyond("contrast", max(found - high, low - found) / max(high - low, _LEAST_WIDTH))
    turned = found < 0 < low or high < 0 < found
    reason = (
        f"the skewness of the details of {name} is {found:.3g} (above 0 bright ones prevail, below 0 dark ones), "
        f"{_seen(known)}" + (": as if the contrast were inverted" if turned else "")
    )
    return [Check("contrast", "review" if turned else verdict, reason)]


def _seen(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g} in {len(values)} calibration images"


def _beyond(name: str, distance: float) -> Verdict:
    limits = LIMITS[name]
    return "reject" if distance > limits.reject else "review" if distance > limits.review else "accept"


def _intensity_range(statistics: ImageStatistics, index: int, name: str, training: Training) -> Check:
    """By how many widths of what was seen an image's percentiles lie beyond it; widths are at least the contrast's."""
    seen = np.array([image.percentiles[index] for image in training.calibration])
    found = np.array(statistics.percentiles[index])
    low, high = seen.min(axis=0), seen.max(axis=0)
    # A calibration of like images has next to no width: then a tenth of the images' own contrast.
    width = np.maximum(high - low, 0.1 * np.median(seen[:, 2] - seen[:, 0]))
    beyond = np.maximum(np.maximum(found - high, low - found), 0) / np.maximum(width, 1e-12)
    at = int(np.argmax(beyond))
    verdict = _beyond("intensity range", float(beyond[at]))
    where = f"{low[at]:.4g} to {high[at]:.4g} in {len(seen)} calibration images"
    reason = f"{PERCENTILES[at]:g} % of the voxels of {name} are below {found[at]:.4g}, {where}"
    return Check("intensity range", _mildly(verdict, training.fixed_units[index]), reason)


def _segmented_intensities(values: NDArray[np.floating], index: int, name: str, training: Training) -> Check:
    low, high = training.object_intensities[index]
    median = float(np.median(values))
    verdict: Verdict = "accept" if low <= median <= high else "review"
    reason = f"the median of {name} in what is called object is {median:.4g}, in training {low:.4g} to {high:.4g}"
    return Check("segmented intensities", verdict, reason)


def _mildly(verdict: str, fixed_units: bool) -> Verdict:
    """Arbitrary units differ from scanner to scanner: they are looked at, and reject nothing."""
    return "review" if verdict == "reject" and not fixed_units else next(v for v in VERDICTS if v == verdict)


def _extent(filled: Mask, axis: int) -> int:
    others = tuple(other for other in range(filled.ndim) if other != axis)
    where = np.flatnonzero(filled.any(axis=others))
    return int(where[-1] - where[0] + 1) if len(where) else 0


def _normalisation(configurations: dict[str, Any], name: str) -> Sequence[str]:
    """Of a configuration, or of the one that it inherits from."""
    configuration = configurations[name]
    if "normalization_schemes" in configuration:
        return list(configuration["normalization_schemes"])
    return _normalisation(configurations, configuration["inherits_from"])
