"""The workbook: the numbers of the CSVs under headings that people read, and no text that a spreadsheet would run."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.export import write_files
from nnunet_robust.eval.report.sections import report_tables
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.workbook import NUMBER_FORMATS, workbook
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.pages.tables import _FORMS, Column, ReportTable, report_table
from tests.eval.sweep_output import write_sweep_output

MODELS = ("nnUNetTrainer_seed1", "nnUNetTrainerNoSkip_seed1", "nnUNetTrainerAttentionGated_seed1")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    levels = {"speckle_noise": [0.1, 0.3], "gaussian_blur": [1.0]}
    return analyse([write_sweep_output(tmp_path_factory.mktemp("s"), MODELS, 7, levels=levels, pictures=False)])


def _opened(content: bytes) -> openpyxl.Workbook:
    return openpyxl.load_workbook(io.BytesIO(content))


def _made_of(analysis: Analysis, table: ReportTable, monkeypatch: pytest.MonkeyPatch) -> openpyxl.Workbook:
    monkeypatch.setattr("nnunet_robust.eval.report.workbook.report_tables", lambda _: [table])
    return _opened(workbook(analysis))


def test_every_table_has_a_sheet_with_the_numbers_of_its_csv(analysis: Analysis, tmp_path: Path) -> None:
    written = write_files(analysis, tmp_path, ["csv", "xlsx"])
    assert tmp_path / "tables.xlsx" in written
    book = openpyxl.load_workbook(tmp_path / "tables.xlsx")
    tables = report_tables(analysis)
    assert book.sheetnames == ["Contents", *(table.name for table in tables)]
    for table in tables:
        saved = pd.read_csv(tmp_path / f"table_{table.name}.csv")
        sheet = pd.read_excel(tmp_path / "tables.xlsx", sheet_name=table.name)
        assert sheet.shape == saved.shape
        numbers = saved.select_dtypes("number").dropna(axis=1, how="all")  # without lists
        of_sheet = sheet.select_dtypes("number").dropna(axis=1, how="all")
        # columns come in the page's order: each is found by what it holds
        stored = sorted(tuple(map(repr, column.astype(float))) for _, column in of_sheet.items())
        assert stored == sorted(tuple(map(repr, column.astype(float))) for _, column in numbers.items()), table.name
        for column in table.columns:
            assert column.heading in sheet
            if column.key in numbers:
                pd.testing.assert_series_equal(
                    sheet[column.heading], saved[column.key], check_names=False, check_dtype=False, rtol=0, atol=0
                )
        if "perturbation" in saved:
            assert list(sheet["perturbation"]) == [analysis.names[name] for name in saved["perturbation"]], table.name


def test_headers_are_frozen_and_numbers_are_formatted(analysis: Analysis) -> None:
    book = _opened(workbook(analysis))
    for sheet in book.worksheets[1:]:
        assert sheet.freeze_panes == "A2"
        assert sheet["A1"].font.bold
        headings = [cell.value for cell in sheet[1]]
        assert len(set(headings)) == len(headings) and not any("_" in heading for heading in headings)
    cells = {heading.value: cell for heading, cell in zip(book["summary"][1], book["summary"][2], strict=True)}
    assert cells["drop, lower end"].number_format == cells["drop"].number_format == "0.000"
    assert cells["relative drop"].number_format == "0.0%"
    assert cells["patients"].number_format == "0"
    assert set(NUMBER_FORMATS) == {form for form in _FORMS if form not in ("text", "list")}


def test_the_first_sheet_says_what_each_is_and_what_to_mind(analysis: Analysis) -> None:
    sheet = _opened(workbook(analysis))["Contents"]
    rows = {row[0].value: row for row in sheet.iter_rows(min_row=4) if row[0].hyperlink}
    for table in report_tables(analysis):
        name, count, title, note = rows[table.name]
        assert (count.value, title.value, note.value) == (len(table.data), table.title, table.note)
        assert name.hyperlink.location == f"'{table.name}'!A1"
    notes = {(row[0].value, row[3].value) for row in sheet.iter_rows(min_row=4)}
    assert ("limit", "Each case is a patient of its own, for the dataset names no patients.") in notes
    assert ("limit", "7 patients are few: intervals of so few tend to be too narrow, and means may yet shift.") in notes
    assert "Dataset501_Textures" in sheet["A1"].value


def test_the_same_analysis_gives_the_same_bytes(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    content = workbook(analysis)
    monkeypatch.setattr("time.localtime", lambda *_: (2030, 5, 6, 7, 8, 10, 0, 0, 0))
    assert workbook(analysis) == content
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        assert {part.date_time[0] for part in parts.infolist()} == {1980}
        assert parts.read("docProps/core.xml").count(b"1980-01-01T00:00:00Z") == 2


ODD = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "#N/A", "=1", "a\x07b", "50 %"]


def test_no_text_is_a_formula(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    names = DisplayNames({"=odd": "=A1+1"})
    data = pd.DataFrame({"dataset": ["d"] * len(ODD), "perturbation": ["=odd"] * len(ODD), "line": ODD, "=key": ODD})
    columns = (Column("perturbation", "perturbation", "words"), Column("line", "=architecture"))
    table = report_table("=t", "=title", "=note", columns, data, names)
    book = _made_of(analysis, table, monkeypatch)
    sheet = book.worksheets[1]
    texts = [[cell.value for cell in row] for row in sheet.iter_rows()]
    shown = [text.replace("\x07", "\ufffd") for text in ODD]
    assert texts == [
        ["perturbation", "=architecture", "dataset", "=key"],
        *(["=A1+1", text, "d", text] for text in shown),
    ]
    for of_book in book.worksheets:
        for cell in (cell for row in of_book.iter_rows() for cell in row if isinstance(cell.value, str)):
            assert cell.data_type == "s", cell.value
            assert bool(cell.quotePrefix) == (cell.value[0] in "=+-@#"), cell.value
    with zipfile.ZipFile(io.BytesIO(workbook(analysis))) as parts:
        assert not any(b"<f>" in parts.read(name) or b"<f " in parts.read(name) for name in parts.namelist())


def test_what_is_missing_or_infinite_and_lists(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pd.DataFrame(
        {
            "dataset": "d",
            "score": [0.12345678, math.nan, math.inf],
            "low": [-1.0, math.nan, -math.inf],
            "n": [3, 4, 5],
            "several": [("a", "b"), (), ("c",)],
            "yes": [True, False, True],
        }
    )
    columns = (
        Column("score", "score", "score", "low"),
        Column("n", "score", "count"),
        Column("several", "as good", "list"),
    )
    sheet = _made_of(analysis, report_table("t", "T", "N", columns, data, DisplayNames()), monkeypatch)["t"]
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("score (score)", "score, lower end", "score (n)", "as good", "dataset", "yes")
    assert rows[1] == (0.123457, -1, 3, "a, b", "d", True)
    assert rows[2] == (None, None, 4, None, "d", False)
    assert rows[3] == ("inf", "-inf", 5, "c", "d", True)


@pytest.mark.parametrize(
    ("names", "sheets"),
    [
        (["a/b:c?d*[e]", "history", "Contents"], ["a-b-c-d-e-", "history-2", "Contents-2"]),
        (["x" * 40, "X" * 40], ["x" * 31, "X" * 29 + "-2"]),
    ],
)
def test_names_of_sheets_are_those_that_excel_takes(
    analysis: Analysis, names: list[str], sheets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pd.DataFrame({"dataset": ["d"]})
    tables = [report_table(name, "T", "N", (Column("dataset", "dataset"),), data, DisplayNames()) for name in names]
    monkeypatch.setattr("nnunet_robust.eval.report.workbook.report_tables", lambda _: tables)
    assert _opened(workbook(analysis)).sheetnames == ["Contents", *sheets]
