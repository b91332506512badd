"""UNETR, with a transformer for an encoder: the one trainer that does not use the plans' network."""

from __future__ import annotations

from typing import ClassVar

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_robust.networks.unetr import UNETR
from nnunet_robust.trainers.architecture import Architecture


class TransformerEncoder(Architecture):
    """MONAI's UNETR at the paper's sizes, trained with AdamW, linear warm-up and polynomial decay.

    The plans' patch is rounded up to a multiple of 16, and their network and its stages play no part. There is no deep
    supervision. Loss, augmentation, sampling and the clipping of gradients are nnU-Net's.

    Reference: Hatamizadeh et al., "UNETR: Transformers for 3D Medical Image Segmentation", WACV 2022.
    """

    sizes: ClassVar[dict[str, int]] = {"feature_size": 16, "hidden_size": 768, "mlp_dim": 3072, "num_heads": 12}

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build UNETR for the configuration's patch, with one output, whether deep supervision is asked for or not."""
        return UNETR(num_input_channels, num_output_channels, configuration_manager.patch_size, **cls.sizes)
