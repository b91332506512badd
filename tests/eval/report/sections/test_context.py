"""Dice over foreground ratio by patch size, against relations that were planted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nnunet_robust.eval.report import Analysis
from nnunet_robust.eval.report.sections.context import ratio
from nnunet_robust.eval.report.shared.read import Sweep
from tests.eval.report.sections.measured_inputs import sweep_of


def _context(sizes: tuple[int, ...], ratios: tuple[float, ...]) -> Sweep:
    scores, inputs = [], []
    for level, share in enumerate(ratios, 1):
        for patient in range(4):
            name = f"p{level}_{patient}"
            inputs.append((name, "radius", float(level), share))
            for size in sizes:
                model = f"nnUNetTrainer_ps{size}_st3"
                scores.append((name, "radius", float(level), model, share * size / 100, f"{size}x{size}x{size}"))
    rows = pd.DataFrame(scores, columns=["patient", "perturbation", "level", "architecture", "dice", "patch_size"])
    rows["tile_size"] = rows["patch_size"]
    table = pd.DataFrame(inputs, columns=["patient", "perturbation", "level", "foreground_ratio"])
    return sweep_of(rows.assign(series=True), table, ("radius",))


def test_patch_sizes_are_the_lines_of_one_architecture() -> None:
    (relation,) = ratio(Analysis([_context((16, 32), (0.1, 0.2, 0.4))]))
    assert relation.title == "D, radius: nnUNetTrainer_st3"
    assert list(dict.fromkeys(relation.means["line"])) == ["patch 16x16x16", "patch 32x32x32"]
    by_line = relation.means.set_index("line")
    np.testing.assert_allclose(by_line.loc["patch 32x32x32", "x"], [0.1, 0.2, 0.4])
    np.testing.assert_allclose(by_line.loc["patch 32x32x32", "mean"], [0.032, 0.064, 0.128])
    assert (relation.means["n_patients"] == 4).all()


def test_a_series_shows_sizes_with_one_patch_too_and_a_series_of_equal_sizes_does_not() -> None:
    (relation,) = ratio(Analysis([_context((16,), (0.1, 0.2))]))
    assert list(dict.fromkeys(relation.means["line"])) == ["nnUNetTrainer_ps16_st3"]
    assert ratio(Analysis([_context((16, 32), (0.2, 0.2))])) == []


def test_clean_cases_are_binned_where_patch_or_tile_sizes_differ() -> None:
    scores, inputs = [], []
    for patient in range(12):
        inputs.append((f"p{patient}", "clean", 0.0, 0.1 + 0.01 * patient))
        for tile in ("64x64", "32x32"):
            name = "nnUNetTrainer" + (" (tile 32x32)" if tile == "32x32" else "")
            scores.append((f"p{patient}", "clean", 0.0, name, 0.5 + 0.01 * patient, "64x64", tile))
    columns = ["patient", "perturbation", "level", "architecture", "dice", "patch_size", "tile_size"]
    rows = pd.DataFrame(scores, columns=columns)
    table = pd.DataFrame(inputs, columns=["patient", "perturbation", "level", "foreground_ratio"])
    (relation,) = ratio(Analysis([sweep_of(rows, table)]))
    assert relation.title == "D, clean images: nnUNetTrainer"
    assert list(dict.fromkeys(relation.means["line"])) == ["patch 64x64", "patch 64x64, tile 32x32"]
    assert relation.means["n_points"].sum() == 24
    assert ratio(Analysis([sweep_of(rows[rows["tile_size"] == "64x64"], table)])) == []
    few = rows[rows["patient"].isin([f"p{patient}" for patient in range(5)])]
    assert ratio(Analysis([sweep_of(few, table)])) == []
