"""Figures of anything over the level of perturbations, a panel for each dataset and perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd

from nnunet_robust.eval.report import panels
from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.report_figure import ReportFigure, by_panel, sample_of
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.pages.plots import LineStyle, rule_styles
from nnunet_robust.pages.wording import number


def over_level(
    analysis: Analysis,
    points: pd.DataFrame,
    group: str,
    what: str,
    label: str,
    styles: Mapping[str, LineStyle],
    limits: tuple[float, float],
    rules: Mapping[str, float] | None = None,
    structure: str = "",
) -> Iterator[ReportFigure]:
    """A panel for each dataset and perturbation, of the lines that are defined anywhere in it.

    Args:
        analysis: of the report.
        points: columns dataset, perturbation, line, level, mean, low, high, n_cases, n_patients; and as `level_panel`
            takes them.
        group: of the figures.
        what: their means are.
        label: of the y axis.
        styles: for each line.
        limits: of the y axis.
        rules: what a horizontal line means -> where it is.
        structure: of the images, for the titles; empty for all of them.
    """
    of_rules = rule_styles(list(rules or {}))
    at = {value: of_rules[meaning] for meaning, value in (rules or {}).items()}
    for (dataset, name), part in by_panel(points[points["perturbation"] != CLEAN]):
        part = part[part.groupby("line")["mean"].transform("count") > 0]
        if part.empty:
            continue
        told = panels.told(part.assign(x=part["level"]))
        read_by = "".join(f" {meaning} ({number(value)})." for meaning, value in (rules or {}).items())
        yield ReportFigure(
            group=group,
            name="_".join(filter(None, (dataset, name, structure))),
            dataset=dataset,
            title=", ".join(filter(None, (analysis.names[name], structure))),
            sample=sample_of(part),
            data=part,
            alt=f"{what} over the level of {analysis.names[name]}. {told}.{read_by}",
            draw=partial(panels.level_panel, part, label, analysis.unit(dataset, name), styles, limits, at),
            styles={**{line: styles[line] for line in dict.fromkeys(part["line"])}, **of_rules},
            series=analysis.in_series(dataset, name),
            value=what,
        )
