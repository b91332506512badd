"""What is printed: tables and progress bars for people, and nothing of what nnU-Net prints meanwhile."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_WITHOUT_TERMINAL = 160
"""Characters of a line, where the output goes into a file or a pipe."""


def show(table: RenderableType) -> None:
    """Print a table, or whatever else rich can render, on the standard output."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _WITHOUT_TERMINAL).print(table)


def warn(text: str) -> None:
    """Print what a user should know, a line, on the standard error stream."""
    print(f"warning: {text}", file=sys.stderr)


def bar(what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Make a function that wraps the items of a loop in a progress bar on the standard error stream.

    Args:
        what: is done with each item, for instance "measuring".
    """
    from rich.console import Console
    from rich.progress import track

    return lambda items: track(items, what, console=Console(stderr=True))


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep what nnU-Net prints for a single prediction off the screen, as it would tear the progress bar.

    It holds for the whole process: several threads must not enter it.
    """
    return contextlib.redirect_stdout(io.StringIO())
