"""The U-Net with added skips."""

from __future__ import annotations

from nnunet_robust.trainers.architecture import Architecture


class AdditiveSkip(Architecture):
    """A U-Net whose skips are added to the upsampled map instead of concatenated, as in V-Net.

    On plans with a residual encoder it is the V-Net arm of a comparison.

    Reference: Milletari et al., "V-Net", 3DV 2016.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Add the skip at every level."""
        return ["added"] * levels
