"""The U-Net without its top skip."""

from __future__ import annotations

from nnunet_robust.trainers.architecture import Architecture


class NoTopSkip(Architecture):
    """A U-Net of which only the full-resolution skip is removed; the others are concatenated as usual.

    Reference: Wilm et al. 2024, arXiv 2402.08276.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Remove the skip at full resolution, and keep the standard ones below."""
        return ["absent"] + ["identity"] * (levels - 1)
