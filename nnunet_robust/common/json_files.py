"""The one reader of JSON: what is wrong with a file is one line, with its name, the place, and what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.schemas import check_schema, shown
from nnunet_robust.common.text_files import file_fault, read_text

OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of any object."""

_DEEPEST = 100  # objects and lists in one another
_LONGEST_NUMBER = 400  # digits; the largest number of 64 bits has 309


def read_json(path: Path, advice: str, schema: Mapping[str, Any] = OBJECT, nan: bool = False) -> Any:
    """Read a JSON file and check it.

    Args:
        path: the file.
        advice: what to do where something is wrong with it, a clause: "run the sweep again".
        schema: a JSON schema of what is read from it; other keys may be there.
        nan: whether NaN and infinity are numbers, as for Python's own `json`.

    Returns:
        What it holds.

    Raises:
        UserError: there is no such file, it is no text in UTF-8, no JSON, or not as the schema says; a key is there
            twice, a number is not finite or has hundreds of digits, or it is nested too deep.
    """
    return parse_json(read_text(path, advice), path, advice, schema, nan)


def parse_json(text: str, path: Path, advice: str, schema: Mapping[str, Any] = OBJECT, nan: bool = False) -> Any:
    """Read the text of a JSON file, see `read_json`."""
    try:
        content = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=partial(_float, nan=nan),
            parse_float=partial(_float, nan=nan),
            parse_int=_int,
        )
        _check_depth(content)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip())
        what = "it ends too early, the rest is missing" if cut else f"this is no JSON: {error.msg}"
        raise file_fault(path, what, advice, error.lineno) from error
    except RecursionError as error:
        raise file_fault(path, "it is nested too deep", advice) from error
    except UserError as error:
        raise file_fault(path, str(error), advice) from None
    check_schema(content, schema, lambda what: file_fault(path, what, advice))
    return content


def parse_state(text: str, schema: Mapping[str, Any] = OBJECT) -> dict[str, Any]:
    """Read what our own processes leave for one another, and a kill may leave half-written.

    Args:
        text: of the file, or a line of it.
        schema: as for `read_json`.

    Returns:
        The object; empty where it is none as the schema says.
    """
    try:
        return dict(parse_json(text, Path(), "", schema))
    except UserError:
        return {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{shown(next(name for name in names if names.count(name) > 1))!r} is there twice")
    return found


def _float(text: str, nan: bool) -> float:
    value = float(text)
    if not nan and not math.isfinite(value):
        raise UserError(f"the number {shown(text)} is not finite")
    return value


def _int(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise UserError(f"a number of {len(text)} digits")
    return int(text)


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            value
            for group in level
            if isinstance(group, (dict, list))
            for value in (group.values() if isinstance(group, dict) else group)
            if isinstance(value, (dict, list))
        ]
        if not level:
            return
    raise RecursionError
