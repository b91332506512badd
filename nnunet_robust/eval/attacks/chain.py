"""From a raw image to nnU-Net's preprocessed one, and gradients the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.losses import Target, target
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.on_device import Plans, Preprocessing, unknown_preprocessing

_Box: TypeAlias = tuple[tuple[int, int], ...]


def check_known(model: Model) -> None:
    """Whether gradients are known of all that a model does to an image.

    Raises:
        UserError: its plans ask for a preprocessor, a normalisation or a resampling that is not known here, or it
            denoises its images.
    """
    if model.denoiser is not None:
        raise UserError(f"attacks do not see a denoiser, and {model.trainer} has one: sweep attacks without --denoise")
    if unknown := unknown_preprocessing(model.predictor):
        known, found = unknown
        raise UserError(f"attacks know {known}, and {model.trainer} has {found}: leave it out")


class Prepared(NamedTuple):
    """A preprocessed image.

    Attributes:
        data: float32 (C, *preprocessed), what `Model.preprocess` gives but for rounding, on the device.
        target: the reference on its grid.
        back: d loss / d data -> d loss / d raw image, float32 (C, *spatial), on the device; to be called once.
    """

    data: torch.Tensor
    target: Target
    back: Callable[[torch.Tensor], torch.Tensor]


class Chain:
    """nnU-Net's preprocessing of one case, forwards and, for gradients, backwards, all of it on the model's device.

    Forwards it is that of `fast`, nnU-Net's but for rounding: transposed, cropped to what is not zero, normalised with
    the image's own statistics, resampled. Backwards it is the derivative of that for the image at hand, with the one
    exception that a voxel, were it zero or not, could change the crop. Where the case has the spacing of the plans,
    nothing is resampled.

    Args:
        model: whose preprocessing.
        label: reference (*spatial), as its file has it.
        properties: what nnU-Net's reader gave beside the image.
        device: to compute on.

    Raises:
        UserError: see `check_known`.
    """

    def __init__(
        self, model: Model, label: NDArray[np.integer], properties: Mapping[str, Any], device: torch.device
    ) -> None:
        check_known(model)
        preprocess = Preprocessing.of(model.predictor)
        assert preprocess is not None  # as what is known is just what it takes
        self._preprocess, self._plans = preprocess, Plans.of(model.predictor)
        self._resample_label = model.predictor.configuration_manager.resampling_fn_seg
        self._heads, self._ignore_label, self._device = model.label_layout, model.ignore_label, device
        self._label = label[None].transpose(0, *(axis + 1 for axis in self._plans.order))
        self._properties = properties
        self._targets: dict[_Box, Target] = {}

    def forward(self, image: torch.Tensor) -> Prepared:
        """Preprocess, as `Model.preprocess` does.

        Args:
            image: float (C, *spatial), raw; not modified.
        """
        with torch.enable_grad():
            raw = image.detach().to(self._device, torch.float32).requires_grad_()
            data, found = self._preprocess(raw, self._properties)

        def back(gradient: torch.Tensor) -> torch.Tensor:
            (of_raw,) = torch.autograd.grad(data, raw, gradient.to(self._device))
            return of_raw

        box = tuple((low, high) for low, high in found["bbox_used_for_cropping"])
        return Prepared(data.detach(), self._target(box, data.shape[1:]), back)

    def _target(self, box: _Box, new_shape: Sequence[int]) -> Target:
        # a perturbation may change the crop, and with it the grid
        if box not in self._targets:
            inside = (slice(None), *(slice(*ends) for ends in box))
            label = self._resample_label(
                self._label[inside], new_shape, *self._plans.spacings(self._properties["spacing"])
            )
            self._targets = {box: target(label[0], self._heads, self._ignore_label, self._device)}
        return self._targets[box]
