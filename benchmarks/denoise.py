"""What denoising costs: the filter alone, and a sweep with denoised arms beside one without.

    python benchmarks/denoise.py filter
    python benchmarks/denoise.py sweep -m MODEL_FOLDER -i IMAGES -l LABELS --from OUT [--cases N]

`filter` times the estimate of the noise and the filter on images of a noise of 0.1, one thread. `sweep` runs the real
command (`--precision fast`, no mirroring), each in a process of its own, over the first N cases at two levels of noise;
OUT is what `--denoise-from` takes: a sweep of the same model over other cases, `--precision fast --disable-tta`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def filters(arguments: argparse.Namespace) -> None:
    from nnunet_robust.eval.denoising.variation import denoise
    from nnunet_robust.eval.images.image_quality import noise_sigmas

    print("| image | estimate | filter |\n|---|---|---|", flush=True)
    for shape, spacing in (
        ((1, 256, 256), (999.0, 1.0, 1.0)),
        ((64, 64, 64), (1.0, 1.0, 1.0)),
        ((40, 256, 256), (5.0, 1.0, 1.0)),
        ((128, 256, 256), (1.0, 1.0, 1.0)),
    ):
        rng = np.random.default_rng(0)
        radius = sum(axis**2 for axis in np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in shape)])
        image = ((radius < 1) + rng.normal(0, 0.1, shape)).astype(np.float32)[None]
        times: list[list[float]] = [[], []]
        for _ in range(3):
            start = time.perf_counter()
            sigmas = noise_sigmas(image, spacing)
            estimated = time.perf_counter()
            denoise(image, spacing, sigmas)
            for one, taken in zip(times, (estimated - start, time.perf_counter() - estimated), strict=True):
                one.append(taken)
        name = f"{'x'.join(map(str, shape))}, {' x '.join(f'{s:g}' for s in spacing)}"
        print(f"| {name} | {1000 * min(times[0]):.1f} ms | {1000 * min(times[1]):.0f} ms |", flush=True)


def sweeps(arguments: argparse.Namespace) -> None:
    learned = ["--denoise-from", str(arguments.origin.resolve())]
    commands = {
        "plain": [],
        "--denoise always": ["--denoise", "always"],
        "--denoise auto": ["--denoise", "auto", *learned],
        "--denoise auto always": ["--denoise", "auto", "always", *learned],
    }
    with tempfile.TemporaryDirectory() as folder:
        images, labels = Path(folder, "imagesTs"), Path(folder, "labelsTs")
        images.mkdir()
        labels.mkdir()
        for label in sorted(arguments.labels.resolve().iterdir())[: arguments.cases]:
            (labels / label.name).symlink_to(label)
            case = re.escape(label.name.split(".")[0])
            for image in arguments.images.resolve().iterdir():
                if re.fullmatch(rf"{case}_\d{{4}}\..*", image.name):
                    (images / image.name).symlink_to(image)
        print("| sweep | predictions | time | CPU time | beside the plain one |\n|---|---|---|---|---|", flush=True)
        plain = 0.0
        for name, flags in commands.items():
            output = Path(folder, name)
            command = [
                sys.executable, "-m", "nnunet_robust.cli.main", "sweep", "-m", arguments.model, "-f", "0", "-i", images,
                "-l", labels, "--perturb", "gaussian_noise=0.05,0.2", "--precision", "fast", "--disable-tta", "-o",
                output, *flags,
            ]  # fmt: skip
            start = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            took = time.perf_counter() - start
            if status:
                sys.exit(f"{name} failed: run it by hand")
            cpu = used.ru_utime + used.ru_stime  # what others do to the machine does not enter it
            plain = plain or cpu
            arms = 1 + ("always" in flags) + ("auto" in flags)
            made = arms * 3 * len(list(labels.iterdir()))
            print(f"| {name} | {made} | {took:.0f} s | {cpu:.0f} s | {cpu / plain:.2f} x |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("filter").set_defaults(run=filters)
    of_sweep = commands.add_parser("sweep")
    of_sweep.add_argument("-m", dest="model", type=Path, required=True)
    of_sweep.add_argument("-i", dest="images", type=Path, required=True)
    of_sweep.add_argument("-l", dest="labels", type=Path, required=True)
    of_sweep.add_argument("--from", dest="origin", type=Path, required=True)
    of_sweep.add_argument("--cases", type=int, default=8)
    of_sweep.set_defaults(run=sweeps)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
