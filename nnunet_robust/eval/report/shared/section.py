"""What a section of the page is: its statistics, figures, tables, sentences and template in one row of the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.rendering import capital
from nnunet_robust.pages.tables import Column, ReportTable, report_table


class TableSpecification(NamedTuple):
    """What a table shows of an analysis, and what is said of it.

    Attributes:
        name: as in `ReportTable`.
        title: as in `ReportTable`.
        note: as in `ReportTable`, or a function that makes it.
        columns: all that the table may have; those that the data lack are left out.
        data: makes the rows of the table, none where there is nothing to show.
        is_mean: whether its scores are means over the structures of a dataset, as the note then says.
    """

    name: str
    title: str
    note: str | Callable[[Analysis], str]
    columns: tuple[Column, ...]
    data: Callable[[Analysis], pd.DataFrame]
    is_mean: bool = False

    def tables(self, analysis: Analysis) -> list[ReportTable]:
        """The table, where it has any rows."""
        data = self.data(analysis)
        note = self.note if isinstance(self.note, str) else self.note(analysis)
        if self.is_mean and (over := analysis.over_structures()):
            note = f"{note} Scores are each the {over}."
        columns = self.columns if analysis.patients_known() else _of_images(self.columns)
        return [report_table(self.name, self.title, note, columns, data, analysis.names)] if len(data) else []


def _of_images(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns where each image counts as a patient of its own: their number is given once, as that of images."""
    counted = any(column.key == "n_cases" for column in columns)
    kept = (column for column in columns if not (counted and column.key == "n_patients"))
    return tuple(
        column._replace(heading="images") if column.key in ("n_patients", "n_cases") else column for column in kept
    )


class Parts(NamedTuple):
    """What there is of a section in one report, as templates take it.

    Attributes:
        panels: the drawn figures of each of its groups that has any, in the section's order.
        tables: its tables that have any rows.
        left_out: what all sections of the report could not show, in sentences.
    """

    panels: dict[str, dict[str, Any]]
    tables: list[dict[str, Any]]
    left_out: list[str]


def _nothing(*_: Any) -> Iterable[Any]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page.

    Attributes:
        name: its id in the page; that of its module has an underscore for each hyphen.
        short: its title in the page's contents.
        title: its heading; empty where its template has one.
        text: its paragraphs; likewise.
        figures: makes its figures, given the style of each architecture.
        groups: the title of each group of its figures.
        folded: the groups that are folded away, unless there is nothing else.
        tables: in their order.
        lists: makes the sentences below each title; a list without any is left out.
        left_out: makes a sentence for everything that the section leaves out.
        content: makes what a template of its own takes; None where the section does not apply.
        template: a file of `pages/templates/sections`, without its ending.
    """

    name: str
    short: str
    title: str = ""
    text: tuple[str, ...] = ()
    figures: Callable[[Analysis, Mapping[str, LineStyle]], Iterable[ReportFigure]] = _nothing
    groups: Mapping[str, str] = field(default_factory=dict)
    folded: tuple[str, ...] = ()
    tables: tuple[TableSpecification, ...] = ()
    lists: Mapping[str, Callable[[Analysis], Iterable[str]]] = field(default_factory=dict)
    left_out: Callable[[Analysis], Iterable[str]] = _nothing
    content: Callable[[Analysis, Parts], dict[str, Any] | None] | None = None
    template: str = "section"

    def all_tables(self, analysis: Analysis) -> list[ReportTable]:
        """The tables of the section that have any rows."""
        return [table for specification in self.tables for table in specification.tables(analysis)]

    def filled(self, analysis: Analysis, parts: Parts) -> dict[str, Any]:
        """The section as `report.html.j2` takes it; `shown` says whether it applies."""
        content = self._usual(analysis, parts) if self.content is None else self.content(analysis, parts)
        place = {"id": self.name, "short": self.short, "template": f"sections/{self.template}.html.j2"}
        return {**place, "shown": content is not None, **(content or {})}

    def _usual(self, analysis: Analysis, parts: Parts) -> dict[str, Any] | None:
        """Figures, tables and sentences; None without figures and tables."""
        if not parts.panels and not parts.tables:
            return None
        unfolded = [name for name in parts.panels if name not in self.folded] or list(parts.panels)[:1]
        lists = {title: list(sentences(analysis)) for title, sentences in self.lists.items()}
        return {
            "title": self.title,
            "text": self.text,
            "groups": [
                {"title": capital(self.groups[name]), "open": name in unfolded, "panels": panels}
                for name, panels in parts.panels.items()
            ],
            "tables": parts.tables,
            "lists": [{"title": title, "lines": lines} for title, lines in lists.items() if lines],
        }
