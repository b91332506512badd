"""Throughput of the complexity measure: images/s in 2d, and what a perturbed volume costs in a sweep.

    python benchmarks/complexity.py

CPU time of one thread: set OMP_NUM_THREADS=1. Random pixels, a round mask of half the side; the median of several runs.
"once" is what depends on the reference alone and is done once per case, "image" what each (perturbed) image takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from nnunet_robust.eval.images.complexity import SWEEP_SLICES, VARIANTS, ComplexityMeter, Variant

SHAPES = {
    "128 x 128": (128, 128),
    "256 x 256": (256, 256),
    "512 x 512": (512, 512),
    "40 x 40 x 56": (40, 40, 56),
    "134 x 512 x 512": (134, 512, 512),
}


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def case(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image (1, *shape) and a label: a ball, or an ellipsoid that fills half of the slices."""
    image = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.float32)
    grid = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in shape)]
    return image, (sum(axis**2 for axis in grid) < 0.25).astype(np.int32)


def measure(shape: tuple[int, ...], variant: Variant, max_slices: int | None) -> tuple[float, float, int]:
    """Seconds once per case, seconds per image, and slices looked at."""
    image, label = case(shape)
    spacing = (3.0, *[1.0] * (len(shape) - 1))

    def make() -> ComplexityMeter:
        return ComplexityMeter(image, label, {"x": [1]}, spacing, variant=variant, max_slices=max_slices)

    meter = make()
    runs = 3 if len(shape) == 3 else 15
    return seconds(make, runs), seconds(lambda: meter.measure(image), runs), meter.measure(image)["x"].slices


def main() -> None:
    print("| image | variant | slices | once (ms) | image (ms) | images/s |\n|---|---|--:|--:|--:|--:|")
    for name, shape in SHAPES.items():
        for variant in VARIANTS:
            for limit in (None, SWEEP_SLICES) if shape[0] > 2 * SWEEP_SLICES and len(shape) == 3 else (None,):
                once, image, slices = measure(shape, variant, limit)
                print(f"| {name} | {variant} | {slices} | {1e3 * once:.1f} | {1e3 * image:.1f} | {1 / image:.2f} |")


if __name__ == "__main__":
    main()
