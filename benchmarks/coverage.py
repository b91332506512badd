"""Do guarantees hold? In simulation, where the truth is known, and on random splits of a real calibration set.

    python benchmarks/coverage.py simulation [--patients 50] [--repeats 2000]
    python benchmarks/coverage.py splits CALIBRATION.json [--calibrate-on 25] [--splits 100]

`simulation` draws patients' losses (exponential, cut at 1, their mean rising with the setting), calibrates on one set
and measures on 200,000 others; an interval of the Dice is drawn with one new case. `splits` takes a file of
`nnunet-robust calibrate`, whose curves are all that is needed: a part of its patients is calibrated on, the rest
measured. Splits share patients: their spread is no standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from split_coverage import interval_coverage_over_splits, risk_over_splits

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.conformal.calibration_file import read_calibration
from nnunet_robust.eval.conformal.control import calibrate_interval, control_risk, fewest_patients, patient_losses
from nnunet_robust.eval.conformal.loss_curves import SETTINGS

ALPHAS = (0.05, 0.1, 0.2)
MEANS = np.linspace(0.005, 0.6, 60)  # of the settings, the most cautious first


def losses(generator: np.random.Generator, n: int) -> np.ndarray:
    """(n, settings): a patient's losses rise with the setting, and patients differ."""
    quantile = generator.uniform(size=(n, 1))
    return np.clip(MEANS * -np.log1p(-quantile), 0, 1)


def simulation(n: int, repeats: int) -> None:
    truth = losses(numpy_generator("coverage, truth"), 200_000).mean(axis=0)
    print("| guarantee | alpha | mean risk | above alpha | guaranteed | Monte-Carlo error |\n|---|---|---|---|---|---|")
    for delta in (None, 0.1):
        for alpha in ALPHAS:
            if n < fewest_patients(alpha, delta):
                continue
            found = []
            for repeat in range(repeats):
                index = control_risk(losses(numpy_generator("coverage", repeat), n), alpha, delta)
                found.append(0.0 if index is None else float(truth[index]))
            above = float(np.mean(np.array(found) > alpha))
            if delta is None:
                error = np.std(found) / np.sqrt(repeats)
                wanted = f"mean risk <= {alpha:g}"
            else:
                error = np.sqrt(delta * (1 - delta) / repeats)
                wanted = f"above in <= {delta:g}"
            kind = "in expectation" if delta is None else f"confidence {1 - delta:g}"
            print(f"| {kind} | {alpha:g} | {np.mean(found):.4f} | {above:.3f} | {wanted} | {error:.4f} |", flush=True)
    for alpha in ALPHAS:
        covered = []
        for repeat in range(repeats):
            generator = numpy_generator("interval", repeat)
            uncertainty = generator.uniform(0, 0.5, n + 1)
            predicted = generator.uniform(0.4, 0.9, n + 1)
            dice = np.clip(predicted + uncertainty * generator.normal(0, 0.2, n + 1), 0, 1)
            made = calibrate_interval(dice[:n], predicted[:n], uncertainty[:n], [str(i) for i in range(n)], alpha)
            low, high = made.around(float(predicted[n]), float(uncertainty[n]))
            covered.append(low <= dice[n] <= high)
        error = np.sqrt(alpha * (1 - alpha) / repeats)
        exact = 1 - np.ceil((n + 1) * (1 - alpha) - 1e-9) / (n + 1)  # without ties
        wanted = f"outside in <= {alpha:g}, exactly {exact:.4f}"
        print(f"| interval of the Dice | {alpha:g} | | {1 - np.mean(covered):.4f} | {wanted} | {error:.4f} |")


def splits(path: Path, n_calibration: int, n_splits: int) -> None:
    calibration = read_calibration(path)
    n = len({case.patient for case in calibration.cases})
    print(f"{n} patients, {n_calibration} calibrated on, {n_splits} splits; {calibration.condition}\n")
    print("| structure | guarantee | alpha | mean over splits | splits above | none |\n|---|---|---|---|---|---|")
    for delta in (None, 0.1):
        for label in calibration.bounds:
            for kind in SETTINGS:
                curves = [case.labels[label].curves[kind] for case in calibration.cases]
                used = [i for i, curve in enumerate(curves) if not kind.startswith("outer") or curve.of[0] > 0]
                per_patient = patient_losses(
                    np.array([curves[i].losses for i in used]), [calibration.cases[i].patient for i in used]
                )
                for alpha in (0.1, 0.2):
                    if n_calibration < fewest_patients(alpha, delta):
                        continue
                    found = risk_over_splits(per_patient, n_calibration, alpha, delta, n_splits)
                    made = found.chosen >= 0
                    risks = found.test_risk[made]
                    mean = f"{risks.mean():.4f}" if len(risks) else "-"
                    name = kind if delta is None else f"{kind}, confidence {1 - delta:g}"
                    print(f"| {label} | {name} | {alpha:g} | {mean} | {(risks > alpha).sum()} | {(~made).sum()} |")
    for label in calibration.bounds:
        scores = [case.labels[label] for case in calibration.cases]
        for alpha in (0.1, 0.2):
            shares = interval_coverage_over_splits(
                np.array([score.dice for score in scores]),
                np.array([score.predicted_dice for score in scores], float),
                np.array([score.uncertainty for score in scores], float),
                [case.patient for case in calibration.cases],
                n_calibration,
                alpha,
                n_splits,
            )
            print(f"| {label} | Dice outside of its interval | {alpha:g} | {1 - shares.mean():.4f} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("simulation")
    simulated.add_argument("--patients", type=int, default=50)
    simulated.add_argument("--repeats", type=int, default=2000)
    real = commands.add_parser("splits")
    real.add_argument("calibration", type=Path)
    real.add_argument("--calibrate-on", type=int, default=25)
    real.add_argument("--splits", type=int, default=100)
    given = parser.parse_args()
    if given.command == "simulation":
        simulation(given.patients, given.repeats)
    else:
        splits(given.calibration, given.calibrate_on, given.splits)


if __name__ == "__main__":
    main()
