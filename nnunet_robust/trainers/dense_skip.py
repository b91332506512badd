"""U-Net++."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nnunet_robust.networks import DenseDecoder
from nnunet_robust.trainers.architecture import Architecture


class DenseSkip(Architecture):
    """A U-Net with nested dense decoders between encoder and output.

    Reference: Zhou et al. 2018, "UNet++", arXiv 1807.10165.
    """

    @classmethod
    def decoder_class(cls, levels: int) -> Callable[..., nn.Module]:
        """The nested decoder."""
        return DenseDecoder
