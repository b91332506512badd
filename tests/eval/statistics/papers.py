"""The papers' table of means (docs: Kamath et al. 2023 and 2025, as the authors' archive has it) as a sweep's output.

Each dataset has one "patient", who stands for the mean of its published test set (three seeds): means, drops, areas
and verdicts can be had from it; intervals, shares of bootstraps and tests cannot. Of the metrics only Dice was
published: IoU is that of a single such image, distances, surface Dice and voxel counts are placeholders.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pandas as pd

NO_SKIP, U_NET, ATTENTION = "nnUNetTrainerNoSkip", "nnUNetTrainer", "nnUNetTrainerAttentionGated"
MODELS = (NO_SKIP, U_NET, ATTENTION)
LEVELS = (0.0, 0.1**0.5, 0.3**0.5)  # speckle noise of variance 0, 0.1 and 0.3

# dataset -> for each of MODELS, the mean Dice unperturbed, harder and hardest
PAPERS = {
    "BUSI": ((0.761, 0.735, 0.620), (0.763, 0.723, 0.607), (0.795, 0.646, 0.484)),
    "GlaS": ((0.800, 0.720, 0.713), (0.800, 0.730, 0.715), (0.817, 0.741, 0.697)),
    "Heart": ((0.833, 0.814, 0.761), (0.901, 0.492, 0.076), (0.929, 0.142, 0.033)),
    "Spleen": ((0.606, 0.562, 0.434), (0.746, 0.078, 0.025), (0.928, 0.308, 0.215)),
}


def write_papers(folder: Path, datasets: Collection[str] = tuple(PAPERS)) -> Path:
    """Write `results.csv` and `manifest.json` of some of the papers' datasets into one folder.

    Args:
        folder: made if it is not there.
        datasets: keys of `PAPERS`; a report of several takes a folder for each.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        _row(dataset, model, level, dice)
        for dataset in datasets
        for model, means in zip(MODELS, PAPERS[dataset], strict=True)
        for level, dice in zip(LEVELS, means, strict=True)
    ]
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    noise = {"levels": list(LEVELS[1:]), "unit": "standard deviation, relative to the voxel's value", "reference": ""}
    manifest = {
        "dataset": ", ".join(datasets),
        "perturbations": {"speckle_noise": noise},
        "assumptions": ["The one patient of a dataset stands for the mean of its published test set."],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return folder


def _row(dataset: str, model: str, level: float, dice: float) -> dict[str, object]:
    return {
        "dataset": dataset,
        "model": model,
        "plans": "nnUNetPlans",
        "configuration": "2d",
        "fold": "0",
        "patch_size": "256x256",
        "tile_size": "256x256",
        "patient": "published mean",
        "case": "published mean",
        "perturbation": "speckle_noise" if level else "clean",
        "level": level,
        "replicate": 0,
        "label": "foreground",
        "dice": dice,
        "iou": dice / (2 - dice),
        "hd95_mm": 0.0,
        "assd_mm": 0.0,
        "nsd": dice,
        "volume_ratio": 1.0,
        "n_ref": 1,
        "n_pred": 1,
        "outcome": "ok",
    }
