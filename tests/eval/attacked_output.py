"""A made-up sweep's output folder with attacks, and models that denoise, shaped like a real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tests.eval.sweep_output import MODELS, write_sweep_output

BUDGETS = [0.01, 0.02, 0.05]
STEPS = 20


def write_attacked_output(
    out: Path,
    models: tuple[str, ...] = MODELS,
    sources: tuple[str, ...] = MODELS,
    own: bool = True,
    losses: Mapping[tuple[str, str], float] | None = None,
    n_cases: int = 8,
    dataset: str = "Dataset501_Textures",
    pictures: bool = False,
) -> Path:
    """Write a sweep with PGD, its random noise and speckle noise.

    Dice is a case's clean one less loss x budget, and a little chance: the loss is 8 under an attack on the model
    itself (4 of the second model), 2 under one on another model, 0.5 under random noise.

    Args:
        out: folder.
        models: of the sweep.
        sources: those whose images all models get.
        own: whether each model is attacked itself, too.
        losses: (perturbation, model) -> another loss.
        n_cases: cases, each a patient.
        dataset: its name.
        pictures: whether there are pictures.
    """
    attacks = {f"pgd_linf_from_{source}": source for source in sources} | ({"pgd_linf": ""} if own else {})
    levels = {"speckle_noise": [0.1, 0.3], "random_linf": BUDGETS, **dict.fromkeys(attacks, BUDGETS)}
    write_sweep_output(out, models, n_cases, levels=levels, pictures=pictures, dataset=dataset)
    rng = np.random.default_rng(3)
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    clean = results[results["perturbation"] == "clean"].set_index(["model", "case"])["dice"]
    chance: dict[tuple, float] = {}
    for at, row in results.iterrows():
        name, model = row["perturbation"], row["model"]
        if name not in (*attacks, "random_linf"):
            continue
        whom = attacks.get(name, "") or model
        of_noise = 0.5 if name == "random_linf" else None
        usual = (8.0 if model == models[0] else 4.0) if whom == model else 2.0
        loss = (losses or {}).get((name, model), of_noise or usual)
        key = "noise" if of_noise else whom, model, row["case"], row["level"]
        score = clean[model, row["case"]] - loss * row["level"] + chance.setdefault(key, rng.normal(0, 0.004))
        results.loc[at, ["dice", "n_ref", "n_pred", "outcome"]] = [float(np.clip(score, 0, 1)), 2000, 1900, "ok"]
    results.to_csv(out / "results.csv", index=False)
    inputs = pd.read_csv(out / "inputs.csv")
    inputs[inputs["perturbation"] != "pgd_linf"].to_csv(out / "inputs.csv", index=False)
    manifest = json.loads((out / "manifest.json").read_text())
    checkpoints = {entry["model"]: entry["checkpoints"] for entry in manifest["models"].values()}
    for name, source in attacks.items():
        key = f"{source}__nnUNetPlans__2d__fold0"
        of_source = {key: checkpoints.get(source, {"0": "not swept"})} if source else None
        manifest["perturbations"][name]["attack"] = {
            "name": "pgd_linf", "display_name": "PGD, l∞", "steps": STEPS, "source": of_source
        }  # fmt: skip
        manifest["perturbations"][name]["unit"] = "largest change of a value, share of the robust range"
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2))
    if pictures and own:
        _own_pictures(out, models)
    return out


def _own_pictures(out: Path, models: tuple[str, ...]) -> None:
    """Under the attack on each model itself, an image of its own: grey of its own, so that they can be told apart."""
    for case in (folder for folder in (out / "pictures").iterdir()):
        for budget in BUDGETS:
            shared = case / f"pgd_linf_{budget:g}.png"
            for at, model in enumerate(models):
                own = case / f"{model}__nnUNetPlans__2d__fold0" / f"pgd_linf_{budget:g}_image.png"
                shutil.copy(shared, own)
                pixels = np.asarray(Image.open(own)) // 2 + 60 * at
                Image.fromarray(pixels.astype(np.uint8)).save(own)
            shared.unlink()
