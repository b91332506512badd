"""What is printed: tables and progress for people, and nothing of what nnU-Net prints meanwhile."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nnunet_robust.common.progress import Progress

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
    """Make a function that goes through the items of a loop and shows how far it is, see `Progress`.

    Args:
        what: is done with each item, for instance "measuring".
    """
    return lambda items: Progress(what).over(items)


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep what nnU-Net prints for a single prediction off the screen, as it would tear the progress bar.

    It holds for the whole process: several threads must not enter it.
    """
    return contextlib.redirect_stdout(io.StringIO())
