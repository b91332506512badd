"""Textural noise as augmentation, in front of nnU-Net's own noise: the option `_textureDA`."""

from __future__ import annotations

import math
from typing import Any

import torch
from batchgeneratorsv2.helpers.scalar_type import sample_scalar
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor


class TexturalNoiseTransform(ImageOnlyTransform):
    """Add a random texture: y = x + amplitude * std(x) * t, with t a correlated Gaussian field, mean 0 and std 1.

    White Gaussian noise is filtered with a Gaussian of standard deviation `scale`, so that the field's correlation at
    a distance of d voxels is exp(-d**2 / (4 scale**2)). Each channel has its own field, scale and amplitude.

    The idea is Chai et al.'s: noise that overlays the texture of tissue makes a network look at shapes. What is ours,
    as their paper's settings were not at hand: this kind of noise, its ranges, its probability, and that it is drawn
    anew for each patch (they corrupt the scans before training).

    Args:
        scale: voxels, (least, most), drawn uniformly; 0 gives white noise.
        amplitude: standard deviation of the added noise relative to that of the patch, (least, most), drawn uniformly.
        p_per_channel: probability that a channel gets a texture, in [0, 1].
        slices: whether slices along the first spatial axis have fields of their own (as where nnU-Net augments slice
            by slice, because they lie far apart).

    Reference: Chai, Rueckert, Fetit, "Reducing Textural Bias Improves Robustness of Deep Segmentation Models",
    arXiv 2011.15093.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.5, 4.0),
        amplitude: tuple[float, float] = (0.1, 0.5),
        p_per_channel: float = 0.5,
        slices: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.amplitude = amplitude
        self.p_per_channel = p_per_channel
        self.slices = slices

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Draw, from the global generators: which channels, and for each of them amplitude and field."""
        image = data_dict["image"]
        channels = (torch.rand(image.shape[0]) < self.p_per_channel).nonzero().flatten().tolist()
        return {
            "channels": channels,
            "amplitudes": [sample_scalar(self.amplitude) for _ in channels],
            "fields": [textural_field(image.shape[1:], sample_scalar(self.scale), self.slices) for _ in channels],
        }

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        img = img.clone()
        for channel, amplitude, field in zip(params["channels"], params["amplitudes"], params["fields"], strict=True):
            img[channel] += amplitude * img[channel].std(correction=0) * field.to(img)
        return img


def textural_field(shape: tuple[int, ...], scale: float, slices: bool = False) -> Tensor:
    """A Gaussian random field with correlation exp(-d**2 / (4 scale**2)), periodic, from torch's global generator.

    Args:
        shape: its size, 2d or 3d.
        scale: standard deviation of the Gaussian filter, voxels, >= 0.
        slices: whether slices along the first axis are independent.

    Returns:
        float32 tensor of that shape with mean 0 and standard deviation 1.
    """
    axes = tuple(range(1 if slices else 0, len(shape)))
    spectrum = torch.fft.rfftn(torch.randn(tuple(shape)), dim=axes)
    for axis in axes:
        frequency = (torch.fft.rfftfreq if axis == axes[-1] else torch.fft.fftfreq)(shape[axis])
        gain = torch.exp(-2 * (math.pi * scale * frequency) ** 2)
        spectrum *= gain.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    field = torch.fft.irfftn(spectrum, s=[shape[axis] for axis in axes], dim=axes)
    field -= field.mean()
    return field / field.std(correction=0)


class TextureAugmentation(nnUNetTrainer):
    """nnU-Net's default augmentation and textural noise."""

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> ComposeTransforms:
        """nnU-Net's pipeline with `TexturalNoiseTransform` after the spatial transforms.

        There it meets the image's channels only (not those of a cascade's previous stage), and what is masked to zero
        outside of the body stays zero.
        """
        pipeline = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        spatial = (SpatialTransform, Convert2DTo3DTransform)
        last = max(i for i, transform in enumerate(pipeline.transforms) if isinstance(transform, spatial))
        slices = isinstance(pipeline.transforms[last], Convert2DTo3DTransform)
        pipeline.transforms.insert(last + 1, TexturalNoiseTransform(slices=slices))
        return pipeline
