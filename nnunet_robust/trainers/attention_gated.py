"""The attention U-Net."""

from __future__ import annotations

from nnunet_robust.trainers.architecture import Architecture


class AttentionGated(Architecture):
    """A U-Net whose skips are weighed by additive attention gates, driven from below.

    Reference: Oktay et al. 2018, "Attention U-Net", arXiv 1804.03999.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Put an attention gate at every level."""
        return ["attention"] * levels
