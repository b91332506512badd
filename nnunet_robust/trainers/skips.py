"""The U-Nets that differ in their skip connections."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nnunet_robust.networks import DenseDecoder
from nnunet_robust.trainers.base import RobustTrainer


class nnUNetTrainerNoSkip(RobustTrainer):
    """A U-Net whose decoder sees only what comes from below: nothing passes at any skip.

    Reference: Kamath et al., "Do We Really Need that Skip-Connection?", MICCAI 2023.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Remove the skip at every level."""
        return ["absent"] * levels


class nnUNetTrainerNoTopSkip(RobustTrainer):
    """A U-Net of which only the full-resolution skip is removed; the others are concatenated as usual.

    Reference: Wilm et al. 2024, arXiv 2402.08276.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Remove the skip at full resolution, and keep the standard ones below."""
        return ["absent"] + ["identity"] * (levels - 1)


class nnUNetTrainerAdditiveSkip(RobustTrainer):
    """A U-Net whose skips are added to the upsampled map instead of concatenated, as in V-Net.

    On plans with a residual encoder it is the V-Net arm of a comparison.

    Reference: Milletari et al., "V-Net", 3DV 2016.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Add the skip at every level."""
        return ["added"] * levels


class nnUNetTrainerAttentionGated(RobustTrainer):
    """A U-Net whose skips are weighed by additive attention gates, driven from below.

    Reference: Oktay et al. 2018, "Attention U-Net", arXiv 1804.03999.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Put an attention gate at every level."""
        return ["attention"] * levels


class nnUNetTrainerDenseSkip(RobustTrainer):
    """A U-Net with nested dense decoders between encoder and output.

    Reference: Zhou et al. 2018, "UNet++", arXiv 1807.10165.
    """

    @classmethod
    def decoder_class(cls, levels: int) -> Callable[..., nn.Module]:
        """The nested decoder."""
        return DenseDecoder


class nnUNetTrainerAdaptiveSkip(RobustTrainer):
    """A U-Net with a learned gate in [0, 1] per skip and image, computed from the input's own features (ours).

    It starts with open gates, as the standard U-Net. `network.decoder(network.encoder(x), return_gates=True)` reads
    the gates out.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Put an adaptive gate at every level."""
        return ["adaptive"] * levels
