"""A YAML file whose values know their lines, checked against a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.schemas import Key, in_words


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
            where, what = in_words(error, key, "the study")
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


class _Constructor(yaml.constructor.SafeConstructor):
    """Makes plain Python values of YAML's nodes."""
