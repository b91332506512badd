"""Missed and hallucinated objects, counted, of how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_robust.common.sentences import joined
from nnunet_robust.eval.report.shared import panels
from nnunet_robust.eval.report.shared.analysis import Analysis, shared
from nnunet_robust.eval.report.shared.figures import ReportFigure, by_panel
from nnunet_robust.eval.report.shared.section import Parts, Section
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.pages.plots import INK, LineStyle

_GROUP = "failures"
_FAILURES = {"missed": ("ok", "missed"), "hallucinated": ("both_empty", "hallucinated")}


@shared
def failure_counts(analysis: Analysis) -> pd.DataFrame:
    """How many objects each architecture missed and hallucinated under each condition.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), what ("missed", "hallucinated"), count, of:
        how many could be missed (there was an object: case x label x replicate x trained model) or hallucinated
        (there was none).
    """
    keys = ["dataset", "perturbation", "level", "architecture"]
    outcomes = pd.crosstab([analysis.rows[key] for key in keys], analysis.rows["outcome"])
    outcomes = outcomes.reindex(columns=["ok", "both_empty", *_FAILURES], fill_value=0)
    order = analysis.rows[keys].drop_duplicates()
    counts = order.merge(outcomes.reset_index(), on=keys).rename(columns={"architecture": "line"})
    parts = [
        counts[["dataset", "perturbation", "level", "line"]].assign(
            what=what, count=counts[what], of=counts[list(could)].sum(axis=1)
        )
        for what, could in _FAILURES.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    counts = failure_counts(analysis)
    perturbed = counts[(counts["perturbation"] != CLEAN) & (counts["of"] > 0)]
    for (dataset, name), of_panel in by_panel(perturbed):
        for what, part in of_panel.groupby("what", sort=False):
            if not part["count"].any():
                continue
            told = "; ".join(
                f"{line}: " + ", ".join(f"{n} of {of} at {level:g}" for level, n, of in rows.itertuples(index=False))
                for line, rows in part.set_index("line")[["level", "count", "of"]].groupby("line", sort=False)
            )
            yield ReportFigure(
                group=_GROUP,
                name=f"{what}_{dataset}_{name}",
                dataset=dataset,
                title=f"{what} under {analysis.names[name]}",
                sample=f"at most {part['count'].max()} of {part['of'].max()} objects",
                data=part,
                alt=f"Objects {what} over the level of {analysis.names[name]}. {told}.",
                draw=partial(_panel, part, analysis.unit(dataset, name), styles),
                styles={line: styles[line] for line in dict.fromkeys(part["line"])},
                series=analysis.in_series(dataset, name),
                unit=analysis.unit(dataset, name),
            )


def _panel(counts: pd.DataFrame, unit: str, styles: Mapping[str, LineStyle]) -> Figure:
    """The share of objects that failed, over level, a line for each architecture.

    Args:
        counts: columns line, level, count, of (how many could fail), what ("missed" or "hallucinated"); of one dataset
            and one perturbation.
        unit: what the level is counted in.
        styles: for each line.
    """
    figure, axes = panels.panel()
    for line, of_line in counts.groupby("line", sort=False):
        panels.draw_line(axes, of_line["level"], of_line["count"] / of_line["of"], styles[str(line)])
    panels.level_ticks(axes, counts["level"], unit)
    axes.set_ylim(0, float((counts["count"] / counts["of"]).max()) * 1.08)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    most, least = int(counts["of"].max()), int(counts["of"].min())
    axes.set_ylabel(f"{counts['what'].iloc[0]}, of {most if most == least else f'{least} to {most}'}", color=INK)
    return figure


def failure_sentences(counts: pd.DataFrame, dataset: str = "") -> list[str]:
    """Who missed and hallucinated how many objects, over all conditions of one dataset.

    Args:
        counts: columns line, what ("missed", "hallucinated"), count, of; every condition once.
        dataset: to begin with; empty where there is only one.

    Returns:
        A sentence for each kind of failure.
    """
    start = f"{dataset}: " if dataset else ""
    said = []
    for what, part in counts.groupby("what", sort=False):
        sums = part.groupby("line", sort=False)[["count", "of"]].sum()
        if not sums["of"].any():
            without = "an object in any image" if what == "missed" else "an image without an object"
            said.append(f"{start}There is not {without}: none could be {what}.")
        elif not sums["count"].any():
            said.append(f"{start}None was {what} by any architecture, of {_range(sums['of'])} each.")
        else:
            parts = [f"{n} of {of} by {line}" for line, n, of in sums[sums["count"] > 0].itertuples()]
            without = sums[(sums["of"] > 0) & (sums["count"] == 0)]
            parts += [f"none of {_range(without['of'])} by {joined([*without.index])}"] if len(without) else []
            said.append(f"{start}{str(what).capitalize()} over all conditions, clean included: {joined(parts)}.")
    return said


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any]:
    counts = failure_counts(analysis)
    counts = analysis.clean_once(counts[analysis.no_attack(counts)])
    several = len(analysis.datasets) > 1
    said = [
        sentence
        for dataset, part in counts.groupby("dataset", sort=False)
        for sentence in failure_sentences(part, str(dataset) if several else "")
    ]
    return {"sentences": said, "panels": parts.panels.get(_GROUP)}


SECTION = Section(
    name="failures",
    short="Failures",
    figures=_figures,
    groups={_GROUP: "failures"},
    content=_content,
    template="failures",
)
