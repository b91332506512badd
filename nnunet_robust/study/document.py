"""A YAML file whose values know their lines, checked against a JSON schema."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from nnunet_robust.common.errors import UserError
from nnunet_robust.study.plain_yaml import FaultAt, compose, construct, line_of, read_text

Key = tuple["str | int", ...]
"""Where a value stands: keys and indices, from the root."""

_IN_WORDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false",
             "array": "a list", "object": "a mapping", "null": "null"}  # fmt: skip


@cache
def schema() -> dict[str, Any]:
    """The schema of a study, `schema.yaml`."""
    text = resources.files("nnunet_robust.study").joinpath("schema.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


class Document:
    """A YAML file.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read, is not plain YAML (see `plain_yaml`), or has a key twice; with the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Key, int] = {(): 1}
        self.data: Any = None
        try:
            root = compose(read_text(path))
            if root is not None:
                self._note_lines(root, ())
                self.data = construct(root)
        except OSError as error:
            raise UserError(
                f"cannot read the study {path} ({error.strerror or error}): nnunet-robust study init writes an example"
            ) from error
        except FaultAt as fault:
            raise UserError(f"{path}, line {fault.line}: {fault}") from fault

    def fault(self, key: Key, what: str) -> UserError:
        """An error about the value at `key`, with file and line."""
        while key not in self._lines:
            key = key[:-1]
        return UserError(f"{self.path}, line {self._lines[key]}: {what}")

    def check(self, rules: Mapping[str, Any], key: Key = ()) -> None:
        """Check a part of the file against a schema.

        Args:
            rules: a JSON schema, with the `$defs` of `schema()`.
            key: the part.

        Raises:
            UserError: the first fault, by line.
        """
        part = self.data
        for step in key:
            part = part[step]
        validator = _Validator({**rules, "$defs": schema()["$defs"]})
        faults = []
        for error in validator.iter_errors(part):
            where, what = self._translated(error, key)
            # A key that is missing may only be misspelt: the one that is unknown comes first.
            faults.append((error.validator == "required", self._lines.get(where, 0), where, what))
        if faults:
            _, _, where, what = min(faults, key=lambda fault: fault[:2])
            raise self.fault(where, what)

    def _note_lines(self, node: yaml.Node, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for name, value in node.value:
                if name.value in seen:
                    raise FaultAt(line_of(name), f"{_short(name.value)!r} is there twice")
                seen.add(name.value)
                below = (*key, name.value)
                self._lines[below] = line_of(name)
                self._note_lines(value, below)
            for name, value in _merged(node):
                if name.value not in seen:
                    below = (*key, name.value)
                    self._lines[below] = line_of(name)
                    self._note_lines(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                below = (*key, index)
                self._lines[below] = line_of(value)
                self._note_lines(value, below)

    def _translated(self, error: ValidationError, key: Key) -> tuple[Key, str]:
        """Where a fault is, and what, in words."""
        where = (*key, *error.absolute_path)
        name = _named(where)
        given, limit = error.instance, error.validator_value
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(entry for entry in given if entry not in known)
            what = f"there is no {_short(unknown)!r} {_place(where)}: {suggestion(unknown, known)}"
            return (*where, unknown), what
        if error.validator == "required":
            missing = next(entry for entry in limit if entry not in given)
            return where, f"{_place(where)}, {missing!r} is missing"
        if error.validator == "type":
            wanted = " or ".join(_IN_WORDS[kind] for kind in ([limit] if isinstance(limit, str) else limit))
            hint = f" (write {float(given)})" if "number" in wanted and _is_number(given) else ""
            return where, f"{name} must be {wanted}, got {_shown(given)}{hint}"
        if error.validator in ("enum", "const"):
            values = [entry for entry in (limit if error.validator == "enum" else [limit]) if entry is not None]
            return where, f"{name} is {_shown(given)}: {suggestion(str(given), [_shown(value) for value in values])}"
        bounds = {"minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}",
                  "exclusiveMaximum": "less than {}", "minItems": "a list of at least {}",
                  "maxItems": "a list of at most {}", "pattern": "of the form {}",
                  "maxLength": "a text of at most {} characters"}  # fmt: skip
        wanted = bounds[str(error.validator)].format(limit)
        return where, f"{name} must be {wanted}, got {_shown(given)}"


def _merged(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys and values that `<<` brings into a mapping."""
    for name, value in node.value:
        if name.tag == "tag:yaml.org,2002:merge":
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(source, yaml.MappingNode):
                    yield from source.value
                    yield from _merged(source)


def _matches(_: Any, pattern: str, given: Any, rules: Any) -> Iterator[ValidationError]:
    """JSON schema's `pattern`, of the whole text: Python's `$` also stands before a line's end."""
    if isinstance(given, str) and not re.fullmatch(pattern, given):
        yield ValidationError(f"{given!r} is not of the form {pattern}")


_Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _matches},
    # JSON takes 901.0 for a whole number, and names are made of these.
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, given: isinstance(given, int) and not isinstance(given, bool)
    ),
)


def suggestion(given: str, known: Iterable[str]) -> str:
    """What to write instead: the nearest of what there is, and the list."""
    names = list(known)
    # Of three letters, two are soon the same: gpu is not cpu.
    near = difflib.get_close_matches(given, names, n=1) if 3 < len(given) < 100 else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}"


def _named(key: Sequence[str | int]) -> str:
    """`folds[0]`, `resources.train`."""
    text = ""
    for step in key:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "the study"


def _place(key: Sequence[str | int]) -> str:
    return f"in {_named(key)}" if key else "at the top level"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else f"{len(value)} values" if value else "an empty list"
    return _short(str(value)) if value is not None else "nothing"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
