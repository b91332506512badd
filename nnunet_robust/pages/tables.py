"""Tables of pages, as data: which columns, how a value is written, what the table says.

One description serves the page (with values to sort by), the LaTeX files and the CSVs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd

from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.pages.wording import number, p_value, percent


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        key: of the data frame; the column is left out where the frame lacks it.
        heading: in plain words.
        form: a key of `_FORMS`, or "words" for perturbations by their display names.
        low: key of the lower end of the interval that stands beside the value; empty where there is none.
        high: of its upper end.
        of: key of the total that a count is of; empty where there is none.
        beside: how the two ends are written.
    """

    key: str
    heading: str
    form: str = "text"
    low: str = ""
    high: str = ""
    of: str = ""
    beside: str = "[{}, {}]"


class Cell(NamedTuple):
    """A value as it is written, what stands beside it (an interval, a total), and what it is sorted by."""

    text: str
    beside: str
    key: str


@dataclass(frozen=True)
class ReportTable:
    """A table of a report.

    Attributes:
        name: for files and ids.
        title: its caption.
        note: what its numbers are, and what they are conditioned on.
        columns: those that the data have.
        data: a row per row, as computed.
        names: of perturbations, for columns of the form "words".
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    data: pd.DataFrame
    names: DisplayNames

    def cells(self) -> Iterator[list[Cell]]:
        """The rows as they are written."""
        for row in self.data.to_dict("records"):
            yield [_cell(row, column, self.names) for column in self.columns]

    def is_number(self, column: Column) -> bool:
        """Whether a column is of numbers: aligned to the right, and sorted as such."""
        return column.form not in ("text", "words", "list")


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


_FORMS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "list": _listed,
    "count": lambda value: "–" if pd.isna(value) else f"{int(value)}",
    "level": lambda value: "–" if pd.isna(value) else f"{value:g}",
    "score": lambda value: number(float(value)),
    "wide": lambda value: "–" if pd.isna(value) else f"{value:.4g}".replace("-", "−"),
    "share": lambda value: percent(float(value), 0),
    "percent": lambda value: percent(float(value)),
    "p": lambda value: p_value(float(value)),
    "measured": lambda value: "∞" if value == float("inf") else number(float(value)),
    "decibel": lambda value: "∞" if value == float("inf") else "–" if pd.isna(value) else f"{value:.1f}",
}


def _cell(row: dict[Any, Any], column: Column, names: DisplayNames) -> Cell:
    value = row[column.key]
    text = names[str(value)] if column.form == "words" else _FORMS[column.form](value)
    if column.form in ("text", "words", "list"):
        return Cell(text, "", text)
    beside = ""
    if column.of:
        beside = f"of {row[column.of]}"
    elif column.low and not pd.isna(row[column.low]):
        beside = column.beside.format(*(_FORMS[column.form](row[end]) for end in (column.low, column.high)))
    return Cell(text, beside, "" if pd.isna(value) else f"{value:.6g}")


def report_table(
    name: str, title: str, note: str, columns: tuple[Column, ...], data: pd.DataFrame, names: DisplayNames
) -> ReportTable:
    """A table without the columns that the data lack, and without that of the dataset where there is one."""
    one = data["dataset"].nunique() == 1
    shown = tuple(column for column in columns if column.key in data and not (one and column.key == "dataset"))
    return ReportTable(name, title, note, shown, data, names)


def csv_text(data: pd.DataFrame) -> str:
    """A data frame as CSV, six significant digits."""
    return data.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def csv_link(data: pd.DataFrame, name: str, what: str) -> dict[str, str]:
    """A link that holds a table: nothing else is needed to save it."""
    return {
        "uri": "data:text/csv;charset=utf-8," + quote(csv_text(data), safe=",-._"),
        "name": f"{name}.csv",
        "what": what,
    }


def table_data(table: ReportTable) -> dict[str, Any]:
    """A table as `page_macros.html.j2` shows it."""
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "columns": [{"heading": column.heading, "is_number": table.is_number(column)} for column in table.columns],
        "rows": list(table.cells()),
        "csv": csv_link(table.data, table.name, table.title),
    }


def latex(table: ReportTable) -> str:
    """A table for a paper, in LaTeX with the package booktabs (and longtable, as some have many rows)."""
    rows = [
        {
            column.heading: " ".join(filter(None, (cell.text, cell.beside)))
            for column, cell in zip(table.columns, cells, strict=True)
        }
        for cells in table.cells()
    ]
    frame = pd.DataFrame(rows, columns=[column.heading for column in table.columns])
    text = frame.to_latex(
        index=False,
        escape=True,
        longtable=True,
        column_format="".join("r" if table.is_number(column) else "l" for column in table.columns),
        caption="".join(_LATEX.get(letter, letter) for letter in f"{table.title}. {table.note}"),
        label=f"tab:{table.name}",
    )
    return "% needs \\usepackage{booktabs, longtable}\n" + _latex_letters(text)


# pandas escapes what LaTeX would read as a command in cells, not in a caption; neither knows these letters.
_LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"$\sim$",
    **{letter: f"\\{letter}" for letter in "%&_#${}"},
}
_LETTERS = {
    "−": "$-$",
    "–": "--",
    "χ²": r"$\chi^2$",
    "α": r"$\alpha$",
    "σ": r"$\sigma$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
}


def _latex_letters(text: str) -> str:
    for letter, command in _LETTERS.items():
        text = text.replace(letter, command)
    return text
