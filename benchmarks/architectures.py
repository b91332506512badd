"""What each architecture costs: parameters, FLOPs, activations and the time of a training iteration -> a page of docs.

    python benchmarks/architectures.py -d 4 3d_fullres -d 501 2d [--device cuda] [-n 10]
    python benchmarks/architectures.py

The datasets must be preprocessed. The measurements of a device go to benchmarks/architectures_<device>.json, and
docs/architectures.md is written anew from all of these files; without -d only the page is written. A time is that of
nnU-Net's `train_step` (forward pass, loss, backward pass, clipping, optimiser step) on a random batch that is already
loaded, in whatever precision and with whatever compilation nnU-Net uses on the device (`nnUNet_compile`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import inspect
import io
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers import TRAINERS, trainer_class

ROOT = Path(__file__).resolve().parent.parent
STANDARD = "nnUNetTrainer"
STANDARD_TEXT = """\
nnU-Net's own U-Net for the plans: at each level the encoder's map is concatenated to the upsampled one.

Reference: Isensee et al., "nnU-Net", Nature Methods 2021."""
WARM_UP = 2
PACKAGES = ("torch", "nnunetv2", "dynamic-network-architectures", "monai", "nnunet-robust")

INTRODUCTION = """\
# The architectures and what they cost

Made by `python benchmarks/architectures.py`; change that, not this page. For your own plans,
`nnunet-robust trainers NAME -d DATASET -c CONFIGURATION` gives all of it but the times.
"""

EXPLANATION = """\
- **Parameters**: those that are trained.
- **FLOPs**: one forward pass of one patch, with all outputs of deep supervision; two for a multiplication with its
  addition. Convolutions, matrix products and attention count; norms, nonlinearities and resampling do not.
- **Activations**: what the forward pass of one batch keeps for the backward pass, in float32. Gradients, optimiser
  state and a kernel's workspace come on top; mixed precision about halves it. Computed from shapes, not measured.
- **Iteration**: the median time of nnU-Net's `train_step` on a random batch that is already loaded: forward pass, loss,
  backward pass, gradient clipping, optimiser step. The trainers take turns, so that a busy moment hits all of them. The
  ratio is the median of the ratios to the standard trainer's iteration of the same turn.
- In parentheses: relative to the standard trainer. UNETR rounds its patch up to a multiple of 16.
"""


def random_batch(trainer: Any) -> dict[str, Any]:
    """Noise, and labels at random, in the shapes that nnU-Net's loader gives this trainer."""
    import torch
    from torch.nn.functional import interpolate

    manager, labels = trainer.configuration_manager, trainer.label_manager
    size = (manager.batch_size, 1, *manager.patch_size)
    if labels.has_regions:
        target = torch.randint(0, 2, (size[0], labels.num_segmentation_heads, *size[2:])).float()
    else:
        target = torch.randint(0, labels.num_segmentation_heads, size).float()
    scales = trainer._get_deep_supervision_scales()
    data = torch.randn(size[0], trainer.num_input_channels, *size[2:])
    targets = target if scales is None else [interpolate(target, scale_factor=tuple(scale)) for scale in scales]
    return {"data": data, "target": targets}


def iteration_times(trainers: dict[str, Any], turns: int) -> dict[str, list[float]]:
    """Seconds per iteration, a list of `turns` for each trainer, after a warm-up."""
    import torch

    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train has it
    batches = {name: random_batch(trainer) for name, trainer in trainers.items()}
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(WARM_UP + turns):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            trainer.train_step(batches[name])  # returns the loss as a number: the device is done
            if trainer.device.type == "cuda":
                torch.cuda.synchronize(trainer.device)
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return times


def measure(dataset: str, configuration: str, plans: str, device: str, turns: int) -> dict[str, Any]:
    """A table: the dataset's name, its plans, and a row for each trainer that works on them."""
    import torch

    from nnunet_robust.common.folders import dataset_name, nnunet_folder
    from nnunet_robust.trainers.cost import planned, read_plans, trainer_cost
    from nnunet_robust.trainers.plans import format_size

    name = dataset_name(dataset)
    plans_json, dataset_json = read_plans(nnunet_folder("nnUNet_preprocessed") / name, plans)
    rows: dict[str, dict[str, Any]] = {}
    made: dict[str, Any] = {}
    for trainer in TRAINERS:
        try:
            cost = trainer_cost(trainer, plans_json, configuration, dataset_json)
            with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints its citation
                instance: Any = trainer_class(trainer)(
                    {**plans_json, "continue_training": False}, configuration, 0, dataset_json, torch.device(device)
                )
                instance.initialize()
                instance.network.train()
        except (ImportError, UserError) as error:
            print(f"{trainer} is left out: {error}")
            continue
        _, resolved = planned(trainer, plans_json, configuration)
        made[trainer] = instance
        rows[trainer] = {"patch": format_size(resolved.patch_size), "batch": resolved.batch_size, **vars(cost)}
    times = iteration_times(made, turns)
    for trainer, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times[STANDARD], strict=True)]
        rows[trainer] |= {"seconds": statistics.median(seconds), "relative_time": statistics.median(ratios)}
    compiled = made[STANDARD]._do_i_compile()
    return {
        "dataset": name, "plans": plans, "configuration": configuration, "turns": turns, "compiled": compiled,
        "rows": rows,
    }  # fmt: skip


def setting(device: str) -> dict[str, Any]:
    """Where it was measured: the device's name, threads, versions."""
    import torch

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
    }


def processor_name() -> str:
    """The CPU's name, as Linux tells it, else the machine's type."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def page(measurements: list[dict[str, Any]]) -> str:
    """docs/architectures.md: the architectures in their own words, a table per device and plans, and what they mean."""
    parts = [INTRODUCTION]
    for name in TRAINERS:
        text = STANDARD_TEXT if name == STANDARD else inspect.getdoc(trainer_class(name))
        parts.append(f"## {name}\n\n{text}\n")
    parts.append(f"## What they cost\n\n{EXPLANATION}")
    for measurement in measurements:
        where = measurement["setting"]
        versions = ", ".join(f"{package} {version}" for package, version in where["versions"].items())
        for table in measurement["tables"]:
            parts.append(f"### {table['dataset']}, {table['configuration']}, on the {where['device'].upper()}\n")
            parts.append(
                f"{where['name']}, {where['threads']} threads, {'' if table['compiled'] else 'not '}compiled, "
                f"{'mixed precision' if where['device'] == 'cuda' else 'float32'}; {table['turns']} turns after "
                f"{WARM_UP} to warm up; {table['plans']}. Versions: {versions}.\n"
            )
            parts.append(markdown_table(table["rows"]))
    return "\n".join(parts)


def markdown_table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown, each number with its ratio to the standard trainer's."""
    from nnunet_robust.trainers.cost import format_si

    lines = [
        "| trainer | patch | batch | parameters | FLOPs | activations | iteration |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    standard = rows[STANDARD]
    for name, row in rows.items():
        cells = [f"`{name}`", row["patch"], str(row["batch"])]
        for key, unit in (("parameters", ""), ("flops", ""), ("activation_bytes", "B")):
            cells.append(f"{format_si(row[key])}{unit} ({row[key] / standard[key]:.2f}x)")
        cells.append(f"{1000 * row['seconds']:.1f} ms ({row['relative_time']:.2f}x)")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(file: Path, text: str) -> None:
    """Write the file whole or not at all."""
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", nargs=2, action="append", default=[], metavar=("DATASET", "CONFIGURATION"))
    parser.add_argument("-p", default="nnUNetPlans", help="plans identifier")
    parser.add_argument("-n", type=int, default=10, help="turns that are measured")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks", help="folder of the measurements")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "architectures.md", help="the page to write")
    arguments = parser.parse_args()
    if arguments.d:
        with tempfile.TemporaryDirectory() as results:
            os.environ["nnUNet_results"] = results  # noqa: SIM112 - a trainer makes its folder and log when it is made
            tables = [measure(*pair, arguments.p, arguments.device, arguments.n) for pair in arguments.d]
        measured = {"setting": setting(arguments.device), "tables": tables}
        write(arguments.results / f"architectures_{arguments.device}.json", json.dumps(measured, indent=1) + "\n")
    files = sorted(arguments.results.glob("architectures_*.json"))
    write(arguments.page, page([json.loads(file.read_text()) for file in files]))
    print(arguments.page)


if __name__ == "__main__":
    main()
