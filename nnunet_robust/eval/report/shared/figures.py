"""What a figure of a report is, how panels are told apart and captioned, and figures of anything over the level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nnunet_robust.eval.report.shared import panels
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.pages.plots import LineStyle, rule_styles
from nnunet_robust.pages.wording import counted_cases, number


@dataclass(frozen=True)
class ReportFigure:
    """One figure.

    Attributes:
        group: its part of the report, e.g. "dice" or "failures".
        name: for files and ids: letters, digits, "-" and "_"; unique in a report.
        dataset: whose; empty where it is of several.
        title: what it shows, without the dataset.
        sample: on how much, e.g. "12 cases (10 patients)".
        data: the numbers in it.
        alt: the same in words.
        draw: makes it; call within `plots.plain_style`.
        styles: what its legend explains; empty where it needs none.
        series: whether its levels are test sets of their own, without clean images.
        value: what its means are, for the table of its numbers.
        unit: what its levels are counted in, for that table; empty where it has none, or nobody says.
        is_map: whether it is wider than a panel, and a table has its numbers.
        is_mean: whether its scores are means over the structures of a dataset: where there are several, the caption
            says so.
    """

    group: str
    name: str
    dataset: str
    title: str
    sample: str
    data: pd.DataFrame
    alt: str
    draw: Callable[[], Figure]
    styles: Mapping[str, LineStyle]
    series: bool = False
    value: str = "Dice"
    unit: str = ""
    is_map: bool = False
    is_mean: bool = False


def by_panel(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(dataset, perturbation) and its rows, in their order."""
    for (dataset, name), part in table.groupby(["dataset", "perturbation"], sort=False):
        yield (str(dataset), str(name)), part


def sample_of(points: pd.DataFrame, analysis: Analysis) -> str:
    """The size of the sample behind a panel of one dataset; the levels of a series may differ in it."""
    known = analysis.patients_known(str(points["dataset"].iloc[0]))
    most = counted_cases(int(points["n_cases"].max()), int(points["n_patients"].max()), known)
    fewest = int(points["n_cases"].min())
    return most if fewest == points["n_cases"].max() else f"{fewest} to {most} at a level"


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
    is_mean: bool = False,
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
        is_mean: whether they are means over the structures of a dataset.
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
            sample=sample_of(part, analysis),
            data=part,
            alt=f"{what} over the level of {analysis.names[name]}. {told}.{read_by}",
            draw=partial(panels.level_panel, part, label, analysis.unit(dataset, name), styles, limits, at),
            styles={**{line: styles[line] for line in dict.fromkeys(part["line"])}, **of_rules},
            series=analysis.in_series(dataset, name),
            value=what,
            unit=analysis.unit(dataset, name),
            is_mean=is_mean,
        )


def condition_in_words(analysis: Analysis, dataset: Any, perturbation: Any, level: Any) -> str:
    """A condition in words: "speckle noise at 0.3 (relative standard deviation)"."""
    if perturbation == CLEAN:
        return "clean images"
    return f"{analysis.names[perturbation]} at {analysis.levels_in_words(str(dataset), str(perturbation), level)}"


def hardest(table: pd.DataFrame) -> list[tuple[str, str, float]]:
    """The conditions that are looked at closely: the clean images, and the highest level of each perturbation.

    Args:
        table: columns dataset, perturbation, level.
    """
    highest = table.groupby(["dataset", "perturbation"], sort=False)["level"].max().reset_index()
    return [
        (str(dataset), str(name), float(level)) for dataset, name, level in highest.itertuples(index=False, name=None)
    ]
