"""Each structure for itself, where a dataset has several: curves of Dice for each label, and what was lost of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from nnunet_robust.eval import statistics
from nnunet_robust.eval.report.sections.statistics import SUMMARY, SUMMARY_NOTE
from nnunet_robust.eval.report.shared import panels
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.answer import answers, structures_apart
from nnunet_robust.eval.report.shared.figures import ReportFigure, by_panel, sample_of
from nnunet_robust.eval.report.shared.section import Parts, Section, TableSpecification
from nnunet_robust.eval.statistics import CLEAN, MEAN_OF_LABELS
from nnunet_robust.pages.plots import LineStyle

_GROUP = "structures"


@shared
def of_each(analysis: Analysis) -> pd.DataFrame:
    """`statistics.curves` of the Dice of each structure of the datasets with several, with a column `label`."""
    found = []
    for dataset in analysis.datasets:
        of_dataset = analysis.rows[analysis.rows["dataset"] == dataset]
        labels = analysis.structures(dataset)
        for label in labels if len(labels) > 1 else ():
            found.append(statistics.curves(of_dataset[of_dataset["label"] == label], METRIC).assign(label=label))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    points = of_each(analysis)
    if points.empty:
        return
    limits = panels.y_limits(points, METRIC)
    for (dataset, name), of_panel in by_panel(points[points["perturbation"] != CLEAN]):
        for label, part in of_panel.groupby("label", sort=False):
            title = f"{analysis.names[name]}, {label}"
            unit = analysis.unit(dataset, name)
            told = panels.told(part.assign(x=part["level"]), METRIC)
            yield ReportFigure(
                group=_GROUP,
                name=f"{dataset}_{name}_{label}",
                dataset=dataset,
                title=title,
                sample=sample_of(part, analysis),
                data=part,
                alt=f"Mean Dice of {label} over the level of {analysis.names[name]}. {told}.",
                draw=partial(panels.level_panel, part, f"mean Dice of {label}", unit, styles, limits),
                styles={line: styles[line] for line in dict.fromkeys(part["line"])},
                series=analysis.in_series(dataset, name),
                unit=analysis.unit(dataset, name),
            )


def _lost(analysis: Analysis) -> pd.DataFrame:
    table = analysis.summary[analysis.summary["label"] != MEAN_OF_LABELS]
    return table[table.groupby("dataset")["label"].transform("nunique") > 1]


def _answers(analysis: Analysis) -> list[str]:
    return [
        f"{analysis.lead(answer.dataset, ', ')}{label}: {answer.take} {answer.evidence}"
        for label, of_label in structures_apart(analysis).items()
        for answer in answers(of_label)
    ]


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any] | None:
    if not parts.panels:
        return None
    return {
        "title": "Each structure",
        "text": (
            "Everything before this is a mean over the structures of a dataset. Here each stands for itself. "
            "report --label NAME makes a whole report of one.",
        ),
        "groups": [{"title": "Dice of each structure", "open": False, "panels": parts.panels[_GROUP]}],
        "tables": parts.tables,
        "lists": [{"title": "Which architecture to take for each, were it the only one", "lines": _answers(analysis)}],
    }


SECTION = Section(
    name="structures",
    short="Each structure",
    figures=_figures,
    groups={_GROUP: "Dice of each structure"},
    tables=(TableSpecification("summary_labels", "What was lost of each structure", SUMMARY_NOTE, SUMMARY, _lost),),
    content=_content,
)
