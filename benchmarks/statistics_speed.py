"""How long the statistics take: BCa intervals by themselves, then every analysis of a sweep.

    OMP_NUM_THREADS=2 python benchmarks/statistics_speed.py [--cases N] [--models N] [--conditions N] [--resamples N]

The scores are made up (seeded). Intervals are also computed by `scipy.stats.bootstrap` for a few of the columns, which
must agree. Memory is the process's peak.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics import (
    bca_intervals,
    comparable,
    crossings,
    curves,
    failures,
    friedman,
    mixed_model,
    pairwise,
    rank_stability,
    summary,
    verdicts,
)

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def timed(name: str, action: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = action()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<44} {time.perf_counter() - start:7.2f} s   peak {peak:6.0f} MiB", flush=True)
    return result


def made_up(n_cases: int, n_models: int, n_conditions: int) -> pd.DataFrame:
    """Rows as `load_results` gives them, each case a patient."""
    generator = numpy_generator("statistics benchmark")
    perturbed = [(f"perturbation_{i // len(LEVELS)}", LEVELS[i % len(LEVELS)]) for i in range(n_conditions)]
    cases = [f"case_{i:04d}" for i in range(n_cases)]
    parts = []
    skill = generator.normal(0, 0.05, n_cases)
    for model in range(n_models):
        for name, level in [("clean", 0.0), *perturbed]:
            dice = np.clip(0.9 - 0.1 * model * level + skill + generator.normal(0, 0.03, n_cases), 0, 1)
            part = pd.DataFrame({"case": cases, "dice": dice}).assign(perturbation=name, level=level)
            parts.append(part.assign(architecture=f"model_{model}", line=f"model_{model}"))
    rows = pd.concat(parts, ignore_index=True)
    rows["patient"] = rows["case"]
    rows["outcome"] = np.where(rows["dice"] < 0.7, "missed", "ok")
    return rows.assign(dataset="D", label="1", replicate=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--conditions", type=int, default=60)
    parser.add_argument("--resamples", type=int, default=10_000)
    arguments = parser.parse_args()
    n = arguments.resamples
    print(f"{arguments.cases} cases x {arguments.models} models x {arguments.conditions} conditions, {n} resamples")

    results = made_up(arguments.cases, arguments.models, arguments.conditions)
    matrix = results.pivot(index="case", columns=["line", "perturbation", "level"], values="dice").to_numpy()
    low, high = timed(f"BCa intervals of {matrix.shape[1]} means", lambda: bca_intervals(matrix, n))
    some = range(0, matrix.shape[1], max(1, matrix.shape[1] // 3))
    theirs = timed(
        f"  scipy.stats.bootstrap, {len(some)} of them",
        lambda: [
            stats.bootstrap(
                (matrix[:, i],), np.mean, n_resamples=n, batch=500, rng=numpy_generator(0, "bootstrap")
            ).confidence_interval
            for i in some
        ],
    )
    difference = max(max(abs(t.low - low[i]), abs(t.high - high[i])) for i, t in zip(some, theirs, strict=True))
    print(f"  largest difference from scipy's {difference:.0e}")

    rows, _ = timed("comparable", lambda: comparable(results))
    timed("curves", lambda: curves(rows, "dice", n))
    timed("summary", lambda: summary(rows, "dice", n))
    timed("crossings", lambda: crossings(rows, "dice", n))
    timed("friedman", lambda: friedman(rows, "dice"))
    timed("pairwise", lambda: pairwise(rows, "dice"))
    timed("failures", lambda: failures(rows))
    timed("mixed_model", lambda: mixed_model(rows, "dice"))
    timed("rank_stability", lambda: rank_stability(rows, "dice", n))
    timed("verdicts", lambda: verdicts(rows, "dice", n_resamples=n))


if __name__ == "__main__":
    main()
