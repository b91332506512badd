"""A made-up sweep's output folder, shaped like a real one, for the tests of everything that reads it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nnunet_robust.eval.attacks.rows import PERTURBATIONS, perturbation
from tests.eval.confidence_output import add_scores, write_bounds, write_reliability

LEVELS = {"speckle_noise": [0.1, 0.2, 0.3, 0.45], "gaussian_blur": [1.0, 2.0, 3.0, 4.0]}
MODELS = ("nnUNetTrainer_2epochs_50iters_seed1", "nnUNetTrainerNoSkip_2epochs_50iters_seed1")
SIZE = 96


def write_sweep_output(
    out: Path,
    models: tuple[str, ...] = MODELS,
    n_cases: int = 12,
    labels: tuple[str, ...] = ("foreground",),
    levels: dict[str, list[float]] = LEVELS,
    pictures: bool = True,
    dataset: str = "Dataset501_Textures",
    uncertainty: bool = False,
    single: tuple[str, ...] = (),
    calibrated: tuple[str, ...] = (),
    experts: bool = False,
) -> Path:
    """Write `results.csv, inputs.csv, manifest.json, pictures/`: the first model falls steeply, the next gently.

    With `uncertainty` there are scores (of one member for the models in `single`) and `reliability.csv`, with models in
    `calibrated` there is `bounds.csv`, with `experts` their agreement.
    """
    rng = np.random.default_rng(7)
    conditions = [("clean", 0.0), *((name, level) for name in levels for level in levels[name])]
    results, inputs = [], []
    for number in range(n_cases):
        case, skill = f"tex_{number:03d}", rng.normal(0, 0.02)
        for name, level in conditions:
            strength = level / max(levels[name]) if level else 0.0
            psnr = np.inf if not level else 32 - 18 * strength + rng.normal(0, 0.4)
            inputs.append(
                {
                    "dataset": dataset,
                    "patient": f"p{number:03d}",
                    "case": case,
                    "perturbation": name,
                    "level": level,
                    "replicate": 0,
                    "psnr_db": psnr,
                    "snr_db": psnr - 6,
                    "foreground_ratio": 0.2 + 0.01 * number,
                    "texture_divergence_bits": 0.25 - 0.2 * strength,
                    "boundary_contrast": 2.5,
                    "noise_sigma": 0.02 + 0.2 * strength * ("noise" in name),
                    "blur": 0.7 + 0.2 * strength * ("blur" in name),
                }
            )
            for index, model in enumerate(models):
                for label in labels:
                    clean, loss = 0.94 - 0.08 * index, 0.75 / (1 + 7 * index) * (1 if "noise" in name else 0.4)
                    dice = float(np.clip(clean + skill - loss * strength**1.3 + rng.normal(0, 0.03), 0, 0.99))
                    outcome = "ok"
                    if index == 0 and number == n_cases - 1 and strength == 1:
                        dice, outcome = 0.0, "missed"
                    if index == len(models) - 1 and number == 0 and name == "gaussian_blur" and strength >= 0.75:
                        dice, outcome = 0.0, "hallucinated"
                    results.append(_row(dataset, model, number, case, name, level, label, dice, outcome))
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(results).to_csv(out / "results.csv", index=False)
    pd.DataFrame(inputs).to_csv(out / "inputs.csv", index=False)
    order = sorted({row["case"] for row in results})
    chosen = (
        {"good": order[0], "median": order[len(order) // 2], "bad": order[-1]} if n_cases > 2 else {"good": order[0]}
    )
    (out / "manifest.json").write_text(json.dumps(_manifest(dataset, models, levels, chosen), indent=2))
    if uncertainty or experts:
        add_scores(out, rng, uncertainty, single, experts)
    if uncertainty:
        write_reliability(out, rng)
    if calibrated:
        write_bounds(out, rng, calibrated)
    if pictures:
        for case in chosen.values():
            _write_pictures(out / "pictures" / case, case, conditions, results, rng)
    return out


def _row(
    dataset: str, model: str, number: int, case: str, name: str, level: float, label: str, dice: float, outcome: str
) -> dict:
    ok = outcome == "ok"
    return {
        "dataset": dataset,
        "model": model,
        "plans": "nnUNetPlans",
        "configuration": "2d",
        "fold": "0",
        "patch_size": "128x128",
        "tile_size": "128x128",
        "patient": f"p{number:03d}",
        "case": case,
        "perturbation": name,
        "level": level,
        "replicate": 0,
        "label": label,
        "dice": dice,
        "iou": dice / (2 - dice),
        "hd95_mm": 2 + 40 * (1 - dice) if ok else 135.8,
        "assd_mm": 0.5 + 12 * (1 - dice) if ok else 135.8,
        "nsd": dice**1.2,
        "volume_ratio": {"ok": 1.0, "missed": 0.0, "hallucinated": np.inf}[outcome],
        "n_ref": 0 if outcome == "hallucinated" else 2000,
        "n_pred": 0 if outcome == "missed" else 1900,
        "outcome": outcome,
    }


def _made_of(model: str) -> dict:
    if ensemble := re.fullmatch(r"ensemble_(\w+)\((.*)\)", model):
        return {
            "kind": "ensemble",
            "members": [f"{member}__nnUNetPlans__2d__fold0" for member in ensemble[2].split("+")],
            "weights": ensemble[1],
        }
    plain, denoised, _ = model.partition("+denoise")
    if denoised:
        return {"kind": "denoised", "denoise": {}, "without_denoising": f"{plain}__nnUNetPlans__2d__fold0"}
    return {"kind": "model"}


def _facts(name: str) -> dict:
    """What the table knows; the tests have perturbations of their own, too."""
    if name.partition("_from_")[0] not in PERTURBATIONS:
        return {}
    row = perturbation(name)
    facts = {"display_name": row.display_name, "control": row.control, "source": row.source}
    return {fact: value for fact, value in facts.items() if value}


def _manifest(dataset: str, models: tuple[str, ...], levels: dict[str, list[float]], chosen: dict[str, str]) -> dict:
    units = {
        "speckle_noise": "standard deviation, relative to the voxel's value",
        "gaussian_blur": "standard deviation in voxels",
    }
    return {
        "dataset": dataset,
        "versions": {"nnunet_robust": "0.1.0", "nnunetv2": "2.8.1", "torch": "2.9.0"},
        "device": "cpu",
        "git_commit": "0123abc",
        "seed": 1,
        "models": {
            f"{model}__nnUNetPlans__2d__fold0": {
                "model": model,
                "plans": "nnUNetPlans",
                "configuration": "2d",
                "fold": "0",
                **_made_of(model),
                "checkpoints": {"0": hashlib.sha256(model.encode()).hexdigest()},
            }
            for model in models
        },
        "perturbations": {
            name: {"levels": of_name, "unit": units.get(name, ""), "reference": "Kamath et al. 2023", **_facts(name)}
            for name, of_name in levels.items()
        },
        "patients_known": True,
        "parameters": {"replicates": 1, "nsd_tolerance_mm": 2.0, "mirroring": True},
        "assumptions": ["Each case is a patient of its own, for the dataset names no patients."],
        "pictures": {"cases": chosen},
    }


def _write_pictures(folder: Path, case: str, conditions: list, results: list[dict], rng: np.random.Generator) -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    angle = np.arctan2(y - SIZE / 2, x - SIZE / 2)
    distance = np.hypot(y - SIZE / 2, x - SIZE / 2)
    reference = distance < 26 + 6 * np.sin(3 * angle)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(reference.astype(np.uint8)).save(folder / "reference.png")
    texture = 90 + 30 * np.sin(x / 2.5) * np.cos(y / 3) + 50 * reference
    for name, level in conditions:
        condition = name if name == "clean" else f"{name}_{level:g}"
        image = texture * (1 + level * rng.normal(size=texture.shape)) if "noise" in name else texture
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{condition}.png")
        for row in results:
            if (row["case"], row["perturbation"], row["level"]) != (case, name, level):
                continue
            share = row["dice"] ** 0.5
            wobble = (1 - row["dice"]) * 12 * np.sin(7 * angle)
            prediction = (distance < share * (26 + 6 * np.sin(3 * angle)) + wobble) & (row["n_pred"] > 0)
            key = f"{row['model']}__{row['plans']}__{row['configuration']}__fold{row['fold']}"
            target = folder / key / f"{condition}.png"
            target.parent.mkdir(exist_ok=True)
            Image.fromarray(prediction.astype(np.uint8)).save(target)
