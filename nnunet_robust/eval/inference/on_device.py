"""What surrounds the networks, as torch code on their device: nnU-Net's preprocessing, and its way back to labels.

For `fast`. It is nnU-Net's arithmetic but for rounding (float32 where nnU-Net has float64 for a while): crop to what
is not zero, normalise, resample; and resample logits, take the best label or the regions above one half, put them back
into the image. What plans may ask for and is not known here is left to nnU-Net's own code: see `of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.helpers import softmax_helper_dim0
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray

from nnunet_robust.eval.inference.normalising import NORMALISATIONS
from nnunet_robust.eval.inference.precision import torch_threads
from nnunet_robust.eval.inference.resampling import (
    FUNCTION,
    Interpolation,
    Resampling,
    knows_image_resampling,
    knows_logit_resampling,
)

if TYPE_CHECKING:
    from nnunet_robust.eval.inference.models import TrainedNetwork

_VALUES_AT_ONCE = 1 << 22  # of logits on the image's grid, over all heads
_RGB = "RGBTo01Normalization"
_MASKED = "ZScoreNormalization"  # the only scheme that looks at the mask


@dataclass(frozen=True)
class Plans:
    """What preprocessing and its way back need of a model's plans.

    Attributes:
        order: nnU-Net's axis for each of ours (`transpose_forward`).
        spacing_mm: of the configuration: two numbers for 2d.
        schemes: each channel's normalisation.
        masked: for each channel whether only what is not background is normalised.
        intensities: of each channel, nnU-Net's numbers on the intensities inside the objects.
        image_options: of the resampling of images.
        logit_options: of the resampling of logits.
    """

    order: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: tuple[Mapping[str, float], ...]
    image_options: Mapping[str, Any]
    logit_options: Mapping[str, Any]

    @classmethod
    def of(cls, predictor: TrainedNetwork) -> Plans:
        """Read them from what is known of a trained model."""
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        schemes = tuple(configuration.normalization_schemes)
        objects = plans.foreground_intensity_properties_per_channel
        return cls(
            tuple(int(axis) for axis in plans.transpose_forward),
            tuple(float(s) for s in configuration.spacing),
            schemes,
            tuple(bool(masked) for masked in configuration.use_mask_for_norm),
            tuple(objects[str(channel)] for channel in range(len(schemes))),
            configuration.configuration.get("resampling_fn_data_kwargs", {}),
            configuration.configuration.get("resampling_fn_probabilities_kwargs", {}),
        )

    def spacings(self, spacing_mm: Sequence[float]) -> tuple[list[float], list[float]]:
        """The spacing of an image, and the one that it is brought to, along nnU-Net's axes.

        Args:
            spacing_mm: of the image, along its own axes.
        """
        own = [float(spacing_mm[axis]) for axis in self.order]
        # 2d plans leave the spacing between slices as it is
        wanted = list(self.spacing_mm)
        return own, wanted if len(wanted) == len(own) else [own[0], *wanted]


def unknown_preprocessing(predictor: TrainedNetwork) -> tuple[str, str] | None:
    """Find what a model's plans ask of preprocessing that is not known here.

    Returns:
        What is known, and what the plans have; None where all is known.
    """
    settings = predictor.configuration_manager
    if settings.preprocessor_class is not DefaultPreprocessor:
        return "nnU-Net's DefaultPreprocessor", settings.preprocessor_class.__name__
    for scheme in settings.normalization_schemes:
        if scheme not in NORMALISATIONS:
            return f"the normalisations {', '.join(NORMALISATIONS)}", scheme
    if not knows_image_resampling(settings.configuration):
        function, options = (settings.configuration.get(f"resampling_fn_data{end}") for end in ("", "_kwargs"))
        return f"the resampling {FUNCTION} with splines", f"{function} with {options}"
    return None


class Preprocessing:
    """nnU-Net's preprocessing of images. Threads may use it at once.

    Gradients pass from the preprocessed image to the raw one, the mean and the standard deviation that it is normalised
    with among them; not where the crop ends, which a gradient cannot move.

    Args:
        plans: of the model.
    """

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # what is not zero, and the same with holes filled

    @classmethod
    def of(cls, predictor: TrainedNetwork) -> Preprocessing | None:
        """Make it for a model; None where its plans ask for what is not known here."""
        return None if unknown_preprocessing(predictor) else cls(Plans.of(predictor))

    def __call__(self, image: torch.Tensor, properties: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Preprocess one image.

        Args:
            image: float (C, *spatial), raw, three spatial axes, on any device; not modified.
            properties: what nnU-Net's reader gave beside it; not modified.

        Returns:
            float32 (C, *spatial), on the image's device; and the properties that `Export` and nnU-Net's own export
            need.

        Raises:
            AssertionError: as nnU-Net's, of RGB images that go beyond [0, 255].
        """
        plans = self._plans
        with torch_threads(1, image.device):  # the last bits depend on it
            data = image.float().permute(0, *(axis + 1 for axis in plans.order))
            there = (data != 0).any(dim=0)
            box = _box(there)
            cropped = data[_inside(box)]
            found = {
                **properties,
                "shape_before_cropping": tuple(data.shape[1:]),
                "bbox_used_for_cropping": box,
                "shape_after_cropping_and_before_resampling": tuple(cropped.shape[1:]),
            }
            spacing, wanted = plans.spacings(properties["spacing"])
            new_shape = compute_new_shape(cropped.shape[1:], spacing, wanted)
            normalised = self._normalised(cropped, there[None][_inside(box)][0])
            resampling = Resampling(cropped.shape[1:], new_shape, spacing, wanted, plans.image_options)
            return resampling(normalised).contiguous(), found

    def _normalised(self, cropped: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        plans = self._plans
        body = None
        channels = []
        for channel, scheme, masked, of_dataset in zip(
            cropped, plans.schemes, plans.masked, plans.intensities, strict=True
        ):
            if scheme == _RGB:
                _check_rgb(channel)
            if masked and scheme == _MASKED and body is None:
                body = self._body(there)
            channels.append(NORMALISATIONS[scheme](channel, body if masked else None, of_dataset))
        return torch.stack(channels)

    def _body(self, there: torch.Tensor) -> torch.Tensor:
        """What is there, with its holes filled; kept, as most perturbations leave a background of zeros as it is."""
        last = self._last  # once: another thread may replace it
        if last is None or last[0].device != there.device or not torch.equal(last[0], there):
            last = self._last = there, filled(there)
        return last[1]


class Export:
    """nnU-Net's way from logits to labels on the image's own grid. Threads may use it at once.

    Args:
        plans: of the model.
        regions: the label of each head, in the order in which they overwrite one another; None: the heads are labels.
        large: whether there are more labels than 8 bits hold.
    """

    def __init__(self, plans: Plans, regions: Sequence[int] | None, large: bool) -> None:
        self._plans, self._regions, self._large = plans, regions, large

    @classmethod
    def of(cls, predictor: TrainedNetwork) -> Export | None:
        """Make it for a model; None where its plans ask for what is not known here."""
        manager = predictor.label_manager
        known = (
            type(manager) is LabelManager
            and manager.inference_nonlin is (torch.sigmoid if manager.has_regions else softmax_helper_dim0)
            and knows_logit_resampling(predictor.configuration_manager.configuration)
        )
        if not known:
            return None
        regions = [int(label) for label in manager.regions_class_order] if manager.has_regions else None
        return cls(Plans.of(predictor), regions, len(manager.foreground_labels) >= 255)

    def labels(self, logits: torch.Tensor, properties: Mapping[str, Any]) -> NDArray[np.integer]:
        """Turn logits into labels: the best one, or the regions with a probability above one half.

        Args:
            logits: (heads, *spatial) of the preprocessed image, on any device.
            properties: from `Preprocessing`, or from nnU-Net's.

        Returns:
            uint8, or uint16 of more than 254 labels (*spatial), on the image's own grid.
        """
        kind = torch.int32 if self._large else torch.uint8
        with torch.inference_mode(), torch_threads(1, logits.device):
            whole = torch.zeros(tuple(properties["shape_before_cropping"]), dtype=kind, device=logits.device)
            inside = whole[None][_inside(properties["bbox_used_for_cropping"])][0]
            for where, slab in self._interpolation(logits, properties).slabs(logits, _VALUES_AT_ONCE):
                self._decide(slab, inside[where])
            found = whole.permute(self._back).contiguous().cpu().numpy()
        return found.astype(np.uint16) if self._large else found

    def _decide(self, slab: torch.Tensor, into: torch.Tensor) -> None:
        if self._regions is None:
            into.copy_(slab.max(dim=0).indices)  # the first of equals; far faster than argmax on a CPU
            return
        for head, label in zip(slab, self._regions, strict=True):
            into.masked_fill_(head > 0, label)

    def probabilities(self, logits: torch.Tensor, properties: Mapping[str, Any]) -> NDArray[np.float32]:
        """Turn logits into probabilities.

        Args:
            logits: as for `labels`, as are the properties.

        Returns:
            float32 (heads, *spatial), on the image's own grid; background where the image was cropped.
        """
        whole = torch.zeros(len(logits), *properties["shape_before_cropping"])
        if self._regions is None:
            whole[0] = 1
        inside = whole[_inside(properties["bbox_used_for_cropping"])]
        with torch.inference_mode(), torch_threads(1, logits.device):
            for where, slab in self._interpolation(logits, properties).slabs(logits, _VALUES_AT_ONCE):
                inside[:, where] = (slab.softmax(dim=0) if self._regions is None else slab.sigmoid()).cpu()
        return whole.permute(0, *(axis + 1 for axis in self._back)).numpy()

    @property
    def _back(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in np.argsort(self._plans.order))

    def _interpolation(self, logits: torch.Tensor, properties: Mapping[str, Any]) -> Interpolation:
        spacing, of_logits = self._plans.spacings(properties["spacing"])
        return Interpolation(
            logits.shape[1:],
            properties["shape_after_cropping_and_before_resampling"],
            of_logits,
            spacing,
            self._plans.logit_options,
            logits.device,
        )


def filled(mask: torch.Tensor) -> torch.Tensor:
    """Fill the holes of a mask: what is False and not connected, face to face, with the border of the array.

    The outside is swept from the border along each axis, there and back, until nothing is added.

    Args:
        mask: bool, three axes, any device; not modified.

    Reference: `scipy.ndimage.binary_fill_holes`, which gives the same.
    """
    free = ~mask
    outside = torch.zeros_like(mask)
    for axis in range(mask.ndim):
        for end in (0, -1):
            outside.select(axis, end).copy_(free.select(axis, end))
    before = -1
    while (now := int(outside.sum())) > before:
        before = now
        for axis in range(mask.ndim):
            _sweep(outside.unbind(axis), free.unbind(axis))
    return ~outside


def _sweep(outside: Sequence[torch.Tensor], free: Sequence[torch.Tensor]) -> None:
    for order in (range(1, len(outside)), range(len(outside) - 2, -1, -1)):
        for at in order:
            outside[at].logical_or_(outside[at - order.step] & free[at])


def _box(there: torch.Tensor) -> list[list[int]]:
    """The bounds of what is True along each axis; all of it where nothing is. One transfer from the device."""
    rows = there.any(dim=2)
    along = [rows.any(dim=1), rows.any(dim=0), there.flatten(0, 1).any(dim=0)]
    found = np.split(torch.cat(along).cpu().numpy(), np.cumsum(there.shape)[:-1])
    if not found[0].any():
        return [[0, n] for n in there.shape]
    held = [np.flatnonzero(axis) for axis in found]
    return [[int(axis[0]), int(axis[-1]) + 1] for axis in held]


def _inside(box: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """Where a box lies in an array with a first axis of channels."""
    return slice(None), *(slice(*ends) for ends in box)


def _check_rgb(channel: torch.Tensor) -> None:
    low, high = torch.stack(channel.detach().aminmax()).tolist()
    assert low >= 0 and high <= 255, (
        "RGB images are uint 8, for whatever reason I found pixel values smaller than 0 or greater than 255. Your "
        "images do not seem to be RGB images"
    )
