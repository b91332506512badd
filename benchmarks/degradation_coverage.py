"""Does the interval of the mean degradation cover? Simulated sweeps by the whole statistic, where the truth is known.

    python benchmarks/degradation_coverage.py [--repeats 2000]

Two architectures lose 8 and 12 % of a clean Dice of .85 on average, under two perturbations of two levels. Patients
differ on clean images (SD .05), in what they lose (a gamma distribution: few lose much) and by architecture; trainings
differ by SD .02 in what they lose and by .005 on clean images. Prints how often 95 % intervals hold the truth, and how
often the architecture that loses less truly has a rank share of 95 % or more, and of 5 % or less.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics.degradation import degradation

CLEAN, LOST = 0.85, {"A": 0.08 * 0.85, "B": 0.12 * 0.85}
OF_TRAINING, OF_TRAINING_CLEAN = 0.02, 0.005
LEVELS = {"noise": (0.1, 0.2), "blur": (1.0, 2.0)}
AT_ONCE = 50  # studies in a table
SHAPE = 2.0  # of the gamma distribution of patients' losses: its skewness is 2 / sqrt(SHAPE)


def study(generator: np.random.Generator, n_patients: int, n_trained: int) -> tuple[np.ndarray, dict[str, float]]:
    """Dice of a simulated study, and the share of clean that each architecture's trained models lose.

    Returns:
        (architectures, trainings, perturbations, levels with 0 first, patients), and architecture -> share.
    """
    skill = generator.normal(0, 0.05, n_patients)
    suffers = generator.gamma(SHAPE, 1 / SHAPE, n_patients)
    dice, truth = np.empty((len(LOST), n_trained, len(LEVELS), 3, n_patients)), {}
    for i, (name, mean) in enumerate(LOST.items()):
        own = suffers * generator.gamma(8.0, 1 / 8.0, n_patients)
        effects = generator.normal(0, OF_TRAINING, n_trained)
        clean_effects = generator.normal(0, OF_TRAINING_CLEAN, n_trained)
        truth[name] = float((mean + effects.mean()) / (CLEAN + clean_effects.mean()))
        clean = CLEAN + skill + clean_effects[:, None] + generator.normal(0, 0.01, (n_trained, n_patients))
        dice[i] = clean[:, None, None]
        lost = np.multiply.outer((0.6, 1.4), mean * own) + effects[:, None, None, None]
        dice[i, :, :, 1:] += generator.normal(0, 0.02, (n_trained, len(LEVELS), 2, n_patients)) - lost
    return dice, truth


def rows_of(dice: np.ndarray) -> pd.DataFrame:
    """Rows of many studies as `comparable` gives them, each study a dataset.

    Args:
        dice: (studies, ...), of `study`.
    """
    studies, of_name, of_seed, of_perturbation, of_level, of_patient = (axis.ravel() for axis in np.indices(dice.shape))
    names = np.array(list(LOST), dtype=object)[of_name]
    patients = np.array([f"p{i:04d}" for i in range(dice.shape[-1])], dtype=object)[of_patient]
    levels = np.array([(0.0, *of_one) for of_one in LEVELS.values()])[of_perturbation, of_level]
    return pd.DataFrame(
        {
            "dataset": np.array([f"D{i}" for i in range(len(dice))], dtype=object)[studies],
            "architecture": names,
            "line": names + np.array([str(i) for i in range(dice.shape[2])], dtype=object)[of_seed],
            "perturbation": np.array(list(LEVELS), dtype=object)[of_perturbation],
            "level": levels,
            "patient": patients,
            "case": patients,
            "dice": dice.ravel(),
        }
    ).assign(label="1", replicate=0.0, series=False)


def coverage(n_patients: int, n_trained: int, repeats: int) -> dict[str, float]:
    """How often intervals hold the truth, and how sure the rank share is.

    Returns:
        "degradation", "ratio": share of intervals that hold the architecture's (with one training, these trained
        models'), of those that there are; "architecture": that hold the architecture's in any case; "right", "wrong":
        share of sweeps in which A, which loses less, has a rank share of at least .95, and of at most .05; "missing":
        sweeps without a ratio.
    """
    held: dict[str, list[bool]] = {
        key: [] for key in ("degradation", "ratio", "architecture", "right", "wrong", "missing")
    }
    of_names = {name: lost / CLEAN for name, lost in LOST.items()}
    for start in range(0, repeats, AT_ONCE):
        studies = [
            study(numpy_generator("degradation", n_patients, n_trained, repeat), n_patients, n_trained)
            for repeat in range(start, min(start + AT_ONCE, repeats))
        ]
        rows = rows_of(np.stack([dice for dice, _ in studies]))
        tables = degradation(rows, {f"D{i}": list(LEVELS) for i in range(len(studies))}, n_resamples=400)
        for (_, of_models), (_, table) in zip(studies, tables.groupby("dataset", sort=False), strict=True):
            truth = of_models if n_trained == 1 else of_names
            a, b = table.set_index("line").loc[["A", "B"]].to_dict("records")
            for name, row in zip("AB", (a, b), strict=True):
                low, high = row["degradation_low"], row["degradation_high"]
                held["degradation"].append(low <= truth[name] <= high)
                held["architecture"].append(low <= of_names[name] <= high)
            held["missing"].append(bool(np.isnan(b["ratio"])))
            if not np.isnan(b["ratio_low"]):
                held["ratio"].append(b["ratio_low"] <= truth["B"] / truth["A"] <= b["ratio_high"])
            held["right"].append(a["share_least"] >= 0.95)
            held["wrong"].append(a["share_least"] <= 0.05)
    return {key: float(np.mean(values)) for key, values in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args().repeats
    print(
        "| trainings | patients | degradation | of the architecture | ratio | no ratio | share >= 95 %, right | wrong |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n_trained in (1, 3, 5):
        for n_patients in (6, 10, 20, 50):
            found = coverage(n_patients, n_trained, repeats)
            keys = ("degradation", "architecture", "ratio", "missing", "right", "wrong")
            cells = " | ".join(f"{100 * found[key]:.1f}" for key in keys)
            print(f"| {n_trained} | {n_patients} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
