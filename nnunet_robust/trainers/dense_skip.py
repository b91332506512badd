"""U-Net++."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nnunet_robust.networks import DenseDecoder
from nnunet_robust.trainers.base import RobustTrainer


class nnUNetTrainerDenseSkip(RobustTrainer):
    """A U-Net with nested dense decoders between encoder and output.

    Reference: Zhou et al. 2018, "UNet++", arXiv 1807.10165.
    """

    @classmethod
    def build_decoder(
        cls,
        encoder: nn.Module,
        num_classes: int,
        n_conv_per_stage: int | Sequence[int],
        deep_supervision: bool,
        nonlin_first: bool,
    ) -> nn.Module:
        """The nested decoder."""
        return DenseDecoder(encoder, num_classes, n_conv_per_stage, deep_supervision, nonlin_first)
