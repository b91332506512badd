"""How fast is the sweep's sliding window, against nnU-Net's own and against the network's forward passes alone?

    python benchmarks/sliding_window.py MODEL_FOLDER IMAGES_FOLDER [--cases 8] [--rounds 5] [--precision exact fast]

MODEL_FOLDER is a trained model (`<trainer>__<plans>__<configuration>`), IMAGES_FOLDER holds images for it. Each round
takes every case through (a) the networks alone: the same tiles and mirrored copies, in the window's batches, nothing
else; (b) the window; (c) nnU-Net's predictor, in memory. Medians over rounds;
the first call of the window, which measures and chooses, is timed apart. Dice and labels are compared with (c).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads make two torch processes ten times slower
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

from nnunet_robust.common.console import quiet
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow


def preprocessed(model: Model, images: Path, cases: int) -> list[torch.Tensor]:
    predictor = model.predictor
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    files = create_lists_from_splitted_dataset_folder(str(images), predictor.dataset_json["file_ending"])[:cases]
    with quiet():
        preprocessor = configuration.preprocessor_class(verbose=False)
        loaded = [preprocessor.run_case(f, None, plans, configuration, predictor.dataset_json)[0] for f in files]
    return [torch.from_numpy(data).float().contiguous() for data in loaded]


def forward_alone(window: SlidingWindow, data: list[torch.Tensor]) -> Callable[[], None]:
    """The same batches through the same forward passes, without cutting, mirroring, weighting and summing."""
    batches: list[torch.Tensor] = []
    recorded, window._forwards = window._forwards, [_recorder(f, batches) for f in window._forwards]
    for image in data:
        window.logits(image)
    window._forwards = recorded
    repeats = len(batches) // len(recorded)

    @torch.inference_mode()
    def run() -> None:
        for forward in recorded:
            for batch in batches[:repeats]:
                forward(batch)

    return run


def _recorder(forward: Callable, batches: list[torch.Tensor]) -> Callable:
    def recording(batch: torch.Tensor) -> torch.Tensor:
        batches.append(batch)
        return forward(batch)

    return recording


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def agreement(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> str:
    labels = [(f.argmax(0).cpu(), w.argmax(0).cpu()) for f, w in zip(found, wanted, strict=True)]
    differing = sum(int((f != w).sum()) for f, w in labels)
    voxels = sum(f.numel() for f, _ in labels)
    dice = []
    for f, w in labels:
        both = int(((f > 0) & (f == w)).sum())
        size = int((f > 0).sum() + (w > 0).sum())
        dice.append(2 * both / size if size else 1.0)
    largest = max(float((f.cpu().float() - w.cpu().float()).abs().max()) for f, w in zip(found, wanted, strict=True))
    return (
        f"labels differ in {differing} of {voxels} voxels ({differing / voxels:.2g}), foreground Dice with the stock "
        f"predictor's: mean {statistics.mean(dice):.6f}, lowest {min(dice):.6f}; logits differ by up to {largest:.3g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--folds", nargs="+")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["exact", "fast"], choices=["exact", "fast"])
    parser.add_argument("--inference-type", help="fix it for fast, e.g. float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    device = torch.device(options.device)
    model = load_model(options.model, options.folds, options.checkpoint, device, mirroring=True, dataset=None)
    data = preprocessed(model, options.images, options.cases)
    print(f"{options.model.name}, {len(data)} cases, {torch.get_num_threads()} threads on {device}")
    runs: dict[str, Callable[[], object]] = {
        "stock predictor": lambda: [model.predictor.predict_logits_from_preprocessed_data(d) for d in data]
    }
    wanted = runs["stock predictor"]()
    windows: dict[str, SlidingWindow] = {}
    for precision in options.precision:
        pinned = {"inference_type": options.inference_type} if options.inference_type and precision == "fast" else None
        windows[precision] = window = SlidingWindow.from_predictor(model.predictor, precision, pinned)
        first = seconds(lambda window=window: window.logits(data[0]), device)
        print(f"{precision}: first call {first:.2f} s, chose {window.choices}")
        print(f"{precision}: {agreement([window.logits(d) for d in data], wanted)}")
        runs[f"{precision}, networks alone"] = forward_alone(window, data)
        runs[f"{precision}, window"] = lambda window=window: [window.logits(d) for d in data]

    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        spread = f"{min(times[name]) / len(data) * 1e3:.0f} to {max(times[name]) / len(data) * 1e3:.0f}"
        print(f"{name:24s} {value / len(data) * 1e3:8.1f} ms a case ({spread})")
    for precision in windows:
        taken, alone = median[f"{precision}, window"], median[f"{precision}, networks alone"]
        rounds = zip(times[f"{precision}, window"], times[f"{precision}, networks alone"], strict=True)
        overhead = statistics.median(of_window / of_networks - 1 for of_window, of_networks in rounds)
        print(
            f"{precision}: {median['stock predictor'] / taken:.2f} times the stock predictor; overhead over the "
            f"networks alone {100 * (taken / alone - 1):.1f} % (median of rounds {100 * overhead:.1f} %)"
        )


if __name__ == "__main__":
    main()
