"""What the user asked of a sweep, and the conditions and sources of attacks that this comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import model_folder
from nnunet_robust.eval.attacks.rows import STEPS, perturbation
from nnunet_robust.eval.images.selection import CaseSelection
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.selection import ModelSelection, check_alike, load_selected
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.conditions import with_attacks

SELF = "self"
"""As a source of attacks: every model gets attacks on itself."""


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Ensembles of the models, as arms beside them.

    Attributes:
        ensemble: trainers whose models make an ensemble beside themselves; "all" for all of them.
        weights: of its members: uniform, confidence or complexity.
        weights_from: for weights by complexity, the folder of a sweep over calibration cases.
    """

    ensemble: Sequence[str] = ()
    weights: str = "uniform"
    weights_from: Path | None = None


@dataclass(frozen=True, kw_only=True)
class UncertaintyOptions:
    """What is measured of a model's confidence.

    Attributes:
        uncertainty: what tells a model's members apart, folds or mirroring or both; none: no scores of uncertainty.
        save_uncertainty: keep the maps of uncertainty.
        calibrations: of the models, from `nnunet-robust calibrate`: what becomes of their guarantees is stored, too.
    """

    uncertainty: Sequence[str] = ()
    save_uncertainty: bool = False
    calibrations: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class DenoisingOptions:
    """The models again with denoised images, as arms of their own.

    Attributes:
        denoise: "auto" where an image is noisier than the model tolerates, "always"; none: no such arms.
        denoise_from: for auto, the folder of a sweep over other cases that tells how much noise each model tolerates.
    """

    denoise: Sequence[str] = ()
    denoise_from: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """How attacks are made.

    Attributes:
        attack_sources: models whose attacked images all models get: trainers or model folders; "self": each its own,
            which is so without any.
        attack_steps: steps of an attack.
    """

    attack_sources: Sequence[str] = ()
    attack_steps: int = STEPS


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """On what a sweep runs, and how the work is divided.

    Attributes:
        device: cpu, cuda or mps; None takes cuda where there is one.
        precision: exact or fast, see `nnunet_robust.eval.inference.sliding_window`.
        workers: threads beside the network's; None goes by the device.
        shard: "i/n" takes the i-th of every n units, for machines that cannot see what the others do.
    """

    device: str | None = None
    precision: str = "exact"
    workers: int | None = None
    shard: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepParameters(
    ModelSelection,
    CaseSelection,
    EnsembleOptions,
    UncertaintyOptions,
    DenoisingOptions,
    AttackOptions,
    ExecutionOptions,
):
    """What to run: the groups of options, and what only a sweep has.

    Attributes:
        output: folder of the results.
        conditions: perturbation -> levels.
        allow_training_cases: score models on cases that they were trained on, too; manifest and report say so.
        series: a `series.csv`: test sets that are conditions of their own, see `nnunet_robust.eval.sweep.series`.
        tile_sizes: sliding windows to predict with, as in "64" or "32x64x64", each an arm of its own for every model;
            none takes the patch size of its training.
        replicates: draws per level, for perturbations with randomness.
        seed: of the perturbations.
        background: what becomes of images' background, of `regions.BACKGROUNDS`.
        save_predictions: keep the segmentations.
        tolerance_mm: tolerance of the normalised surface distance.
    """

    output: Path
    conditions: Mapping[str, Sequence[float]]
    allow_training_cases: bool = False
    series: Path | None = None
    tile_sizes: Sequence[str] = ()
    replicates: int = 1
    seed: int = 0
    background: str = "auto"
    save_predictions: bool = False
    tolerance_mm: float = 2.0


def conditions_of(parameters: SweepParameters, levels_of: Mapping[str, Sequence[float]]) -> list[Condition]:
    """List the conditions, the clean image first; those of series come beside them.

    Args:
        parameters: of the sweep.
        levels_of: perturbation -> levels.
    """
    conditions = [Condition.clean()]
    for name, levels in levels_of.items():
        draws = parameters.replicates if perturbation(name).stochastic else 1
        conditions += [Condition(name, float(level), r) for level in levels if level != 0 for r in range(draws)]
    return conditions


def sources_of(
    parameters: SweepParameters, models: Sequence[Model], dataset: str | None, device: torch.device
) -> dict[str, Model]:
    """Load the models whose attacked images all models get, by name.

    Raises:
        UserError: a name of no model, or of several; two that are called alike; or a model that takes other images.
    """
    found: dict[str, Model] = {}
    for name in dict.fromkeys(name for name in parameters.attack_sources if name != SELF):
        model = _source(name, parameters, models, dataset, device)
        if model.trainer in found:
            raise UserError(f"--attack-source {name}: two models are called {model.trainer}: sweep them apart")
        found[model.trainer] = model
    for row in map(perturbation, parameters.conditions):
        if row.source and row.source not in found:
            found[row.source] = _source(row.source, parameters, models, dataset, device)
            if found[row.source].trainer != row.source:
                raise UserError(
                    f"{row.name}: that model is called {found[row.source].trainer}: name it so, or with --attack-source"
                )
    return found


def _source(
    name: str, parameters: SweepParameters, models: Sequence[Model], dataset: str | None, device: torch.device
) -> Model:
    """The model of that name or folder: one of those that are swept, or loaded."""
    folder = Path(name)
    swept = [model for model in models if name == model.trainer or model.folder.resolve() == folder.resolve()]
    if len(swept) > 1:
        raise UserError(f"--attack-source {name}: {len(swept)} of the models are called that: sweep them apart")
    if swept:
        return swept[0]
    if dataset is not None and not folder.is_dir():
        folder = model_folder(dataset, name, parameters.plans, parameters.configuration)
    model = load_selected(parameters, folder, dataset, device)
    check_alike(models[0], model)
    for other in models:
        if other.key == model.key and other.checkpoints != model.checkpoints:
            raise UserError(f"--attack-source {name}: a swept model is called {model.key}, too, with other weights")
    return model


def attacked_conditions(parameters: SweepParameters, sources: Mapping[str, Model]) -> dict[str, tuple[float, ...]]:
    """Map perturbations, as the user named them, to levels, with attacks' sources and the noise to compare with."""
    return with_attacks(parameters.conditions, [*([""] if on_themselves(parameters) else []), *sources])


def on_themselves(parameters: SweepParameters) -> bool:
    """Whether every model gets attacks on itself."""
    return not parameters.attack_sources or SELF in parameters.attack_sources
