"""A YAML file whose values know their lines, checked against a JSON schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.schemas import Key, in_words, shown
from nnunet_robust.study.plain_yaml import FaultAt, compose, construct, line_of, read_text


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
            where, what = in_words(error, key, "the study")
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
                    raise FaultAt(line_of(name), f"{shown(name.value)!r} is there twice")
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
