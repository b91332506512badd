"""What a report answers, in words: which architecture to take, and how good the evidence is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from nnunet_robust.common.sentences import joined, listed, named
from nnunet_robust.eval import statistics
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.statistics.contrasts import FEWEST_PATIENTS
from nnunet_robust.eval.statistics.recipe import Recipe, Switch, recipes
from nnunet_robust.eval.statistics.verdict import ROUNDING, Interval, Verdict, verdicts
from nnunet_robust.pages.wording import counted, number, with_interval

Key = tuple[str, str, float]

_NAMED = 3  # perturbations that a sentence names
_WITH_UNITS = 2  # perturbations whose levels have their units in it
_FEW = 10  # levels that the terminal shows


class Answer(NamedTuple):
    """The answer for a dataset, a sentence each.

    Attributes:
        dataset: its name.
        take: which architecture to take.
        evidence: how good the evidence is, and what it rests on.
        tendencies: what the means alone say beyond that; empty where they say nothing.
    """

    dataset: str
    take: str
    evidence: str
    tendencies: str


@shared
def all_verdicts(analysis: Analysis) -> dict[Key, Verdict]:
    """The verdict under each condition, see `statistics.verdict`; none where there is one architecture.

    Attacks made against one model are left out: the choice would only be for the others.
    """
    if len(analysis.architectures) < 2:
        return {}
    rows = analysis.rows
    return verdicts(rows[~analysis.against_one(rows)], METRIC, margin=analysis.margin)


@shared
def all_recipes(analysis: Analysis) -> list[Recipe]:
    """The recipe of each dataset that has several architectures, see `statistics.recipe`."""
    found = {key: verdict for key, verdict in all_verdicts(analysis).items() if len(verdict.means) > 1}
    return recipes(found, dict.fromkeys(analysis.datasets, analysis.baseline))


def answers(analysis: Analysis) -> list[Answer]:
    """The answer for each dataset."""
    return [
        Answer(
            one.dataset,
            _take(one, analysis),
            " ".join([evidence(one, _unit(one, analysis)), *_not_compared(one, analysis)]),
            _tendencies(one, analysis),
        )
        for one in all_recipes(analysis)
    ]


@shared
def structures_apart(analysis: Analysis) -> dict[str, Analysis]:
    """The analysis of each structure by itself, where a dataset has several; each is a family of comparisons."""
    labels = [
        label for of in analysis.datasets if len(analysis.structures(of)) > 1 for label in analysis.structures(of)
    ]
    return {label: analysis.of_label(label) for label in dict.fromkeys(labels)}


def _unit(recipe: Recipe, analysis: Analysis) -> str:
    return "patient" if analysis.patients_known(recipe.dataset) else "image"


def _take(recipe: Recipe, analysis: Analysis) -> str:
    if recipe.n_patients < FEWEST_PATIENTS:
        few = counted(recipe.n_patients, _unit(recipe, analysis))
        return (
            f"No architecture can be told from another: {few} {'is' if recipe.n_patients == 1 else 'are'} too few, and "
            f"{FEWEST_PATIENTS} are the least."
        )
    if recipe.over_baseline is None:
        start = f"stay with {recipe.take}"
    else:
        gain = with_interval(*recipe.over_baseline)
        start = f"take {recipe.take}, which on clean images is better than {recipe.baseline} by {gain} Dice"
    start = f"of these trained models, {start}" if recipe.n_trained == 1 else start
    said = f"{start[0].upper()}{start[1:]}"
    if recipe.switches:
        return f"{said}, but {joined(_switches(recipe, analysis), '; ')}."
    where = " or ".join(["on clean images"] * recipe.has_clean + ["under any perturbation"] * (recipe.n_conditions > 0))
    if recipe.equivalent:
        return f"{said}: no other one is better by more than {recipe.margin:g} Dice {where}, and the data show that."
    if recipe.over_baseline is not None:
        return f"{said}; under no perturbation is another one shown to be better."
    return f"{said}: no other one is shown to be better {where}."


def _switches(recipe: Recipe, analysis: Analysis) -> list[str]:
    """A clause for each architecture to switch to: under what, what is gained there and what it costs."""
    by_name: dict[str, list[Switch]] = {}
    for switch in recipe.switches:
        by_name.setdefault(switch.take[0], []).append(switch)
    said = []
    for name, of_name in by_name.items():
        units = len(of_name) <= _WITH_UNITS
        places = [place(one.perturbation, one.levels, recipe.dataset, analysis, units) for one in of_name]
        gains = [gain.value for one in of_name for gain in one.gains]
        least, most = number(min(gains)), number(max(gains))
        gain = f"by {least}" if least == most else f"by {least} to {most}"
        cost = _cost(of_name[0].cost, recipe.margin)
        said.append(f"under {named(places, _NAMED)} take {name}, better there {gain} Dice{cost}")
    return said


def _cost(cost: Interval | None, margin: float) -> str:
    if cost is None:
        return ""
    if cost.low > 0:
        return f", at a cost of {number(cost.value)} on clean images"
    if cost.high < 0:
        return ", and better on clean images"
    much = f", where it may lose up to {number(cost.high)}" * (cost.high > margin + ROUNDING)
    return f", and not told apart on clean images{much}"


def place(perturbation: str, levels: Sequence[float], dataset: str, analysis: Analysis, with_unit: bool = True) -> str:
    """Name a perturbation and a run of its levels: "speckle noise from level 0.2 (relative standard deviation)"."""
    rows = analysis.rows
    own = rows[(rows["dataset"] == dataset) & (rows["perturbation"] == perturbation)]["level"]
    measured = sorted(level for level in own.unique() if level or analysis.in_series(dataset, perturbation))
    unit = analysis.unit(dataset, perturbation) if with_unit else ""
    said = analysis.names[perturbation]
    if list(levels) == measured and len(levels) > 1:
        return f"{said} at every level"
    if levels[-1] == measured[-1] and len(levels) > 1:
        words = f"from level {levels[0]:g}"
    elif len(levels) > 1:
        words = f"from level {levels[0]:g} to {levels[-1]:g}"
    else:
        words = f"at level {levels[0]:g}"
    return f"{said} {words}{f' ({unit})' * bool(unit)}"


def evidence(recipe: Recipe, what: str = "patient") -> str:
    """Say how good a recipe's evidence is, and what it rests on.

    Args:
        recipe: of a dataset.
        what: its sample counts: "patient", or "image" where nobody knows whose they are.
    """
    patients = counted(recipe.n_patients, what)
    if recipe.n_trained == 1:
        of_which = "some architectures" if recipe.most_trained > 1 else "each architecture"
        trained = (
            f"one training of {of_which}, so that all of this is about these trained models: another training could "
            f"turn it"
        )
    else:
        fewest = "at least " * (recipe.most_trained > recipe.n_trained)
        trained = f"{fewest}{recipe.n_trained} trainings of each architecture"
    of = " for switching" if recipe.switches and recipe.over_baseline is None else ""
    said = f"Evidence{of}: {recipe.evidence} ({patients}; {trained})."
    if recipe.evidence == "none" or recipe.detectable != recipe.detectable:
        return said
    if recipe.detectable >= 1:
        said += " Not even a difference of 1 Dice is found in 9 of 10 such studies."
    else:
        least = number(recipe.detectable)
        said += f" A difference of {least} Dice is found in 9 of 10 such studies, a smaller one less often."
    return said


def _not_compared(recipe: Recipe, analysis: Analysis) -> list[str]:
    """What the answer does not rest on: conditions with too few patients, architectures without a perturbation."""
    said = []
    if 0 < recipe.n_few < recipe.n_conditions + recipe.has_clean:
        few = counted(recipe.n_few, "condition")
        said.append(f"Nothing is told apart under {few} with fewer than {FEWEST_PATIENTS} {_unit(recipe, analysis)}s.")
    for name, perturbations in recipe.absent:
        places = [analysis.names[one] for one in perturbations if one != statistics.CLEAN]
        where = ["on clean images"] * (statistics.CLEAN in perturbations)
        where += [f"under {listed(places, _NAMED)}"] * bool(places)
        said.append(f"{name} was not compared {' or '.join(where)}.")
    results = analysis.sweep_of[recipe.dataset].results
    there, compared = (table[table["dataset"] == recipe.dataset]["architecture"] for table in (results, analysis.rows))
    lacking = [name for name in analysis.architectures if name in set(there) - set(compared)]
    if lacking:
        was = "was" if len(lacking) == 1 else "were"
        said.append(f"{joined(lacking)} {was} not compared at all: see in the report what was left out.")
    return said


def _tendencies(recipe: Recipe, analysis: Analysis) -> str:
    if not recipe.tendencies:
        return ""
    units, before = len(recipe.tendencies) <= _WITH_UNITS, ""
    places = []
    for perturbation, levels, name in recipe.tendencies:
        clean = perturbation == statistics.CLEAN
        where = "on clean images" if clean else f"under {place(perturbation, levels, recipe.dataset, analysis, units)}"
        places.append(where if name == before else f"{name} {where}")
        before = name
    higher = f"higher by more than {recipe.margin:g} Dice in these data than {recipe.take}"
    return f"Not shown, but {higher}: {named(places, _NAMED)}."


def printed_answer(analysis: Analysis) -> list[str]:
    """The answer for a terminal: a line each, at most 15 for a dataset."""
    lines = []
    for answer in answers(analysis):
        lines += [f"{analysis.lead(answer.dataset)}{answer.take}", answer.evidence]
        if answer.tendencies:
            lines.append(answer.tendencies)
        lines += _printed_levels(analysis, answer.dataset)
    return lines or [
        "There is one architecture, and nothing to choose between."
        if len(analysis.architectures) < 2
        else "No two architectures can be compared yet: see in the report what was left out."
    ]


def _printed_levels(analysis: Analysis, dataset: str) -> list[str]:
    """The mid level of each perturbation and the clean images: who cannot be told from the best, and the lead."""
    chosen = mid_levels(analysis, dataset)
    found = all_verdicts(analysis)
    of_all = any(found[dataset, perturbation, level].n_patients >= FEWEST_PATIENTS for perturbation, level in chosen)
    intervals = " (95 % intervals that hold for all at once)" * of_all
    lines = [f"The best, as far as can be told, at a level in the middle{intervals}:"]
    for perturbation, level in chosen[:_FEW]:
        verdict = found[dataset, perturbation, level]
        where = (
            "clean images"
            if level == 0 and perturbation == statistics.CLEAN
            else (f"{analysis.names[perturbation]} at level {level:g}")
        )
        lines.append(f"  {where}: {_best(verdict)} ({lead_of(verdict)})")
    if more := len(chosen) - _FEW:
        lines += [f"  and {more} more perturbations: see the report"] * (more > 0)
    return lines


def _best(verdict: Verdict) -> str:
    if len(verdict.best) == len(verdict.means) > 2:
        return f"all {len(verdict.means)}"
    return joined(list(verdict.best), "; " if any("," in name for name in verdict.best) else ", ")


def lead_of(verdict: Verdict) -> str:
    """Say by how much the highest mean leads the next one that is told from it, or the last one where none is."""
    first, *others = verdict.means
    if not others:
        return "alone"
    beaten = [name for name in others if name not in verdict.best]
    if beaten:
        return f"{first} leads {beaten[0]} by {with_interval(*verdict.difference(first, beaten[0]))}"
    none = "not told apart" if len(others) == 1 else "none is told from the highest mean"
    return f"{none}; {first} leads {others[-1]} by {with_interval(*verdict.difference(first, others[-1]))}"


def mid_levels(analysis: Analysis, dataset: str) -> list[tuple[str, float]]:
    """The clean images, and of each perturbation the level in the middle of those that were measured."""
    levels: dict[str, list[float]] = {}
    for of, perturbation, level in all_verdicts(analysis):
        if of == dataset:
            levels.setdefault(perturbation, []).append(level)
    return [(name, sorted(of_name)[len(of_name) // 2]) for name, of_name in levels.items()]


def lost_at_mid_levels(analysis: Analysis) -> pd.DataFrame:
    """What Dice each architecture loses at the mid level of each perturbation, and whether it is told from the best.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), clean (its mean on clean images), mean, lost
        (clean minus mean), told (whether it is told from the best there).
    """
    found = all_verdicts(analysis)
    rows: list[dict[str, Any]] = []
    for dataset in analysis.datasets:
        clean = found.get((dataset, statistics.CLEAN, 0.0))
        for perturbation, level in mid_levels(analysis, dataset):
            verdict = found[dataset, perturbation, level]
            for name in (name for name in analysis.architectures if name in verdict.means):
                before: Mapping[str, float] = clean.means if clean else {}
                mean, of_clean = verdict.means[name], before.get(name, float("nan"))
                place_ = {"dataset": dataset, "perturbation": perturbation, "level": level, "line": name}
                told = name not in verdict.best
                rows.append({**place_, "clean": of_clean, "mean": mean, "lost": of_clean - mean, "told": told})
    return pd.DataFrame(rows, columns=["dataset", "perturbation", "level", "line", "clean", "mean", "lost", "told"])
