"""What the commands print: tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")


def show(renderable: Any) -> None:
    """Print what rich can render; where nobody looks, as wide as tables need."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(renderable)


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


def bar(what: str) -> Callable[[Sequence[_T]], Iterable[_T]]:
    """A progress bar on stderr around what is gone through."""
    from rich.console import Console
    from rich.progress import track

    def tracked(items: Sequence[_T]) -> Any:
        return track(items, what, console=Console(stderr=True))

    return tracked
