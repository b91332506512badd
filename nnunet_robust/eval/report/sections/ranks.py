"""Who is first: ranks by condition, with the share of bootstraps in which each is first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from nnunet_robust.eval import statistics
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.heat_maps import MOST_COLUMNS, rank_map
from nnunet_robust.eval.report.shared.section import Parts, Section
from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.wording import counted, listed_perturbations, percent

_GROUP = "ranks"


@shared
def ranks(analysis: Analysis) -> pd.DataFrame:
    """The architectures' ranks under each condition and their stability, see `statistics.rank_stability`."""
    return analysis.clean_once(statistics.rank_stability(analysis.rows, METRIC))


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = ranks(analysis)
    table = table[~analysis.against_one(table)]
    for dataset, of_dataset in table.groupby("dataset", sort=False):
        lines = [name for name in analysis.architectures if name in set(of_dataset["line"])]
        if len(lines) < 2:
            continue
        for number, names in enumerate(_chunks(of_dataset), 1):
            part = of_dataset[of_dataset["perturbation"].isin(names)]
            first = part[part["rank"] == part.groupby(["perturbation", "level"])["rank"].transform("min")]
            parts = (
                f"{analysis.names[row.perturbation]} {row.level:g}: {row.line} ({percent(row.share_first, 0)})"
                for row in first.itertuples(index=False)
            )
            conditions = [analysis.names[name] for name in part["perturbation"]]
            yield ReportFigure(
                group=_GROUP,
                name=f"{dataset}_{number}",
                dataset=str(dataset),
                title=listed_perturbations(names, analysis.names),
                sample=_patients(analysis, str(dataset)),
                data=part,
                alt=f"Ranks of {len(lines)} architectures. First, with the share of bootstraps: {'; '.join(parts)}.",
                draw=partial(rank_map, part.assign(condition=conditions), lines, len(lines)),
                styles={},
                is_map=True,
                is_mean=True,
            )


def _chunks(ranks: pd.DataFrame) -> list[list[str]]:
    """Perturbations that fit beside each other in one heat map."""
    chunks: list[list[str]] = []
    filled = MOST_COLUMNS
    for name, part in ranks.groupby("perturbation", sort=False):
        width = part["level"].nunique()
        if filled + width > MOST_COLUMNS:
            chunks.append([])
            filled = 0
        chunks[-1].append(str(name))
        filled += width
    return chunks


def _patients(analysis: Analysis, dataset: str) -> str:
    n = analysis.rows.loc[analysis.rows["dataset"] == dataset, "patient"].nunique()
    return counted(n, "patient" if analysis.patients_known(dataset) else "image")


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any] | None:
    if not parts.panels:
        return None
    return {"panels": parts.panels[_GROUP], "against_one": analysis.any_against_one}


SECTION = Section(
    name="ranks", short="Ranks", figures=_figures, groups={_GROUP: "ranks"}, content=_content, template="ranks"
)
