"""What nnU-Net's normalisation leaves of an image, in a few numbers: what a network sees, whatever the grey scale was.

Z-scores leave nothing of an image's brightness and contrast. CT normalisation leaves Hounsfield units between two
limits. So images are compared after the normalisation, and before resampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nnunetv2
import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from nnunet_robust.eval.uncertainty.label_layout import Mask

PERCENTILES = (0.5, 50.0, 99.5)
CT = "CTNormalization"
_SAME_UNIT = (CT, "NoNormalization", "RGBTo01Normalization")
"""Normalisations that do the same to every image, so that a grey value means the same after them as before."""


@dataclass(frozen=True)
class Normalisation:
    """How the plans of a model normalise images.

    Attributes:
        schemes: for each channel the name of nnU-Net's class.
        masked: for each channel whether only the part that is not zero is normalised.
        objects: for each channel nnU-Net's numbers on the intensities inside the objects, as `percentile_00_5`.
    """

    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    objects: tuple[Mapping[str, float], ...]

    @classmethod
    def of(cls, plans: Mapping[str, Any], configuration: str) -> Normalisation:
        """Read it from plans.

        Args:
            plans: as in `plans.json`.
            configuration: 2d, 3d_fullres, ...

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: these are no plans of nnU-Net's.
        """
        objects = plans["foreground_intensity_properties_per_channel"]
        known = PlansManager(plans).get_configuration(configuration)
        masked = tuple(map(bool, known.use_mask_for_norm))
        return cls(tuple(known.normalization_schemes), masked, tuple(objects[key] for key in sorted(objects, key=int)))

    def keeps_units(self, channel: int) -> bool:
        """Whether equal grey values of two images are equal for the network, too (not so after a z-score)."""
        return self.schemes[channel] in _SAME_UNIT

    def object_range(self, channel: int) -> tuple[float, float]:
        """The 0.5th and 99.5th percentile inside the objects of training, as the files have it."""
        return float(self.objects[channel]["percentile_00_5"]), float(self.objects[channel]["percentile_99_5"])

    def left(self, channel: int, percentiles: Sequence[float]) -> NDArray[np.float64]:
        """What is left of grey values in a channel that keeps its units: all of them, or for CT what is not clipped."""
        found = np.array(percentiles, float)
        return np.clip(found, *self.object_range(channel)) if self.schemes[channel] == CT else found


@dataclass(frozen=True)
class NormalisedImage:
    """An image as nnU-Net crops and normalises it.

    Attributes:
        raw: (C, *spatial), as given.
        channels: for each channel the normalised part of it, float32; as given where units are kept.
        inside: bool (*cropped), the part of it that is not zero, its holes filled.
        box: where that lies in the image.
        normalisation: how it was made.
    """

    raw: NDArray[np.floating]
    channels: tuple[NDArray[np.floating], ...]
    inside: Mask
    box: tuple[slice, ...]
    normalisation: Normalisation

    @classmethod
    def of(cls, image: NDArray[np.floating], normalisation: Normalisation) -> NormalisedImage:
        """Crop and normalise an image, by nnU-Net's own code.

        Args:
            image: (C, *spatial), finite raw intensities, not all 0.
            normalisation: of the model.
        """
        cropped, outside, bounds = crop_to_nonzero(image)
        channels = tuple(
            cropped[index]
            if normalisation.keeps_units(index)
            else _normalised(cropped[index], outside[0], index, normalisation)
            for index in range(len(normalisation.schemes))
        )
        return cls(image, channels, outside[0] >= 0, tuple(slice(*ends) for ends in bounds), normalisation)

    def percentiles(self, channel: int) -> tuple[float, float, float]:
        """The 0.5th, 50th and 99.5th percentile of a normalised channel, where it is normalised."""
        values = self.channels[channel]
        found = np.percentile(values[self.inside] if self.normalisation.masked[channel] else values, PERCENTILES)
        return float(found[0]), float(found[1]), float(found[2])

    def medians(self, mask: Mask) -> tuple[float | None, ...]:
        """The median of each normalised channel within a mask (*spatial); None where the mask is empty."""
        inside = mask[self.box]
        return tuple(float(np.median(channel[inside])) if inside.any() else None for channel in self.channels)

    def object_share(self, channel: int) -> float:
        """The share of all voxels with an intensity of the objects in training, in [0, 1]."""
        low, high = self.normalisation.object_range(channel)
        values = self.raw[channel]
        return int(np.count_nonzero((values >= low) & (values <= high))) / values.size


@dataclass(frozen=True)
class NetworkView:
    """What a network sees of an image, in a few numbers, and what its file says of its size.

    Attributes:
        spacing_mm: the voxel's size along each axis.
        extent_mm: along each axis, of the part that is not zero.
        percentiles: for each channel the 0.5th, 50th and 99.5th percentile of what nnU-Net's normalisation leaves; None
            where units are kept: then raw percentiles tell.
        object_share: for each channel the share of all voxels with an intensity of the objects in training, in [0, 1].
        segmented: for each channel the median of what the normalisation leaves within all that the model calls an
            object; None where there is nothing such. Empty: there is no segmentation yet.
    """

    spacing_mm: tuple[float, ...]
    extent_mm: tuple[float, ...]
    percentiles: tuple[tuple[float, float, float] | None, ...]
    object_share: tuple[float, ...]
    segmented: tuple[float | None, ...] = ()

    @classmethod
    def of(cls, image: NormalisedImage, spacing_mm: Sequence[float]) -> NetworkView:
        """Measure it.

        Args:
            image: normalised.
            spacing_mm: the voxel's size along each axis.
        """
        known = image.normalisation
        channels = range(len(known.schemes))
        return cls(
            tuple(map(float, spacing_mm)),
            tuple((side.stop - side.start) * float(size) for side, size in zip(image.box, spacing_mm, strict=True)),
            tuple(None if known.keeps_units(index) else image.percentiles(index) for index in channels),
            tuple(image.object_share(index) for index in channels),
        )

    def with_segmentation(self, image: NormalisedImage, segmented: Mask) -> NetworkView:
        """Add what is segmented, bool (*spatial)."""
        return replace(self, segmented=image.medians(segmented))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> NetworkView:
        """Restore what `dataclasses.asdict` and JSON have made of one.

        Raises:
            KeyError, TypeError, ValueError: it was none.
        """
        percentiles = tuple(None if of is None else (of[0], of[1], of[2]) for of in found["percentiles"])
        return cls(
            tuple(found["spacing_mm"]),
            tuple(found["extent_mm"]),
            percentiles,
            tuple(found["object_share"]),
            tuple(found["segmented"]),
        )


def _normalised(
    channel: NDArray[np.floating], outside: NDArray[np.integer], index: int, known: Normalisation
) -> NDArray[np.floating]:
    """By nnU-Net's own class; `outside` is below 0 where the image is zero."""
    folder = Path(nnunetv2.__path__[0], "preprocessing", "normalization")
    found = recursive_find_python_class(str(folder), known.schemes[index], "nnunetv2.preprocessing.normalization")
    scheme = found(use_mask_for_norm=known.masked[index], intensityproperties=dict(known.objects[index]))
    normalised: NDArray[np.floating] = scheme.run(channel.astype(np.float32), outside)  # a copy: it is written over
    return normalised
