"""Reading the tables of a sweep: names are text whatever they look like, and only numbers may be missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nnunet_robust.eval.results.tables import ARM

TEXT = ("dataset", *ARM, "patient", "case", "perturbation", "label", "outcome", "weights")
"""The columns of names; a patient may be called NA."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of a sweep's output folder.

    Args:
        path: a CSV file.

    Returns:
        Its rows; in the columns of `TEXT` strings, in all others NaN where a cell is empty or says so.

    Raises:
        EmptyDataError: the file is empty.
        ParserError: it is not a CSV file.
    """
    missing = {name: ["", "nan", "NaN", "NA"] for name in pd.read_csv(path, nrows=0).columns if name not in TEXT}
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=missing)
