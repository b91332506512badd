"""What the manifest says of a run."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_robust.eval.attacks.rows import PRESETS, perturbation
from nnunet_robust.eval.images.regions import channel_names
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.manifest import (
    Identity,
    ImagesEntry,
    Manifest,
    ModelEntry,
    PerturbationEntry,
    TrainingCasesEntry,
)
from nnunet_robust.eval.sweep.arms import Arm
from nnunet_robust.eval.sweep.guarantees import Guarantees
from nnunet_robust.eval.sweep.plan import SweepPlan
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM
from nnunet_robust.trainers import describe as describe_trainer

ASSUMPTIONS = (
    "Perturbations act on the raw image, before nnU-Net's preprocessing, and once per volume.",
    "Intensity levels are relative to each channel's robust range (0.5th to 99.5th percentile of the clean image).",
    "Perturbed values are clipped to each channel's own minimum and maximum, as a stored image saturates.",
    "Every model sees the same noise field; a level only scales it.",
    "A missed or hallucinated object counts with Dice, IoU and NSD 0 and with the image's diagonal as distance.",
    "Formats without a spacing (PNG) count a pixel as 1 mm.",
    "Cases of one patient are not independent: intervals are clustered by patient.",
)
SERIES_ASSUMPTION = (
    "Test sets of a series are predicted as they are; cases of the same name are the same case at another level."
)
UNCERTAINTY_ASSUMPTION = (
    f"Scores of uncertainty are means over the predicted structure and the {BAND_MM:g} mm around it; reliability is "
    f"counted within {BAND_MM:g} mm of the reference or the prediction."
)
ATTACK_ASSUMPTION = (
    "Attacks know the reference segmentation, and the model that they are on, mirroring and folds included; they are "
    "one perturbation of the whole volume, found in full precision."
)
DENOISED_ASSUMPTION = (
    "Models with +denoise see the denoised image where its noise (noise_sigma in inputs.csv) is above what the model "
    "bears, and else the image as it is; those with +denoise_always see the denoised image. inputs.csv is of the "
    "images before that."
)
BACKGROUND_ASSUMPTIONS = {
    "auto": "Where nnU-Net crops an image to what is not zero, the background stays zero, and a CT's padding as it is. "
    "Levels, robust range and measurements are of the rest.",
    "keep": "What nnU-Net takes for background (exactly zero) stays zero, and a CT's padding as it is. Levels, robust "
    "range and measurements are of the rest.",
    "perturb": "Background of zeros and padding are perturbed and measured as all else (--background perturb).",
}
EIGHT_BIT_ASSUMPTION = (
    "Rows on the 8-bit scale take values from 0 to 255 as they are; of images without 8 bits the robust range becomes "
    "0 to 255, rounded down to whole numbers."
)
EXPERTS_ASSUMPTION = "Several experts have drawn each case; the identity's `reference` says what metrics compare with."
_PACKAGES = (
    "nnunet-robust", "nnunetv2", "torch", "numpy", "scipy", "surface-distance", "dynamic-network-architectures",
)  # fmt: skip


def describe(before: Manifest, plan: SweepPlan) -> Manifest:
    """Describe a run: its models and perturbations are added to those of earlier runs.

    Args:
        before: the manifest of earlier runs into the same folder; empty for the first.
        plan: of this run.
    """
    models = dict(before.models)
    for arm in plan.arms:
        entry = _described(models.get(arm.key, ModelEntry()), arm, plan.guarantees.get(arm.key))
        models[arm.key] = _with_training(entry, arm.key, plan)
    perturbations = dict(before.perturbations)
    for name, levels in plan.levels.items():
        row = perturbation(name)
        perturbations[name] = PerturbationEntry(
            levels=_levels(perturbations, name, levels),
            unit=row.unit,
            reference=row.reference,
            display_name=row.display_name,
            presets={preset: len(of_preset) for preset, of_preset in PRESETS.items() if name in of_preset} or None,
            control=row.control or None,
            source=row.source or None,
            attack=plan.attacks.get(name),
        )
    for of_set in plan.cases.series:
        name, level = of_set.test_set.condition.perturbation, of_set.test_set.condition.level
        known = perturbations.get(name, PerturbationEntry()).series or {}
        files, levels = {**known, f"{level:g}": of_set.digests}, _levels(perturbations, name, [level])
        perturbations[name] = PerturbationEntry(levels=levels, unit=of_set.test_set.unit, series=files)
    return Manifest(
        dataset=plan.identity.dataset,
        identity=plan.identity,
        models=models,
        perturbations=perturbations,
        patients_known=plan.cases.patients_known,
        parameters=_settings(plan),
        seed=plan.identity.seed,
        device=_device_name(plan.device),
        versions={"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        git_commit=_git_commit(),
        assumptions=_assumptions(plan.identity, models.values(), perturbations),
        case_notes={**(before.case_notes or {}), **plan.notes} or None,
        pictures=before.pictures,
    )


def _settings(plan: SweepPlan) -> dict[str, Any]:
    parameters = plan.parameters
    return {
        "images": None if parameters.images is None else str(parameters.images),
        "labels": [str(folder) for folder in parameters.labels],
        "replicates": parameters.replicates,
        "tile_step_size": 0.5,
        "workers": plan.workers,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def _described(before: ModelEntry, arm: Arm, guarantees: Guarantees | None) -> ModelEntry:
    """An arm's entry, with what an earlier run has stored of it, such as how its network was run."""
    model = arm.models[0] if isinstance(arm, Ensemble) else arm
    ending, reader = model.predictor.dataset_json["file_ending"], type(model.reader).__name__
    images = ImagesEntry(
        file_ending=ending,
        channels=model.channels,
        reader=reader,
        channel_names=channel_names(model.predictor.dataset_json),
    )
    known: dict[str, Any] = {**arm.arm, "checkpoints": arm.checkpoints, "images": images}
    if isinstance(arm, Ensemble):
        known |= {"kind": "ensemble", "members": [member.key for member in arm.models], "weights": arm.weighting}
        known |= {"architecture": f"Ensemble of {len(arm.models)}", "options": {}, "baseline": False}
    else:
        known |= {"kind": "model", "folder": str(arm.folder), **_architecture(arm)}
        if arm.denoiser is not None and arm.plain is not None:
            known |= {"kind": "denoised", "denoise": arm.denoiser.described(), "without_denoising": arm.plain.key}
    if guarantees is not None:
        known["calibration"] = guarantees.described()
    return replace(before, **known)


def _architecture(model: Model) -> dict[str, Any]:
    """What tables and figures say of a model: see `ModelEntry`."""
    trained_on = model.predictor.plans_manager.dataset_name
    described = describe_trainer(model.predictor.trainer_name)
    options = dict(described.options)
    if model.denoiser is not None:
        options["denoising"] = "always denoised" if model.denoiser.threshold is None else "denoised"
    if model.trainer.endswith(f"@{trained_on}"):
        options["dataset"] = f"trained on {trained_on}"
    return {
        "architecture": described.display_name,
        "options": options,
        "baseline": described.baseline and model.denoiser is None,
    }


def _with_training(entry: ModelEntry, key: str, plan: SweepPlan) -> ModelEntry:
    """An arm's entry with how it was trained, and on which of the cases: those that earlier runs have found, too."""
    if key not in plan.overlaps:
        return entry
    overlap, before = plan.overlaps[key], entry.training_cases or TrainingCasesEntry()
    folds = dict.fromkeys([*before.found, *overlap.found])
    cases = TrainingCasesEntry(
        n_cases=len(plan.cases.patients),
        found={fold: sorted({*before.found.get(fold, ()), *overlap.found.get(fold, ())}) for fold in folds},
        unknown=overlap.unknown,
    )
    return replace(entry, training=plan.trainings[key], training_cases=cases)


def _levels(known: Mapping[str, PerturbationEntry], name: str, levels: Iterable[float]) -> list[float]:
    return sorted({*map(float, known.get(name, PerturbationEntry()).levels), *map(float, levels)})


def _assumptions(
    identity: Identity, models: Iterable[ModelEntry], perturbations: Mapping[str, PerturbationEntry]
) -> list[str]:
    entries = perturbations.values()
    natural = [name for name, entry in perturbations.items() if entry.series is None]
    return [
        *ASSUMPTIONS,
        BACKGROUND_ASSUMPTIONS[identity.background_then],
        *([EIGHT_BIT_ASSUMPTION] if any(perturbation(name).uses_eight_bit for name in natural) else []),
        *([SERIES_ASSUMPTION] if any(row.series is not None for row in entries) else []),
        *([ATTACK_ASSUMPTION] if any(row.attack is not None for row in entries) else []),
        *([UNCERTAINTY_ASSUMPTION] if identity.members_by else []),
        *([DENOISED_ASSUMPTION] if any(model.denoise is not None for model in models) else []),
        *([EXPERTS_ASSUMPTION] if identity.reference else []),
    ]


def _git_commit() -> str | None:
    """The commit of this package, where it runs from a checkout."""
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return out.stdout.strip() or None
