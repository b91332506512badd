"""A YAML file whose values know their lines, checked against a JSON schema."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from nnunet_robust.common.errors import UserError

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
        UserError: it cannot be read, is not YAML, or has a key twice; with the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot read the study {path} ({reason}): nnunet-robust study init writes an example"
            ) from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{path}, line {line}: this is not YAML: {error.problem}") from error
        self._lines: dict[Key, int] = {(): 1}
        self.data: Any = None
        if root is not None:
            self._note_lines(root, ())
            self.data = _Constructor().construct_document(root)

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
        validator = Draft202012Validator({**rules, "$defs": schema()["$defs"]})
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
            for name, value in node.value:
                below = (*key, name.value)
                if below in self._lines:
                    raise UserError(f"{self.path}, line {name.start_mark.line + 1}: {name.value!r} is there twice")
                self._lines[below] = name.start_mark.line + 1
                self._note_lines(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                below = (*key, index)
                self._lines[below] = value.start_mark.line + 1
                self._note_lines(value, below)

    def _translated(self, error: ValidationError, key: Key) -> tuple[Key, str]:
        """Where a fault is, and what, in words."""
        where = (*key, *error.absolute_path)
        name = _named(where)
        given, limit = error.instance, error.validator_value
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(entry for entry in given if entry not in known)
            return (*where, str(unknown)), f"there is no {unknown!r} {_place(where)}: {suggestion(str(unknown), known)}"
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
                  "maxItems": "a list of at most {}", "pattern": "of the form {}"}  # fmt: skip
        wanted = bounds[str(error.validator)].format(limit)
        return where, f"{name} must be {wanted}, got {_shown(given)}"


class _Constructor(yaml.constructor.SafeConstructor):
    """Makes plain Python values of YAML's nodes."""


def suggestion(given: str, known: Iterable[str]) -> str:
    """What to write instead: the nearest of what there is, and the list."""
    names = list(known)
    # Of three letters, two are soon the same: gpu is not cpu.
    near = difflib.get_close_matches(given, names, n=1) if len(given) > 3 else []
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
    return str(value) if value is not None else "nothing"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)
