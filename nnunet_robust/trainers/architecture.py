"""What of a trainer makes its network. Prediction needs no more, and so does not wait for nnU-Net's trainer to load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_robust.networks import SkipDecoder


class Architecture:
    """The plans' network, as nnU-Net's own trainer builds it.

    A subclass says what its trainer changes, mostly by `skips`.
    """

    @staticmethod
    def skips(levels: int) -> list[str] | None:
        """The policy of each skip (names of `nnunet_robust.networks.SKIPS`), full resolution first.

        None leaves nnU-Net's network as it is.
        """
        return None

    @classmethod
    def decoder_class(cls, levels: int) -> Callable[..., nn.Module] | None:
        """What makes the decoder that takes the place of the plans' network's: one with this trainer's `skips`.

        Args:
            levels: number of skips.

        Returns:
            Takes encoder, num_classes, n_conv_per_stage, deep_supervision and nonlin_first; makes a module with
            `encoder` and `deep_supervision`, called with the encoder's maps. None leaves nnU-Net's.
        """
        policies = cls.skips(levels)
        return None if policies is None else partial(SkipDecoder, policies=policies)

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plans' network with this trainer's decoder. Training and prediction both build it from here."""
        kwargs = configuration_manager.network_arch_init_kwargs
        network = get_network_from_plans(
            configuration_manager.network_arch_class_name,
            kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        decoder_class = cls.decoder_class(len(network.encoder.output_channels) - 1)
        if decoder_class is not None:
            network.decoder = decoder_class(
                network.encoder,
                num_output_channels,
                kwargs["n_conv_per_stage_decoder"],
                enable_deep_supervision,
                nonlin_first=kwargs.get("nonlin_first", False),
            )
            network.apply(network.initialize)
        return network
