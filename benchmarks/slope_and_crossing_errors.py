"""Error rates of the mixed models' slopes, and coverage of the intervals of crossings, by simulation.

    python benchmarks/slope_and_crossing_errors.py slopes [--studies 4000] [--whole 20]
    python benchmarks/slope_and_crossing_errors.py crossings [--studies 500]

Made-up studies, as the rows that `comparable` returns, go through `mixed_model` and `crossings`. For the slopes no
architecture loses anything along the level, whatever patients and trainings do: each p of 0.05 or below is an error.
Most of them are counted by `contrast`, which `mixed_model` calls; the first `--whole` of each design go through both,
which must agree.
For the crossings two architectures truly cross at 0.25; a study in which their means do not cross counts as covered
where the interval that is given then holds 0.25. The tables are those of docs/statistics.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics import crossings, mixed_model
from nnunet_robust.eval.statistics.contrasts import contrast

LEVELS = np.array([0.0, 0.1, 0.2, 0.4])
SLOPES = {  # standard deviations of the slopes (what is gained from level 0 to 0.4): patients', trainings'
    "neither": (0.0, 0.0),
    "patients' slopes differ": (0.1, 0.0),
    "seeds' slopes differ": (0.0, 0.05),
    "seeds' slopes differ a little": (0.0, 0.012),
    "both": (0.1, 0.05),
}
TRAININGS = ((1, 0.0), (2, 0.02), (3, 0.02), (5, 0.02))  # seeds, and the standard deviation between them
CROSSING = 0.25
RESIDUAL = 0.03
_ROWS = 400_000  # of one table of studies


def rows_of(scores: NDArray[np.float64], owner: NDArray[np.intp]) -> pd.DataFrame:
    """Rows as `comparable` gives them, each study as a perturbation of its own.

    Args:
        scores: (studies, trained models, levels, patients); NaN where a patient lacks a level.
        owner: (trained models,), the index of each one's architecture.
    """
    study, line, level, patient = (index.ravel() for index in np.indices(scores.shape))
    names = np.array(list("ABCDEFG"))[owner]
    lines = np.array([f"{name}/{i}" for i, name in enumerate(names)])
    patients = np.array([f"p{i:04d}" for i in range(scores.shape[3])])
    table = pd.DataFrame({"perturbation": study.astype(str), "architecture": names[line], "line": lines[line]})
    table["level"], table["patient"], table["case"] = LEVELS[level], patients[patient], patients[patient]
    table["dice"] = scores.ravel()
    return table.dropna(subset="dice").assign(dataset="D", label="1", replicate=0, outcome="ok")


def _in_parts(studies: int, size: int) -> Iterator[int]:
    """How many studies go into each table, of `size` rows each."""
    step = max(1, _ROWS // size)
    while studies > 0:
        yield min(step, studies)
        studies -= step


def slope_studies(
    generator: np.random.Generator, studies: int, n: int, names: int, seeds: int, slopes: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    """Scores without any mean slope, their architectures, and the slopes of the trained models (studies, models)."""
    owner = np.repeat(np.arange(names), seeds)
    of_patients, of_trainings = slopes
    x = (LEVELS / LEVELS[-1])[:, None]
    shared, own = (generator.normal(0, of_patients, (studies, size, 1, n)) for size in (1, names))
    trained = generator.normal(0, of_trainings, (studies, len(owner), 1, 1))
    start = generator.normal(0, 0.05, (studies, 1, 1, n)) + generator.normal(0, 0.02, (studies, len(owner), 1, 1))
    rest = generator.normal(0, RESIDUAL, (studies, len(owner), len(LEVELS), n))
    return 0.8 + start + (shared + own[:, owner] + trained) * x + rest, owner, trained[..., 0, 0]


def slope_errors(
    studies: int, n: int, names: int, seeds: int, slopes: tuple[float, float], whole: int = 20, seed: int = 0
) -> dict[str, float]:
    """Simulate studies and count the errors.

    Args:
        studies: number of studies.
        n: patients.
        names: architectures.
        seeds: trainings of each architecture.
        slopes: standard deviations of the slopes, see `SLOPES`.
        whole: number of studies that go through `mixed_model`, too.
        seed: of the scores.

    Returns:
        own, difference: share of studies with p <= 0.05 for the slope of A, and for that of B minus A; with_p: share
        of the whole studies' terms with a p; covered: share of the 95 % intervals of B minus A that hold the truth: no
        difference, or with one training each, the difference of these trained models.

    Raises:
        AssertionError: `mixed_model` does not give the p and the intervals that are counted.
    """
    generator = numpy_generator(seed, "slopes", n, names, seeds, *slopes)
    counted = []
    for part in _in_parts(studies, names * seeds * len(LEVELS) * n):
        scores, owner, trained = slope_studies(generator, part, n, names, seeds, slopes)
        design = np.column_stack([np.ones(len(LEVELS)), LEVELS / LEVELS[-1]])
        each = np.einsum("x,slxp->lps", np.linalg.pinv(design)[1], scores)
        weights = np.eye(names)[:2] - np.eye(names)[0] * [[0], [1]]
        found = contrast(each, owner, weights)  # (2 terms, studies)
        truth = trained[:, 1] - trained[:, 0] if seeds == 1 else np.zeros(part)
        p = 2 * stats.t.sf(np.abs(found.value) / np.sqrt(found.reml_variance), found.freedom)
        half = stats.t.ppf(0.975, found.freedom[1]) * np.sqrt(found.reml_variance[1])
        if not counted:
            table = mixed_model(rows_of(scores[:whole], owner)).set_index(["term", "perturbation"])
            own, difference = (table.loc[f"{term}, level 0 to 0.4"] for term in ("A", "B − A"))
            with_p = float(np.isfinite([own["p"], difference["p"]]).mean())
            assert not with_p or np.allclose([own["p"], difference["p"]], p[:, : len(own)])
            assert np.allclose(difference["high"] - difference["low"], 2 * half[: len(own)])
        counted.append([*(p <= 0.05), np.abs(found.value[1] - truth) <= half])
    shares = np.concatenate(counted, axis=1).mean(axis=1)
    return {"own": float(shares[0]), "difference": float(shares[1]), "with_p": with_p, "covered": float(shares[2])}


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return generator.standard_normal(shape)


def _beta(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """As Dice is spread: most patients near the best, few far below (beta(6, 1), standardised; skewness -1.3)."""
    return (generator.beta(6, 1, shape) - 6 / 7) / np.sqrt(6 / (49 * 8))


SPREADS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]] = {
    "normal": _normal,
    "beta": _beta,
}


def crossing_studies(
    generator: np.random.Generator, studies: int, n: int, seeds: int, steepness: float, spread: str, training: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Scores of two architectures that cross at `CROSSING`: A varies more than B, so that their difference is skewed.

    Args:
        generator: random numbers.
        studies: number of studies.
        n: patients.
        seeds: trainings of each architecture.
        steepness: difference of the two slopes, per unit of the level.
        spread: a key of `SPREADS`.
        training: standard deviation between trainings.
    """
    owner = np.repeat([0, 1], seeds)
    slopes = np.array([-0.8 - steepness, -0.8])[owner][:, None]
    mean = 0.9 + slopes * LEVELS + np.where(owner == 0, steepness * CROSSING, 0.0)[:, None]
    draw = SPREADS[spread]
    of_patients = 0.04 * draw(generator, (studies, 1, 1, n))
    amount = np.array([0.05, 0.02])[:, None, None]  # of A and B
    start, slope = (amount * draw(generator, (studies, 2, 1, n)) for _ in range(2))
    own = (start + slope * (LEVELS / LEVELS[-1])[:, None])[:, owner]
    trained = training * generator.standard_normal((studies, len(owner), 1, 1))
    rest = RESIDUAL * draw(generator, (studies, len(owner), len(LEVELS), n))
    return mean[:, :, None] + of_patients + own + trained + rest, owner


def crossing_coverage(
    studies: int,
    n: int,
    seeds: int,
    steepness: float,
    spread: str,
    training: float,
    series: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Simulate studies and count the intervals that hold the true crossing.

    Args:
        studies: number of studies.
        n: patients; in a series, at each level.
        seeds: trainings of each architecture.
        steepness: see `crossing_studies`.
        spread: a key of `SPREADS`.
        training: standard deviation between trainings.
        series: other patients at each level.
        seed: of the scores.

    Returns:
        covered: share of studies whose interval holds the true level (of several crossings, that of the nearest);
        crossed: share whose means cross; open: share whose interval is open at an end; width: median width.
    """
    generator = numpy_generator(seed, "crossings", n, seeds, steepness, spread, training, series)
    tables = []
    for part in _in_parts(studies, 2 * seeds * len(LEVELS) * n):
        patients = n * len(LEVELS) if series else n
        scores, owner = crossing_studies(generator, part, patients, seeds, steepness, spread, training)
        if series:
            at = np.repeat(np.arange(len(LEVELS)), n)
            scores = np.where(at == np.arange(len(LEVELS))[:, None], scores, np.nan)
        found = crossings(rows_of(scores, owner), n_resamples=2)
        found["distance"] = (found["level"] - CROSSING).abs().fillna(np.inf)
        tables.append(found.sort_values("distance").drop_duplicates("perturbation"))
    table = pd.concat(tables)
    return {
        "covered": float(((table["low"] <= CROSSING) & (table["high"] >= CROSSING)).mean()),
        "crossed": float(table["level"].notna().mean()),
        "open": float((table["open"] != "").mean()),
        "width": float((table["high"] - table["low"]).median()),
    }


def _slopes(studies: int, whole: int) -> None:
    print("| slopes | architectures | seeds | patients | p <= .05: own slope | difference | covered |")
    print("|---|---|---|---|---|---|---|")
    for kind, names, seeds, n in product(SLOPES, (2, 3), (1, 2, 3, 5), (10, 20, 40)):
        found = slope_errors(studies, n, names, seeds, SLOPES[kind], whole)
        own, difference = (f"{found[name]:.3f}" if found["with_p"] else "no p" for name in ("own", "difference"))
        print(f"| {kind} | {names} | {seeds} | {n} | {own} | {difference} | {found['covered']:.3f} |", flush=True)


def _crossings(studies: int) -> None:
    print("| spread | seeds | SD of trainings | patients | steepness | covered | means cross | open | median width |")
    print("|---|---|---|---|---|---|---|---|---|")
    steep = [(seeds, training, n, 0.4, False) for seeds, training in TRAININGS for n in (5, 10, 20, 40)]
    flat = [(seeds, training, n, 0.15, False) for seeds, training in TRAININGS[::2] for n in (10, 20)]
    series = [(1, 0.0, n, 0.4, True) for n in (10, 20)]
    for (seeds, training, n, steepness, other), spread in product([*steep, *flat, *series], SPREADS):
        found = crossing_coverage(studies, n, seeds, steepness, spread, training, other)
        values = " | ".join(f"{value:.3f}" for value in found.values())
        at = f"{n} other ones a level" if other else f"{n}"
        print(f"| {spread} | {seeds} | {training:g} | {at} | {steepness:g} | {values} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    slopes = commands.add_parser("slopes")
    slopes.add_argument("--studies", type=int, default=4000)
    slopes.add_argument("--whole", type=int, default=20)
    commands.add_parser("crossings").add_argument("--studies", type=int, default=500)
    given = parser.parse_args()
    if given.command == "slopes":
        _slopes(given.studies, given.whole)
    else:
        _crossings(given.studies)


if __name__ == "__main__":
    main()
