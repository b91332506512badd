"""The loading of a trained model's folder, as nnU-Net's predictor does it, but for what a stranger could hide in it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_robust import hook
from nnunet_robust.common.console import quiet
from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.faults import is_memory
from nnunet_robust.common.nnunet_files import read_dataset_json, read_plans_json
from nnunet_robust.eval.images.cases import label_names
from nnunet_robust.eval.inference.models import Model, TrainedNetwork
from nnunet_robust.eval.inference.trainer_lookup import network_builder
from nnunet_robust.eval.inference.trust import load_checkpoint
from nnunet_robust.trainers.plan_names import check_dataset, check_plans

_OF_CHECKPOINT = (
    "network_weights",
    "trainer_name",
    "init_args",
    "inference_allowed_mirroring_axes",
    "current_epoch",
)


def load_model(
    folder: Path,
    folds: Sequence[str] | None,
    checkpoint: str,
    device: torch.device,
    mirroring: bool,
    dataset: str | None,
    trusted: bool = False,
) -> Model:
    """Load a trained model folder (`<trainer>__<plans>__<configuration>`).

    Args:
        folder: the model's folder, with `plans.json`, `dataset.json` and `fold_*`.
        folds: the folds to average; None takes all that have the checkpoint.
        checkpoint: file name of the checkpoint, e.g. `checkpoint_final.pth`.
        device: where to predict.
        mirroring: whether to average over mirrored images, as nnU-Net does by default.
        dataset: name of the dataset that it is tested on; None for its own.
        trusted: load whatever its checkpoints hold and its plans name, which may run code.

    Raises:
        UserError: a file is missing or unreadable, holds what could run code, the trainer is not found, or it needs a
            previous stage's output.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained nnU-Net model: it has no {name}")
    trained = sorted(path.parent.name[5:] for path in folder.glob(f"fold_*/{checkpoint}"))
    if twice := [fold for at, fold in enumerate(folds or ()) if fold in (folds or ())[:at]]:
        raise UserError(f"-f {' '.join(folds or ())}: fold {twice[0]} is named twice: name it once")
    missing = [fold for fold in folds or () if fold not in trained]
    if missing or not trained:
        raise UserError(
            f"no checkpoint {checkpoint} of fold {', '.join(missing) or 'any'} in {folder}: "
            f"folds that have it: {', '.join(trained) or 'none'}"
        )
    # `all` was trained on every case: nnU-Net leaves it out too unless it is asked for
    used = list(folds or [fold for fold in trained if fold != "all"] or trained)

    hook.activate()
    try:
        with quiet():
            stored = {fold: _stored(folder / f"fold_{fold}" / checkpoint, trusted) for fold in used}
            predictor = _initialised(folder, list(stored.values()), device, mirroring, trusted)
    except (OSError, UserError):
        raise
    except Exception as error:
        if is_memory(error):
            raise
        raise UserError(f"the model in {folder} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
    label_names(predictor.dataset_json)  # whose names tables and figures can write
    if predictor.configuration_manager.previous_stage_name is not None:
        raise UserError(
            f"{folder} is a cascade: it needs the segmentations of "
            f"{predictor.configuration_manager.previous_stage_name}, which the sweep does not make; take another "
            f"configuration"
        )
    trained_on = predictor.plans_manager.dataset_name
    trainer = predictor.trainer_name
    return Model(
        trainer=trainer if dataset in (None, trained_on) else f"{trainer}@{trained_on}",
        plans=predictor.plans_manager.plans_name,
        configuration=folder.name.split("__")[-1],
        fold="+".join(used),
        folder=folder,
        checkpoints={fold: sha256(folder / f"fold_{fold}" / checkpoint) for fold in used},
        patch_size=tuple(int(n) for n in predictor.configuration_manager.patch_size),
        predictor=predictor,
        epochs={fold: int(found["current_epoch"]) for fold, found in stored.items() if "current_epoch" in found},
    )


def _stored(checkpoint: Path, trusted: bool) -> dict[str, Any]:
    """What prediction needs of a checkpoint, without the optimiser's state."""
    found = load_checkpoint(checkpoint, trusted)
    return {key: found[key] for key in _OF_CHECKPOINT if key in found}


def _initialised(
    folder: Path, stored: Sequence[Mapping[str, Any]], device: torch.device, mirroring: bool, trusted: bool
) -> TrainedNetwork:
    """Do what nnU-Net's `initialize_from_trained_model_folder` does, which would load pickles whatever they hold.

    Args:
        folder: the model's.
        stored: the checkpoint of each fold, as loaded.
        device: where it predicts.
        mirroring: whether predictions are averaged over mirrored copies.
        trusted: leave the names in plans unchecked.
    """
    plans = read_plans_json(folder / "plans.json")
    dataset_json = read_dataset_json(folder / "dataset.json", "labels", "file_ending")
    if not trusted:
        check_plans(plans, folder / "plans.json")
        check_dataset(dataset_json, folder / "dataset.json")
    manager = PlansManager(plans)
    configuration = manager.get_configuration(stored[0]["init_args"]["configuration"])
    trainer = network_builder(stored[0]["trainer_name"])
    channels = determine_num_input_channels(manager, configuration, dataset_json)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    architecture: tuple[Any, ...] = (manager, configuration)
    if "plans_manager" not in inspect.signature(trainer.build_network_architecture).parameters:  # an older trainer
        architecture = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    network = trainer.build_network_architecture(*architecture, channels, heads, enable_deep_supervision=False)
    weights = [of_fold["network_weights"] for of_fold in stored]
    network.load_state_dict(weights[0])
    return TrainedNetwork(
        network=network,
        list_of_parameters=weights,
        plans_manager=manager,
        configuration_manager=configuration,
        dataset_json=dataset_json,
        trainer_name=stored[0]["trainer_name"],
        allowed_mirroring_axes=stored[0].get("inference_allowed_mirroring_axes"),
        use_mirroring=mirroring,
        device=device,
    )
