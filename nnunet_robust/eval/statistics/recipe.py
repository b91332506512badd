"""The recipe: at each level the architecture to take, how many bootstraps agree, and its cost on clean images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.display_names import PLAIN, DisplayNames
from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES, bca_intervals, resampled_means
from nnunet_robust.eval.statistics.tables import CLEAN, COMPARABLE, Scores, direction, patient_scores

NO_DIFFERENCE = "no difference that matters"
MARGIN = 0.01
SETTLED = 0.8  # a verdict that fewer bootstraps agree with is called not settled

_ROUNDING = 1e-12  # a difference of exactly the margin is within it
_RECIPE = [
    "dataset", "perturbation", "level", "verdict", "equivalent", "agreement", "advantage", "advantage_low",
    "advantage_high", "clean_cost", "clean_cost_low", "clean_cost_high", "n_patients",
]  # fmt: skip
_RANGES = [
    "dataset", "perturbation", "from_level", "to_level", "verdict", "agreement", "clean_cost", "clean_cost_low",
    "clean_cost_high", "n_patients",
]  # fmt: skip


def recipe(
    rows: pd.DataFrame, metric: str = "dice", margin: float = MARGIN, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Name the architecture to take at each level of each perturbation.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        margin: the difference of means that matters, in the metric's unit, >= 0.
        n_resamples: number of bootstrap samples of the patients.
        seed: of the bootstrap.

    Returns:
        A row per dataset, perturbation and level (0 is the clean images). Columns dataset, perturbation, level, and

        - verdict: the architecture with the best mean; `NO_DIFFERENCE` where all means are within the margin of it;
        - equivalent: the other architectures whose mean is within the margin of the best (for `NO_DIFFERENCE`, all);
        - agreement: the share of bootstrap samples in which the verdict's architecture is within the margin of that
          sample's best; for `NO_DIFFERENCE`, in which all are;
        - advantage, advantage_low, advantage_high: the best mean minus the next best, positive in favour of the best
          for every metric, with the BCa interval of this paired difference. The two are chosen by the same data, so
          that the interval is somewhat optimistic;
        - clean_cost, clean_cost_low, clean_cost_high: on clean images (for a series, the dataset's own test set), the
          best mean minus that of the verdict's architecture, >= 0; 0 for `NO_DIFFERENCE`, where one takes whichever is
          best on clean images;
        - n_patients.

        All of it holds for the trained models as they are: patients are resampled, trainings are not. Of a single
        patient there is neither agreement nor interval. With a single architecture that is the verdict, without an
        advantage.

    Raises:
        UserError: an unknown metric, or a margin that is negative or not a number.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "perturbation": "blur", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: str, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": patient, "case": patient, "level": level,
        ...             "dice": dice}
        >>> dice = {"plain": {0.0: 0.9, 0.3: 0.5}, "no skip": {0.0: 0.8, 0.3: 0.7}}  # the same for both patients
        >>> rows = pd.DataFrame([row(a, p, x, y) for a, curve in dice.items() for p in "ab" for x, y in curve.items()])
        >>> table = recipe(rows, margin=0.01)
        >>> table[["level", "verdict", "agreement", "clean_cost"]].round(4).values.tolist()
        [[0.0, 'plain', 1.0, 0.0], [0.3, 'no skip', 1.0, 0.1]]
    """
    if not margin >= 0:
        raise UserError(f"The margin must be >= 0, in the unit of {metric}, got {margin}.")
    everything = patient_scores(rows, metric)
    own = {scores.dataset: scores for scores in everything if scores.perturbation == CLEAN}
    found = []
    for scores in everything:
        if scores.perturbation == CLEAN:
            continue
        clean = _clean_scores(scores, own.get(scores.dataset), metric)
        for j, level in enumerate(scores.levels):
            values = direction(metric) * scores.at(j)
            if not len(values):
                continue
            choice = choose(values, scores.names, margin, n_resamples, seed)
            advantage = _advantage(values, choice.best, n_resamples, seed)
            cost = (0.0,) * 3 if choice.verdict == NO_DIFFERENCE else _cost(clean, choice.best, n_resamples, seed)
            where = (scores.dataset, scores.perturbation, float(level))
            decided = (choice.verdict, choice.equivalent, choice.agreement)
            found.append((*where, *decided, *advantage, *cost, len(values)))
    return pd.DataFrame(found, columns=_RECIPE)


class Choice(NamedTuple):
    """The best of several architectures by their means, and the bootstraps that agree.

    Attributes:
        best: its index among the names.
        verdict: its name, or `NO_DIFFERENCE` where all means are within the margin of it.
        equivalent: the others whose mean is within the margin of the best (for `NO_DIFFERENCE`, all).
        agreement: the share of bootstrap samples in which the best is within the margin of that sample's best; for
            `NO_DIFFERENCE`, in which all are; NaN for a single patient.
        shares: (names,), of samples in which each is within the margin of that sample's best; NaN likewise.
    """

    best: int
    verdict: str
    equivalent: tuple[str, ...]
    agreement: float
    shares: NDArray[np.float64]


def choose(values: NDArray[np.float64], names: Sequence[str], margin: float, n_resamples: int, seed: int) -> Choice:
    """Choose the architecture with the highest mean over patients, and tell whether its lead matters.

    Args:
        values: (patients, names), higher is better; at least one patient.
        names: what is compared.
        margin: the difference of means that matters, >= 0.
        n_resamples: number of bootstrap samples of the patients.
        seed: of the bootstrap.
    """
    means = values.mean(axis=0)
    best = int(np.round(means, 12).argmax())  # of equal ones the first
    matters = margin + _ROUNDING
    within = means >= means[best] - matters
    no_difference = len(names) > 1 and bool(within.all())
    agreement, shares = float("nan"), np.full(len(names), np.nan)
    if len(values) > 1:
        drawn = resampled_means(values, n_resamples, seed)
        close = drawn >= drawn.max(axis=0) - matters
        agreement, shares = float((close.all(axis=0) if no_difference else close[best]).mean()), close.mean(axis=1)
    return Choice(
        best,
        NO_DIFFERENCE if no_difference else names[best],
        tuple(name for i, name in enumerate(names) if within[i] and (no_difference or i != best)),
        agreement,
        shares,
    )


def _advantage(values: NDArray[np.float64], best: int, n_resamples: int, seed: int) -> tuple[float, float, float]:
    """The best mean of (patients, names) minus the next best, with its interval."""
    if values.shape[1] < 2:
        return (float("nan"),) * 3
    order = np.argsort(-np.round(values.mean(axis=0), 12), kind="stable")  # begins with the best
    return _difference(values[:, best] - values[:, order[1]], n_resamples, seed)


def _clean_scores(scores: Scores, own: Scores | None, metric: str) -> NDArray[np.float64] | None:
    """(patients, names), higher is better: level 0, or for a series the own test set, of the series' architectures."""
    if not scores.in_series:
        return direction(metric) * scores.at(0)
    if own is None or not set(scores.names) <= set(own.names):
        return None
    return direction(metric) * own.at(0)[:, [own.names.index(name) for name in scores.names]]


def _cost(clean: NDArray[np.float64] | None, chosen: int, n_resamples: int, seed: int) -> tuple[float, float, float]:
    if clean is None or not len(clean):
        return (float("nan"),) * 3
    best = int(np.round(clean.mean(axis=0), 12).argmax())
    return _difference(clean[:, best] - clean[:, chosen], n_resamples, seed)


def _difference(values: NDArray[np.float64], n_resamples: int, seed: int) -> tuple[float, float, float]:
    low, high = bca_intervals(values[:, None], n_resamples, CONFIDENCE, seed)
    return float(values.mean()), float(low[0]), float(high[0])


def recipe_ranges(recipe: pd.DataFrame) -> pd.DataFrame:
    """Merge adjacent levels that have the same verdict.

    Args:
        recipe: what `recipe` returns.

    Returns:
        Columns dataset, perturbation, from_level, to_level (both measured; between one range's last level and the
        next one's first nothing was), verdict, agreement (the lowest of its levels), clean_cost, clean_cost_low,
        clean_cost_high (the same at all its levels), n_patients (the fewest).
    """
    found = []
    for (dataset, perturbation), part in recipe.groupby(["dataset", "perturbation"], sort=False):
        rows = part.sort_values("level").to_dict("records")
        for verdict, group in itertools.groupby(rows, key=lambda row: row["verdict"]):
            levels = list(group)
            agreement, n_patients = (min(row[name] for row in levels) for name in ("agreement", "n_patients"))
            cost = (levels[0][name] for name in ("clean_cost", "clean_cost_low", "clean_cost_high"))
            place = (dataset, perturbation, levels[0]["level"], levels[-1]["level"])
            found.append((*place, verdict, agreement, *cost, n_patients))
    return pd.DataFrame(found, columns=_RANGES)


def recipe_sentence(ranges: pd.DataFrame, metric: str = "dice", names: DisplayNames = PLAIN) -> str:
    """One perturbation's recipe in words.

    Args:
        ranges: the rows of `recipe_ranges` of one dataset and perturbation.
        metric: the recipe's.
        names: of perturbations.

    Returns:
        E.g. "speckle noise, 40 patients: up to level 0.1 nnUNetTrainer (at least 97 % of bootstraps agree); from level
        0.2 nnUNetTrainerNoSkip (at least 99 % of bootstraps agree), which on clean images costs 0.004 Dice [0.001,
        0.008]." A verdict with an agreement below `SETTLED` is headed by "not settled:".
    """
    rows = ranges.to_dict("records")
    n = min(row["n_patients"] for row in rows)
    said = [f"{_where(row, i, len(rows))} {_what(row, metric)}" for i, row in enumerate(rows)]
    name = names[str(rows[0]["perturbation"])]
    return f"{name}, {n} patient{'s' * (n != 1)}: {'; '.join(said)}."


def _where(row: dict[Any, Any], place: int, n_ranges: int) -> str:
    low, high = f"{row['from_level']:g}", f"{row['to_level']:g}"
    if n_ranges == 1:
        return f"at every level ({low} to {high})" if low != high else f"at level {low}"
    if place == 0:
        return f"up to level {high}"
    if place == n_ranges - 1:
        return f"from level {low}"
    return f"at level {low}" if low == high else f"from level {low} to {high}"


def _what(row: dict[Any, Any], metric: str) -> str:
    agreed = "a single patient, so that no share of bootstraps can be given"
    if not np.isnan(row["agreement"]):
        at_least = "" if row["from_level"] == row["to_level"] else "at least "
        agreed = f"{at_least}{np.floor(100 * row['agreement'] + 1e-9):.0f} % of bootstraps agree"
    verdict = f"{'not settled: ' * (row['agreement'] < SETTLED)}{row['verdict']} ({agreed})"
    cost = row["clean_cost"]
    if row["verdict"] == NO_DIFFERENCE or np.isnan(cost) or cost <= 0:
        return verdict
    info = COMPARABLE[metric]
    decimals = 2 if info.unit else 3
    ends = [row["clean_cost_low"], row["clean_cost_high"]]
    interval = "" if np.isnan(ends[0]) else " [" + ", ".join(_number(end, decimals) for end in ends) + "]"
    return f"{verdict}, which on clean images costs {_number(cost, decimals)} {info.unit or info.label}{interval}"


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")
