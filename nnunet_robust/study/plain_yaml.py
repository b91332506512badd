"""YAML files that somebody else may have written: plain values, within limits, or the line that is none.

A study needs texts, numbers, lists and mappings whose keys are texts. Whatever else YAML knows (tags, dates, keys that
are lists, several documents) is refused, and so is what takes long to read: see the limits below. Anchors, aliases and
merge keys work; what an alias stands for counts as often as it is used.
"""

from __future__ import annotations

import math
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1_000_000
MOST_VALUES = 10_000
"""Values of a file, where each alias counts as what it stands for."""
MOST_LEVELS = 20
"""Lists and mappings inside one another."""
MOST_CHARACTERS = 4_000
"""Characters of a text: the longest path that Linux knows has 4096 bytes."""
MOST_DIGITS = 30

_CORE = "tag:yaml.org,2002:"
_KINDS = {"int": "a number", "float": "a number", "bool": "true or false", "null": "nothing", "value": "nothing"}
_CODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class FaultAt(Exception):
    """What is wrong with a file, and the line (from 1)."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with a byte order mark or without.

    Raises:
        OSError: it cannot be read, or is no regular file.
        FaultAt: it is too large, not in UTF-8, or has control characters.
    """
    # Without O_NONBLOCK a named pipe that nobody writes to would hold up the command for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a regular file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise FaultAt(1, f"the file has more than {MOST_BYTES} bytes: a study is a short text")
    if coding := _CODINGS.get(content[:2]):
        raise FaultAt(1, f"the file is in {coding}: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FaultAt(line, f"byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8") from None
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise FaultAt(line, f"the character U+{ord(found[0]):04X} cannot be printed: remove it")
    return text


def compose(text: str) -> yaml.Node | None:
    """Read YAML as a tree of nodes, which know their lines; None for an empty file.

    Raises:
        FaultAt: it is not YAML, or not plain.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        raise FaultAt(mark.line + 1 if mark else 1, f"this is not YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError):  # a version or the number of a character that there is not
        raise FaultAt(loader.line + 1, "this is not YAML: a number is out of range") from None
    finally:
        loader.dispose()


def construct(node: yaml.Node) -> Any:
    """Make plain Python values of what `compose` returned.

    Raises:
        FaultAt: a merge key is given something that is not a mapping.
    """
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FaultAt(mark.line + 1 if mark else 1, f"this is not YAML: {error.problem}") from None


def line_of(node: yaml.Node) -> int:
    """The line of a node, from 1."""
    return int(node.start_mark.line) + 1


class _Loader(yaml.SafeLoader):
    """Makes nodes within the limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of a finished node: values and levels
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self._use(event, line)
            return super().compose_node(parent, index)
        _check_tag(event, line)
        before = self._values
        self._count(1, line)
        self._level += 1
        self._check_level(self._level, line)
        node = super().compose_node(parent, index)
        self._level -= 1
        assert node is not None
        _check_node(node)
        below = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
        levels = 1 + max((self._sizes[id(child)][1] for child in below if isinstance(child, yaml.Node)), default=0)
        self._sizes[id(node)] = (self._values - before, levels)
        return node

    def _use(self, event: yaml.AliasEvent, line: int) -> None:
        if (target := self.anchors.get(event.anchor)) is None:
            return  # PyYAML says so
        if id(target) not in self._sizes:
            raise FaultAt(line, f"*{event.anchor} is inside of what it stands for")
        values, levels = self._sizes[id(target)]
        self._count(values, line)
        self._check_level(self._level + levels, line)

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise FaultAt(
                line, f"from here on there are more than {MOST_VALUES} values, each alias counted as often as used"
            )

    def _check_level(self, levels: int, line: int) -> None:
        if levels > MOST_LEVELS:
            raise FaultAt(line, f"more than {MOST_LEVELS} lists and mappings inside one another")


# A study has no dates: 2024-02-31 is a text, as good a name as any.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != f"{_CORE}timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _check_tag(event: Any, line: int) -> None:
    tag = event.tag
    if tag in (None, "!") or (tag == f"{_CORE}str" and isinstance(event, yaml.ScalarEvent)):
        return
    raise FaultAt(line, f"the tag {tag.replace(_CORE, '!!')[:80]} is not known: write the value without it")


def _check_node(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    elif isinstance(node, yaml.MappingNode):
        for name, _ in node.value:
            _check_key(name)


def _check_scalar(node: yaml.ScalarNode) -> None:
    text, tag = node.value, node.tag.removeprefix(_CORE)
    if len(text) > MOST_CHARACTERS:
        raise FaultAt(line_of(node), f"a text of {len(text)} characters: at most {MOST_CHARACTERS} are read")
    if odd := next((character for character in text if _is_odd(character)), ""):
        raise FaultAt(
            line_of(node), f"a text with the character U+{ord(odd):04X}: texts are one line that can be printed"
        )
    if tag in ("int", "float"):
        _check_number(node, text, tag)


def _check_number(node: yaml.ScalarNode, text: str, kind: str) -> None:
    if len(text) > MOST_DIGITS:
        raise FaultAt(line_of(node), f"a number of {len(text)} characters: at most {MOST_DIGITS} are read")
    if ":" in text:
        raise FaultAt(
            line_of(node), f"{text} would be read as a number in base 60: write it in quotes, or as one number"
        )
    constructor = yaml.constructor.SafeConstructor()
    try:
        value = constructor.construct_yaml_float(node) if kind == "float" else constructor.construct_yaml_int(node)
    except (ValueError, IndexError):
        raise FaultAt(line_of(node), f"{text} is not a number") from None
    if not math.isfinite(value):
        raise FaultAt(line_of(node), f"{text} is not a finite number")


def _check_key(name: yaml.Node) -> None:
    if not isinstance(name, yaml.ScalarNode):
        raise FaultAt(line_of(name), "a key is a text, not a list or a mapping")
    kind = name.tag.removeprefix(_CORE)
    if kind not in ("str", "merge"):
        raise FaultAt(line_of(name), f"the key {name.value!r} is read as {_KINDS.get(kind, kind)}: write it in quotes")


def _is_odd(character: str) -> bool:
    """Whether a character ends a line, controls a terminal or is half of one."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
