"""The one reader of CSV: what is wrong with a file is one line, with its name, the line, and what to do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nnunet_robust.common.schemas import shown
from nnunet_robust.common.text_files import file_fault, read_text


class CsvRow(NamedTuple):
    """A row of a table.

    Attributes:
        line: of the file, from 1, in which it ends.
        cells: column -> text.
    """

    line: int
    cells: dict[str, str]


def read_csv(path: Path, columns: Sequence[str], advice: str) -> list[CsvRow]:
    """Read a table; see `csv_text` for the arguments and the errors. Columns without a name are left out."""
    header, *rows = _rows(csv_text(path, columns, advice))
    names = header[1]
    return [CsvRow(line, {name: cell for name, cell in zip(names, cells, strict=True) if name}) for line, cells in rows]


def csv_text(path: Path, columns: Sequence[str], advice: str) -> str:
    """Read and check the text of a table: a header, and rows of as many cells, separated by commas.

    Args:
        path: the file.
        columns: that it must have; it may have others.
        advice: what to do where something is wrong with it, a clause: "run the sweep again".

    Returns:
        Its text, with a line feed at the end of each line, without empty lines at its start.

    Raises:
        UserError: it is no text in UTF-8 (see `text_files.read_text`), lacks a column, has one twice, has a row of
            other length, or another mark between its cells, such as the semicolons of some Excels.
    """
    text = read_text(path, advice).lstrip("\n")
    try:
        names = next(_rows(text))[1]
        _check_columns(path, names, columns, advice)
        _check_lengths(path, text, len(names), advice)
    except csv.Error as error:
        raise file_fault(path, f"this is no table ({error})", advice) from error
    return text


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str], advice: str) -> None:
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise file_fault(path, f"the column {shown(twice[0])!r} is there twice", advice, 1)
    missing = [name for name in columns if name not in names]
    if not missing:
        return
    for mark, word in ((";", "semicolons"), ("\t", "tabulators")):
        if any(mark in name for name in names):
            what = f"its cells are separated by {word}, as some spreadsheets do: it takes commas"
            raise file_fault(path, what, f"save it with commas, or {advice}", 1)
    there = shown(", ".join(map(shown, names)))
    raise file_fault(path, f"it lacks the columns {', '.join(missing)} (it has {there})", advice, 1)


def _check_lengths(path: Path, text: str, length: int, advice: str) -> None:
    if '"' not in text and {line.count(",") for line in text.split("\n") if line} == {length - 1}:
        return  # far quicker, and so most files are
    for line, cells in _rows(text):
        if len(cells) != length:
            raise file_fault(path, f"it has {len(cells)} cells, and the header {length}", advice, line)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line in which it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    return ((reader.line_num, cells) for cells in reader if cells)
