"""Reading the tables of a sweep: names are text whatever they look like, and only numbers may be missing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_robust.common.csv_files import csv_text
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.names import name_fault
from nnunet_robust.common.schemas import shown
from nnunet_robust.common.text_files import file_fault
from nnunet_robust.eval.results.tables import ARM, TABLES

TEXT = ("dataset", *ARM, "patient", "case", "perturbation", "label", "outcome", "weights")
"""The columns of names; a patient may be called NA."""

ADVICE = "run the sweep again"
_NUMBERS = {name for table in TABLES for name in table.columns} - set(TEXT)


def read_table(path: Path, columns: Sequence[str] = (), advice: str = ADVICE) -> pd.DataFrame:
    """Read a table of a sweep's output folder.

    Args:
        path: a CSV file.
        columns: that it must have; it may have others.
        advice: what to do where something is wrong with it, a clause.

    Returns:
        Its rows; in the columns of `TEXT` strings, in the other columns of `TABLES` floats, NaN where a cell is empty
        or says so.

    Raises:
        UserError: there is no such file, or it is no table; it lacks a column, has text where a number belongs, or a
            name that cannot be one; says in which line.
    """
    text = csv_text(path, columns, advice)
    header = pd.read_csv(io.StringIO(text), nrows=0, dtype=str).columns
    missing = {name: ["", "nan", "NaN", "NA"] for name in header if name not in TEXT}
    try:
        rows = pd.read_csv(
            io.StringIO(text), dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=missing, index_col=False
        )
    except (ValueError, OverflowError) as error:  # ParserError is one
        raise UserError(f"{path}: this is no table ({str(error).strip()}): {advice}") from error
    for name in rows.columns:
        if name in _NUMBERS and not pd.api.types.is_float_dtype(rows[name]):
            rows[name] = _numbers(path, name, rows[name], advice)
        elif name in TEXT:
            _check_names(path, name, rows[name], advice)
    return rows


def _numbers(path: Path, name: str, cells: pd.Series, advice: str) -> pd.Series:
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    if (wrong := (numbers.isna() & cells.notna()).to_numpy()).any():
        at = int(np.argmax(wrong))
        raise file_fault(path, f"{name} must be a number, got {shown(str(cells.iloc[at]))}", advice, at + 2)
    return numbers


def _check_names(path: Path, name: str, cells: pd.Series, advice: str) -> None:
    """Names of an older version, or put there by somebody: none may break a line."""
    for cell in cells.unique():
        if cell and (fault := name_fault(str(cell), path=False)):
            line = int(np.argmax((cells == cell).to_numpy())) + 2
            raise file_fault(path, f"the {name} {shown(cell)!r} {fault}", advice, line)
