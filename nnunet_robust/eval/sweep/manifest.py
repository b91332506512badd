"""The manifest: what a reader needs to trust a sweep's numbers, or to make them again."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.sweep.guarantees import Promises
from nnunet_robust.eval.sweep.series import SeriesSet
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM

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
EXPERTS_ASSUMPTION = "Several experts have drawn each case; the identity's `reference` says what metrics compare with."
_PACKAGES = (
    "nnunet-robust",
    "nnunetv2",
    "torch",
    "numpy",
    "scipy",
    "surface-distance",
    "dynamic-network-architectures",
)


def describe(
    before: Mapping[str, Any],
    identity: Mapping[str, Any],
    parameters: Mapping[str, Any],
    conditions: Mapping[str, Sequence[float]],
    attacks: Mapping[str, Mapping[str, Any]],
    series: Iterable[tuple[SeriesSet, Mapping[str, str]]],
    arms: Iterable[Model | Ensemble],
    promises: Mapping[str, Promises],
    device: torch.device,
) -> dict[str, Any]:
    """A manifest, with this run's models and perturbations added to those of earlier runs.

    Args:
        before: the manifest of earlier runs into the same folder; empty for the first.
        identity: what results must share to stand beside one another (dataset, seed, cases, ...).
        parameters: further settings of this run.
        conditions: perturbation -> levels of this run.
        attacks: those of them that are attacks -> what more is to be known of each.
        series: this run's test sets, each with the digests of its cases' files.
        arms: this run's models and their ensembles.
        promises: model key -> its calibration.
        device: where they predict.

    Returns:
        JSON-ready.
    """
    described = dict(before.get("models", {}))
    for arm in arms:
        model = arm.models[0] if isinstance(arm, Ensemble) else arm
        described[arm.key] = {
            **described.get(arm.key, {}),  # with what was chosen for it
            **arm.arm,
            **_made_of(arm),
            **({"calibration": promises[arm.key].described()} if arm.key in promises else {}),
            "checkpoints": arm.checkpoints,
            "images": {
                "file_ending": model.predictor.dataset_json["file_ending"],
                "channels": model.channels,
                "reader": type(model.reader).__name__,
            },
        }
    perturbations = dict(before.get("perturbations", {}))
    for name, levels in conditions.items():
        row = perturbation(name)
        known = perturbations.get(name, {}).get("levels", [])
        all_levels = sorted({float(level) for level in (*known, *levels)})
        perturbations[name] = {
            "levels": all_levels,
            "unit": row.unit,
            "reference": row.reference,
            "display_name": row.display_name,
            **{fact: value for fact, value in (("control", row.control), ("source", row.source)) if value},
            **({"attack": dict(attacks[name])} if name in attacks else {}),
        }
    for test_set, digests in series:
        name, level = test_set.condition.perturbation, test_set.condition.level
        files = {**perturbations.get(name, {}).get("series", {}), f"{level:g}": dict(digests)}
        levels = sorted({*perturbations.get(name, {}).get("levels", []), level})
        perturbations[name] = {"levels": levels, "unit": test_set.unit, "series": files}
    return {
        "dataset": identity["dataset"],
        "identity": dict(identity),
        "models": described,
        "perturbations": perturbations,
        "parameters": dict(parameters),
        "seed": identity["seed"],
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "git_commit": _git_commit(),
        "assumptions": [
            *ASSUMPTIONS,
            *([SERIES_ASSUMPTION] if any("series" in p for p in perturbations.values()) else []),
            *([ATTACK_ASSUMPTION] if any("attack" in p for p in perturbations.values()) else []),
            *([UNCERTAINTY_ASSUMPTION] if identity["members_by"] else []),
            *([DENOISED_ASSUMPTION] if any("denoise" in model for model in described.values()) else []),
            *([EXPERTS_ASSUMPTION] if identity["reference"] else []),
        ],
        "pictures": before.get("pictures", {"cases": {}}),
    }


def _made_of(arm: Model | Ensemble) -> dict[str, Any]:
    if isinstance(arm, Ensemble):
        return {"kind": "ensemble", "members": [model.key for model in arm.models], "weights": arm.weighting}
    if arm.denoiser is None or arm.plain is None:
        return {"kind": "model", "folder": str(arm.folder)}
    described = {"denoise": arm.denoiser.described(), "without_denoising": arm.plain.key}
    return {"kind": "denoised", "folder": str(arm.folder), **described}


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
