"""Score over level, a panel for each dataset and perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nnunet_robust.eval.report.shared import panels
from nnunet_robust.eval.report.shared.analysis import CURVES, Analysis
from nnunet_robust.eval.report.shared.figures import ReportFigure, by_panel, sample_of
from nnunet_robust.eval.report.shared.section import Parts, Section
from nnunet_robust.eval.statistics import CLEAN, COMPARABLE
from nnunet_robust.pages.plots import LineStyle


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    for metric in CURVES:
        yield from _curves(analysis, styles, metric)


def _curves(analysis: Analysis, styles: Mapping[str, LineStyle], metric: str) -> Iterator[ReportFigure]:
    points = analysis.points[metric]
    label = COMPARABLE[metric].label
    for (dataset, name), part in by_panel(points[points["perturbation"] != CLEAN]):
        # Shares can be compared between datasets, distances cannot.
        beside = points if not COMPARABLE[metric].unit else points[points["dataset"] == dataset]
        lines = list(dict.fromkeys(part["line"]))
        told = panels.told(part.assign(x=part["level"]), metric)
        yield ReportFigure(
            group=metric,
            name=f"{dataset}_{name}",
            dataset=dataset,
            title=analysis.names[name],
            sample=sample_of(part, analysis),
            data=part,
            alt=f"Mean {label} over the level of {analysis.names[name]}. {told}.",
            draw=partial(
                panels.level_panel,
                part,
                panels.score_label(metric, len(analysis.structures(dataset))),
                analysis.unit(dataset, name),
                styles,
                panels.y_limits(beside, metric),
            ),
            styles={line: styles[line] for line in lines},
            series=analysis.in_series(dataset, name),
            unit=analysis.unit(dataset, name),
            is_mean=True,
        )


def _title(metric: str) -> str:
    info = COMPARABLE[metric]
    return f"{info.label} in {info.unit}" if info.unit else info.label


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any]:
    several_trained = bool((analysis.points["dice"]["n_trained"] > 1).any())
    return {"curves": list(parts.panels.values()), "several_trained": several_trained}


SECTION = Section(
    name="curves",
    short="Curves",
    figures=_figures,
    groups={metric: _title(metric) for metric in CURVES},
    content=_content,
    template="curves",
)
