"""How UNETR is trained, and what it asks of plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_robust.common.errors import UserError
from nnunet_robust.networks.unetr import TOKEN
from nnunet_robust.trainers.base import RobustTrainer
from nnunet_robust.trainers.plans import format_size

_MOST_WARMUP_EPOCHS = 50
_WARMUP_SHARE = 20  # a twentieth of the epochs: nnU-Net's 1000 warm up for 50


class TransformerTraining(RobustTrainer):
    """AdamW, a linear warm-up and a polynomial decay; no deep supervision; a patch that is a multiple of 16."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature, which it inspects
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False
        self.initial_lr = 1e-4
        self.weight_decay = 1e-5

    @classmethod
    def adapt(cls, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
        """As the base, and the plans' own patch is rounded up to a multiple of 16; one in the name is left as it is.

        Raises:
            UserError: the name keeps stages, and UNETR has none.
        """
        if cls.options.stages is not None:
            raise UserError(
                f"_st{cls.options.stages}: UNETR does not use the plans' network and has no stages to keep: "
                f"leave the option out"
            )
        plans = super().adapt(plans, configuration)
        if cls.options.patch_size is None:
            patch_size = PlansManager(plans).get_configuration(configuration).patch_size
            plans["configurations"][configuration]["patch_size"] = _rounded_up(patch_size)
        return plans

    @classmethod
    def check_plans(cls, configuration_manager: ConfigurationManager, configuration: str) -> None:
        """Refuse a patch that does not divide into tokens.

        Raises:
            UserError: an axis is not a multiple of 16; says the next size that is.
        """
        patch_size = list(configuration_manager.patch_size)
        if patch_size != _rounded_up(patch_size):
            raise UserError(
                f"patch size {format_size(patch_size)} does not fit UNETR: each axis must be a multiple of {TOKEN}; "
                f"the next that works is {format_size(_rounded_up(patch_size))}"
            )

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: this network has no deep supervision."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPoly]:
        """AdamW; the warm-up takes a twentieth of the epochs, 50 at most."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        warmup = min(_MOST_WARMUP_EPOCHS, self.num_epochs // _WARMUP_SHARE)
        return optimizer, WarmupPoly(optimizer, self.initial_lr, self.num_epochs, warmup)


class WarmupPoly:
    """The learning rate of an epoch: it rises linearly, then falls as nnU-Net's polynomial.

    A function of the epoch alone: a resumed training goes on with the rates of an unbroken one.

        lr(e) = peak * (e + 1) / (warmup + 1)                          for e < warmup
        lr(e) = peak * (1 - (e - warmup) / (epochs - warmup)) ** 0.9   from there on

    Args:
        optimizer: whose parameter groups get the rate.
        peak: the highest rate, that of epoch `warmup`.
        epochs: epochs of the whole training.
        warmup: epochs with a rising rate, less than `epochs`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, peak: float, epochs: int, warmup: int) -> None:
        self.optimizer = optimizer
        self.peak = peak
        self.epochs = epochs
        self.warmup = warmup
        self.step(0)

    def lr(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if epoch < self.warmup:
            return self.peak * (epoch + 1) / (self.warmup + 1)
        return self.peak * (1 - (epoch - self.warmup) / (self.epochs - self.warmup)) ** 0.9

    def step(self, epoch: int) -> None:
        """Set the rate of an epoch; nnU-Net calls it as the epoch starts."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(epoch)


def _rounded_up(patch_size: Sequence[int]) -> list[int]:
    return [-(-int(n) // TOKEN) * TOKEN for n in patch_size]
