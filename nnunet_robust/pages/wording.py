"""How the report writes numbers, and the sentences that it makes from them: what the numbers say, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nnunet_robust.eval.results.display_names import PLAIN, DisplayNames
from nnunet_robust.eval.statistics import CLEAN, COMPARABLE


def listed_perturbations(perturbations: Iterable[str], names: DisplayNames) -> str:
    """Names of perturbations, one after the other; apart by semicolons where a name has a comma."""
    shown = [names[name] for name in perturbations]
    return ("; " if any("," in name for name in shown) else ", ").join(shown)


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


def p_value(p: float) -> str:
    """A p-value with three decimals, "<0.001" below them; a dash where it is missing."""
    return "–" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


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


def sentences(points: pd.DataFrame, table: pd.DataFrame, names: DisplayNames = PLAIN) -> list[str]:
    """One dataset in three sentences: the clean images, the largest drop, the average over levels.

    Args:
        points: its rows of `statistics.curves`, of Dice.
        table: its rows of `statistics.summary`, of Dice, over all labels.
        names: of perturbations.

    Returns:
        The sentences; fewer where there is nothing to say.
    """
    said = []
    clean = _ranked(points[points["perturbation"] == CLEAN], "mean")
    if clean:
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
    order = [point["line"] for point in clean if len(clean) > 1 and clean[0]["mean"] > clean[-1]["mean"]]
    return [*said, _largest_drop(points, table, order, names), _averages(table, order, names)]


def _largest_drop(points: pd.DataFrame, table: pd.DataFrame, order: Sequence[str], names: DisplayNames) -> str:
    """`order`: the architectures by their mean on clean images, best first; empty where these do not differ."""
    row = _ranked(table, "drop")[0]
    if row["drop"] <= 0:
        return "No perturbation lowered the mean Dice of any architecture at any level."
    there = _ranked(
        points[(points["perturbation"] == row["perturbation"]) & (points["level"] == row["worst_level"])], "mean"
    )
    worst = next(point for point in there if point["line"] == row["line"])
    said = (
        f"The largest drop was that of {row['line']}{_place(row['line'], order)} under {names[row['perturbation']]} "
        f"(n = {row['n_cases']}): from {number(row['clean'])} on clean images to {_score(worst)} at level "
        f"{row['worst_level']:g}, which is {percent(row['relative_drop'], 0)} less"
    )
    if len(there) == 1:
        return said + "."
    if len(there) > 2 and worst is there[-1]:
        said += ", the lowest of all there"
    best = next(point for point in there if point["line"] != row["line"])
    who = "the other one" if len(there) == 2 else "the best of the others"
    return (
        f"{said}; {who}, {best['line']}{_place(best['line'], order) or ','} had "
        f"{_score(best)} there, and {_overlap(worst, best)}."
    )


def _place(line: str, order: Sequence[str]) -> str:
    """Whether an architecture was the best or the lowest on clean images, as a clause."""
    if order and line == order[0]:
        return ", the best on clean images,"
    if len(order) > 2 and line == order[-1]:
        return ", the lowest on clean images,"
    return ""


def _averages(table: pd.DataFrame, order: Sequence[str], names: DisplayNames) -> str:
    start = "Averaged over levels (area under the curve),"
    if table["line"].nunique() == 1:
        parts = [f"{number(row['auc'])} under {names[row['perturbation']]}" for row in table.to_dict("records")]
        return f"{start} its mean Dice was {_joined(parts)}."
    won: dict[str, list[tuple[str, float, bool | None]]] = {}
    lost: list[str] = []
    for name, of_name in table.groupby("perturbation", sort=False):
        ranked = _ranked(of_name, "auc")
        if len(ranked) == 1:
            continue
        first, second = ranked[:2]
        lead = first["auc"] - second["auc"]
        apart = None if np.isnan(first["auc_low"]) else _are_apart(first, second, "auc_low", "auc_high")
        won.setdefault(first["line"] if lead >= _SAME else _NOBODY, []).append((names[str(name)], lead, apart))
        lines = [row["line"] for row in ranked]
        if order and order[0] in lines[1:] and lead >= _SAME:
            lost.append(f"{_ordinal(lines.index(order[0]) + 1)} of {len(lines)} under {names[str(name)]}")
    if not won:
        return "No perturbation was run on more than one architecture, so that no averages over levels can be compared."
    parts = [f"{winner} under {_wins(of_winner, winner)}" for winner, of_winner in won.items()]
    said = f"{start} the highest mean Dice was that of {_joined(parts, '; ')}"
    if not lost:
        return said + "."
    at_most = 3
    places = _joined(lost) if len(lost) <= at_most else f"not the first under {len(lost)} of the perturbations"
    return f"{said}; {order[0]}, the best on clean images, was {places}."


_SAME = 0.0005  # of a mean Dice: what three decimals cannot tell
_NOBODY = "no single architecture"


def _wins(wins: Sequence[tuple[str, float, bool | None]], winner: str, at_most: int = 3) -> str:
    """What an architecture is first under, and by how much; a range where there are many."""
    if winner == _NOBODY:
        return _joined([name for name, _, _ in wins])
    if len(wins) > at_most:
        leads = [lead for _, lead, _ in wins]
        apart = sum(bool(of_one) for _, _, of_one in wins)
        return (
            f"{_joined([name for name, _, _ in wins])} (by {number(min(leads))} to {number(max(leads))}, intervals "
            f"apart under {apart} of these {len(wins)})"
        )
    words = {None: "", True: ", intervals do not overlap", False: ", intervals overlap"}
    return _joined([f"{name} (by {number(lead)}{words[apart]})" for name, lead, apart in wins])


def _ordinal(n: int) -> str:
    suffix = "th" if 11 <= n % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def failure_sentences(counts: pd.DataFrame, dataset: str = "") -> list[str]:
    """Who missed and hallucinated how many objects, over all conditions of one dataset.

    Args:
        counts: columns line, what ("missed", "hallucinated"), count, of; every condition once.
        dataset: to begin with; empty where there is only one.

    Returns:
        A sentence for each kind of failure.
    """
    start = f"{dataset}: " if dataset else ""
    said = []
    for what, part in counts.groupby("what", sort=False):
        sums = part.groupby("line", sort=False)[["count", "of"]].sum()
        if not sums["of"].any():
            without = "an object in any image" if what == "missed" else "an image without an object"
            said.append(f"{start}There is not {without}: none could be {what}.")
        elif not sums["count"].any():
            said.append(f"{start}None was {what} by any architecture, of {_range(sums['of'])} each.")
        else:
            parts = [f"{n} of {of} by {line}" for line, n, of in sums[sums["of"] > 0].itertuples()]
            said.append(f"{start}{str(what).capitalize()} over all conditions, clean included: {_joined(parts)}.")
    return said


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _ranked(table: pd.DataFrame, column: str) -> list[dict[Any, Any]]:
    return table.sort_values(column, ascending=False, kind="stable").to_dict("records")


def _score(point: dict[Any, Any]) -> str:
    return with_interval(point["mean"], point["low"], point["high"])


def _are_apart(a: dict[Any, Any], b: dict[Any, Any], low: str = "low", high: str = "high") -> bool:
    return not (a[low] <= b[high] and b[low] <= a[high])


def _overlap(a: dict[Any, Any], b: dict[Any, Any]) -> str:
    if np.isnan(a["low"]):
        return "one patient gives no interval"
    return "these intervals do not overlap" if _are_apart(a, b) else "these intervals overlap"


def _joined(parts: Sequence[str], separator: str = ", ") -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{separator.join(parts[:-1])}{separator.rstrip(', ')} and {parts[-1]}"
