"""What may happen to an encoder's feature map where it would enter the decoder: one small module per policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nnunet_robust.networks.gates import AdaptiveGate, AttentionGate


@dataclass(frozen=True)
class Level:
    """The geometry of one decoder level, from which a skip connection builds what it needs.

    Attributes:
        channels: channels of the encoder's feature map, and of the upsampled map that it meets.
        channels_below: channels of the feature map one level below, before it is upsampled.
        stride: upsampling factor per axis, from the level below to this one.
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
    """

    channels: int
    channels_below: int
    stride: tuple[int, ...]
    conv_op: type[nn.Module]


class Skip(nn.Module):
    """Merges an encoder's feature map into the decoder. Subclasses say what `forward` gives, in how many channels."""

    channel_factor: ClassVar[int]  # channels of the merged map, in units of level.channels

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.merged_channels = self.channel_factor * level.channels

    def forward(self, upsampled: Tensor, skip: Tensor, below: Tensor) -> Tensor:
        """Merge the encoder's map into the decoder's.

        Args:
            upsampled: (B, channels, *spatial), the map from below after upsampling.
            skip: (B, channels, *spatial), the encoder's map of this level.
            below: (B, channels_below, *spatial / stride), the map from below before upsampling (a gating signal).

        Returns:
            (B, merged_channels, *spatial), the input of the level's convolutions.
        """
        raise NotImplementedError


class Absent(Skip):
    """Nothing passes: the decoder sees only what comes from below (Kamath et al. 2023)."""

    channel_factor = 1

    def forward(self, upsampled: Tensor, skip: Tensor, below: Tensor) -> Tensor:
        """Return `upsampled`; `skip` is looked at for its size alone."""
        return upsampled


class Identity(Skip):
    """The map passes as it is and is concatenated, after the upsampled one, as nnU-Net does (Ronneberger 2015).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> skip = Identity(Level(channels=8, channels_below=16, stride=(2, 2), conv_op=nn.Conv2d))
        >>> of_level = torch.zeros(1, 8, 32, 32)
        >>> skip(of_level, of_level, torch.zeros(1, 16, 16, 16)).shape
        torch.Size([1, 16, 32, 32])
    """

    channel_factor = 2

    def forward(self, upsampled: Tensor, skip: Tensor, below: Tensor) -> Tensor:
        """Concatenate along the channels."""
        return torch.cat((upsampled, skip), 1)


class Added(Skip):
    """The map is added to the upsampled one, as in the V-Net's skips (Milletari et al. 2016)."""

    channel_factor = 1

    def forward(self, upsampled: Tensor, skip: Tensor, below: Tensor) -> Tensor:
        """Add voxel by voxel."""
        return upsampled + skip


class Gated(Skip):
    """The map is weighed by a gate in [0, 1], then concatenated: fully open, it is `Identity`; closed, zeros."""

    channel_factor = 2
    gate: nn.Module  # (skip, below) -> something that broadcasts against skip

    def forward(self, upsampled: Tensor, skip: Tensor, below: Tensor) -> Tensor:
        """Concatenate `upsampled` and the weighed `skip` along the channels."""
        return torch.cat((upsampled, skip * self.gate(skip, below)), 1)


class Attention(Gated):
    """An additive attention gate, driven from below: a weight per voxel (Oktay et al. 2018)."""

    def __init__(self, level: Level) -> None:
        super().__init__(level)
        self.gate = AttentionGate(level.conv_op, level.channels, level.channels_below)


class Adaptive(Gated):
    """A learned gate for the whole level, computed from the input's own pooled features: a weight per image (ours)."""

    def __init__(self, level: Level) -> None:
        super().__init__(level)
        self.gate = AdaptiveGate(level.conv_op, level.channels, level.channels_below)


SKIPS: dict[str, type[Skip]] = {
    "absent": Absent,
    "identity": Identity,
    "added": Added,
    "attention": Attention,
    "adaptive": Adaptive,
}
