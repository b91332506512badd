"""Names of cases, datasets, labels and the like: what may become a file's name and stand in a table."""

from __future__ import annotations

import unicodedata

from nnunet_robust.common.errors import UserError

_LONGEST = 200  # characters; file systems take 255 bytes
_CONTROLS = {"Cc": "a control character", "Cs": "a byte that is no text", "Zl": "a line break", "Zp": "a line break"}


def check_name(name: str, what: str, path: bool = True) -> str:
    """Make sure that a name can stand in a table, and can be the name of a file or a folder.

    Args:
        name: to check.
        what: it is the name of, for messages: "case", "label".
        path: whether it becomes (a part of) a file's name.

    Returns:
        The name.

    Raises:
        UserError: it is empty, or has a line break, another control character or a byte that is no text; or, for a
            file's name, a "/", or it is "." or "..", begins with "-", or is very long.

    >>> check_name("tex_001", "case")
    'tex_001'
    >>> check_name("a\\nb", "case")
    Traceback (most recent call last):
    nnunet_robust.common.errors.UserError: the case 'a\\nb' has a control character in its name: rename it
    """
    if not (fault := name_fault(name, path)):
        return name
    cut = name if len(name) <= _LONGEST else f"{name[:40]}..."
    raise UserError(f"the {what} {cut!r} {fault}: rename it")


def name_fault(name: str, path: bool = True) -> str:
    """Say what is wrong with a name, see `check_name`, a clause; empty where nothing is."""
    if not name.strip():
        return "has no name"
    for letter in name:
        if kind := _CONTROLS.get(unicodedata.category(letter)):
            return f"has {kind} in its name"
    if not path:
        return ""
    if "/" in name or name in (".", ".."):
        return "has the name of a path"
    if name.startswith("-"):
        return "has a name that begins with '-', which commands take for an option"
    return f"has a name of {len(name)} characters, which no file can have" if len(name) > _LONGEST else ""
