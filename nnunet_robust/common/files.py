"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def clean_up(temporary: Path) -> Iterator[None]:
    """Remove a file if anything goes wrong."""
    try:
        yield
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Open a text file to write that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with clean_up(temporary):
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
        temporary.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    with atomic_file(path) as file:
        file.write(text)
