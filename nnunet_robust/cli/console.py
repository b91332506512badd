"""How a data frame is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_robust.common.console import show

if TYPE_CHECKING:
    import pandas as pd


def print_table(frame: pd.DataFrame) -> None:
    """Print a data frame as a table, three digits; a column that says the same in every row is left out."""
    from rich.table import Table

    if len(frame) > 1:
        frame = frame.drop(
            columns=[name for name in ("dataset", "label") if name in frame and frame[name].nunique() == 1]
        )
    table = Table()
    for name in frame.columns:
        table.add_column(str(name), overflow="fold", justify="right" if frame[name].dtype.kind in "if" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    show(table)
