"""What the user asked of a sweep, and what that comes to: conditions, device, models, cases, test sets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_robust.errors import UserError
from nnunet_robust.eval.cases import CaseFiles, cases_of_dataset, cases_of_folders, drawn_by_experts
from nnunet_robust.eval.conditions import with_attacks
from nnunet_robust.eval.ensembles import ALL
from nnunet_robust.eval.models import Model, load_model
from nnunet_robust.eval.perturbations import perturbation
from nnunet_robust.eval.perturbations.adversarial import STEPS
from nnunet_robust.eval.results import Condition
from nnunet_robust.eval.series import SeriesSet, read_series
from nnunet_robust.folders import model_folder

SELF = "self"
"""As a source of attacks: every model gets attacks on itself."""

Series = list[tuple[SeriesSet, list[CaseFiles]]]


@dataclass(frozen=True)
class SweepParameters:
    """What to run.

    Attributes:
        output: folder of the results.
        conditions: perturbation -> levels.
        dataset: id or name; None where model folders and images are given.
        configuration: nnU-Net's configuration of the trainers.
        trainers: trainer names, looked up in `nnUNet_results`.
        plans: plans identifier of the trainers.
        folds: folds to average; None takes all that are trained.
        checkpoint: file name of the checkpoints.
        model_folders: further trained models.
        images: folder of images; None takes the dataset's test cases or the fold's validation cases.
        labels: folder of their labels; several, of experts who have each drawn all cases.
        reference: of several, what the metrics compare with: a key of `cases.REFERENCES`.
        ensemble: trainers whose models make an ensemble beside themselves; "all" for all of them.
        weights: of its members: uniform, confidence or complexity.
        weights_from: for weights by complexity, the folder of a sweep over calibration cases.
        uncertainty: what tells a model's members apart, folds or mirroring or both; none: no scores of uncertainty.
        denoise: the models again with denoised images, as arms of their own: "auto" where an image is noisier than
            what the model bears, "always"; none: no such arms.
        denoise_from: for auto, the folder of a sweep over other cases that tells what each model bears.
        calibrations: of the models, from `nnunet-robust calibrate`: what becomes of their promises is stored, too.
        save_uncertainty: keep the maps of uncertainty.
        series: a `series.csv`: test sets that are conditions of their own, see `nnunet_robust.eval.series`.
        tile_sizes: sliding windows to predict with, as in "64" or "32x64x64", each an arm of its own for every model;
            none takes the patch size of its training.
        attack_sources: models whose attacked images all models get: trainers or model folders; "self": each its own,
            which is so without any.
        attack_steps: of an attack.
        replicates: draws per level, for perturbations with randomness.
        seed: of the perturbations.
        mirroring: test-time mirroring, nnU-Net's default.
        save_predictions: keep the segmentations.
        tolerance_mm: tolerance of the normalised surface distance.
        device: cpu, cuda or mps; None takes cuda where there is one.
        precision: exact or fast, see `nnunet_robust.eval.sliding_window`.
        workers: threads beside the network's; None goes by the device.
        shard: "i/n" takes the i-th of every n units, for machines that cannot see what the others do.
    """

    output: Path
    conditions: Mapping[str, Sequence[float]]
    dataset: str | None = None
    configuration: str = "2d"
    trainers: Sequence[str] = ()
    plans: str = "nnUNetPlans"
    folds: Sequence[str] | None = None
    checkpoint: str = "checkpoint_final.pth"
    model_folders: Sequence[Path] = ()
    images: Path | None = None
    labels: Sequence[Path] = ()
    reference: str = "first"
    ensemble: Sequence[str] = ()
    weights: str = "uniform"
    weights_from: Path | None = None
    uncertainty: Sequence[str] = ()
    save_uncertainty: bool = False
    calibrations: Sequence[Path] = ()
    denoise: Sequence[str] = ()
    denoise_from: Path | None = None
    series: Path | None = None
    tile_sizes: Sequence[str] = ()
    attack_sources: Sequence[str] = ()
    attack_steps: int = STEPS
    replicates: int = 1
    seed: int = 0
    mirroring: bool = True
    save_predictions: bool = False
    tolerance_mm: float = 2.0
    device: str | None = None
    precision: str = "exact"
    workers: int | None = None
    shard: str | None = None


def check_numbers(parameters: SweepParameters) -> None:
    """What can be told before models are loaded.

    Raises:
        UserError: no draws, no steps, or a source of attacks without an attack.
    """
    if parameters.replicates < 1:
        raise UserError(f"--replicates {parameters.replicates}: at least 1 draw is needed")
    if parameters.attack_steps < 1:
        raise UserError(f"--attack-steps {parameters.attack_steps}: at least 1 step is needed")
    attacks = [name for name in parameters.conditions if perturbation(name).uses_victim]
    if parameters.attack_sources and not attacks:
        raise UserError(
            "--attack-source is of attacks: name some with --perturb, as pgd_linf, or take --preset attacks"
        )
    if parameters.ensemble and _on_themselves(parameters) and any(perturbation(name).white_box for name in attacks):
        raise UserError("an ensemble is not attacked as one: sweep attacks without --ensemble, or from --attack-source")
    if parameters.attack_sources and not any(perturbation(name).white_box for name in attacks):
        raise UserError(f"--attack-source: {attacks[0]} names its source already: leave one of them out")


def conditions_of(parameters: SweepParameters, levels_of: Mapping[str, Sequence[float]]) -> list[Condition]:
    """The conditions, the clean image first; those of series come beside them.

    Args:
        parameters: of the sweep.
        levels_of: perturbation -> levels.
    """
    conditions = [Condition.clean()]
    for name, levels in levels_of.items():
        draws = parameters.replicates if perturbation(name).stochastic else 1
        conditions += [Condition(name, float(level), r) for level in levels if level != 0 for r in range(draws)]
    return conditions


def device_of(name: str | None) -> torch.device:
    """The device of that name; by default CUDA where there is one."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return torch.device("cuda" if available["cuda"] else "cpu")
    if name not in available:
        raise UserError(f"-device {name}: take one of {', '.join(available)}")
    if not available[name]:
        raise UserError(f"-device {name}: this machine has none that torch can use: take -device cpu")
    return torch.device(name)


def workers_of(given: int | None, device: torch.device) -> int:
    """How many threads work beside the network's."""
    if given is not None:
        if given < 0:
            raise UserError(f"--workers {given}: give a number of threads, or 0 for none beside the network's")
        return given
    cores = multiprocessing.cpu_count()
    # On a CPU the network has all cores: threads only fill what it leaves, and with few cores get into its way.
    return min(8, max(1, cores - 1)) if device.type != "cpu" else min(4, cores // 4)


def use_nnunets_threads(device: torch.device) -> None:
    """Give torch as many threads as nnU-Net does."""
    # As nnUNetv2_predict does: the last bit of a convolution, and with it a voxel at a tie, depends on their number.
    if device.type == "cpu":
        torch.set_num_threads(multiprocessing.cpu_count())


def models_of(parameters: SweepParameters, dataset: str | None, device: torch.device) -> list[Model]:
    """The models, loaded: each under each tile size."""
    folders = list(parameters.model_folders)
    trainers = list(parameters.trainers)
    if not folders:  # the members of an ensemble need not be named twice
        trainers += [name for name in parameters.ensemble if name not in (*trainers, ALL)]
    if trainers:
        if dataset is None:
            raise UserError("trainers (-tr) need a dataset (-d); a model folder (-m) goes without")
        folders = [model_folder(dataset, t, parameters.plans, parameters.configuration) for t in trainers] + folders
    if not folders:
        raise UserError("no models: name trainers with -tr, or model folders with -m")
    models = [_load(parameters, folder, dataset, device) for folder in folders]
    if parameters.tile_sizes:
        tiled = [model.with_tile_size(text) for model in models for text in parameters.tile_sizes]
        models = list({(model.key, model.folder): model for model in tiled}.values())  # "64" and "64x64" are one
    for model in models[1:]:
        _check_alike(models[0], model)
    keys = [model.key for model in models]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UserError(f"two models are both called {twice[0]}: sweep them into two output folders")
    return models


def sources_of(
    parameters: SweepParameters, models: Sequence[Model], dataset: str | None, device: torch.device
) -> dict[str, Model]:
    """Name -> the model whose attacked images all models get.

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
    model = _load(parameters, folder, dataset, device)
    _check_alike(models[0], model)
    for other in models:
        if other.key == model.key and other.checkpoints != model.checkpoints:
            raise UserError(f"--attack-source {name}: a swept model is called {model.key}, too, with other weights")
    return model


def attacked_conditions(parameters: SweepParameters, sources: Mapping[str, Model]) -> dict[str, tuple[float, ...]]:
    """Perturbation -> levels, as the user named them, with the attacks' sources and the noise to compare with."""
    return with_attacks(parameters.conditions, [*([""] if _on_themselves(parameters) else []), *sources])


def _on_themselves(parameters: SweepParameters) -> bool:
    """Whether every model gets attacks on itself."""
    return not parameters.attack_sources or SELF in parameters.attack_sources


def _load(parameters: SweepParameters, folder: Path, dataset: str | None, device: torch.device) -> Model:
    return load_model(folder, parameters.folds, parameters.checkpoint, device, parameters.mirroring, dataset)


def _check_alike(first: Model, model: Model) -> None:
    for what, value in _interface(model).items():
        if value != (of_first := _interface(first)[what]):
            raise UserError(f"{model.key} has {what} {value}, {first.key} has {of_first}: sweep them one by one")


def _interface(model: Model) -> dict[str, Any]:
    """What models must share to be swept over the same cases."""
    meta = model.predictor.dataset_json
    return {"channels": model.channels, "labels": meta["labels"], "file ending": meta["file_ending"]}


def cases_of(parameters: SweepParameters, dataset: str | None, models: list[Model]) -> list[CaseFiles]:
    """The cases to perturb; files may be missing."""
    shared = _interface(models[0])
    if (parameters.images is None) == bool(parameters.labels):
        raise UserError("images (-i) and labels (-l) go together: give both or neither")
    several = len(parameters.labels) > 1
    if parameters.reference != "first" and not several:
        raise UserError(f"--reference {parameters.reference} is of several experts: give a folder of each with -l")
    if several and parameters.series is not None:
        raise UserError("--series has one label for each image: sweep it apart from several experts (-l A B)")
    if parameters.images is not None:
        first = parameters.labels[0]
        cases = cases_of_folders(parameters.images, first, shared["file ending"], shared["channels"], complete=False)
        return drawn_by_experts(cases, parameters.labels, parameters.reference) if several else cases
    if dataset is None:
        raise UserError("no images: give a dataset with -d, or folders with -i and -l")
    return cases_of_dataset(dataset, models[0].fold, shared["file ending"], shared["channels"])


def series_of(parameters: SweepParameters, cases: list[CaseFiles], models: list[Model]) -> Series:
    """The test sets of the series, each with its cases."""
    if parameters.series is None:
        return []
    shared, patients = _interface(models[0]), {case.name: case.patient for case in cases}
    sets = read_series(parameters.series)
    return [(test_set, test_set.cases(shared["file ending"], shared["channels"], patients)) for test_set in sets]
