"""A disk that forgets: what may be left of a folder when the power goes, after each step of a program.

What a program does to a folder is watched: at every call that orders writes (`os.fsync`, `os.replace`, `os.mkdir`,
`os.unlink`) the folder is compared with how it was, which tells what was written in between. From the record of steps,
`leftovers` makes every state in which the disk may be found, by the weakest promises of POSIX:

- what was written to a file since its last fsync is there, is not, is there in part, or is zeros of the right length;
- of the changes of names in a folder since its last fsync any may be there and any may be missing; each by itself is
  whole or not at all;
- an fsync of a file says nothing of its name, and one of a folder nothing of its files' contents.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Leftover = dict[str, bytes]
"""Relative path -> content, of the files that can be reached."""


@dataclass(frozen=True)
class Step:
    """One step: `name` of write, link, unlink, rename, mkdir, fsync."""

    name: str
    where: int  # the inode that changes: a file's content, a folder's names; or that is flushed
    what: Any = None


@dataclass
class Recorder:
    """The steps of a program in `root`, in order."""

    root: Path
    steps: list[Step] = field(default_factory=list)
    before: tuple[dict[int, bytes], dict[int, dict[str, int]]] = field(default_factory=lambda: ({}, {}))
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[int, dict[str, int]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def watch(cls, root: Path, patch: pytest.MonkeyPatch) -> Recorder:
        """Watch from now on; what is there is on the disk."""
        recorder = cls(root)
        recorder.look()
        recorder.before = (dict(recorder._contents), {at: dict(of) for at, of in recorder._names.items()})
        recorder.steps.clear()
        for name in ("fsync", "replace", "rename", "mkdir", "unlink"):
            patch.setattr(os, name, recorder._watched(name, getattr(os, name)))
        return recorder

    def _watched(self, name: str, real: Any) -> Any:
        def call(first: Any, *rest: Any, **more: Any) -> Any:
            with self._lock:
                self.look()
                moved = self._moved(first, rest[0]) if name in ("replace", "rename") else None
                result = real(first, *rest, **more)
                if moved is not None:
                    self._note(Step("rename", *moved))
                elif name == "fsync":
                    self.steps.append(Step("fsync", os.fstat(first).st_ino))
                self.look()
                return result

        return call

    def _moved(self, source: Any, target: Any) -> tuple[int, Any] | None:
        source, target = Path(source), Path(target)
        if source.parent != target.parent or self.root not in (source.parent, *source.parents):
            return None
        return source.parent.stat().st_ino, (source.name, target.name, source.stat().st_ino)

    def _note(self, step: Step) -> None:
        self.steps.append(step)
        old, new, inode = step.what
        self._names[step.where].pop(old, None)
        self._names[step.where][new] = inode

    def look(self) -> None:
        """Note what changed since the last look."""
        for folder, _, files in os.walk(self.root):
            at = Path(folder).stat().st_ino
            entries = {entry.name: entry.inode() for entry in os.scandir(folder)}
            known = self._names.setdefault(at, {})
            for name in known.keys() - entries.keys():
                self.steps.append(Step("unlink", at, name))
            for name, inode in entries.items():
                if known.get(name) != inode:
                    self.steps.append(Step("link", at, (name, inode)))
            self._names[at] = entries
            for name in files:
                path = Path(folder, name)
                inode, content = path.stat().st_ino, path.read_bytes()
                if self._contents.get(inode) != content:
                    self.steps.append(Step("write", inode, content))
                    self._contents[inode] = content

    def leftovers(self, done: int) -> Iterator[Leftover]:
        """Every state in which the disk may be found if the power goes after `done` steps."""
        contents, names = dict(self.before[0]), {at: dict(of) for at, of in self.before[1].items()}
        pending: dict[int, list[Step]] = {}
        written: dict[int, bytes] = {}
        for step in self.steps[:done]:
            if step.name == "write":
                written[step.where] = step.what
            elif step.name == "fsync":
                if step.where in written:
                    contents[step.where] = written.pop(step.where)
                for change in pending.pop(step.where, []):
                    _apply(names, change)
            else:
                pending.setdefault(step.where, []).append(step)
        changes = [change for of_folder in pending.values() for change in of_folder]
        choices = [list(_partly(contents.get(inode, b""), new)) for inode, new in written.items()]
        root = self.root.stat().st_ino
        for chosen in itertools.product((True, False), repeat=len(changes)):
            found = {at: dict(of) for at, of in names.items()}
            for change in itertools.compress(changes, chosen):
                _apply(found, change)
            for texts in itertools.product(*choices):
                yield dict(_reached(root, "", found, {**contents, **dict(zip(written, texts, strict=True))}))


def _apply(names: dict[int, dict[str, int]], step: Step) -> None:
    of_folder = names.setdefault(step.where, {})
    if step.name == "unlink":
        of_folder.pop(step.what, None)
    elif step.name == "rename":
        old, new, inode = step.what
        of_folder.pop(old, None)
        of_folder[new] = inode
    else:
        name, inode = step.what
        of_folder[name] = inode


def _partly(old: bytes, new: bytes) -> set[bytes]:
    """What may be there of a content that was not flushed."""
    kept = next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    middle = (kept + len(new)) // 2
    zeros = b"\0" * (len(new) - kept)
    hole = new[:kept] + b"\0" * (middle - kept) + new[middle:]
    return {old, new, new[:kept], new[:middle], new[:kept] + zeros, hole}


def _reached(at: int, where: str, names: dict[int, dict[str, int]], contents: dict[int, bytes]) -> Iterator[Any]:
    for name, inode in names.get(at, {}).items():
        if inode in names:
            yield from _reached(inode, f"{where}{name}/", names, contents)
        else:
            yield f"{where}{name}", contents.get(inode, b"")
