"""Which architecture to take, and who cannot be told apart: the first screen of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from nnunet_robust.eval.report.shared import heat_maps
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.answer import all_recipes, all_verdicts, answers, lost_at_mid_levels
from nnunet_robust.eval.report.shared.columns import CONDITION, PATIENTS
from nnunet_robust.eval.report.shared.figures import ReportFigure, sample_of
from nnunet_robust.eval.report.shared.section import Parts, Section, TableSpecification
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.eval.statistics.recipe import ELSE, recipe_table
from nnunet_robust.eval.statistics.verdict import pair_table, verdict_table
from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.tables import Column

_GROUP = "lost"
_TITLE = "Dice lost against clean images, at a level in the middle"
_SIMULTANEOUS = (
    "Intervals are simultaneous: in 95 % of studies like this one no difference lies outside of its interval, however "
    "many architectures, levels and perturbations are compared"
)


def _figures(analysis: Analysis, _: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = lost_at_mid_levels(analysis)
    for dataset, part in table[table["lost"].notna()].groupby("dataset", sort=False):
        part = part[part["perturbation"] != CLEAN]
        if part.empty:
            continue
        conditions = zip(part["perturbation"], part["level"], strict=True)
        units = [analysis.unit(str(dataset), name) for name in part["perturbation"]]
        named = part.assign(row=[f"{analysis.names[name]}, {level:g}" for name, level in conditions], unit=units)
        lines = [name for name in analysis.architectures if name in set(part["line"])]
        rows = list(dict.fromkeys(named["row"]))
        yield ReportFigure(
            group=_GROUP,
            name=str(dataset),
            dataset=str(dataset),
            title=", ".join(filter(None, (_TITLE, analysis.over_structures(str(dataset))))),
            sample=sample_of(_of(analysis, str(dataset)), analysis),
            data=named[["dataset", "perturbation", "level", "unit", "line", "clean", "mean", "lost", "told"]],
            alt=_in_words(named, analysis),
            draw=partial(heat_maps.loss_map, named, rows, lines),
            styles={},
            is_map=True,
        )


def _of(analysis: Analysis, dataset: str) -> pd.DataFrame:
    points = analysis.points["dice"]
    return points[points["dataset"] == dataset]


def _in_words(table: pd.DataFrame, analysis: Analysis) -> str:
    said = []
    for (name, level), part in table.groupby(["perturbation", "level"], sort=False):
        lost = "; ".join(
            f"{row['line']} {row['lost']:.3f}{'' if row['told'] else ' (not told from the best)'}"
            for row in part.to_dict("records")
        )
        said.append(f"{analysis.names[str(name)]} at level {level:g}: {lost}.")
    return "Dice lost against clean images. " + " ".join(said)


def _levels(analysis: Analysis) -> pd.DataFrame:
    found = all_verdicts(analysis)
    table = verdict_table(found)
    words = [
        "settled, and it matters" if row["matters"] else "settled" if row["settled"] else "not settled"
        for row in table.to_dict("records")
    ]
    return table.assign(settled=words) if len(table) else table


def _differences(analysis: Analysis) -> pd.DataFrame:
    return pair_table(all_verdicts(analysis))


def _recipes(analysis: Analysis) -> pd.DataFrame:
    table = recipe_table(all_recipes(analysis))
    ends = zip(table["from_level"], table["to_level"], strict=True)
    levels = ["" if low != low else f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ends]
    return table.assign(levels=levels) if len(table) else table


_RECIPE = TableSpecification(
    "recipe",
    "Recipe",
    f"What to take, in place of that in the row \"{ELSE}\". The gain is over that architecture at the last of the "
    f"levels (in that row, over the baseline on clean images), the cost what it loses there. {_SIMULTANEOUS}.",
    (
        *CONDITION[:2], Column("levels", "levels"), Column("take", "take", "list"),
        Column("gain", "gain", "score", "gain_low", "gain_high"),
        Column("cost", "cost on clean images", "score", "cost_low", "cost_high"), Column("evidence", "evidence"),
        PATIENTS, Column("n_trained", "trainings", "count"),
    ),
    _recipes,
)  # fmt: skip
_VERDICTS = TableSpecification(
    "verdicts",
    "Verdict, level by level",
    "The best are all architectures that cannot be told from that with the highest mean. It is settled where that is a "
    "single one, and matters where it leads by more than the margin. " + _SIMULTANEOUS + ".",
    (
        *CONDITION, Column("best", "best", "list"), Column("settled", "verdict"),
        Column("lead", "highest mean less the next", "score", "lead_low", "lead_high"), PATIENTS,
        Column("n_trained", "trainings", "count"),
    ),
    _levels,
)  # fmt: skip
_DIFFERENCES = TableSpecification(
    "differences",
    "All differences",
    _SIMULTANEOUS + ".",
    (
        *CONDITION, Column("first", "first"), Column("second", "second"),
        Column("difference", "first minus second", "score", "low", "high"), PATIENTS,
    ),
    _differences,
)  # fmt: skip


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any]:
    found = answers(analysis)
    return {
        "answers": found,
        "n_architectures": len(analysis.architectures),
        "against_one": analysis.any_against_one,
        "panels": parts.panels.get(_GROUP),
        "tables": parts.tables,
        "margin": analysis.margin,
    }


SECTION = Section(
    name="verdict",
    short="Which to take",
    figures=_figures,
    groups={_GROUP: "Dice lost at a level in the middle"},
    tables=(_RECIPE, _VERDICTS, _DIFFERENCES),
    content=_content,
    template="verdict",
)
