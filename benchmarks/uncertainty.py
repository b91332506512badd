"""What scores of uncertainty cost: in a sweep, beside one without them; and in memory, on a large volume.

    python benchmarks/uncertainty.py volume [--shape 300 512 512] [--members 3] [--heads 2 5]
    python benchmarks/uncertainty.py sweep -d DATASET -c CONFIGURATION -tr TRAINER TRAINER [...] [--cases N]

`volume` predicts with networks of a single 1x1x1 convolution through the sliding window (tiles of 128^3, no mirroring),
tells them apart, and makes maps and scores as a sweep does; the peak is the process's, less what it had with the image.
`sweep` runs the real command, each in a process of its own, over the first N test cases at two levels of noise.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

COMMANDS = {
    "plain": [],
    "--uncertainty folds": ["--uncertainty", "folds"],
    "--uncertainty mirroring": ["--uncertainty", "mirroring"],
    "--ensemble all": ["--ensemble", "all"],
    "--ensemble all --weights confidence": ["--ensemble", "all", "--weights", "confidence"],
}


def probabilities(logits: Sequence[torch.Tensor]) -> Iterator[np.ndarray]:
    """As `eval.inference.members.Members` has them, but for nnU-Net's resampling, of which this image needs none."""
    for member in logits:
        yield torch.softmax(member.float(), 0).numpy()


def volume(shape: tuple[int, int, int], n_members: int, n_heads: int) -> None:
    from nnunet_robust.eval.inference.sliding_window import SlidingWindow
    from nnunet_robust.eval.uncertainty.label_layout import LabelLayout
    from nnunet_robust.eval.uncertainty.uncertainty import structure_scores, uncertainty

    heads = LabelLayout({f"structure {label}": label for label in range(1, n_heads)})
    torch.manual_seed(0)
    networks = [torch.nn.Conv3d(1, n_heads, 1) for _ in range(n_members)]
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in shape)]
    image = torch.from_numpy(sum(axis.astype(np.float32) ** 2 for axis in axes))[None]
    window = SlidingWindow(networks, (128, 128, 128), None, n_heads, torch.device("cpu"), choices={"batch_size": 1})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    (found,) = window.members_many([image], ("folds",))
    predicted = time.perf_counter()
    peak_predicted = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    maps = uncertainty(probabilities(found.members), heads)
    mapped = time.perf_counter()
    structure_scores(maps, heads, (1.0, 0.8, 0.8))
    scored = time.perf_counter()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    held = sum(member.numel() * member.element_size() for member in (found.mean, *found.members)) / 2**30
    print(
        f"| {'x'.join(map(str, shape))} | {n_members} | {n_heads} | {predicted - start:.0f} s "
        f"| {mapped - predicted:.0f} s | {scored - mapped:.1f} s | {held:.2f} GiB | {peak_predicted:.2f} GiB "
        f"| {peak:.2f} GiB |"
    )


def volumes(arguments: argparse.Namespace) -> None:
    print("| voxels | members | heads | window | maps | scores | logits held | peak, window | peak |", flush=True)
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for n_members in sorted({1, arguments.members}):
        for n_heads in arguments.heads:
            code = f"from uncertainty import volume; volume({tuple(arguments.shape)}, {n_members}, {n_heads})"
            subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)


def sweeps(arguments: argparse.Namespace) -> None:
    from nnunet_robust.common.folders import dataset_name, nnunet_folder

    raw = nnunet_folder("nnUNet_raw") / dataset_name(arguments.dataset)
    executable = Path(sys.executable).with_name("nnunet-robust")
    with tempfile.TemporaryDirectory() as folder:
        images, labels = Path(folder, "imagesTs"), Path(folder, "labelsTs")
        images.mkdir()
        labels.mkdir()
        for label in sorted((raw / "labelsTs").iterdir())[: arguments.cases]:
            (labels / label.name).symlink_to(label)
            case = re.escape(label.name.split(".")[0])
            for image in (raw / "imagesTs").iterdir():
                if re.fullmatch(rf"{case}_\d{{4}}\..*", image.name):
                    (images / image.name).symlink_to(image)
        print("| sweep | time | beside the plain one | peak |\n|---|---|---|---|", flush=True)
        plain = 0.0
        for name, flags in COMMANDS.items():
            command = [
                executable, "sweep", "-d", arguments.dataset, "-c", arguments.configuration, "-tr", *arguments.trainers,
                "-i", images, "-l", labels, "--perturb", "gaussian_noise=0.1,0.2", "-o", Path(folder, name), *flags,
            ]  # fmt: skip
            start = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            took = time.perf_counter() - start
            if status:
                sys.exit(f"{name} failed: run it by hand")
            plain = plain or took
            print(f"| {name} | {took:.1f} s | {took / plain:.2f} x | {used.ru_maxrss / 2**20:.2f} GiB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    of_volume = commands.add_parser("volume")
    of_volume.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    of_volume.add_argument("--members", type=int, default=3)
    of_volume.add_argument("--heads", type=int, nargs="+", default=(2, 5))
    of_volume.set_defaults(run=volumes)
    of_sweep = commands.add_parser("sweep")
    of_sweep.add_argument("-d", dest="dataset", required=True)
    of_sweep.add_argument("-c", dest="configuration", required=True)
    of_sweep.add_argument("-tr", dest="trainers", nargs="+", required=True)
    of_sweep.add_argument("--cases", type=int, default=12)
    of_sweep.set_defaults(run=sweeps)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
