"""What a trainer's name changes for a dataset's plans, and what its network costs: parameters, FLOPs, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.memory import in_bytes
from nnunet_robust.common.nnunet_files import read_dataset_json, read_plans_json
from nnunet_robust.trainers import TRAINERS, trainer_class
from nnunet_robust.trainers.adversarial import RADIUS, STEPS
from nnunet_robust.trainers.names import parse
from nnunet_robust.trainers.plan_names import check_plans
from nnunet_robust.trainers.plans import format_size

STANDARD = "nnUNetTrainer"

# What nnU-Net's trainer sets for itself, outside the plans (2.8.1, nnUNetTrainer.__init__).
_EPOCHS, _ITERATIONS = 1000, 250
_AUGMENTATIONS = {None: "nnU-Net's", "noDA": "none", "textureDA": "nnU-Net's and textural noise"}
_ATTACKED = (
    f"half of each batch: {STEPS} steps up the loss, no voxel moved by more than {RADIUS} of its channel's range"
)


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: numbers that are trained.
        flops: floating point operations of one forward pass of one patch, two for a multiplication with its addition.
            Convolutions, matrix products and attention count; norms, nonlinearities, biases and resampling do not.
        activation_bytes: what the forward pass of one batch leaves in memory for the backward pass, in bytes of
            float32: the maps that autograd saves, each storage once, with the input, without parameters and buffers.
            This is the part of training's peak that differs between architectures and grows with patch and batch. Not
            in it: gradients, optimiser state, the loss's own maps, what a kernel needs while it runs. Mixed precision
            about halves it.
    """

    parameters: int
    flops: int
    activation_bytes: int


class Change(NamedTuple):
    """One thing that a name changes: what, as the standard trainer has it, and as this name has it."""

    what: str
    standard: str
    changed: str


def read_plans(folder: Path, plans: str, trusted: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans and `dataset.json` of a dataset.

    Args:
        folder: the dataset's folder in nnUNet_preprocessed.
        plans: the plans' identifier, e.g. `nnUNetPlans`.
        trusted: whether the plans may name any class, whose import may run code.

    Raises:
        UserError: one of the files is not there (says which plans there are), or see `check_plans`.
    """
    for file in (folder / f"{plans}.json", folder / "dataset.json"):
        if not file.is_file():
            there = ", ".join(sorted(path.stem for path in folder.glob("*lans*.json"))) or "none"
            raise UserError(
                f"no {file.name} in {folder} (plans there: {there}): run nnUNetv2_plan_and_preprocess -d "
                f"{folder.name[7:10]}, or give other plans with -p"
            )
    plans_json, dataset_json = (
        read_plans_json(folder / f"{plans}.json"),
        read_dataset_json(folder / "dataset.json", "labels"),
    )
    if not trusted:
        check_plans(plans_json, folder / f"{plans}.json")
    return plans_json, dataset_json


def planned(name: str, plans: dict[str, Any], configuration: str) -> tuple[PlansManager, ConfigurationManager]:
    """The plans as the trainer of this name trains with them.

    Raises:
        UserError: no such trainer or configuration, a name that breaks the grammar, or plans that do not fit.
    """
    if configuration not in plans["configurations"]:
        there = ", ".join(plans["configurations"])
        raise UserError(f"the plans have no configuration {configuration!r}: there are {there}")
    cls: Any = trainer_class(_ours(name))
    manager = PlansManager(cls.adapt(plans, configuration))
    resolved = manager.get_configuration(configuration)
    cls.check_plans(resolved, configuration)
    return manager, resolved


def changes(name: str, plans: dict[str, Any], configuration: str) -> list[Change]:
    """What a name changes in the plans and in the standard trainer's settings; its architecture is not in it.

    Args:
        name: e.g. `nnUNetTrainerNoSkip_ps64_seed1`.
        plans: nnU-Net's plans, not modified.
        configuration: e.g. `3d_fullres`.

    Raises:
        UserError: as `planned`.
    """
    before, after = (_settings(each, plans, configuration) for each in (STANDARD, name))
    return [Change(what, before[what], after[what]) for what in before if before[what] != after[what]]


def trainer_cost(name: str, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> Cost:
    """What the network of a trainer costs at its patch and batch size, in training (all outputs of deep supervision).

    Args:
        name: e.g. `nnUNetTrainerNoSkip_ps64_seed1`.
        plans: nnU-Net's plans, not modified.
        configuration: e.g. `3d_fullres`.
        dataset_json: the dataset's `dataset.json`, for its channels and labels.

    Raises:
        UserError: as `planned`.
    """
    manager, resolved = planned(name, plans, configuration)
    channels = determine_num_input_channels(manager, resolved, dataset_json)
    outputs = manager.get_label_manager(dataset_json).num_segmentation_heads
    cls: Any = trainer_class(name)
    shape = (resolved.batch_size, channels, *resolved.patch_size)
    try:
        # On the meta device shapes are computed and nothing else: the largest plans take no memory and a second.
        with torch.device("meta"):
            network = cls.build_network_architecture(manager, resolved, channels, outputs, True)
        return network_cost(network, shape)
    except RuntimeError as error:
        if "overflow" not in str(error):  # 64 bits do not hold the bytes of a map
            raise
        raise UserError(
            f"{name}: a batch of {format_size(shape)} numbers takes {in_bytes(4 * math.prod(shape))} for its images "
            "alone, and its maps more than any machine has: take a smaller patch or batch"
        ) from error


def network_cost(network: nn.Module, shape: tuple[int, ...]) -> Cost:
    """What a network costs, by one forward pass on the device where its parameters are.

    Args:
        network: in training mode.
        shape: (B, C, *spatial) of its input; B is the batch size of `Cost.activation_bytes`.
    """
    own = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    batch = torch.zeros(shape, device=next(network.parameters()).device)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter, saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(batch)
    del output  # It held what was saved until here: no storage was freed, and its address taken by another, meanwhile.
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Cost(parameters, counter.get_total_flops() // shape[0], sum(saved.values()))


def format_si(value: float) -> str:
    """A number of at least 1 in three digits with its decimal prefix, for a unit to follow: 38288230400 -> "38.3 G"."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:#.3g}".rstrip(".") + f" {prefix}"
    return f"{value:.0f} "


def _ours(name: str) -> str:
    try:
        trainer_class(name)
    except AttributeError:
        raise UserError(f"no trainer {name!r} in nnunet_robust: there are {', '.join(TRAINERS)}") from None
    return name


def _settings(name: str, plans: dict[str, Any], configuration: str) -> dict[str, str]:
    _, resolved = planned(name, plans, configuration)
    _, options = parse(name, TRAINERS)
    return {
        "patch": format_size(resolved.patch_size),
        "stages": str(resolved.network_arch_init_kwargs["n_stages"]),
        "batch": str(resolved.batch_size),
        "epochs": str(options.epochs or _EPOCHS),
        "iterations an epoch": str(options.iterations or _ITERATIONS),
        "augmentation": _AUGMENTATIONS[options.augmentation],
        "adversarial patches": _ATTACKED if options.adversarial else "none",
        "seed": "none" if options.seed is None else str(options.seed),
    }


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # The address of the storage itself: a meta tensor has no data_ptr.
