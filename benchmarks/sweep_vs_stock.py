"""The sweep against what people do without it: perturbed files, `nnUNetv2_predict`, `nnUNetv2_evaluate_folder`.

    python benchmarks/sweep_vs_stock.py MODEL_FOLDER IMAGES LABELS [--cases 20] [--stock-conditions 10]
        [--precision exact fast] [--device cpu]
    python benchmarks/sweep_vs_stock.py MODEL_FOLDER IMAGES LABELS --scaling 1 10 100

Same cases, same ten conditions, same perturbed images. For every condition the stock way writes the files, predicts
the folder and evaluates it, each command in a process of its own; the sweep is one `nnunet-robust sweep`. They
alternate: a part of the stock conditions, the sweep, and so on. The networks alone (the same tiles, nothing else) are
timed in the same run. A stock condition is worth as much as any other: with fewer than ten, their median counts ten
times, and that is said. Of a sweep's seconds, those before its first prediction is begun (Python, the imports, loading
the model, reading the cases once) are also given apart: they are the same for ten conditions and for a thousand.

`--scaling` runs sweeps of these numbers of conditions instead: seconds and peak memory of each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import json

import numpy as np
import pandas as pd
import torch

from nnunet_robust.eval.results.manifest import read_manifest

CONDITIONS: dict[str, Sequence[float]] = {
    "gaussian_noise": (0.05, 0.1, 0.2),
    "speckle_noise": (0.1, 0.2, 0.4),
    "gaussian_blur": (0.5, 1.0, 2.0),
}


# For packages that lie in a folder of PYTHONPATH, without their scripts.
_ENTRY = """import importlib.metadata, sys
name = sys.argv.pop(1)
if __name__ == "__main__":
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
    sys.exit(entry.load()())"""


def command(*arguments: object) -> None:
    """Run a console command of this Python's environment, quietly."""
    name, *rest = map(str, arguments)
    script = Path(sys.executable).with_name(name)
    executable = [str(script)] if script.is_file() else [sys.executable, "-c", _ENTRY, name]
    done = subprocess.run([*executable, *rest], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


class Stock:
    """The way without the sweep, a condition at a time."""

    def __init__(self, model_folder: Path, images: Path, labels: Path, work: Path, device: str) -> None:
        self.model_folder, self.images, self.labels, self.work, self.device = model_folder, images, labels, work, device
        self.ending = json.loads((model_folder / "dataset.json").read_text())["file_ending"]
        self.dice: dict[tuple[str, float], float] = {}

    def condition(self, name: str, level: float) -> float:
        """Write, predict, evaluate; returns seconds."""
        perturbed, predicted = self.work / "perturbed", self.work / "predicted"
        for folder in (perturbed, predicted):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        start = time.perf_counter()
        for path in sorted(self.images.glob(f"*{self.ending}")):
            self._write(path, perturbed / path.name, name, level)
        command(
            "nnUNetv2_predict_from_modelfolder", "-m", self.model_folder, "-i", perturbed, "-o", predicted,
            "-f", "0", "-device", self.device, "--disable_progress_bar",
        )  # fmt: skip
        command(
            "nnUNetv2_evaluate_folder", self.labels, predicted, "-djfile", self.model_folder / "dataset.json",
            "-pfile", self.model_folder / "plans.json",
        )  # fmt: skip
        seconds = time.perf_counter() - start
        summary = json.loads((predicted / "summary.json").read_text())
        # as the sweep counts: a case whose masks are both empty has 1, not NaN
        scores = [
            1.0 if metrics["n_ref"] == 0 == metrics["n_pred"] else metrics["Dice"]
            for case in summary["metric_per_case"]
            for metrics in case["metrics"].values()
        ]
        self.dice[name, level] = float(np.mean(scores))
        return seconds

    def _write(self, source: Path, target: Path, name: str, level: float) -> None:
        from nnunet_robust.common.seeding import torch_generator
        from nnunet_robust.perturbations import perturb

        array, write = _read(source)
        if name != "clean":
            case = source.name[: -len(f"_0000{self.ending}")]
            image = torch.from_numpy(array[None].astype(np.float32))
            array = perturb(image, name, level, torch_generator(0, case, name, 0))[0].numpy()
        write(array, target)


def _read(path: Path) -> tuple[np.ndarray, Any]:
    """A single-channel image and how to write another one like it; PNGs are rounded to 8 bits, as they have to be."""
    if path.name.endswith(".png"):
        from PIL import Image

        array = np.asarray(Image.open(path))
        return array, lambda new, target: Image.fromarray(np.rint(new).astype(np.uint8)).save(target)
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))

    def write(new: np.ndarray, target: Path) -> None:
        written = sitk.GetImageFromArray(new)
        written.CopyInformation(image)
        sitk.WriteImage(written, str(target))

    return sitk.GetArrayFromImage(image), write


class Sweep(NamedTuple):
    """What a sweep took: seconds in all, those before its first prediction was begun, and memory."""

    seconds: float
    start: float
    peak_mib: float


def sweep(
    model_folder: Path,
    images: Path,
    labels: Path,
    out: Path,
    precision: str,
    device: str,
    conditions: dict[str, Sequence[float]] = CONDITIONS,
) -> Sweep:
    """One sweep, in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    # levels belong to all perturbations of a call: a call for each, into one folder, would pay the start three times
    script = (
        "import resource, sys, time; from pathlib import Path\n"
        "from nnunet_robust.eval.sweep.progress import SweepProgress\n"
        "from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep\n"
        "class Timed(SweepProgress):\n"
        "  def start(self, predictions):\n"
        "    print('START', time.time(), file=sys.stderr); super().start(predictions)\n"
        "if __name__ == '__main__':\n"
        f"  p = SweepParameters(output=Path({str(out)!r}), conditions={conditions!r},"
        f" model_folders=[Path({str(model_folder)!r})], folds=['0'], images=Path({str(images)!r}),"
        f" labels=[Path({str(labels)!r})], device={device!r}, precision={precision!r})\n"
        "  with Timed(p.output) as progress: run_sweep(p, progress)\n"
        "  print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)\n"
    )
    begun = time.time()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the sweep failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    told = [line.split() for line in done.stderr.splitlines() if line.startswith(("START", "PEAK"))]
    began, peak = (min(float(value) for name, value in told if name == wanted) for wanted in ("START", "PEAK"))
    return Sweep(seconds, began - begun, peak)


def networks_alone(model_folder: Path, images: Path, precision: str, device: str, conditions: int) -> float:
    """Seconds of the forward passes of all cases, times the number of conditions."""
    from sliding_window import forward_alone, preprocessed, seconds

    from nnunet_robust.eval.inference.loading import load_model
    from nnunet_robust.eval.inference.sliding_window import SlidingWindow

    where = torch.device(device)
    if where.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    model = load_model(model_folder, ["0"], "checkpoint_final.pth", where, mirroring=True, dataset=None)
    data = preprocessed(model, images, 10**6)
    window = SlidingWindow.from_predictor(model.predictor, precision)
    window.logits(data[0])
    return conditions * seconds(forward_alone(window, data), where)


def scaling(options: argparse.Namespace, images: Path, labels: Path, work: Path) -> None:
    """Sweeps of more and more conditions: levels of Gaussian noise beside the clean images."""
    for precision in options.precision:
        before: tuple[int, float] | None = None
        for number in options.scaling:
            levels = {"gaussian_noise": [round(0.2 * (n + 1) / number, 6) for n in range(number - 1)]}
            done = sweep(options.model, images, labels, work / "scaling", precision, options.device, levels)
            each = f", {(done.seconds - before[1]) / (number - before[0]):.2f} s for each more" if before else ""
            manifest = read_manifest(work / "scaling" / "manifest.json")
            batch = (next(iter(manifest.models.values())).choices or {})["batch_size"]
            print(
                f"{precision}, {number} conditions: {done.seconds:.1f} s{each}; peak memory {done.peak_mib:.0f} MiB "
                f"(batches of {batch})",
                flush=True,
            )
            before = number, done.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--cases", type=int, default=20, help="number of cases, the first ones")
    parser.add_argument("--stock-conditions", type=int, default=10, help="conditions that are run the stock way")
    parser.add_argument("--precision", nargs="+", default=["exact", "fast"], choices=["exact", "fast"])
    parser.add_argument("--scaling", nargs="+", type=int, default=[], help="numbers of conditions")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    conditions = [("clean", 0.0), *((name, level) for name, levels in CONDITIONS.items() for level in levels)]
    stock_conditions = conditions[: options.stock_conditions]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        images, labels = work / "images", work / "labels"
        images.mkdir(), labels.mkdir()
        ending = json.loads((options.model / "dataset.json").read_text())["file_ending"]
        chosen = sorted(options.labels.glob(f"*{ending}"))[: options.cases]
        for label in chosen:
            shutil.copy(label, labels)
            shutil.copy(options.images / label.name.replace(ending, f"_0000{ending}"), images)
        stock = Stock(options.model, images, labels, work, options.device)
        if options.scaling:
            scaling(options, images, labels, work)
            return
        times: dict[str, list[float]] = {"stock": []}
        swept: dict[str, Sweep] = {}
        share = -(-len(stock_conditions) // len(options.precision))
        for number, precision in enumerate(options.precision):
            for name, level in stock_conditions[number * share : (number + 1) * share]:
                times["stock"].append(stock.condition(name, level))
                print(f"stock, {name} {level:g}: {times['stock'][-1]:.1f} s", flush=True)
            swept[precision] = sweep(options.model, images, labels, work / precision, precision, options.device)
            alone = networks_alone(options.model, images, precision, options.device, len(conditions))
            times[f"{precision}, networks alone"] = [alone]
            print(f"{precision}: sweep {swept[precision].seconds:.1f} s, its networks alone {alone:.1f} s", flush=True)
        whole = len(conditions) * statistics.median(times["stock"])
        print(f"{len(chosen)} cases x {len(conditions)} conditions, {options.device}")
        print(f"stock: {whole:.1f} s ({len(stock_conditions)} conditions run, median x {len(conditions)})")
        for precision in options.precision:
            (seconds, start, peak), alone = swept[precision], times[f"{precision}, networks alone"][0]
            rows = pd.read_csv(work / precision / "results.csv")
            means = rows.groupby(["perturbation", "level"])["dice"].mean()
            apart = max(abs(means[key] - dice) for key, dice in stock.dice.items())
            print(
                f"{precision}: {seconds:.1f} s, {whole / seconds:.2f} times the stock way; overhead over the networks "
                f"alone {100 * (seconds / alone - 1):.1f} %, {100 * ((seconds - start) / alone - 1):.1f} % without the "
                f"{start:.1f} s before its first prediction; peak memory {peak:.0f} MiB; mean Dice of a condition "
                f"apart by {apart:.5f} at most"
            )


if __name__ == "__main__":
    main()
