"""The selection of models: what the user named, and the models that it comes to, loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import model_folder
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.models import Model


@dataclass(frozen=True, kw_only=True)
class ModelSelection:
    """What the user named: the trained models that predict.

    Attributes:
        dataset: id or name; None where model folders and images are given.
        configuration: nnU-Net's configuration of the trainers.
        trainers: trainer names, looked up in `nnUNet_results`.
        plans: plans identifier of the trainers.
        folds: folds to average; None takes all that are trained.
        checkpoint: file name of the checkpoints.
        model_folders: further trained models.
        mirroring: test-time mirroring, nnU-Net's default.
        trust_checkpoints: load whatever checkpoints hold and plans name, which may run code.
    """

    dataset: str | None = None
    configuration: str = "2d"
    trainers: Sequence[str] = ()
    plans: str = "nnUNetPlans"
    folds: Sequence[str] | None = None
    checkpoint: str = "checkpoint_final.pth"
    model_folders: Sequence[Path] = ()
    mirroring: bool = True
    trust_checkpoints: bool = False


def models_of(
    selection: ModelSelection,
    dataset: str | None,
    device: torch.device,
    *,
    further_trainers: Sequence[str] = (),
    tile_sizes: Sequence[str] = (),
) -> list[Model]:
    """Load the models, each under each tile size.

    Args:
        selection: what the user named.
        dataset: the full name of the selection's dataset, None where it has none.
        device: where they predict.
        further_trainers: trainers that were named elsewhere, for instance as members of an ensemble.
        tile_sizes: sliding windows, see `SweepParameters`; none takes the patch size of the training.

    Raises:
        UserError: no model, one that cannot be loaded, two of one name, or models that take different images.
    """
    folders = list(selection.model_folders)
    trainers = list(selection.trainers)
    if not folders:
        trainers += [name for name in further_trainers if name not in trainers]
    if trainers:
        if dataset is None:
            raise UserError("trainers (-tr) need a dataset (-d); a model folder (-m) goes without")
        folders = [model_folder(dataset, t, selection.plans, selection.configuration) for t in trainers] + folders
    if not folders:
        raise UserError("no models: name trainers with -tr, or model folders with -m")
    models = [load_selected(selection, folder, dataset, device) for folder in folders]
    if tile_sizes:
        tiled = [model.with_tile_size(text) for model in models for text in tile_sizes]
        models = list({(model.key, model.folder): model for model in tiled}.values())  # "64" and "64x64" are one
    for model in models[1:]:
        check_alike(models[0], model)
    keys = [model.key for model in models]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UserError(f"two models are both called {twice[0]}: sweep them into two output folders")
    return models


def load_selected(selection: ModelSelection, folder: Path, dataset: str | None, device: torch.device) -> Model:
    """Load one model as the selection says."""
    chosen = selection.folds, selection.checkpoint, device, selection.mirroring, dataset
    return load_model(folder, *chosen, trusted=selection.trust_checkpoints)


def check_alike(first: Model, model: Model) -> None:
    """Make sure that two models can be swept over the same cases.

    Raises:
        UserError: they have other channels, labels or file endings.
    """
    for what, value in interface(model).items():
        if value != (of_first := interface(first)[what]):
            raise UserError(f"{model.key} has {what} {value}, {first.key} has {of_first}: sweep them one by one")


def interface(model: Model) -> dict[str, Any]:
    """Describe what models must share to be swept over the same cases."""
    meta = model.predictor.dataset_json
    return {"channels": model.channels, "labels": meta["labels"], "file ending": meta["file_ending"]}
