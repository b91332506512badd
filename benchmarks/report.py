"""How long a large report takes and how large it is: 3 datasets x 7 architectures x 40 conditions x 200 cases.

python benchmarks/report.py FOLDER [--cases 200] [--formats csv tex]

Makes the sweeps' outputs in FOLDER, with pictures (kept for the next time), builds the page, and prints where the time
goes. The scores are made up: only their number matters here.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from nnunet_robust.eval.report import Analysis, analyse, write_page
from nnunet_robust.eval.report.export import write_files
from nnunet_robust.eval.report.sections import context, failures, ranks, report_figures, statistics, texture
from nnunet_robust.eval.report.shared.answer import all_verdicts
from nnunet_robust.eval.report.shared.viewer import viewer_data
from nnunet_robust.eval.results.tables import arm_key
from nnunet_robust.pages import plots

ARCHITECTURES = ("", "NoSkip", "NoTopSkip", "AdditiveSkip", "AttentionGated", "DenseSkip", "AdaptiveSkip")
PERTURBATIONS = (
    "speckle_noise", "gaussian_noise", "gaussian_blur", "contrast", "gibbs_ringing", "bias_field", "ghosting", "motion",
    "gamma", "downsampling",
)  # fmt: skip
LEVELS = (0.1, 0.2, 0.3, 0.4)
SIDE = 256
PARTS: dict[str, Callable[[Analysis], Any]] = {
    "points": lambda analysis: analysis.points,
    "summary": lambda analysis: analysis.summary,
    "verdicts": all_verdicts,
    "crossings": statistics.crossings,
    "friedman": statistics.friedman,
    "pairwise": statistics.pairwise,
    "mcnemar": statistics.mcnemar,
    "mixed": statistics.mixed,
    "ranks": ranks.ranks,
    "failure_counts": failures.failure_counts,
    "divergence": texture.divergence,
    "ratio": context.ratio,
}


def models() -> list[str]:
    return [f"nnUNetTrainer{name}_st5_100epochs" for name in ARCHITECTURES]


def write_sweep(folder: Path, dataset: str, n_cases: int, seed: int) -> None:
    """A sweep's output folder, if it is not there yet."""
    if (folder / "manifest.json").is_file():
        return
    rng = np.random.default_rng(seed)
    conditions = [("clean", 0.0), *((name, level) for name in PERTURBATIONS for level in LEVELS)]
    cases = [f"case_{i:04d}" for i in range(n_cases)]
    skill = rng.normal(0, 0.05, n_cases)
    results, inputs = [], []
    for name, level in conditions:
        table = pd.DataFrame(
            {"dataset": dataset, "patient": cases, "case": cases, "perturbation": name, "level": level}
        )
        table["replicate"] = 0
        decibels = {"psnr_db": 40 - 40 * level if level else np.inf, "snr_db": 30 - 40 * level if level else np.inf}
        divergence = np.clip(0.3 - 0.5 * level + 2 * skill + rng.normal(0, 0.02, n_cases), 0.002, None)
        more = {"foreground_ratio": 0.1 + 0.001 * np.arange(n_cases), "boundary_contrast": 2.0}
        inputs.append(table.assign(**decibels, **more, texture_divergence_bits=divergence))
        for i, model in enumerate(models()):
            fall = (0.4 + 0.25 * (i % 3)) * level
            dice = np.clip(0.92 - 0.01 * i + skill - fall + rng.normal(0, 0.03, n_cases), 0, 0.99)
            missed = dice < 0.45
            arm = {"model": model, "plans": "nnUNetPlans", "configuration": "2d", "fold": "0"}
            arm |= {"patch_size": "256x256", "tile_size": "256x256", "label": "foreground"}
            dice = np.where(missed, 0.0, dice)
            far = np.where(missed, 362.0, 60 * (1 - dice))
            results.append(
                table.assign(
                    **arm, dice=dice, iou=dice / (2 - dice), hd95_mm=far, assd_mm=far / 4, nsd=dice**1.2,
                    volume_ratio=np.where(missed, 0.0, 1.0), n_ref=2000, n_pred=np.where(missed, 0, 1900),
                    outcome=np.where(missed, "missed", "ok"),
                )
            )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(results).to_csv(folder / "results.csv", index=False)
    pd.concat(inputs).to_csv(folder / "inputs.csv", index=False)
    chosen = {"good": cases[0], "median": cases[len(cases) // 2], "bad": cases[-1]}
    for case in chosen.values():
        write_pictures(folder / "pictures" / case, conditions, rng)
    row = {"levels": list(LEVELS), "unit": "share of the robust range", "reference": ""}
    described = dict.fromkeys(PERTURBATIONS, row)
    manifest = {"dataset": dataset, "seed": 0, "device": "cpu", "perturbations": described, "models": {}}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "pictures": {"cases": chosen}}, indent=1))


def write_pictures(folder: Path, conditions: list[tuple[str, float]], rng: np.random.Generator) -> None:
    """Noisy images, which compress badly, and wobbly outlines."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    reference = distance < 70 + 10 * np.sin(3 * angle)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(reference.astype(np.uint8)).save(folder / "reference.png")
    for name, level in conditions:
        stem = "clean" if name == "clean" else f"{name}_{level:g}"
        image = 90 + 60 * reference + rng.normal(0, 8 + 100 * level, reference.shape)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{stem}.png")
        for model in models():
            wobble = 25 * level * np.sin(9 * angle + rng.uniform(0, 6)) + rng.normal(0, 2, reference.shape)
            mask = distance < 70 + 10 * np.sin(3 * angle) + wobble
            target = folder / arm_key(model, "nnUNetPlans", "2d", "0", "256x256", "256x256") / f"{stem}.png"
            target.parent.mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8)).save(target)


def timed(name: str, work: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    print(f"{name:40s} {time.perf_counter() - wall:7.2f} {time.process_time() - cpu:7.2f}", flush=True)
    return found


def draw(analysis: Analysis) -> None:
    with plots.plain_style():
        for figure in report_figures(analysis):
            plots.svg_text(figure.draw(), figure.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--formats", nargs="*", default=[], help="also write these: pdf, png, csv, tex")
    arguments = parser.parse_args()
    folders = [arguments.folder / f"sweep_{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        write_sweep(folder, f"Dataset{601 + i}_Made{'ABC'[i]}", arguments.cases, i)

    def build() -> tuple[Analysis, Path]:
        analysis = timed("read the tables, pair the models", lambda: analyse(folders))
        for name, part in PARTS.items():
            timed(f"statistics: {name}", lambda part=part: part(analysis))
        return analysis, timed("the page", lambda: write_page(analysis, arguments.folder / "report.html"))

    print(f"{'seconds':40s} {'wall':>7s} {'CPU':>7s}")
    analysis, page = timed("in all", build)
    timed("of the page: the viewer's pictures", lambda: viewer_data(analysis.sweeps))
    timed(f"of the page: {len(report_figures(analysis))} figures", lambda: draw(analysis))
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    if arguments.formats:
        written = timed("files", lambda: write_files(analysis, arguments.folder / "figures", arguments.formats))
        print(f"{len(written)} files")
    print(f"memory, at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
