"""From a raw image to nnU-Net's preprocessed one, and gradients the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.losses import Target, target
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.normalising import NORMALISATIONS
from nnunet_robust.eval.inference.resampling import FUNCTION, Resampling


def check_known(model: Model) -> None:
    """Whether gradients are known of all that a model does to an image.

    Raises:
        UserError: its plans ask for a preprocessor, a normalisation or a resampling that is not known here, or it
            denoises its images.
    """
    if model.denoiser is not None:
        raise UserError(f"attacks do not see a denoiser, and {model.trainer} has one: sweep attacks without --denoise")
    settings = model.predictor.configuration_manager.configuration
    preprocessor = model.predictor.configuration_manager.preprocessor_class
    if preprocessor is not DefaultPreprocessor:
        raise UserError(
            f"attacks know nnU-Net's DefaultPreprocessor, and {model.trainer} has {preprocessor.__name__}: leave it out"
        )
    for scheme in settings["normalization_schemes"]:
        if scheme not in NORMALISATIONS:
            raise UserError(
                f"attacks know the normalisations {', '.join(NORMALISATIONS)}, and {model.trainer} has {scheme}: "
                f"leave it out"
            )
    if settings["resampling_fn_data"] != FUNCTION:
        raise UserError(
            f"attacks know the resampling {FUNCTION}, and {model.trainer} has {settings['resampling_fn_data']}: "
            f"leave it out"
        )


class Prepared(NamedTuple):
    """A preprocessed image.

    Attributes:
        data: float32 (C, *preprocessed), what `Model.preprocess` gives.
        target: the reference on its grid.
        back: d loss / d data -> d loss / d raw image, float32 (C, *spatial), on the CPU.
    """

    data: torch.Tensor
    target: Target
    back: Callable[[torch.Tensor], torch.Tensor]


class Chain:
    """nnU-Net's preprocessing of one case, forwards and, for gradients, backwards.

    Forwards it is nnU-Net's own: transposed, cropped to what is not zero, normalised, resampled. Backwards each of
    these is exact for the image at hand, the mean and the standard deviation that it is normalised with among them,
    but for two things: that a voxel, were it zero or not, could change the crop; and what `resampling` leaves out.
    Where the case has the spacing of the plans, nothing is resampled.

    Args:
        model: whose preprocessing.
        label: reference (*spatial), as its file has it.
        properties: what nnU-Net's reader gave beside the image.
        device: of the targets.

    Raises:
        UserError: see `check_known`.
    """

    def __init__(
        self, model: Model, label: NDArray[np.integer], properties: Mapping[str, Any], device: torch.device
    ) -> None:
        check_known(model)
        predictor = model.predictor
        self._plans, self._configuration = predictor.plans_manager, predictor.configuration_manager
        self._options = self._configuration.configuration["resampling_fn_data_kwargs"]
        self._preprocessor = DefaultPreprocessor(verbose=False)
        self._heads, self._ignore_label, self._device = model.label_layout, model.ignore_label, device
        order = self._plans.transpose_forward
        self._forward_axes = (0, *(axis + 1 for axis in order))
        self._backward_axes = tuple(int(axis) for axis in np.argsort(self._forward_axes))
        self._label = label[None].transpose(self._forward_axes)
        self._spacing = [float(properties["spacing"][axis]) for axis in order]
        wanted = list(self._configuration.spacing)
        # 2d plans leave the spacing between slices as it is
        self._new_spacing = wanted if len(wanted) == len(self._spacing) else [self._spacing[0], *wanted]
        self._targets: dict[tuple[tuple[int, int], ...], Target] = {}

    def forward(self, image: torch.Tensor) -> Prepared:
        """Preprocess, as `Model.preprocess` does.

        Args:
            image: float (C, *spatial), raw, on the CPU; not modified.
        """
        data = image.numpy().astype(np.float32).transpose(self._forward_axes)
        cropped, outside, box = crop_to_nonzero(data)
        box = tuple((int(low), int(high)) for low, high in box)
        raw = torch.from_numpy(np.ascontiguousarray(cropped))
        normalised = self._preprocessor._normalize(
            raw.numpy().copy(), outside, self._configuration, self._plans.foreground_intensity_properties_per_channel
        )
        new_shape = compute_new_shape(raw.shape[1:], self._spacing, self._new_spacing)
        resampled = self._configuration.resampling_fn_data(normalised, new_shape, self._spacing, self._new_spacing)
        found = torch.from_numpy(resampled).to(dtype=torch.float32, memory_format=torch.contiguous_format)
        mask = torch.from_numpy(outside[0] >= 0)

        def back(gradient: torch.Tensor) -> torch.Tensor:
            linear = Resampling(raw.shape[1:], new_shape, self._spacing, self._new_spacing, self._options)
            of_normalised = linear.back(gradient.cpu(), torch.from_numpy(normalised), found)
            full = torch.zeros(data.shape)
            full[_inside(box)] = self._of_raw(raw, mask, of_normalised)
            return full.permute(self._backward_axes).contiguous()

        return Prepared(found, self._target(box, new_shape), back)

    def _of_raw(self, raw: torch.Tensor, mask: torch.Tensor, of_normalised: torch.Tensor) -> torch.Tensor:
        found = torch.empty_like(raw)
        for channel, scheme in enumerate(self._configuration.normalization_schemes):
            masked = self._configuration.use_mask_for_norm[channel]
            of_dataset = self._plans.foreground_intensity_properties_per_channel[str(channel)]
            with torch.enable_grad():
                leaf = raw[channel].clone().requires_grad_()
                normalised = NORMALISATIONS[scheme](leaf, mask if masked else None, of_dataset)
                (found[channel],) = torch.autograd.grad(normalised, leaf, of_normalised[channel])
        return found

    def _target(self, box: tuple[tuple[int, int], ...], new_shape: np.ndarray) -> Target:
        # a perturbation may change the crop, and with it the grid
        if box not in self._targets:
            label = self._label[_inside(box)]
            label = self._configuration.resampling_fn_seg(label, new_shape, self._spacing, self._new_spacing)
            self._targets = {box: target(label[0], self._heads, self._ignore_label, self._device)}
        return self._targets[box]


def _inside(box: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    return (slice(None), *(slice(low, high) for low, high in box))
