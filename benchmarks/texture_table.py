"""Every architecture on the demo's textures, trained the same way: clean and perturbed Dice -> a page of docs.

    make demo && python benchmarks/texture_table.py nnunet_robust_demo

Uses the demo's datasets and perturbations, nnU-Net's own training command, and the sweep, on the CPU. What is there
already is not done again. UNETR's checkpoints have about a gigabyte each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nnunet_robust.cli.demo import TITLES, demo_study
from nnunet_robust.trainers import TRAINERS

ROOT = Path(__file__).resolve().parent.parent
STAGES, LENGTH = "_st5", "_3epochs_100iters_seed1"
PAGE = """\
# Every architecture on the demo's textures

Made by `python benchmarks/texture_table.py`; change that, not this page.

Mean Dice over {cases} test cases of 128 x 128, trained on {training} (fold 0 of five), {length}, all with the
same seed, batch size, nnU-Net's default augmentation and, but for UNETR, {stages} stages of the plans' network; no
mirroring in prediction. Levels are those of [sweep.md](sweep.md): speckle as a standard deviation, blur as a sigma in
voxels. In bold: the best of a column.

**How to read it.** One short training of each, on a CPU: these networks have not converged, and there is one seed.
UNETR, with more weights than the others and no pretraining, has as few iterations as they, at its own learning rate of
1e-4. The table shows what the demo's setting gives, whichever way it comes out; it ranks nothing beyond that.
"""


def name_of(trainer: str) -> str:
    """The trainer with this table's options."""
    return trainer + ("" if trainer == "nnUNetTrainerUNETR" else STAGES) + LENGTH


def command(*arguments: str) -> None:
    """Run a console command of this Python's environment."""
    executable, *rest = arguments
    subprocess.run([str(Path(sys.executable).with_name(executable)), *rest], check=True)


def table(results: Path, conditions: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Mean Dice, a row per trainer, a column per condition."""
    rows = pd.read_csv(results)
    means = rows.groupby(["model", "perturbation", "level"])["dice"].mean().unstack(["perturbation", "level"])
    order = [("clean", 0.0)] + [(name, level) for name, levels in conditions.items() for level in levels]
    return means.loc[[name_of(trainer) for trainer in TRAINERS], order]


def markdown(means: pd.DataFrame) -> str:
    """The table in Markdown."""
    heads = ["clean" if name == "clean" else f"{name.split('_')[-1 if 'blur' in name else 0]} {level:g}"
             for name, level in means.columns]  # fmt: skip
    lines = [f"| trainer | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for trainer, (_, row) in zip(TRAINERS, means.iterrows(), strict=True):
        cells = []
        for condition, value in row.items():
            text = f"{value:.3f}"
            cells.append(f"**{text}**" if text == f"{means[condition].max():.3f}" else text)
        lines.append(f"| `{trainer}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of a demo: its datasets are used")
    study = demo_study()
    conditions = study.sweeps[0].options["perturbations"]
    ids = [dataset.id for dataset in study.datasets]
    parser.add_argument("-d", type=int, nargs="+", choices=ids, default=ids, help="which of the demo's datasets")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "textures.md", help="the page to write")
    arguments = parser.parse_args()
    demo = arguments.demo.resolve()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(demo / name)
    os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0"}
    parts = []
    for dataset in (dataset for dataset in study.datasets if dataset.id in arguments.d):
        for trainer in TRAINERS:
            done = f"Dataset{dataset.id}_*/{name_of(trainer)}__nnUNetPlans__2d/fold_0/validation/summary.json"
            if not any((demo / "nnUNet_results").glob(done)):
                command("nnUNetv2_train", str(dataset.id), "2d", "0", "-tr", name_of(trainer), "-device", "cpu", "--c")
        output = demo / f"texture_table_{dataset.id}"
        for name, levels in conditions.items():
            command(
                "nnunet-robust", "sweep", "-o", str(output), "-d", str(dataset.id), "-f", "0", "-device", "cpu",
                "--disable-tta", "-tr", *map(name_of, TRAINERS), "--perturb", name, "--levels", *map(str, levels),
            )  # fmt: skip
        means = table(output / "results.csv", conditions)
        cases = pd.read_csv(output / "results.csv")["case"].nunique()
        parts.append(f"## alpha = {dataset.parameters['alpha']:g}, {TITLES[dataset.id]}\n\n{markdown(means)}")
    intro = PAGE.format(
        cases=cases, training="32 of 40", length="3 epochs of 100 iterations", stages=STAGES.removeprefix("_st")
    )
    temporary = arguments.page.with_name(f"{arguments.page.name}.tmp")
    temporary.write_text("\n".join([intro, *parts]), encoding="utf-8")
    temporary.replace(arguments.page)
    print(arguments.page)


if __name__ == "__main__":
    main()
