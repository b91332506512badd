"""Three sentences for each dataset, made from the numbers: clean images, the largest drop, the average over levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nnunet_robust.common.sentences import joined
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Parts, Section
from nnunet_robust.eval.results.display_names import PLAIN, DisplayNames
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.pages.wording import counted_cases, number, percent, with_interval

_SAME = 0.0005  # of a mean Dice: what three decimals cannot tell
_NOBODY = "no single architecture"


def sentences(
    points: pd.DataFrame, table: pd.DataFrame, names: DisplayNames = PLAIN, patients_known: bool = False
) -> list[str]:
    """One dataset in three sentences: the clean images, the largest drop, the average over levels.

    Args:
        points: its rows of `statistics.curves`, of Dice.
        table: its rows of `statistics.summary`, of Dice, over all labels.
        names: of perturbations.
        patients_known: whether it is known whose the cases are.

    Returns:
        The sentences; fewer where there is nothing to say.
    """
    said = []
    clean = _ranked(points[points["perturbation"] == CLEAN], "mean")
    if clean:
        first, last = clean[0], clean[-1]
        sample = counted_cases(first["n_cases"], first["n_patients"], patients_known)
        start = f"On clean images ({sample}), the mean Dice was "
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
        return f"{start} its mean Dice was {joined(parts)}."
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
    said = f"{start} the highest mean Dice was that of {joined(parts, '; ')}"
    if not lost:
        return said + "."
    at_most = 3
    places = joined(lost) if len(lost) <= at_most else f"not the first under {len(lost)} of the perturbations"
    return f"{said}; {order[0]}, the best on clean images, was {places}."


def _wins(wins: Sequence[tuple[str, float, bool | None]], winner: str, at_most: int = 3) -> str:
    """What an architecture is first under, and by how much; a range where there are many."""
    if winner == _NOBODY:
        return joined([name for name, _, _ in wins])
    if len(wins) > at_most:
        leads = [lead for _, lead, _ in wins]
        apart = sum(bool(of_one) for _, _, of_one in wins)
        some = f"apart under {apart} of {len(wins)}"
        how = {0: "overlap under each", len(wins): "do not overlap under any"}.get(apart, some)
        by = f"by {number(min(leads))} to {number(max(leads))}, intervals {how}"
        return f"{joined([name for name, _, _ in wins])} ({by})"
    words = {None: "", True: ", intervals do not overlap", False: ", intervals overlap"}
    return joined([f"{name} (by {number(lead)}{words[apart]})" for name, lead, apart in wins])


def _ordinal(n: int) -> str:
    suffix = "th" if 11 <= n % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


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


def _content(analysis: Analysis, _: Parts) -> dict[str, Any]:
    lost = analysis.summary_over_labels
    dice, lost = analysis.points["dice"], lost[analysis.no_attack(lost)]
    return {
        "summaries": [
            (
                name,
                sentences(
                    dice[dice["dataset"] == name],
                    lost[lost["dataset"] == name],
                    analysis.names,
                    analysis.patients_known(name),
                )
                + _attacks_apart(analysis, name),
            )
            for name in analysis.datasets
        ]
    }


def _attacks_apart(analysis: Analysis, dataset: str) -> list[str]:
    if not analysis.sweep_of[dataset].attacks:
        return []
    return [
        "Attacks on the models are in none of these sentences, nor among those on missed and hallucinated objects: "
        "they have a section of their own."
    ]


SECTION = Section(name="summary", short="In numbers", content=_content, template="summary")
