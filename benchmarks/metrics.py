"""Surface metrics of many predictions against one reference: surface-distance 0.1 against `eval.metrics.Reference`.

    python benchmarks/metrics.py [--cases NAME ...] [--rounds N] [--predictions N] [--cpu]

Each prediction is measured by both, one after the other, and the figures are compared. A prediction is `near` (the
reference, shifted and with a rough border) or `scattered` (besides, one voxel in a hundred is wrong, anywhere). What
`Reference` makes once per case counts towards the first prediction. Real cases come from the folder
`NNUNET_ROBUST_TEST_DATA`, or `shared/data` beside the repository, and are left out where there is none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import surface_distance
from scipy.ndimage import gaussian_filter

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.metrics.metrics import Reference

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("NNUNET_ROBUST_TEST_DATA", ROOT.parent / "shared" / "data"))
TOLERANCE_MM = 2.0
Case = tuple[np.ndarray, dict[str, int], tuple[float, ...]]
Figures = dict[str, tuple[float, float, float]]


def texture() -> Case:
    """A blob in an image of 128 x 128 pixels."""
    field = gaussian_filter(numpy_generator("texture").normal(size=(128, 128)), 12)
    return (field > np.quantile(field, 0.8)).astype(np.uint8), {"blob": 1}, (1.0, 1.0)


def lungs() -> Case:
    """Two lungs in a CT of 134 x 512 x 512 voxels."""
    z, y, x = np.ogrid[-1:1:134j, -1:1:512j, -1:1:512j]
    bumps = 0.08 * np.sin(25 * z) * np.sin(30 * y) * np.sin(20 * x)
    label = np.zeros((134, 512, 512), np.uint8)
    for value, centre in ((1, -0.35), (2, 0.35)):
        label[(z / 0.85) ** 2 + (y / 0.5) ** 2 + ((x - centre) / 0.25) ** 2 + bumps < 1] = value
    return label, {"left": 1, "right": 2}, (2.5, 0.75, 0.75)


def real(folder: str, regions: dict[str, int]) -> Case | None:
    files = sorted((DATA / folder / "labelsTr").glob("*.nii.gz"))
    if not files:
        return None
    image = nibabel.load(files[0])
    spacing = tuple(float(s) for s in image.header.get_zooms()[::-1])
    return np.ascontiguousarray(np.asarray(image.dataobj).T.astype(np.uint8)), regions, spacing


CASES: dict[str, Callable[[], Case | None]] = {
    "texture": texture,
    "hippocampus": lambda: real("Task04_Hippocampus", {"anterior": 1, "posterior": 2}),
    "spleen": lambda: real("Task09_Spleen", {"spleen": 1}),
    "lungs": lungs,
}


def predicted(label: np.ndarray, kind: str, number: int) -> np.ndarray:
    generator = numpy_generator(kind, number)
    shift = generator.integers(-2, 3, label.ndim)
    shift[0] = np.sign(shift[0])
    moved = np.roll(label, shift, tuple(range(label.ndim)))
    prediction = np.where(generator.random(label.shape, np.float32) < 0.7, moved, label)
    if kind == "scattered":
        wrong = generator.random(label.shape, np.float32) < 0.01
        prediction[wrong] = generator.integers(0, label.max() + 1, int(wrong.sum()), label.dtype)
    return prediction


def by_surface_distance(label: np.ndarray, prediction: np.ndarray, case: Case) -> Figures:
    figures = {}
    for name, value in case[1].items():
        found = surface_distance.compute_surface_distances(label == value, prediction == value, case[2])
        areas = found["surfel_areas_gt"], found["surfel_areas_pred"]
        total = areas[0] @ found["distances_gt_to_pred"] + areas[1] @ found["distances_pred_to_gt"]
        figures[name] = (
            surface_distance.compute_robust_hausdorff(found, 95),
            total / (areas[0].sum() + areas[1].sum()),
            surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
        )
    return figures


def by_reference(reference: Reference, prediction: np.ndarray) -> Figures:
    return {name: (m.hd95_mm, m.assd_mm, m.nsd) for name, m in reference.compare(prediction).items()}


def timed(clock: Callable[[], float], action: Callable[[], Any]) -> tuple[float, Any]:
    start = clock()
    result = action()
    return clock() - start, result


def measure(
    case: Case, kind: str, predictions: int, clock: Callable[[], float]
) -> tuple[list[float], list[float], float]:
    """Seconds for each prediction by either, and the largest relative difference of a figure."""
    label, regions, spacing = case
    making, reference = timed(clock, lambda: Reference(label, regions, spacing, TOLERANCE_MM))
    theirs, ours, difference = [], [], 0.0
    for number in range(predictions):
        prediction = predicted(label, kind, number)
        seconds, expected = timed(clock, lambda prediction=prediction: by_surface_distance(label, prediction, case))
        theirs.append(seconds)
        seconds, got = timed(clock, lambda prediction=prediction: by_reference(reference, prediction))
        ours.append(seconds + making * (number == 0))
        for name, figures in expected.items():
            for a, b in zip(figures, got[name], strict=True):
                difference = max(difference, abs(a - b) / max(abs(a), 1e-12))
    return theirs, ours, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--predictions", type=int, default=10)
    parser.add_argument("--cpu", action="store_true", help="processor time, where the machine is busy")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Please import")  # surface-distance 0.1 and SciPy's old names
    n = arguments.predictions
    clock = time.process_time if arguments.cpu else time.perf_counter
    print(
        f"{'case':<12} {'prediction':<10} {'':<5} {'surface-distance':>17} {'Reference':>12} {'ratio':>6}  difference"
    )
    for name in arguments.cases:
        case = CASES[name]()
        if case is None:
            print(f"{name:<12} left out: no data")
            continue
        for kind in ("near", "scattered"):
            rounds = [measure(case, kind, n, clock) for _ in range(arguments.rounds)]
            for count in sorted({1, n}):
                theirs, ours = (statistics.median(1000 * sum(r[i][:count]) for r in rounds) for i in (0, 1))
                difference = max(r[2] for r in rounds)
                print(
                    f"{name:<12} {kind:<10} {count:>4}x {theirs:>14.1f} ms {ours:>9.1f} ms {theirs / ours:>6.1f}"
                    f"  {difference:.0e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
