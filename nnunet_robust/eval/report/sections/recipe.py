"""Which architecture to take, by perturbation and range of levels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnunet_robust.eval import statistics
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.columns import CONDITION, PATIENTS, mean_column
from nnunet_robust.eval.report.shared.section import Parts, Section, TableSpecification
from nnunet_robust.pages.tables import Column


@shared
def recipe(analysis: Analysis) -> pd.DataFrame:
    """The architecture to take at each level, see `statistics.recipe`; empty where there is one architecture.

    Attacks made against one model are left out: the choice would only be for the others.
    """
    if len(analysis.architectures) < 2:
        return pd.DataFrame()
    rows = analysis.rows
    return statistics.recipe(rows[~analysis.against_one(rows)], METRIC, margin=analysis.margin)


@shared
def ranges(analysis: Analysis) -> pd.DataFrame:
    """The recipe with adjacent levels of the same verdict merged, see `statistics.recipe_ranges`."""
    levels = recipe(analysis)
    return statistics.recipe_ranges(levels) if len(levels) else pd.DataFrame()


def _merged(analysis: Analysis) -> pd.DataFrame:
    """The ranges, with their levels in words and the least and the most of their advantages."""
    levels, of_ranges = recipe(analysis), ranges(analysis)
    if of_ranges.empty:
        return of_ranges
    places = [
        levels[(levels["dataset"] == row["dataset"]) & (levels["perturbation"] == row["perturbation"])
               & levels["level"].between(row["from_level"], row["to_level"])]["advantage"]
        for row in of_ranges.to_dict("records")
    ]  # fmt: skip
    ends = zip(of_ranges["from_level"], of_ranges["to_level"], strict=True)
    return of_ranges.assign(
        levels=[f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ends],
        least_advantage=[place.min() for place in places],
        most_advantage=[place.max() for place in places],
    )


def _note(analysis: Analysis) -> str:
    return (
        f"The architecture with the best mean Dice at a level, or no difference that matters, where all are within "
        f"{analysis.margin:g} of it. Agreement is the share of bootstrap resamples of patients in which it is within "
        f"{analysis.margin:g} of that resample's best (of a range, the lowest). The advantage is over the next best; "
        "the clean cost is the best mean on clean images minus its own."
    )


_VERDICT, _AGREEMENT = Column("verdict", "verdict"), Column("agreement", "agreement", "share")
_COST = mean_column("clean_cost", "clean cost")
_LEVELS = TableSpecification(
    "recipe_levels",
    "Recipe, level by level",
    _note,
    (
        *CONDITION, _VERDICT, Column("equivalent", "as good, within the margin", "list"), _AGREEMENT,
        mean_column("advantage", "advantage"), _COST, PATIENTS,
    ),
    recipe,
)  # fmt: skip
_RANGES = TableSpecification(
    "recipe",
    "Recipe",
    _note,
    (
        *CONDITION[:2], Column("levels", "levels"), _VERDICT, _AGREEMENT,
        Column("least_advantage", "least advantage", "score"), Column("most_advantage", "most advantage", "score"),
        _COST, PATIENTS,
    ),
    _merged,
)  # fmt: skip


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any]:
    content = {"n_architectures": len(analysis.architectures), "against_one": analysis.any_against_one}
    if not parts.tables:
        return {**content, "recipe": None}
    levels, of_ranges = parts.tables
    said = [
        analysis.lead(dataset, ", ") + statistics.recipe_sentence(part, names=analysis.names)
        for (dataset, _), part in ranges(analysis).groupby(["dataset", "perturbation"], sort=False)
    ]
    return {**content, "recipe": {"sentences": said, "ranges": of_ranges, "levels": levels}}


SECTION = Section(name="recipe", short="Which to take", tables=(_LEVELS, _RANGES), content=_content, template="recipe")
