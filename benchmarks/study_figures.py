"""The figures of docs/studies.md, from the two sweeps that its commands make.

python benchmarks/study_figures.py TEXTURE_SWEEP CONTEXT_SWEEP
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd

from nnunet_robust.eval.results.manifest import PerturbationEntry, read_manifest
from nnunet_robust.eval.statistics import CLEAN, comparable, curves, load_results
from nnunet_robust.pages.plots import LineStyle, line_styles

# Spheres of radius 17 to 23 in a cube of 64: docs/studies.md.
TRAINED = tuple(4 / 3 * math.pi * radius**3 / 64**3 for radius in (17, 23))
FIGURES = Path(__file__).parent.parent / "docs" / "figures"


def points_of(sweep: Path) -> tuple[pd.DataFrame, Mapping[str, PerturbationEntry]]:
    """Mean Dice and its interval for each trainer, perturbation and level, and the manifest's perturbations."""
    known = read_manifest(sweep / "manifest.json").perturbations
    series = [name for name, row in known.items() if row.series]
    points = curves(comparable(load_results(sweep / "results.csv"), series)[0], "dice")
    return points[points["perturbation"] != CLEAN], known


def draw(panel: Any, part: pd.DataFrame, x: pd.Series, style: LineStyle, label: str) -> None:
    """One curve with its interval."""
    panel.fill_between(x, part["low"], part["high"], color=style.colour, alpha=0.15, lw=0)
    panel.plot(x, part["mean"], color=style.colour, marker=style.marker, ls=style.line, label=label)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.2)
    panel.set_ylim(0, 1.02)


def textures(sweep: Path) -> plt.Figure:
    """Dice over alpha, a panel for each direction of blending."""
    points, known = points_of(sweep)
    trainers = sorted({str(line).split("_")[0] for line in points["line"]}, key=len)
    styles = line_styles(trainers)
    names = sorted(points["perturbation"].unique(), reverse=True)
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.4), sharey=True, layout="constrained")
    for panel, name in zip(axes, names, strict=True):
        for line, part in points[points["perturbation"] == name].groupby("line", sort=False):
            trainer = str(line).split("_")[0]
            draw(panel, part, part["level"], styles[trainer], trainer)
        panel.set_title(f"blended: {name.split('_')[0]}", fontsize=10)
        panel.set_xlabel(f"α: {known[name].unit}")
    axes[0].set_ylabel("mean Dice")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def context(sweep: Path) -> plt.Figure:
    """Dice over the foreground ratio of the test set, a panel for each architecture, a curve for each patch size."""
    points, _ = points_of(sweep)
    inputs = pd.read_csv(sweep / "inputs.csv")
    ratios = inputs.groupby(["perturbation", "level"])["foreground_ratio"].mean().rename("ratio").reset_index()
    points = points.merge(ratios, on=["perturbation", "level"])
    points["trainer"] = [str(line).split("_")[0] for line in points["line"]]
    points["patch"] = [int(str(line).split("_ps")[1].split("_")[0]) for line in points["line"]]
    patches = sorted(points["patch"].unique())
    styles = line_styles([str(patch) for patch in patches])
    trainers = sorted(points["trainer"].unique(), key=lambda name: (len(name) != len("nnUNetTrainer"), name))
    figure, axes = plt.subplots(1, len(trainers), figsize=(3.6 * len(trainers), 3.3), sharey=True, layout="constrained")
    for panel, trainer in zip(axes, trainers, strict=True):
        for patch in patches:
            part = points[(points["trainer"] == trainer) & (points["patch"] == patch)].sort_values("ratio")
            draw(panel, part, part["ratio"], styles[str(patch)], f"trained at {patch}³")
        panel.axvspan(*TRAINED, color="0.5", alpha=0.12, lw=0, label="trained on")
        panel.set_xscale("log")
        panel.set_title(trainer, fontsize=10)
        panel.set_xlabel("foreground ratio of the test volumes")
    axes[0].set_ylabel("mean Dice")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    drawn = {"study_textures": textures(Path(sys.argv[1])), "study_context": context(Path(sys.argv[2]))}
    for name, figure in drawn.items():
        target = FIGURES / f"{name}.png"
        figure.savefig(target, dpi=110, metadata={"Software": None})
        print(f"written to {target}")


if __name__ == "__main__":
    main()
