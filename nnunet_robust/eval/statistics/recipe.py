"""The recipe: which architecture to take for which images, what that costs, and how good the evidence is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from nnunet_robust.eval.statistics.contrasts import FEWEST_PATIENTS
from nnunet_robust.eval.statistics.tables import CLEAN
from nnunet_robust.eval.statistics.verdict import ROUNDING, Interval, Verdict

ENOUGH_PATIENTS = 20
ENOUGH_TRAININGS = 3
"""Of each architecture; with as many, and enough patients, evidence can be strong."""

ELSE = "anything else"
"""Stands for all conditions without a switch, in the table of recipes."""

_COLUMNS = [
    "dataset", "perturbation", "from_level", "to_level", "take", "gain", "gain_low", "gain_high", "cost", "cost_low",
    "cost_high", "evidence", "n_patients", "n_trained",
]  # fmt: skip

Evidence = Literal["strong", "moderate", "weak", "none"]


@dataclass(frozen=True)
class Switch:
    """Levels of a perturbation at which another architecture is better than the one to take else.

    Attributes:
        perturbation: its name.
        levels: measured levels, one after the other.
        take: architectures that are better at all of them; the highest mean at the last level first.
        gains: of the first of them over the one to take else, at each level.
        cost: what the first of them loses on clean images against the one to take else; None where that is not known.
        strongest: whether the lower end of a gain is above the margin.
    """

    perturbation: str
    levels: tuple[float, ...]
    take: tuple[str, ...]
    gains: tuple[Interval, ...]
    cost: Interval | None
    strongest: bool


@dataclass(frozen=True)
class Recipe:
    """What to take for the images of a dataset.

    Attributes:
        dataset: its name.
        baseline: the architecture that the others must beat.
        take: the architecture to take unless a switch says otherwise: the baseline, or what beats it on clean images.
        over_baseline: of `take` on clean images; None where it is the baseline.
        switches: where another one is better.
        tendencies: (perturbation, levels, name) where another mean is higher, by more than the margin, but not told.
        evidence: "strong", "moderate", "weak" or "none", see `docs/statistics.md`.
        n_patients: fewest patients of a condition that has enough of them; of all, where none has.
        n_trained: trained models of the architecture that has the fewest.
        most_trained: trained models of the architecture that has the most.
        has_clean: whether clean images were compared.
        n_conditions: levels of perturbations that were compared; the clean images do not count.
        n_few: conditions with too few patients to tell anything apart, the clean images included.
        absent: (name, perturbations): architectures that were not compared where others were.
        equivalent: whether it is shown that nowhere is another one better than `take` by more than the margin.
        margin: the difference that matters.
        detectable: the difference that is found with a probability of 90 %, median over conditions; NaN where none is.
    """

    dataset: str
    baseline: str
    take: str
    over_baseline: Interval | None
    switches: tuple[Switch, ...]
    tendencies: tuple[tuple[str, tuple[float, ...], str], ...]
    evidence: Evidence
    n_patients: int
    n_trained: int
    most_trained: int
    has_clean: bool
    n_conditions: int
    n_few: int
    absent: tuple[tuple[str, tuple[str, ...]], ...]
    equivalent: bool
    margin: float
    detectable: float


def recipes(
    found: Mapping[tuple[str, str, float], Verdict], baselines: Mapping[str, str] | None = None
) -> list[Recipe]:
    """Make the recipe of each dataset.

    Args:
        found: what `verdicts` returns.
        baselines: dataset -> the architecture that the others must beat; the first one where it is not said.
    """
    of_datasets: dict[str, dict[tuple[str, float], Verdict]] = {}
    for (dataset, perturbation, level), verdict in found.items():
        of_datasets.setdefault(dataset, {})[perturbation, level] = verdict
    return [_recipe(dataset, of_dataset, (baselines or {}).get(dataset)) for dataset, of_dataset in of_datasets.items()]


def _recipe(dataset: str, found: Mapping[tuple[str, float], Verdict], baseline: str | None) -> Recipe:
    clean = found.get((CLEAN, 0.0))
    perturbed = {key: verdict for key, verdict in found.items() if key[0] != CLEAN}
    names = list(dict.fromkeys(name for verdict in found.values() for name in verdict.names))
    if baseline is None or baseline not in names:
        baseline = names[0]
    take = baseline
    if clean is not None and baseline in clean.means and (better := clean.better_than(baseline)):
        take = better[0]
    switches = _switches(perturbed, clean, take)
    equivalent = all(take in verdict.means and verdict.within_margin_of(take) for verdict in found.values())
    shown = [switch.strongest for switch in switches] or [equivalent or take != baseline]
    of_each = [verdict.n_patients for verdict in found.values()]
    enough = [n for n in of_each if n >= FEWEST_PATIENTS]
    n_patients = min(enough or of_each)
    n_trained = min(verdict.n_trained for verdict in found.values())
    detectable = [verdict.detectable for verdict in found.values() if np.isfinite(verdict.detectable)]
    return Recipe(
        dataset=dataset,
        baseline=baseline,
        take=take,
        over_baseline=None if take == baseline or clean is None else clean.difference(take, baseline),
        switches=tuple(switches),
        tendencies=tuple(_tendencies(found, take)),
        evidence=_evidence(n_patients, n_trained, shown, len(enough) == len(of_each)),
        n_patients=n_patients,
        n_trained=n_trained,
        most_trained=max(verdict.most_trained for verdict in found.values()),
        has_clean=clean is not None,
        n_conditions=len(perturbed),
        n_few=len(of_each) - len(enough),
        absent=tuple(_absent(found, names)),
        equivalent=equivalent,
        margin=next(iter(found.values())).margin,
        detectable=float(np.median(detectable)) if detectable else float("nan"),
    )


def _absent(found: Mapping[tuple[str, float], Verdict], names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The architectures that lack a condition, and of which perturbations."""
    for name in names:
        lacking = tuple(dict.fromkeys(key[0] for key, verdict in found.items() if name not in verdict.means))
        if lacking:
            yield name, lacking


def _evidence(n_patients: int, n_trained: int, shown: Sequence[bool], everywhere: bool) -> Evidence:
    """Grade by the sample, by whether all conditions have enough of it, and by which parts are shown to matter."""
    if n_patients < FEWEST_PATIENTS:
        return "none"
    if not any(shown):
        return "weak"
    enough = n_patients >= ENOUGH_PATIENTS and n_trained >= ENOUGH_TRAININGS
    return "strong" if enough and everywhere and all(shown) else "moderate"


def _by_perturbation(found: Mapping[tuple[str, float], Verdict]) -> dict[str, dict[float, Verdict]]:
    """The verdicts of each perturbation, levels ascending."""
    by_name: dict[str, dict[float, Verdict]] = {}
    for (name, level), verdict in sorted(found.items(), key=lambda item: item[0][1]):
        by_name.setdefault(name, {})[level] = verdict
    return {name: by_name[name] for name in dict.fromkeys(name for name, _ in found)}


def _switches(found: Mapping[tuple[str, float], Verdict], clean: Verdict | None, take: str) -> list[Switch]:
    """Where architectures beat the one to take else; levels one after the other with one in common are merged."""
    switches = []
    for name, of_levels in _by_perturbation(found).items():
        runs: list[tuple[list[float], tuple[str, ...]]] = []
        before: float | None = None
        for level, verdict in of_levels.items():
            better = verdict.better_than(take) if take in verdict.means else ()
            shared = [other for other in better if runs and runs[-1][0][-1] == before and other in runs[-1][1]]
            if shared:
                runs[-1] = ([*runs[-1][0], level], tuple(shared))
            elif better:
                runs.append(([level], better))
            before = level
        for levels, better in runs:
            gains = tuple(of_levels[level].difference(better[0], take) for level in levels)
            known = clean is not None and {better[0], take} <= set(clean.means)
            switches.append(
                Switch(
                    perturbation=name,
                    levels=tuple(levels),
                    take=better,
                    gains=gains,
                    cost=clean.difference(take, better[0]) if clean is not None and known else None,
                    strongest=any(gain.low > of_levels[levels[0]].margin for gain in gains),
                )
            )
    return switches


def _tendencies(found: Mapping[tuple[str, float], Verdict], take: str) -> list[tuple[str, tuple[float, ...], str]]:
    """Levels at which another architecture has the higher mean, by more than the margin, without being told apart."""
    seen: list[tuple[str, tuple[float, ...], str]] = []
    for name, of_levels in _by_perturbation(found).items():
        before = ""
        for level, verdict in of_levels.items():
            highest = _higher_than(take, verdict)
            if highest and highest == before:
                seen[-1] = (name, (*seen[-1][1], level), highest)
            elif highest:
                seen.append((name, (level,), highest))
            before = highest
    return seen


def _higher_than(take: str, verdict: Verdict) -> str:
    """The architecture with the highest mean, if it is higher by more than the margin and nothing is told; or ""."""
    if take not in verdict.means or verdict.better_than(take):
        return ""
    ahead = verdict.difference(verdict.highest, take).value
    return verdict.highest if ahead > verdict.margin + ROUNDING else ""


def recipe_table(found: Sequence[Recipe]) -> pd.DataFrame:
    """Make a table of recipes.

    Args:
        found: what `recipes` returns.

    Returns:
        For each dataset a row for what to take else (perturbation "anything else"), and one for each switch. Columns
        dataset, perturbation, from_level, to_level, take (a tuple), gain, gain_low, gain_high (of the first one, over
        the one to take else, at the last of these levels; for the first row over the baseline, on clean images), cost,
        cost_low, cost_high (on clean images), evidence, n_patients, n_trained.
    """
    nothing = Interval(*[float("nan")] * 3)
    rows = []
    for one in found:
        size = (one.evidence, one.n_patients, one.n_trained)
        rows += [
            (one.dataset, switch.perturbation, switch.levels[0], switch.levels[-1], switch.take, *switch.gains[-1],
             *(switch.cost or nothing), *size)
            for switch in one.switches
        ]  # fmt: skip
        else_ = (one.dataset, ELSE, float("nan"), float("nan"), (one.take,))
        rows.append((*else_, *(one.over_baseline or nothing), *nothing, *size))
    return pd.DataFrame(rows, columns=_COLUMNS)
