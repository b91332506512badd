"""What a figure of a report is, and how panels are told apart and captioned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.wording import counted_cases


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


def by_panel(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(dataset, perturbation) and its rows, in their order."""
    for (dataset, name), part in table.groupby(["dataset", "perturbation"], sort=False):
        yield (str(dataset), str(name)), part


def sample_of(points: pd.DataFrame) -> str:
    """The size of the sample behind a panel; the levels of a series may differ in it."""
    most = counted_cases(int(points["n_cases"].max()), int(points["n_patients"].max()))
    fewest = int(points["n_cases"].min())
    return most if fewest == points["n_cases"].max() else f"{fewest} to {most} at a level"
