"""How the report writes numbers, and the sentences that it makes from them: what the numbers say, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nnunet_robust.eval.statistics import CLEAN, COMPARABLE


def spoken(perturbation: str) -> str:
    """A perturbation's name in a sentence: "speckle noise"."""
    return perturbation.replace("_", " ")


def counted_cases(n_cases: int, n_patients: int) -> str:
    """The sample's size in both units: "12 cases (10 patients)"."""
    return f"{n_cases} case{'s' * (n_cases != 1)} ({n_patients} patient{'s' * (n_patients != 1)})"


def number(value: float, metric: str = "dice") -> str:
    """A score with the decimals that suit its metric; a dash where it is missing."""
    decimals = 2 if COMPARABLE[metric].unit else 3
    return "–" if np.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def percent(share: float, decimals: int = 1) -> str:
    """A share as a percentage; a dash where it is missing."""
    return "–" if np.isnan(share) else f"{100 * share:.{decimals}f} %".replace("-", "−")


def interval(low: float, high: float, metric: str = "dice") -> str:
    """ "[0.91, 0.94]", or nothing where there is no interval (a single patient)."""
    return "" if np.isnan(low) else f"[{number(low, metric)}, {number(high, metric)}]"


def with_interval(mean: float, low: float, high: float, metric: str = "dice") -> str:
    """A mean, and its interval where there is one: "0.926 [0.910, 0.940]"."""
    return f"{number(mean, metric)} {interval(low, high, metric)}".rstrip()


def few_patients(n_patients: int, few: int = 20) -> list[str]:
    """The warning that a small sample deserves, if it is one."""
    if n_patients == 1:
        return ["There is a single patient: no interval can be given, and nothing is said about other patients."]
    if n_patients < few:
        return [f"{n_patients} patients are few: intervals of so few tend to be too narrow, and means may yet shift."]
    return []


def sentences(points: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """One dataset in three sentences: the clean images, the largest drop, the average over levels.

    Args:
        points: its rows of `statistics.curves`, of Dice.
        table: its rows of `statistics.summary`, of Dice, over all labels.

    Returns:
        The sentences; fewer where there is nothing to say.
    """
    said = []
    if len(clean := _ranked(points[points["perturbation"] == CLEAN], "mean")):
        first, last = clean[0], clean[-1]
        start = f"On the clean images of {counted_cases(first['n_cases'], first['n_patients'])}, the mean Dice was "
        if len(clean) == 1:
            said.append(f"{start}{_score(first)} for {first['line']}.")
        else:
            between = f" (with {len(clean) - 2} more in between)" if len(clean) > 2 else ""
            both = f"{_score(first)} for {first['line']} and {_score(last)} for {last['line']}{between}"
            said.append(f"{start}{both}; {_overlap(first, last)}.")
    if table.empty:
        return [*said, "No perturbation can be compared yet."]
    return [*said, _largest_drop(points, table), _averages(table)]


def _largest_drop(points: pd.DataFrame, table: pd.DataFrame) -> str:
    row = _ranked(table, "drop")[0]
    if row["drop"] <= 0:
        return "No perturbation lowered the mean Dice of any model at any level."
    there = _ranked(
        points[(points["perturbation"] == row["perturbation"]) & (points["level"] == row["worst_level"])], "mean"
    )
    worst = next(point for point in there if point["line"] == row["line"])
    said = (
        f"The largest drop was that of {row['line']} under {spoken(row['perturbation'])} (n = {row['n_cases']}): from "
        f"{number(row['clean'])} on clean images to {_score(worst)} at level {row['worst_level']:g}, "
        f"which is {percent(row['relative_drop'], 0)} less"
    )
    if len(there) == 1:
        return said + "."
    best = next(point for point in there if point["line"] != row["line"])
    who = "the other model" if len(there) == 2 else "the best of the others"
    return f"{said}; {who}, {best['line']}, had {_score(best)} there, and {_overlap(worst, best)}."


def _averages(table: pd.DataFrame) -> str:
    start = "Averaged over levels (area under the curve),"
    if table["line"].nunique() == 1:
        parts = [f"{number(row['auc'])} under {spoken(row['perturbation'])}" for row in table.to_dict("records")]
        return f"{start} its mean Dice was {_joined(parts)}."
    won: dict[str, list[str]] = {}
    for name, of_name in table.groupby("perturbation", sort=False):
        ranked = _ranked(of_name, "auc")
        if len(ranked) == 1:
            continue
        first, second = ranked[:2]
        if first["auc"] - second["auc"] < 0.0005:
            won.setdefault("no single model", []).append(spoken(str(name)))
            continue
        apart = "" if np.isnan(first["auc_low"]) else f", intervals {_overlaps(first, second, 'auc_low', 'auc_high')}"
        margin = f"(by {number(first['auc'] - second['auc'])}{apart})"
        won.setdefault(first["line"], []).append(f"{spoken(str(name))} {margin}")
    if not won:
        return "No perturbation was run on more than one model, so that no averages over levels can be compared."
    parts = [f"{winner} under {_joined(names)}" for winner, names in won.items()]
    return f"{start} the highest mean Dice was that of {_joined(parts, '; ')}."


def _ranked(table: pd.DataFrame, column: str) -> list[dict[Any, Any]]:
    return table.sort_values(column, ascending=False, kind="stable").to_dict("records")


def _score(point: dict[Any, Any]) -> str:
    return with_interval(point["mean"], point["low"], point["high"])


def _overlaps(a: dict[Any, Any], b: dict[Any, Any], low: str = "low", high: str = "high") -> str:
    return "overlap" if a[low] <= b[high] and b[low] <= a[high] else "do not overlap"


def _overlap(a: dict[Any, Any], b: dict[Any, Any]) -> str:
    return "one patient gives no interval" if np.isnan(a["low"]) else f"these intervals {_overlaps(a, b)}"


def _joined(parts: Sequence[str], separator: str = ", ") -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{separator.join(parts[:-1])}{separator.rstrip(', ')} and {parts[-1]}"
