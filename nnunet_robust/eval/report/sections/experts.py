"""The model beside experts: is it as near to them as they are to each other, and are cases hard on which they differ?

Numbers are means over structures and replicates, then a patient's cases, then an architecture's trained models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from nnunet_robust.eval.report.shared import columns, panels
from nnunet_robust.eval.report.shared.analysis import Analysis, shared
from nnunet_robust.eval.report.shared.figures import ReportFigure, over_level
from nnunet_robust.eval.report.shared.relations import DIVERGENCE
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.statistics import CLEAN, bca_intervals
from nnunet_robust.eval.uncertainty.selective import rank_correlation
from nnunet_robust.pages.plots import LineStyle, rule_styles
from nnunet_robust.pages.tables import Column

_GROUP = "experts"
MODEL, EXPERTS = "model_expert_dice", "expert_agreement"
_EXPERTS_LINE = "the experts with each other"
_NUMBERS = ("model", "experts", "difference")
_PLACE = ["dataset", "perturbation", "level"]
_AGREEMENT = [
    *_PLACE, "line", *(name + end for name in _NUMBERS for end in ("", "_low", "_high")), "n_cases", "n_patients",
    "n_trained",
]  # fmt: skip
_DIFFICULTY = ["dataset", "line", "measure", "spearman", "low", "high", "n_cases", "n_patients", "note"]
_MEASURES = {EXPERTS: "the experts' agreement", DIVERGENCE: "texture divergence"}


@shared
def experts(analysis: Analysis) -> pd.DataFrame:
    """The model's mean Dice with the experts, and theirs with each other, under each condition.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), model, experts, difference (model less experts,
        paired by patient) with their BCa intervals over patients (`model_low`, ...), n_cases, n_patients, n_trained.
        Empty where no experts were given.

    Above a difference of 0, the model is nearer to the experts than they are to each other. That it is as good as an
    expert does not follow: a smooth compromise is near to all of them.
    """
    rows = analysis.rows
    if EXPERTS not in rows or rows[EXPERTS].isna().all():
        return pd.DataFrame(columns=_AGREEMENT)
    drawn = rows.dropna(subset=[EXPERTS, MODEL])
    found = []
    for (*place, line), part in drawn.groupby([*_PLACE, "architecture"], sort=False):
        means = part.groupby(["line", "patient", "case"])[[MODEL, EXPERTS]].mean()
        by_patient = means.groupby(["line", "patient"]).mean().groupby("patient").mean()
        values = np.column_stack([by_patient[MODEL], by_patient[EXPERTS], by_patient[MODEL] - by_patient[EXPERTS]])
        low, high = bca_intervals(values)
        numbers = {
            name + end: of_end[at]
            for at, name in enumerate(_NUMBERS)
            for end, of_end in (("", values.mean(axis=0)), ("_low", low), ("_high", high))
        }
        counts = {"n_cases": part["case"].nunique(), "n_patients": len(values), "n_trained": part["line"].nunique()}
        found.append({**dict(zip(_PLACE, place, strict=True)), "line": line, **numbers, **counts})
    return pd.DataFrame(found, columns=_AGREEMENT)


def _as_curves(table: pd.DataFrame) -> pd.DataFrame:
    """What `experts` returns as lines over the level, the experts' own among them.

    Returns:
        Columns dataset, perturbation, line, level, mean, low, high, n_cases, n_patients, n_trained.
    """
    keys = [*_PLACE, "line", "n_cases", "n_patients", "n_trained"]
    model, experts = (
        table[keys].assign(mean=table[name], low=table[f"{name}_low"], high=table[f"{name}_high"])
        for name in ("model", "experts")
    )
    once = experts.drop_duplicates(_PLACE).assign(line=_EXPERTS_LINE, n_trained=1)
    return pd.concat([model, once], ignore_index=True)


@shared
def difficulty(analysis: Analysis) -> pd.DataFrame:
    """How a case's Dice on the clean images goes with how far experts agree on it, and with its texture divergence.

    Both are asked of the same cases: those of which both are known, where the divergence was measured at all.

    Returns:
        Columns dataset, line (the architecture), measure (a key of `_MEASURES`), spearman, low, high (bootstrap
        interval over patients), n_cases, n_patients, note: why it is not defined. Empty where no experts were given.
    """
    found = []
    for sweep in analysis.sweeps:
        rows = sweep.rows[sweep.rows["perturbation"] == CLEAN]
        if EXPERTS not in rows or rows[EXPERTS].isna().all():
            continue
        case = ["dataset", "patient", "case"]
        known = rows.groupby(case)[[EXPERTS]].mean()
        if sweep.inputs is not None and DIVERGENCE in sweep.inputs:
            clean = sweep.inputs[sweep.inputs["perturbation"] == CLEAN]
            known = known.join(clean.groupby(case)[DIVERGENCE].mean())
        known = known[np.isfinite(known).all(axis=1)]
        for (dataset, line), part in rows.groupby(["dataset", "architecture"], sort=False):
            dice = part.groupby([*case, "line"])["dice"].mean().unstack()
            both = dice.join(known, how="inner")
            patients = list(both.index.get_level_values("patient"))
            for measure in known:
                values = both[measure].to_numpy(float)
                row = {"dataset": dataset, "line": line, "measure": measure, "n_cases": len(both)}
                numbers: dict[str, object] = {"n_patients": len(set(patients)), "note": ""}
                if len(both):
                    result = rank_correlation(values, both[list(dice)].to_numpy(float).T, patients)
                    numbers |= {"spearman": result.value, "low": result.low, "high": result.high}
                    if np.isnan(result.value):
                        equal = float(np.ptp(values)) == 0
                        numbers["note"] = f"all cases have the same {_MEASURES[measure] if equal else 'Dice'}"
                found.append({**row, **numbers})
    return pd.DataFrame(found, columns=_DIFFICULTY)


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    points = _as_curves(experts(analysis))
    if points.empty:
        return
    limits = panels.y_limits(points, "dice")
    with_experts = {**styles, **rule_styles([_EXPERTS_LINE])}
    what = "Mean Dice with the experts"
    yield from over_level(
        analysis, points, _GROUP, what, "mean Dice with the experts", with_experts, limits, is_mean=True
    )


def _difficulty(analysis: Analysis) -> pd.DataFrame:
    table = difficulty(analysis)
    return table.assign(measure=table["measure"].map(_MEASURES))


_TABLES = (
    TableSpecification(
        "experts",
        "The model with the experts, and the experts with each other",
        "The model's mean Dice with each expert, the experts' mean Dice with each other, and the difference, paired by "
        f"patient. {columns.INTERVALS}. Above 0, the model is nearer to the experts than they are to each other; that "
        "it is as good as an expert does not follow, as a smooth compromise is near to all of them.",
        (
            *columns.CONDITION, columns.ARCHITECTURE, columns.mean_column("model", "model with experts"),
            columns.mean_column("experts", "experts with each other"), columns.mean_column("difference", "difference"),
            *columns.SAMPLE,
        ),
        lambda analysis: analysis.clean_once(experts(analysis)),
    ),
    TableSpecification(
        "difficulty",
        "Are the cases hard that experts differ on?",
        "Spearman's rank correlation of a case's Dice on the clean images with the experts' agreement on it, and with "
        "its texture divergence, over the same cases: 1 where the cases with the higher number are the better ones, 0 "
        f"where it says nothing. {columns.INTERVALS}.",
        (
            columns.DATASET, columns.ARCHITECTURE, Column("measure", "Dice and"),
            Column("spearman", "Spearman", "score", "low", "high"), *columns.SAMPLE, Column("note", "why not"),
        ),
        _difficulty,
    ),
)  # fmt: skip

SECTION = Section(
    name="experts",
    short="Experts",
    title="The model beside the experts",
    text=(
        "The model's mean Dice with each expert, and the experts' mean Dice with each other on the same images: "
        "both compare one segmentation with one expert's. Experts drew the clean images: their agreement is the "
        "same under every perturbation. " + columns.BANDS + ".",
    ),
    figures=_figures,
    groups={_GROUP: "Dice with the experts"},
    tables=_TABLES,
)
