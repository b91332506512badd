"""The no-skip U-Net."""

from __future__ import annotations

from nnunet_robust.trainers.architecture import Architecture


class NoSkip(Architecture):
    """A U-Net whose decoder sees only what comes from below: nothing passes at any skip.

    Reference: Kamath et al., "Do We Really Need that Skip-Connection?", MICCAI 2023.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Remove the skip at every level."""
        return ["absent"] * levels
