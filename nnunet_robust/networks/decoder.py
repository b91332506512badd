"""The U-Net decoder of dynamic-network-architectures with a policy for each skip."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from nnunet_robust.networks.skips import SKIPS, Gated, Level


def conv_blocks(
    encoder: PlainConvEncoder | ResidualEncoder, stage: int, input_channels: int, count: int, nonlin_first: bool
) -> StackedConvBlocks:
    """The convolutions of a decoder level: `count` of them, with the kernel, channels, norm and so on of `stage`."""
    return StackedConvBlocks(
        count, encoder.conv_op, input_channels, encoder.output_channels[stage], encoder.kernel_sizes[stage], 1,
        encoder.conv_bias, encoder.norm_op, encoder.norm_op_kwargs, encoder.dropout_op, encoder.dropout_op_kwargs,
        encoder.nonlin, encoder.nonlin_kwargs, nonlin_first,
    )  # fmt: skip


def check_size(upsampled: Tensor, skip: Tensor) -> None:
    """Refuse a map from below that does not come back at the size of the encoder's.

    Raises:
        ValueError: the input's size was not divisible by the product of the strides.
    """
    if upsampled.shape[2:] != skip.shape[2:]:
        raise ValueError(
            f"a map of {tuple(skip.shape[2:])} voxels comes back from below as {tuple(upsampled.shape[2:])}: "
            f"the input's size must be divisible by the product of the strides"
        )


class SkipDecoder(UNetDecoder):
    """`UNetDecoder` in which each level's skip is a module of `nnunet_robust.networks.skips`.

    With "identity" at every level it computes what `UNetDecoder` computes, from weights of the same names.
    All deep-supervision heads are built in any case, so that a training checkpoint loads at inference.

    Args:
        encoder: a plain or residual encoder with `return_skips=True`.
        num_classes: channels of each segmentation output.
        n_conv_per_stage: convolutions per decoder level, deepest level first (as in nnU-Net's plans).
        deep_supervision: whether `forward` returns all resolutions.
        policies: a name of `SKIPS` per skip, **full resolution first**: as many as encoder stages less one.
        nonlin_first: nonlinearity before norm, as the plans may say.

    Raises:
        ValueError: an unknown policy, or a number of policies that does not fit the encoder.
    """

    def __init__(
        self,
        encoder: PlainConvEncoder | ResidualEncoder,
        num_classes: int,
        n_conv_per_stage: int | Sequence[int],
        deep_supervision: bool,
        policies: Sequence[str],
        nonlin_first: bool = False,
    ) -> None:
        super().__init__(encoder, num_classes, n_conv_per_stage, deep_supervision, nonlin_first=nonlin_first)
        if len(policies) != len(self.stages):
            raise ValueError(f"{len(policies)} skip policies for {len(self.stages)} skips: give one per skip")
        unknown = [policy for policy in policies if policy not in SKIPS]
        if unknown:
            raise ValueError(f"unknown skip policy {unknown[0]!r}: use one of {', '.join(SKIPS)}")

        counts = [n_conv_per_stage] * len(self.stages) if isinstance(n_conv_per_stage, int) else n_conv_per_stage
        skips = []
        for s, policy in enumerate(reversed(policies)):  # deepest first, as self.stages
            stage = len(self.stages) - 1 - s
            channels = encoder.output_channels[stage]
            level = Level(
                channels, encoder.output_channels[stage + 1], tuple(encoder.strides[stage + 1]), encoder.conv_op
            )
            skip = SKIPS[policy](level)
            skips.append(skip)
            if skip.merged_channels != 2 * channels:  # what UNetDecoder has built
                self.stages[s] = conv_blocks(encoder, stage, skip.merged_channels, counts[s], nonlin_first)
        self.skips = nn.ModuleList(skips)

    def forward(
        self, skips: Sequence[Tensor], return_gates: bool = False
    ) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], list[Tensor | None]]:
        """Decode the encoder's maps.

        Args:
            skips: the encoder's maps, full resolution first, bottleneck last: each (B, channels, *spatial).
            return_gates: give what weighed each skip too: `network.decoder(network.encoder(x), return_gates=True)`.

        Returns:
            Logits (B, num_classes, *spatial); with deep supervision a list of them, full resolution first. With
            `return_gates` a pair: that, and for each skip, full resolution first, its gate in [0, 1], (B, 1, *spatial)
            for "attention", (B, 1, 1, ...) for "adaptive", None for a policy that has none.

        Raises:
            ValueError: the input's size is not divisible by the strides. Without a skip nothing else would
                notice, and the output would silently be larger than the input.
        """
        below = skips[-1]
        outputs = []
        gates: list[Tensor | None] = []
        for s, (upsample, merge, stage) in enumerate(zip(self.transpconvs, self.skips, self.stages, strict=True)):
            upsampled, skip = upsample(below), skips[-(s + 2)]
            check_size(upsampled, skip)
            if return_gates:  # computed once more, rather than kept in training where nobody asks
                gates.append(merge.gate(skip, below) if isinstance(merge, Gated) else None)
            below = stage(merge(upsampled, skip, below))
            if self.deep_supervision or s == len(self.stages) - 1:
                outputs.append(self.seg_layers[s](below))
        logits = outputs[::-1] if self.deep_supervision else outputs[0]
        return (logits, gates[::-1]) if return_gates else logits
