"""Text files that others may have touched: read as they are meant, or refused in one line that says why."""

from __future__ import annotations

import codecs
from pathlib import Path

from nnunet_robust.common.errors import UserError

_OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def file_fault(path: Path, what: str, advice: str, line: int | None = None) -> UserError:
    """Make the error of a file: where, what is wrong, and what to do.

    Args:
        path: the file.
        what: is wrong, a clause.
        advice: what to do, a clause.
        line: counted from 1; None where there is none.

    >>> str(file_fault(Path("a.csv"), "it has no rows", "name a test set", line=3))
    'a.csv, line 3: it has no rows: name a test set'
    """
    return UserError(f"{path}{'' if line is None else f', line {line}'}: {what}: {advice}")


def read_text(path: Path, advice: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark, with any line ends.

    Args:
        path: the file.
        advice: what to do where it cannot be read, a clause.

    Returns:
        Its text, with a line feed at the end of each line.

    Raises:
        UserError: there is no such file, it cannot be read, it is empty, or it is no text in UTF-8; says the line.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise file_fault(path, f"this is {'a folder' if path.is_dir() else 'no file'}", advice)
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no {path}: {advice}") from None
    except OSError as error:
        raise file_fault(path, f"it cannot be read ({error.strerror or error})", advice) from error
    if not data.strip(b" \t\r\n\0"):
        raise file_fault(path, "the file is empty" if not data.strip(b" \t\r\n") else "it holds zeros alone", advice)
    return _decoded(data, path, advice).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, path: Path, advice: str) -> str:
    for mark, name in _OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise file_fault(path, f"it is in {name}, not in UTF-8", f"save it as UTF-8, or {advice}")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise file_fault(path, "it holds a byte that is zero: it is damaged or in UTF-16, not in UTF-8", advice, line)
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"the byte 0x{data[error.start]:02x} is no text in UTF-8"
        raise file_fault(path, what, f"save it as UTF-8, or {advice}", line) from error
