"""The tables of a report as one workbook, a sheet for each, for readers who work with a spreadsheet."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from openpyxl import Workbook
from openpyxl.cell import Cell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Font
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.hyperlink import Hyperlink
from openpyxl.worksheet.worksheet import Worksheet

from nnunet_robust import __version__
from nnunet_robust.eval.report.sections import report_left_out, report_tables
from nnunet_robust.eval.report.sections.limits import limit_sentences
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.pages.tables import Column, ReportTable

NUMBER_FORMATS: Mapping[str, str] = {
    "count": "0",
    "level": "General",
    "score": "0.000",
    "wide": "General",
    "share": "0%",
    "percent": "0.0%",
    "p": '[<0.001]"<0.001";0.000',
    "measured": "0.000",
    "decibel": "0.0",
}
"""The form of a table's column, see `Column`, -> how a spreadsheet shows its numbers."""

_CONTENTS = "Contents"
_WIDEST = 60  # letters of a column
_LONGEST_NAME = 31  # letters of a sheet's name, in Excel
_BOLD = Font(bold=True)
_TOP = Alignment(vertical="top", wrap_text=True)
_NO_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold
_CHANGED = re.compile(rb"(<dcterms:(created|modified)[^>]*>)[^<]*")


def workbook(analysis: Analysis) -> bytes:
    """Make the workbook; the same analysis gives the same bytes.

    The first sheet says what each of the others is and how to read it, with the report's warnings and limits. Numbers
    are those of the CSVs, of six significant digits; an infinite one is the text "inf", and a missing one an empty
    cell. No text is ever a formula.

    Args:
        analysis: see `analyse`.

    Returns:
        The content of an .xlsx file.
    """
    book = Workbook()
    first = book.active
    assert isinstance(first, Worksheet)
    first.title = _CONTENTS
    sheets: dict[str, ReportTable] = {}
    for table in report_tables(analysis):
        name = _sheet_name(table.name, sheets)
        sheets[name] = table
        _fill(book.create_sheet(name), table)
    _fill_contents(first, analysis, sheets)
    content = io.BytesIO()
    book.save(content)
    return _without_dates(content.getvalue())


def _sheet_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that Excel takes: short, of plain letters, and not taken, not even in other capitals."""
    plain = re.sub(r"[^A-Za-z0-9_ -]+", "-", name)
    lower = {other.lower() for other in (_CONTENTS, "History", *taken)}  # Excel keeps "History" for itself
    endings = ("", *(f"-{number}" for number in range(2, len(lower) + 2)))
    candidates = (plain[: _LONGEST_NAME - len(ending)] + ending for ending in endings)
    return next(candidate for candidate in candidates if candidate.lower() not in lower)


def _fill_contents(sheet: Worksheet, analysis: Analysis, sheets: Mapping[str, ReportTable]) -> None:
    """The first sheet: what the others are, and what must be known of them."""
    _put(sheet.cell(1, 1), f"nnunet_robust {__version__}: the tables of the report of {', '.join(analysis.datasets)}")
    sheet.cell(1, 1).font = Font(bold=True, size=14)
    headings = ("sheet", "rows", "what it shows", "how to read it")
    for column, heading in enumerate(headings, 1):
        _put(sheet.cell(3, column), heading)
        sheet.cell(3, column).font = _BOLD
    rows = [
        *((name, len(table.data), table.title, table.note) for name, table in sheets.items()),
        *((kind, None, None, sentence) for kind, sentence in _notes(analysis)),
    ]
    for at, row in enumerate(rows, 4):
        for column, value in enumerate(row, 1):
            _put(sheet.cell(at, column), value)
            sheet.cell(at, column).alignment = _TOP
        if row[0] in sheets:
            cell = sheet.cell(at, 1)
            cell.hyperlink = Hyperlink(ref=cell.coordinate, location=f"'{row[0]}'!A1")
            cell.font = Font(color="0563C1", underline="single")
    for letter, width in zip("ABCD", (26, 8, 40, 100), strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.freeze_panes = "A4"


def _notes(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """What the report says beside its tables: the kind of a note, and a sentence."""
    yield from (("warning", sentence) for sentence in analysis.warnings)
    yield from (("left out", sentence) for sweep in analysis.sweeps for sentence in sweep.left_out)
    yield from (("left out", sentence) for sentence in report_left_out(analysis))
    yield from (("limit", sentence) for sentence in limit_sentences(analysis))
    yield (
        "files",
        "The numbers are those of the files table_SHEET.csv (`nnunet-robust report --format csv`). Perturbations have "
        "their display names here. Columns that the page writes in brackets beside another have headings of their own.",
    )


def _fill(sheet: Worksheet, table: ReportTable) -> None:
    """A table: headings, rows, formats of numbers, a frozen header with filters, widths."""
    headings = _headings(table)
    forms = _forms(table)
    widths = []
    for column, (key, heading) in enumerate(headings.items(), 1):
        cell = sheet.cell(1, column)
        _put(cell, heading)
        cell.font, cell.alignment = _BOLD, _TOP
        form = forms.get(key, "text")
        longest = min(len(heading), 16)  # a longer one is wrapped
        for at, value in enumerate(table.data[key].tolist(), 2):
            cell = sheet.cell(at, column)
            shown = _value(value, form, table)
            _put(cell, shown)
            if form in NUMBER_FORMATS and isinstance(shown, (int, float)):
                cell.number_format = NUMBER_FORMATS[form]
            longest = max(longest, 8 if isinstance(shown, float) else len(str(shown or "")))
        widths.append(longest)
    for column, width in enumerate(widths, 1):
        sheet.column_dimensions[get_column_letter(column)].width = min(width, _WIDEST) + 3  # the filter's button
    sheet.freeze_panes = "A2"
    sheet.auto_filter.ref = sheet.dimensions


def _headings(table: ReportTable) -> dict[str, str]:
    """Each column of the data -> its heading: those that the page shows first, in its order, then the others."""
    named: dict[str, str] = {}
    for column in table.columns:
        named[column.key] = column.heading
        for key, end in ((column.low, "lower end"), (column.high, "upper end"), (column.of, "of")):
            if key in table.data:
                named.setdefault(key, f"{column.heading}, {end}")
    for key in map(str, table.data):
        named.setdefault(key, re.sub("^n_", "number of ", key).replace("_", " "))
    given = list(named.values())
    return {key: heading if given.count(heading) == 1 else f"{heading} ({key})" for key, heading in named.items()}


def _forms(table: ReportTable) -> dict[str, str]:
    """The form of each column that the page shows, and of the ends of its intervals."""

    def of_column(column: Column) -> dict[str, str]:
        ends = {column.low: column.form, column.high: column.form, column.of: "count"}
        return {key: form for key, form in ends.items() if key}

    beside = {key: form for column in table.columns for key, form in of_column(column).items()}
    return beside | {column.key: column.form for column in table.columns}


def _value(value: Any, form: str, table: ReportTable) -> Any:
    """A value as a cell holds it: the number of the CSV, or a text; None for an empty cell."""
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    if pd.isna(value):
        return None
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, (int, bool)):
        return value
    return table.names[str(value)] if form == "words" else str(value)


def _put(cell: Cell | Any, value: Any) -> None:
    """Set a cell's value; a text stays a text, and is no formula once somebody edits it, either."""
    if not isinstance(value, str):
        cell.value = value
        return
    cell.value = ILLEGAL_CHARACTERS_RE.sub("\ufffd", value)
    cell.data_type = "s"  # openpyxl takes "=..." for a formula, and "#N/A" for an error
    cell.quotePrefix = value.startswith(("=", "+", "-", "@", "\t", "\r", "#"))


def _without_dates(content: bytes) -> bytes:
    """A workbook without the time at which it was saved."""
    same = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as stored, zipfile.ZipFile(same, "w", zipfile.ZIP_DEFLATED) as written:
        for name in stored.namelist():
            part = stored.read(name)
            if name == "docProps/core.xml":
                part = _CHANGED.sub(rb"\g<1>1980-01-01T00:00:00Z", part)
            written.writestr(zipfile.ZipInfo(name, _NO_DATE), part, zipfile.ZIP_DEFLATED)
    return same.getvalue()
