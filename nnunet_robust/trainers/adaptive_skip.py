"""The U-Net that opens and closes its skips by image."""

from __future__ import annotations

from nnunet_robust.trainers.architecture import Architecture


class AdaptiveSkip(Architecture):
    """A U-Net with a learned gate in [0, 1] per skip and image, computed from the input's own features (ours).

    It starts with open gates, as the standard U-Net. `network.decoder(network.encoder(x), return_gates=True)` reads
    the gates out.
    """

    @staticmethod
    def skips(levels: int) -> list[str]:
        """Put an adaptive gate at every level."""
        return ["adaptive"] * levels
