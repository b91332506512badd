"""What is checked against a JSON schema, and its faults in words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Key = tuple["str | int", ...]
"""Where a value stands: keys and indices, from the root."""

_IN_WORDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false",
             "array": "a list", "object": "a mapping", "null": "null"}  # fmt: skip
_BOUNDS = {"minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}",
           "exclusiveMaximum": "less than {}", "minItems": "a list of at least {}",
           "maxItems": "a list of at most {}", "pattern": "of the form {}",
           "maxLength": "a text of at most {} characters"}  # fmt: skip
_LONGEST = 60  # letters of a value that are shown


def check_schema(content: Any, schema: Mapping[str, Any], fault: Callable[[str], Exception]) -> None:
    """Check what was read against a JSON schema.

    Args:
        content: what was read.
        schema: of the keywords that `in_words` knows.
        fault: makes the error of what is wrong, a clause.

    Raises:
        Exception: what `fault` makes of the first fault.
    """
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(content):
        raise fault(in_words(error, (), "the file")[1])


def in_words(error: ValidationError, key: Key, whole: str) -> tuple[Key, str]:
    """Where a fault is, and what.

    Args:
        error: of a keyword that is known here.
        key: of the part that was checked.
        whole: what the root is called.
    """
    where = (*key, *error.absolute_path)
    name = _named(where, whole)
    given, limit = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(entry for entry in given if entry not in known)
        place = _place(where, whole)
        return (*where, unknown), f"there is no {shown(unknown)!r} {place}: {suggestion(str(unknown), known)}"
    if error.validator == "required":
        missing = next(entry for entry in limit if entry not in given)
        return where, f"{_place(where, whole)}, {missing!r} is missing"
    if error.validator == "type":
        wanted = " or ".join(_IN_WORDS[kind] for kind in ([limit] if isinstance(limit, str) else limit))
        hint = f" (write {float(given)})" if "number" in wanted and _is_number(given) else ""
        return where, f"{name} must be {wanted}, got {shown(given)}{hint}"
    if error.validator in ("enum", "const"):
        values = [entry for entry in (limit if error.validator == "enum" else [limit]) if entry is not None]
        return where, f"{name} is {shown(given)}: {suggestion(str(given), [shown(value) for value in values])}"
    return where, f"{name} must be {_BOUNDS[str(error.validator)].format(limit)}, got {shown(given)}"


def suggestion(given: str, known: Iterable[str]) -> str:
    """What to write instead: the nearest of what there is, and the list."""
    names = list(known)
    # Of three letters, two are soon the same: gpu is not cpu.
    near = difflib.get_close_matches(given, names, n=1) if 3 < len(given) < 100 else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}"


def shown(value: Any) -> str:
    """A value in a message: short, and on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else f"{len(value)} values" if value else "an empty list"
    text = str(value) if value is not None else "nothing"
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _named(key: Sequence[str | int], whole: str) -> str:
    """`folds[0]`, `resources.train`."""
    text = ""
    for step in key:
        text += f"[{step}]" if isinstance(step, int) else f".{shown(step)}" if text else shown(step)
    return text or whole


def _place(key: Sequence[str | int], whole: str) -> str:
    return f"in {_named(key, whole)}" if key else "at the top level"


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
