"""Scores over what was measured of the inputs, against relations that were planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.report.measured import over_divergence, over_ratio, points
from nnunet_robust.eval.report.read import Sweep
from nnunet_robust.eval.results.manifest import Manifest

_FIXED = {"dataset": "D", "replicate": 0.0, "label": "1", "outcome": "ok", "series": False, "case": "c"}


def _sweep(rows: pd.DataFrame, inputs: pd.DataFrame | None, series: tuple[str, ...] = ()) -> Sweep:
    rows = rows.assign(**{name: value for name, value in _FIXED.items() if name not in rows})
    rows["case"] = rows["patient"]
    rows["line"] = rows["architecture"]
    manifest = Manifest.from_json({"perturbations": {name: {"series": {}} for name in series}})
    if inputs is not None:
        inputs = inputs.assign(dataset="D", replicate=0)
    return Sweep(Path("out"), manifest, rows, rows, [], {} if inputs is None else {"inputs": inputs})


def _noise(n_patients: int = 24) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Dice = 0.2 + 2 x divergence for A, 0.1 less for B; level 0 of the noise is the clean image again."""
    scores, inputs = [], []
    for patient in range(n_patients):
        for name, level in (("clean", 0.0), ("noise", 0.0), ("noise", 1.0)):
            divergence = 0.05 + 0.01 * patient if not level else 0.02 + 0.001 * patient
            for line, less in (("A", 0.0), ("B", 0.1)):
                scores.append((f"p{patient}", name, level, line, 0.2 + 2 * divergence - less))
            if (name, level) != ("noise", 0.0):
                inputs.append((f"p{patient}", name, level, divergence))
    return (
        pd.DataFrame(scores, columns=["patient", "perturbation", "level", "architecture", "dice"]),
        pd.DataFrame(inputs, columns=["patient", "perturbation", "level", "texture_divergence_bits"]),
    )


def test_bins_lie_on_the_planted_line_and_count_every_image_once() -> None:
    rows, inputs = _noise()
    relations, n_points, _ = over_divergence([_sweep(rows, inputs)], "dice")
    assert [relation.title for relation in relations] == ["A", "B"]
    assert n_points == 48  # 24 patients, clean and noisy: the clean image is not counted again as level 0
    for relation, less in zip(relations, (0.0, 0.1), strict=True):
        means = relation.means
        assert means["n_points"].sum() == 48 and len(relation.cloud) == 48
        np.testing.assert_allclose(means["mean"], 0.2 + 2 * means["x"] - less)
        assert (means["low"] <= means["mean"]).all() and (means["mean"] <= means["high"]).all()
        assert (np.diff(means["x"]) > 0).all() and means["n_points"].max() <= 2 * means["n_points"].min()
    assert (relations[0].means["x"] == relations[1].means["x"]).all()


def test_architectures_are_compared_at_shared_points_only() -> None:
    rows, inputs = _noise()
    without = rows[~((rows["architecture"] == "B") & (rows["perturbation"] == "noise") & (rows["level"] == 1))]
    relations, n_points, left_out = over_divergence([_sweep(without, inputs)], "dice")
    assert n_points == 24 and not left_out
    assert all((relation.cloud["perturbation"] == "clean").all() for relation in relations)


def test_architectures_without_a_shared_condition_are_not_shown_together() -> None:
    rows, inputs = _noise()
    apart = rows[(rows["architecture"] == "A") == (rows["perturbation"] == "clean")]
    relations, n_points, left_out = over_divergence([_sweep(apart, inputs)], "dice")
    assert (relations, n_points) == ([], 0) and "no condition of a dataset that all architectures" in left_out


def test_nothing_is_shown_where_nothing_was_measured_or_varies() -> None:
    rows, inputs = _noise()
    assert over_divergence([_sweep(rows, None)], "dice") == ([], 0, "")
    unmeasured = inputs.rename(columns={"texture_divergence_bits": "other"})
    assert over_divergence([_sweep(rows, unmeasured)], "dice") == ([], 0, "")
    assert over_divergence([_sweep(rows, inputs.assign(texture_divergence_bits=0.1))], "dice") == ([], 0, "")
    some = inputs.assign(texture_divergence_bits=inputs["texture_divergence_bits"].where(inputs["level"] > 0))
    assert set(points([_sweep(rows, some)], "dice", "texture_divergence_bits")["perturbation"]) == {"noise"}


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_patients_for_bins_is_said(n: int) -> None:
    assert over_divergence([_sweep(*_noise(n))], "dice") == (
        [],
        0,
        f"Dice over texture divergence: too few patients for bins ({n}).",
    )


def _context(sizes: tuple[int, ...], ratios: tuple[float, ...]) -> Sweep:
    scores, inputs = [], []
    for level, ratio in enumerate(ratios, 1):
        for patient in range(4):
            name = f"p{level}_{patient}"
            inputs.append((name, "radius", float(level), ratio))
            for size in sizes:
                model = f"nnUNetTrainer_ps{size}_st3"
                scores.append((name, "radius", float(level), model, ratio * size / 100, f"{size}x{size}x{size}"))
    rows = pd.DataFrame(scores, columns=["patient", "perturbation", "level", "architecture", "dice", "patch_size"])
    rows["tile_size"] = rows["patch_size"]
    table = pd.DataFrame(inputs, columns=["patient", "perturbation", "level", "foreground_ratio"])
    return _sweep(rows.assign(series=True), table, ("radius",))


def test_patch_sizes_are_the_lines_of_one_architecture() -> None:
    (relation,) = over_ratio([_context((16, 32), (0.1, 0.2, 0.4))], "dice")
    assert relation.title == "D, radius: nnUNetTrainer_st3"
    assert list(dict.fromkeys(relation.means["line"])) == ["patch 16x16x16", "patch 32x32x32"]
    by_line = relation.means.set_index("line")
    np.testing.assert_allclose(by_line.loc["patch 32x32x32", "x"], [0.1, 0.2, 0.4])
    np.testing.assert_allclose(by_line.loc["patch 32x32x32", "mean"], [0.032, 0.064, 0.128])
    assert (relation.means["n_patients"] == 4).all()


def test_a_series_shows_sizes_with_one_patch_too_and_a_series_of_equal_sizes_does_not() -> None:
    (relation,) = over_ratio([_context((16,), (0.1, 0.2))], "dice")
    assert list(dict.fromkeys(relation.means["line"])) == ["nnUNetTrainer_ps16_st3"]
    assert over_ratio([_context((16, 32), (0.2, 0.2))], "dice") == []


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
    (relation,) = over_ratio([_sweep(rows, table)], "dice")
    assert relation.title == "D, clean images: nnUNetTrainer"
    assert list(dict.fromkeys(relation.means["line"])) == ["patch 64x64", "patch 64x64, tile 32x32"]
    assert relation.means["n_points"].sum() == 24
    assert over_ratio([_sweep(rows[rows["tile_size"] == "64x64"], table)], "dice") == []
    few = rows[rows["patient"].isin([f"p{patient}" for patient in range(5)])]
    assert over_ratio([_sweep(few, table)], "dice") == []


@pytest.mark.parametrize("n", [6, 9, 200])
def test_bins_hold_about_as_many_points_each(n: int) -> None:
    rows, inputs = _noise(n)
    relations, _, _ = over_divergence([_sweep(rows, inputs)], "dice")
    counts = relations[0].means["n_points"]
    assert counts.sum() == 2 * n and len(counts) <= 8
