"""What weighs a skip connection: gates in [0, 1], computed from the encoder's map and from the map below it.

Both start open, so that training starts near the standard U-Net. Their opening bias is not the bias of a convolution,
because nnU-Net's initialisation sets those to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class AttentionGate(nn.Module):
    """Additive attention: `sigmoid(psi(relu(W_x x + W_g g)))`, one map for all channels.

    `x` is the encoder's map, `g` the decoder's map below it, before upsampling; `W_x` and `W_g` are 1 x 1 convolutions
    to `max(1, channels // 2)` channels, `psi` is one to a single channel, and `W_g g` is interpolated (linearly) to the
    grid of `x`. There is no norm inside: over the one channel of `psi`, an instance norm would hold the gate half open
    in every image. Unlike in the paper, the map is made on the grid of `x`, not on that of `g`, and the top level has
    one too.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: channels of the encoder's map.
        channels_below: channels of the map from below.

    Reference: Oktay et al. 2018, arXiv 1804.03999, eq. 1; the bias of 3 is their code's, in its sigmoid mode.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, channels_below: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.w_x = conv_op(channels, inner, 1, bias=False)
        self.w_g = conv_op(channels_below, inner, 1, bias=True)
        self.psi = conv_op(inner, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.full((1,), 3.0))
        self.mode = {nn.Conv2d: "bilinear", nn.Conv3d: "trilinear"}[conv_op]

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """The attention map.

        Args:
            skip: (B, channels, *spatial), the encoder's map.
            below: (B, channels_below, *spatial / stride), the gating signal.

        Returns:
            (B, 1, *spatial), in [0, 1].
        """
        signal = functional.interpolate(self.w_g(below), skip.shape[2:], mode=self.mode, align_corners=False)
        return torch.sigmoid(self.psi(torch.relu(self.w_x(skip) + signal)) + self.bias)


class AdaptiveGate(nn.Module):
    """One number per image that opens or closes the whole level (ours, after squeeze-and-excitation, Hu et al. 2018).

    The encoder's map and the map below it each pass a 1 x 1 convolution with an activation, are averaged over space,
    and a perceptron of one hidden layer with a sigmoid turns the averages into the gate. The convolution comes first
    because the encoder's instance norms have made the plain averages much the same for every image, whatever its noise;
    how the channels go together within a voxel still tells.

    At the start the gate is about sigmoid(4) = 0.98: open, and not so far into saturation that it could not close.
    "Image" is what the network sees at once: in a sliding window, a tile.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: channels of the encoder's map.
        channels_below: channels of the map from below.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> gate = AdaptiveGate(nn.Conv2d, channels=8, channels_below=16)
        >>> opened = gate(torch.zeros(2, 8, 32, 32), torch.zeros(2, 16, 16, 16))
        >>> opened.shape, bool((opened > 0.9).all())  # a number per image, open at the start
        (torch.Size([2, 1, 1, 1]), True)
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, channels_below: int) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.mix_skip = conv_op(channels, hidden, 1)
        self.mix_below = conv_op(channels_below, hidden, 1)
        self.hidden = nn.Linear(2 * hidden, hidden)
        self.excite = nn.Linear(hidden, 1)
        nn.init.constant_(self.excite.bias, 4.0)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """The gate of each image.

        Args:
            skip: (B, channels, *spatial), the encoder's map.
            below: (B, channels_below, *spatial / stride), the map from below.

        Returns:
            (B, 1, 1, ...), in [0, 1], with the number of axes of `skip`.
        """
        mixed = (self.mix_skip(skip), self.mix_below(below))
        pooled = torch.cat([functional.leaky_relu(m).flatten(2).mean(2) for m in mixed], 1)
        gate = torch.sigmoid(self.excite(functional.leaky_relu(self.hidden(pooled))))
        return gate.reshape(-1, *[1] * (skip.ndim - 1))
