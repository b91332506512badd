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
SHAPE = 2.0  # of the gamma distribution of patients' losses: its skewness is 2 / sqrt(SHAPE)


def sweep(generator: np.random.Generator, n_patients: int, n_trained: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """The rows of a simulated sweep as `comparable` gives them, and what each architecture's trained models lose."""
    skill = generator.normal(0, 0.05, n_patients)
    suffers = generator.gamma(SHAPE, 1 / SHAPE, n_patients)
    parts, truth = [], {}
    for name, mean in LOST.items():
        own = suffers * generator.gamma(8.0, 1 / 8.0, n_patients)
        effects = generator.normal(0, OF_TRAINING, n_trained)
        clean_effects = generator.normal(0, OF_TRAINING_CLEAN, n_trained)
        truth[name] = float((mean + effects.mean()) / (CLEAN + clean_effects.mean()))
        for seed in range(n_trained):
            clean = CLEAN + skill + clean_effects[seed] + generator.normal(0, 0.01, n_patients)
            for perturbation, levels in LEVELS.items():
                for number, level in enumerate((0.0, *levels)):
                    lost = (0.0, 0.6, 1.4)[number] * (mean * own) + (number > 0) * effects[seed]
                    noise = (number > 0) * generator.normal(0, 0.02, n_patients)
                    parts.append((name, f"{name}{seed}", perturbation, level, clean - lost + noise))
    patients = [f"p{i:04d}" for i in range(n_patients)]
    rows = pd.concat(
        [
            pd.DataFrame({"architecture": name, "line": line, "perturbation": perturbation, "level": level,
                          "patient": patients, "case": patients, "dice": dice})
            for name, line, perturbation, level, dice in parts
        ], ignore_index=True,
    )  # fmt: skip
    return rows.assign(dataset="D", label="1", replicate=0.0, series=False), truth


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
    for repeat in range(repeats):
        generator = numpy_generator("degradation", n_patients, n_trained, repeat)
        rows, of_models = sweep(generator, n_patients, n_trained)
        of_names = {name: lost / CLEAN for name, lost in LOST.items()}
        truth = of_models if n_trained == 1 else of_names
        table = degradation(rows, {"D": list(LEVELS)}, n_resamples=400).set_index("line")
        for name, row in table.iterrows():
            low, high = row["degradation_low"], row["degradation_high"]
            held["degradation"].append(low <= truth[str(name)] <= high)
            held["architecture"].append(low <= of_names[str(name)] <= high)
        of_b = table.loc["B"]
        held["missing"].append(bool(np.isnan(of_b["ratio"])))
        if not np.isnan(of_b["ratio_low"]):
            held["ratio"].append(of_b["ratio_low"] <= truth["B"] / truth["A"] <= of_b["ratio_high"])
        held["right"].append(table.loc["A", "share_least"] >= 0.95)
        held["wrong"].append(table.loc["A", "share_least"] <= 0.05)
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
