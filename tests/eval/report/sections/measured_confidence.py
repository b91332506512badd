"""What the tests of the sections on confidence share: their models, and how rows are found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

A, B = "nnUNetTrainer_seed1", "nnUNetTrainerNoSkip_seed1"
ENSEMBLE = f"ensemble_uniform({A}+{B})"
LEVELS = {"speckle_noise": [0.1, 0.45], "gaussian_blur": [4.0]}
N = 14


def rows_of(sweep: Path, table: str, model: str, perturbation: str, level: float) -> pd.DataFrame:
    """The rows of a table of a sweep, in the order of the cases."""
    rows = pd.read_csv(sweep / f"{table}.csv")
    same = (rows["model"] == model) & (rows["perturbation"] == perturbation) & (rows["level"] == level)
    return rows[same].sort_values("case", ignore_index=True)


def row_at(table: pd.DataFrame, line: str, perturbation: str, level: float, **more: str) -> pd.Series:
    """The one row of a table of statistics."""
    wanted = {"line": line, "perturbation": perturbation, "level": level, **more}
    found = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert len(found) == 1, wanted
    return found.iloc[0]
