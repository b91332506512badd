"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from nnunet_robust.common.nifti_files import check_written

# What file systems say that cannot flush a folder, or do not let us open it: they keep names in ways of their own.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)

_FLUSHED_AT_ONCE = 32
"""Of many files: a disk writes those that wait together in one go."""


@contextlib.contextmanager
def atomic_path(path: Path, shared: bool = False) -> Iterator[Path]:
    """Give a name to write to, in the same folder and with the same ending, that is renamed to `path` at the end.

    What was written is on the disk before it gets its name, and the name is before this returns: a power cut leaves the
    old file or the new one. If anything goes wrong the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to make; its folder is made if need be.
        shared: whether several processes may write it at the same time; what a killed one leaves is not overwritten.
    """
    make_folder(path.parent)
    temporary = temporary_name(path, f"{secrets.token_hex(4)}_" if shared else "")
    temporary.unlink(missing_ok=True)  # what a stranger put there may be a link to elsewhere
    try:
        yield temporary
        check_written(temporary)
        replace_durably(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk the system names no file
            error.filename = str(path)
        raise


def temporary_name(path: Path, own: str = "") -> Path:
    """Return the name that a file has while it is written: hidden, and with the same ending, as writers go by that."""
    return path.with_name(f".tmp_{own}{path.name}")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Open a text file (UTF-8, line ends as written) that is there whole or not at all, see `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, see `atomic_path`. Text is written as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename a file that is written, over `path` if that is there: the content is on the disk first, then the name."""
    flush_to_disk(temporary)
    os.replace(temporary, path)  # noqa: PTH105 -- the tests of a power cut stand in its place
    flush_to_disk(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if need be: all of them are on the disk before this returns."""
    made = list(takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(made):
        flush_to_disk(one.parent)


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if os.name != "posix" and is_folder:
        return  # only POSIX systems open folders
    try:
        descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in _CANNOT_FLUSH:
            raise


def flush_all(paths: Collection[Path]) -> None:
    """Make sure that files and folders are on the disk, all at once: many take little longer than one."""
    if paths:
        with ThreadPoolExecutor(min(_FLUSHED_AT_ONCE, len(paths)), "flush") as pool:
            list(pool.map(flush_to_disk, paths))


def flush_tree(folder: Path) -> None:
    """Make sure that everything in a folder, and in those below it, is on the disk."""
    flush_all([folder, *folder.rglob("*")])
