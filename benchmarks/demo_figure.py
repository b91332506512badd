"""The figure of the README, from the results of a demo.

python benchmarks/demo_figure.py DEMO_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from nnunet_robust.cli.demo import demo_study, sweep_folders
from nnunet_robust.eval.results.manifest import read_manifest
from nnunet_robust.eval.statistics import CLEAN, comparable, curves, load_results

STYLES = {"nnUNetTrainer": ("#d55e00", "s", "--"), "nnUNetTrainerNoSkip": ("#0072b2", "o", "-")}


def main() -> None:
    demo = Path(sys.argv[1])
    study = demo_study()
    datasets, folders = study.datasets, sweep_folders(study, demo)
    figure, axes = plt.subplots(len(datasets), 2, figsize=(8, 5.6), sharey=True, layout="constrained")
    for row, dataset in zip(axes, datasets, strict=True):
        folder = folders[dataset.id]
        known = read_manifest(folder / "manifest.json").perturbations
        points = curves(comparable(load_results(folder / "results.csv"))[0], "dice")
        points = points[points["perturbation"] != CLEAN]
        for panel, (name, of_name) in zip(row, points.groupby("perturbation"), strict=True):
            for line, part in of_name.groupby("line"):
                trainer = str(line).split("_")[0]
                colour, marker, dash = STYLES[trainer]
                panel.plot(part["level"], part["mean"], color=colour, marker=marker, ls=dash, label=trainer)
                panel.fill_between(part["level"], part["low"], part["high"], color=colour, alpha=0.18, lw=0)
            panel.set_xlabel(f"{str(name).replace('_', ' ')}: {known[str(name)].unit}")
            panel.set_title(f"textures, α = {dataset.parameters['alpha']}", fontsize=10)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.2)
            panel.set_ylim(0, 1)
        row[0].set_ylabel("mean Dice")
    axes[0][1].legend(frameon=False, fontsize=8)
    target = Path(__file__).parent.parent / "docs" / "figures" / "demo.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    print(f"written to {target}")


if __name__ == "__main__":
    main()
