"""Made-up results for the tests of statistics: as a file, and as the rows that `comparable` gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_robust.eval.statistics import load_results


def result(case: str, perturbation: str, level: float, dice: float, **other: object) -> dict:
    """A row of `results.csv`; the patient is the case unless it is given."""
    made = {"dataset": "D1", "model": "A", "plans": "nnUNetPlans", "configuration": "2d", "fold": "0", "patient": case}
    made |= {"patch_size": "64x64", "tile_size": "64x64"}
    made |= {"case": case, "perturbation": perturbation, "level": level, "replicate": 0, "label": "1", "dice": dice}
    made |= {"iou": 0.5, "hd95_mm": 10 * (1 - dice), "assd_mm": 1.0, "nsd": 0.5, "volume_ratio": 1.0}
    return made | {"n_ref": 10, "n_pred": 10, "outcome": "ok"} | other


def load(rows: list[dict], folder: Path) -> pd.DataFrame:
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    return load_results(folder / "results.csv")


def frame(scores: Mapping[str, Mapping[float, object]], perturbation: str = "noise", **columns: object) -> pd.DataFrame:
    """Rows as `comparable` gives them, from {model: {level: a score for each patient}}, level 0 also as "clean".

    Models are named `<architecture>` or `<architecture>/<number of the seed>`.
    """
    found = []
    for model, levels in scores.items():
        for level, values in levels.items():
            table = pd.DataFrame({"dice": np.asarray(values, dtype=float)})
            table["patient"] = [f"p{i:04d}" for i in range(len(table))]
            table["case"], table["level"] = table["patient"], float(level)
            table["architecture"], table["line"] = model.split("/")[0], model
            names = [perturbation, "clean"] if level == 0 and perturbation != "clean" else [perturbation]
            found += [table.assign(perturbation=name) for name in names]
    rows = pd.concat(found, ignore_index=True)
    fixed = {"dataset": "D1", "label": "1", "replicate": 0.0, "series": False, "outcome": "ok"}
    return rows.assign(**fixed, hd95_mm=10 * (1 - rows["dice"])).assign(**columns)
