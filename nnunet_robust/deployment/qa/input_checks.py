"""Is an image what the model was trained on? Each check accepts it, asks a person to look, or rejects it, and says why.

Intensities are judged by what nnU-Net's normalisation leaves of them: after a z-score neither brightness nor contrast,
so that the grey scale of another scanner is no reason to look. See `training` for what images are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.qa.training import Training
from nnunet_robust.eval.images.image_files import ImageFiles, UnreadableError, check_stored, read_image
from nnunet_robust.eval.images.image_statistics import ImageStatistics
from nnunet_robust.eval.images.normalisation import CT, NetworkView, NormalisedImage

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
    "segmented intensities": Limits(review=0.5, reject=math.inf),  # likewise, where the normalisation keeps no units
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
_LEAST_DEVIATIONS = 0.25  # of what a few images that are alike have shown of a segmentation's grey
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
class CheckedImage:
    """An image, and the results of its checks.

    Attributes:
        checks: one for each.
        image: float32 (C, *spatial), raw intensities; None where it cannot be read.
        properties: what nnU-Net's reader gave beside it.
        statistics: of the image; None where nothing can be predicted on it.
        normalised: what the network sees of it; None likewise.
    """

    checks: tuple[Check, ...]
    image: NDArray[np.float32] | None
    properties: dict[str, Any]
    statistics: ImageStatistics | None
    normalised: NormalisedImage | None = None

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
    normalised = NormalisedImage.of(image, training.normalisation)
    view = NetworkView.of(normalised, spacing_mm)
    statistics = replace(ImageStatistics.of(image, spacing_mm), network=view)
    return CheckedImage((*done, *check_content(statistics, training)), image, properties, statistics, normalised)


def check_form(image: NDArray[np.floating], training: Training) -> tuple[Check, ...]:
    """Check what an image must be for a model to be run on it.

    Args:
        image: (C, *spatial), raw intensities as nnU-Net's reader gives them.
        training: what the model was trained on.

    Returns:
        A check each; what comes after a rejection is left out.
    """
    if len(image) != len(training.channels):
        expected = f"the model needs {len(training.channels)} ({', '.join(training.channels)})"
        advice = "give all images of the examination that it needs, and no colour picture of one"
        return (Check("channels", "reject", f"the image has {len(image)} channels, {expected}: {advice}"),)
    done = [Check("channels", "accept", f"{len(image)}, as in training")]
    broken = image.size - int(np.count_nonzero(np.isfinite(image)))
    if broken or not image.size:
        return (*done, Check("finite", "reject", f"{broken} of {image.size} voxels hold no number: {_AGAIN}"))
    done.append(Check("finite", "accept", "every voxel is a number"))
    flat = [name for name, channel in zip(training.channels, image, strict=True) if channel.min() == channel.max()]
    if flat:
        return (*done, Check("not empty", "reject", f"{flat[0]} has the same value in every voxel: {_AGAIN}"))
    done.append(Check("not empty", "accept", "voxels differ"))
    slices = np.rint(training.extents_mm[:, 0] / training.spacings_mm[:, 0])
    flat_training = bool((slices == 1).all())
    one_slice = image.shape[1] == 1
    if image.ndim - 1 != training.spacings_mm.shape[1] or (flat_training and not one_slice):
        expected = "2d images" if flat_training else "volumes"
        reason = f"the image has {_by(image.shape[1:])} voxels, the model needs {expected}: give the whole series"
        return (*done, Check("dimensions", "reject", reason))
    if one_slice and slices.min() > 1:
        reason = f"a single slice, usually at least {slices.min():.0f}: give the whole series"
        return (*done, Check("dimensions", "reject", reason))
    return (*done, Check("dimensions", "accept", f"{_by(image.shape[1:])} voxels"))


def check_content(statistics: ImageStatistics, training: Training) -> tuple[Check, ...]:
    """Check whether an image that has the right form looks as those of training and calibration did.

    Args:
        statistics: of the image, with what the network sees of it; without that (of an earlier version's calibration)
            checks that need it are left out.
        training: what the model was trained and calibrated on.
    """
    done, view = [], statistics.network
    if view is not None:
        done.append(_within_factor("spacing", np.array(view.spacing_mm), training.spacings_mm, "a voxel measures"))
        done.append(_within_factor("extent", np.array(view.extent_mm), training.extents_mm, "the image measures"))
    for index, name in enumerate(training.channels):
        if view is not None and training.normalisation.keeps_units(index):
            done.append(_object_intensities(view.object_share[index], index, name, training))
        done += _intensity_range(statistics, index, name, training)
        done += _contrast(statistics, index, name, training.calibration)
    return (*done, *_quality(statistics, training.calibration))


def check_segmented(view: NetworkView, training: Training) -> tuple[Check, ...]:
    """Check whether what a model calls an object has intensities of the objects in training, or in calibration.

    Args:
        view: of the image, with what was segmented in it.
        training: what the model was trained and calibrated on.

    Returns:
        A check per channel; none where nothing was segmented, or there is nothing to compare with.
    """
    found = []
    for index, (name, median) in enumerate(zip(training.channels, view.segmented, strict=False)):
        if median is not None:
            found += _segmented_intensities(median, index, name, training)
    return tuple(found)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the strictest of some verdicts; accept, if there are none."""
    return max(verdicts, key=VERDICTS.index, default="accept")


_AGAIN = "the file is damaged or was badly exported; export it again"
_DIRECTIONS = ("from slice to slice", "from row to row", "from column to column")
_ADVICE = {
    "spacing": "check slice thickness and protocol, and whether it is the original series",
    "extent": "check that the right part of the body is imaged, and that nothing is cut off",
    "object's intensities": "check that it is the right kind of image, in the right units",
    "intensity range": "check sequence or kernel, contrast agent, and look for artefacts and blank borders",
    "segmented intensities": "look whether the outline is on the right structure",
    "noise": "look whether the image is good enough, and at the outline with care",
    "smoothness": "look whether a filter was applied or the image was resampled",
    "blur": "look for motion, and whether the image was resampled",
    "contrast": "check the sequence, and whether the grey scale is inverted",
}
"""Check -> what a person should do where it speaks."""


def _check(name: str, verdict: Verdict, found: str, advice: str | None = None) -> Check:
    return Check(name, verdict, found if verdict == "accept" else f"{found}: {_ADVICE[advice or name]}")


def _within_factor(name: str, found: NDArray[np.float64], seen: NDArray[np.float64], what: str) -> Check:
    low, high = seen.min(axis=0), seen.max(axis=0)
    factor = np.maximum(found / high, low / np.maximum(found, 1e-12))
    axis = int(np.argmax(factor))
    usually = f"usually {low[axis]:.3g} to {high[axis]:.3g} mm (in {len(seen)} images of the training)"
    reason = f"{what} {found[axis]:.3g} mm {_DIRECTIONS[axis]}, {usually}"
    return _check(name, _beyond(name, float(factor[axis])), reason)


def _object_intensities(share: float, index: int, name: str, training: Training) -> Check:
    low, high = training.normalisation.object_range(index)
    verdict: Verdict = "reject" if share == 0 else "review" if share < _OBJECT_VOXELS else "accept"
    reason = (
        f"{100 * share:.2g} % of the voxels of {name} have a value that the structure had in training "
        f"({low:.4g} to {high:.4g})"
    )
    return _check("object's intensities", _mildly(verdict, index, training), reason)


def _quality(found: ImageStatistics, calibration: Sequence[ImageStatistics]) -> list[Check]:
    """Noise and blur, against those of the calibration's images; nothing where they cannot be measured."""
    checks = []
    seen = [image.noise_sigma for image in calibration if image.noise_sigma is not None]
    if seen and found.noise_sigma is not None:
        low, high, now = (max(value, _LEAST_NOISE) for value in (min(seen), max(seen), found.noise_sigma))
        noisier, smoother = _beyond("noise", now / high), _beyond("smoothness", low / now)
        noisy = "noisier than usual" if noisier != "accept" else "as noisy as usual"
        what = "smoother than usual" if smoother != "accept" else noisy
        reason = f"the image is {what} (noise {found.noise_sigma:.3g} of its range of grey values, {_seen(seen)})"
        verdict = max(noisier, smoother, key=VERDICTS.index)
        checks.append(_check("noise", verdict, reason, "smoothness" if what.startswith("smoother") else "noise"))
    seen = [image.blur for image in calibration if image.blur is not None]
    if seen and found.blur is not None:
        left, now = (max(1 - value, _LEAST_SHARPNESS) for value in (max(seen), found.blur))
        verdict = _beyond("blur", left / now)
        what = "as sharp as usual" if verdict == "accept" else "less sharp than usual"
        reason = f"the image is {what} (blur {found.blur:.3g}; 0 is sharp, 1 the most; {_seen(seen)})"
        checks.append(_check("blur", verdict, reason))
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
    beyond = _beyond("contrast", max(found - high, low - found) / max(high - low, _LEAST_WIDTH))
    turned = found < 0 < low or high < 0 < found
    verdict: Verdict = "review" if turned else beyond
    unusual = "as usual" if verdict == "accept" else "less than usual" if found < low else "more than usual"
    reason = f"bright details prevail over dark ones in {name} {unusual} (skewness {found:.3g}, {_seen(known)})" + (
        ", as if black and white were exchanged" if turned else ""
    )
    return [_check("contrast", verdict, reason)]


def _seen(values: Sequence[float]) -> str:
    return f"usually {min(values):.3g} to {max(values):.3g} in {len(values)} calibration images"


def _beyond(name: str, distance: float) -> Verdict:
    limits = LIMITS[name]
    return "reject" if distance > limits.reject else "review" if distance > limits.review else "accept"


_PARTS = ("the darkest parts", "the middle greys", "the brightest parts")  # the percentiles


def _intensity_range(statistics: ImageStatistics, index: int, name: str, training: Training) -> list[Check]:
    """By how many widths of what was seen the percentiles of what the normalisation leaves lie beyond it.

    Widths are at least a tenth of the contrast. Nothing where the calibration has no such percentiles.
    """
    found = _left(statistics, index, training)
    known = [_left(image, index, training) for image in training.calibration]
    seen = np.array([of for of in known if of is not None])
    if found is None or not len(seen):
        return []
    low, high = seen.min(axis=0), seen.max(axis=0)
    # A calibration of like images has next to no width: then a tenth of the images' own contrast.
    width = np.maximum(high - low, 0.1 * np.median(seen[:, 2] - seen[:, 0]))
    beyond = np.maximum(np.maximum(found - high, low - found), 0) / np.maximum(width, 1e-12)
    at = int(np.argmax(beyond))
    verdict = _mildly(_beyond("intensity range", float(beyond[at])), index, training)
    unusual = (
        "as usual" if verdict == "accept" else "darker than usual" if found[at] < low[at] else "brighter than usual"
    )
    reason = (
        f"{_evened(index, training)}{_PARTS[at]} of {name} are {unusual} ({found[at]:.4g}, usually {low[at]:.4g} to "
        f"{high[at]:.4g} in {len(seen)} calibration images)"
    )
    return [_check("intensity range", verdict, reason)]


def _left(statistics: ImageStatistics, index: int, training: Training) -> NDArray[np.float64] | None:
    """The three percentiles of what the normalisation leaves of a channel."""
    if training.normalisation.keeps_units(index):
        return training.normalisation.left(index, statistics.percentiles[index])
    if statistics.network is None or (found := statistics.network.percentiles[index]) is None:
        return None
    return np.array(found)


def _segmented_intensities(median: float, index: int, name: str, training: Training) -> list[Check]:
    """Of what keeps its units against training's range; else against the calibration's, by widths of what was seen."""
    if training.normalisation.keeps_units(index):
        low, high = training.normalisation.object_range(index)
        seen, allowed = f"usually {low:.4g} to {high:.4g} in training", 0.0
    else:
        views = [image.network for image in training.calibration]
        known = [view.segmented[index] for view in views if view is not None and view.segmented]
        values = [value for value in known if value is not None]
        if not values:
            return []
        low, high = min(values), max(values)
        seen = _seen(values)
        allowed = LIMITS["segmented intensities"].review * max(high - low, _LEAST_DEVIATIONS)
    verdict: Verdict = "accept" if low - allowed <= median <= high + allowed else "review"
    unusual = _unusual(verdict, median < low)
    reason = f"{_evened(index, training)}what is outlined in {name} is {unusual} ({median:.4g}, {seen})"
    return [_check("segmented intensities", verdict, reason)]


def _unusual(verdict: Verdict, darker: bool) -> str:
    return "as usual" if verdict == "accept" else "darker than usual" if darker else "brighter than usual"


def _evened(index: int, training: Training) -> str:
    return "" if training.normalisation.keeps_units(index) else "with brightness and contrast evened out, "


def _mildly(verdict: Verdict, index: int, training: Training) -> Verdict:
    """Only CT has a unit that all scanners share; else what is unusual is looked at, and rejects nothing."""
    return "review" if verdict == "reject" and training.normalisation.schemes[index] != CT else verdict


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
