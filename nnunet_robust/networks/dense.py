"""The nested dense decoder of U-Net++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import Tensor, nn

from nnunet_robust.networks.decoder import check_size, conv_blocks


class DenseNode(nn.Module):
    """A node X[i][j] with j > 0: convolutions over everything left of it in its row, and over the upsampled diagonal.

    Args:
        encoder: gives channels, kernels, strides, norm and activation.
        stage: the row i, 0 at full resolution.
        column: the column j, 1 beside the encoder.
        convolutions: how many.
        nonlin_first: nonlinearity before norm.
    """

    def __init__(
        self,
        encoder: PlainConvEncoder | ResidualEncoder,
        stage: int,
        column: int,
        convolutions: int,
        nonlin_first: bool,
    ) -> None:
        super().__init__()
        channels, stride = encoder.output_channels[stage], encoder.strides[stage + 1]
        self.transpconv = get_matching_convtransp(conv_op=encoder.conv_op)(
            encoder.output_channels[stage + 1], channels, stride, stride, bias=encoder.conv_bias
        )
        self.convs = conv_blocks(encoder, stage, (column + 1) * channels, convolutions, nonlin_first)

    def forward(self, row: Sequence[Tensor], below: Tensor) -> Tensor:
        """Compute the node.

        Args:
            row: X[i][0] to X[i][j-1], each (B, channels, *spatial).
            below: X[i+1][j-1], (B, channels_below, *spatial / stride).

        Returns:
            X[i][j], (B, channels, *spatial).

        Raises:
            ValueError: `below` does not come back at the row's size.
        """
        upsampled = self.transpconv(below)
        check_size(upsampled, row[0])
        return self.convs(torch.cat((upsampled, *row), 1))


class DenseDecoder(nn.Module):
    """A triangle of nodes in the place of the decoder: X[i][j] = H([X[i][0], ..., X[i][j-1], up(X[i+1][j-1])]).

    X[i][0] are the encoder's maps, full resolution first; with L skips, row i has the nodes X[i][1] to X[i][L-i], each
    with the channels of the encoder's stage i, and L (L + 1) / 2 in all. With one skip it is the U-Net. Memory grows
    with the triangle: expect several times the standard decoder's.

    The segmentation outputs sit on the outermost node X[i][L-i] of every row, because nnU-Net supervises one output
    per resolution. Zhou's own deep supervision (optional there) supervises X[0][1] to X[0][L], all at full resolution.
    All heads are built in any case, so that a training checkpoint loads at inference.

    Args:
        encoder: a plain or residual encoder with `return_skips=True`.
        num_classes: channels of each segmentation output.
        n_conv_per_stage: convolutions per node, by row, deepest row first (as in nnU-Net's plans).
        deep_supervision: whether `forward` returns all resolutions.
        nonlin_first: nonlinearity before norm, as the plans may say.

    Raises:
        ValueError: a number of `n_conv_per_stage` that does not fit the encoder.

    Reference: Zhou et al. 2018, "UNet++", arXiv 1807.10165, eq. 1.
    """

    def __init__(
        self,
        encoder: PlainConvEncoder | ResidualEncoder,
        num_classes: int,
        n_conv_per_stage: int | Sequence[int],
        deep_supervision: bool,
        nonlin_first: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.deep_supervision = deep_supervision
        self.num_classes = num_classes
        self.depth = len(encoder.output_channels) - 1
        counts = [n_conv_per_stage] * self.depth if isinstance(n_conv_per_stage, int) else list(n_conv_per_stage)
        if len(counts) != self.depth:
            raise ValueError(f"{len(counts)} numbers of convolutions for {self.depth} decoder levels: give one each")
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": DenseNode(encoder, i, j, counts[self.depth - 1 - i], nonlin_first)
                for j in range(1, self.depth + 1)
                for i in range(self.depth + 1 - j)
            }
        )
        # Named and ordered (deepest first) as in UNetDecoder: nnU-Net leaves out ".seg_layers." when it fine-tunes.
        self.seg_layers = nn.ModuleList(
            encoder.conv_op(encoder.output_channels[i], num_classes, 1, 1, 0, bias=True)
            for i in reversed(range(self.depth))
        )

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Decode the encoder's maps.

        Args:
            skips: the encoder's maps, full resolution first, bottleneck last: each (B, channels, *spatial).

        Returns:
            Logits (B, num_classes, *spatial); with deep supervision a list of them, full resolution first.

        Raises:
            ValueError: the input's size is not divisible by the strides.
        """
        rows = [[encoded] for encoded in skips]
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                rows[i].append(self.nodes[f"{i}_{j}"](rows[i], rows[i + 1][j - 1]))
        if not self.deep_supervision:
            return self.seg_layers[-1](rows[0][-1])
        return [self.seg_layers[self.depth - 1 - i](rows[i][-1]) for i in range(self.depth)]
