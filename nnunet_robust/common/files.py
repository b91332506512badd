"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from nnunet_robust.common.nifti_files import check_written


@contextlib.contextmanager
def atomic_path(path: Path, shared: bool = False) -> Iterator[Path]:
    """Give a name to write to, in the same folder and with the same ending, that is renamed to `path` at the end.

    What was written is on the disk before it gets its name, and the name is before this returns: a power cut leaves the
    old file or the new one. If anything goes wrong the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to make; its folder is made if need be.
        shared: whether several processes may write it at the same time; what a killed one leaves is not overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{secrets.token_hex(4)}_" if shared else ""
    temporary = path.with_name(f".tmp_{own}{path.name}")  # hidden; writers go by the ending
    try:
        yield temporary
        check_written(temporary)
        flush_to_disk(temporary)
        os.replace(temporary, path)  # noqa: PTH105 -- the tests of a power cut stand in its place
        flush_to_disk(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk the system names no file
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Open a text file (UTF-8, line ends as written) that is there whole or not at all, see `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, see `atomic_path`. Text is written as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content, or the names in a folder, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # only POSIX systems open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
