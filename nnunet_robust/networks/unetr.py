"""UNETR: a vision transformer as the encoder, a convolutional decoder. MONAI's network, made fit for training here."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor, nn

TOKEN = 16  # voxels per axis of a transformer token


class UNETR(nets.UNETR):
    """MONAI's UNETR with 12 transformer blocks and the paper's sizes as defaults; 2d and 3d.

    It differs from MONAI's in two things: parameters that no forward pass uses are left out (a norm in each block that
    belongs to cross attention; DDP stops at a parameter without a gradient), and a wrong input size is named.

    The position embedding has one vector per token of `patch_size`: the network takes that size and no other.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        patch_size: voxels per axis, each a multiple of 16; two or three of them.
        feature_size: channels of the decoder at full resolution.
        hidden_size: length of a token.
        mlp_dim: width of the transformer's MLPs.
        num_heads: attention heads; divides `hidden_size`.

    Raises:
        ValueError: a patch size that is not a multiple of 16.

    Reference: Hatamizadeh et al., "UNETR: Transformers for 3D Medical Image Segmentation", WACV 2022 (their ViT-B/16:
    12 layers, 768, 3072, 12 heads; feature size 16, instance norm, no dropout; learned position embedding).
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
    ) -> None:
        if any(n < TOKEN or n % TOKEN for n in patch_size):
            raise ValueError(f"patch size {tuple(patch_size)}: each axis must be a multiple of {TOKEN}")
        super().__init__(
            input_channels, num_classes, tuple(patch_size), feature_size=feature_size, hidden_size=hidden_size,
            mlp_dim=mlp_dim, num_heads=num_heads, norm_name="instance", res_block=True, dropout_rate=0.0,
            spatial_dims=len(patch_size),
        )  # fmt: skip
        self.input_size = tuple(patch_size)
        for block in self.vit.blocks:  # which modules are there unused depends on MONAI's version
            block.norm_cross_attn = nn.Identity()
            block.cross_attn = nn.Identity()

    def forward(self, x_in: Tensor) -> Tensor:
        """Compute the logits of a batch of patches.

        Args:
            x_in: (B, input_channels, *patch_size).

        Returns:
            Logits (B, num_classes, *patch_size).

        Raises:
            ValueError: another spatial size than `patch_size`.
        """
        if tuple(x_in.shape[2:]) != self.input_size:
            raise ValueError(f"an input of {tuple(x_in.shape[2:])} voxels: this UNETR takes {self.input_size} only")
        return super().forward(x_in)
