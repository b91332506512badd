"""What scores of uncertainty cost: in a sweep, beside one without them; and in memory, on a large volume.

    python benchmarks/uncertainty.py volume [--shape 300 512 512] [--members 3] [--heads 2 5]
    python benchmarks/uncertainty.py sweep -d DATASET -c CONFIGURATION -tr TRAINER TRAINER [...] [--cases N]

`volume` makes up members (a ball whose border each sees elsewhere), one at a time, as a sweep makes them; the peak is
the process's, less what it had before. `sweep` runs the real command, each in a process of its own, over the first N
test cases at two levels of noise.
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
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COMMANDS = {
    "plain": [],
    "--uncertainty folds": ["--uncertainty", "folds"],
    "--uncertainty mirroring": ["--uncertainty", "mirroring"],
    "--ensemble all": ["--ensemble", "all"],
    "--ensemble all --weights confidence": ["--ensemble", "all", "--weights", "confidence"],
}


def made_up(shape: tuple[int, int, int], n_members: int, n_heads: int) -> Iterator[np.ndarray]:
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in shape)]
    away = np.sqrt(sum(axis.astype(np.float32) ** 2 for axis in axes)).astype(np.float32)
    for number in range(n_members):
        inside = 1 / (1 + np.exp((away - np.float32(0.5 + 0.05 * number)) * 40))
        member = np.empty((n_heads, *shape), np.float32)
        member[0] = 1 - inside
        member[1:] = inside / (n_heads - 1)
        del inside
        yield member


def volume(shape: tuple[int, int, int], n_members: int, n_heads: int) -> None:
    from nnunet_robust.eval.confidence.heads import Heads
    from nnunet_robust.eval.confidence.uncertainty import structure_scores, uncertainty

    heads = Heads({f"structure {label}": label for label in range(1, n_heads)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = uncertainty(made_up(shape, n_members, n_heads), heads)
    maps = time.perf_counter()
    structure_scores(found, heads, (1.0, 0.8, 0.8))
    scores = time.perf_counter()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    member = 4 * n_heads * np.prod(shape) / 2**30
    print(
        f"| {'x'.join(map(str, shape))} | {n_members} | {n_heads} | {maps - start:.1f} s | {scores - maps:.1f} s "
        f"| {member:.2f} GiB | {peak:.2f} GiB |"
    )


def volumes(arguments: argparse.Namespace) -> None:
    print("| voxels | members | heads | maps | scores | one member | peak |\n|---|---|---|---|---|---|---|", flush=True)
    for n_members in sorted({1, arguments.members}):
        for n_heads in arguments.heads:
            code = f"from uncertainty import volume; volume({tuple(arguments.shape)}, {n_members}, {n_heads})"
            subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)


def sweeps(arguments: argparse.Namespace) -> None:
    from nnunet_robust.folders import dataset_name, nnunet_folder

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
