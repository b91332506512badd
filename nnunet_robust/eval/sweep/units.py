"""Units of work that several processes take from one output folder, without a server and without doing any twice.

A unit is one case under one perturbation, at all its levels, for all models of a run. Whoever works on it holds a
claim: a file that only one process can create, with a heartbeat. What a dead process had claimed is taken over.

Claims are not flushed to the disk as all other files are: after a power cut every process is dead, and a claim that is
lost, empty or cut off is one that nobody holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from nnunet_robust.common import processes
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.json_files import parse_state
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.results.parts import is_disk_full
from nnunet_robust.eval.results.tables import Condition

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""A claim of another machine whose heartbeat did not move while it was watched for so long is taken over."""
_CLAIM = {
    "type": "object",
    "properties": {
        "host": {"type": "string"},
        "pid": {"type": "integer", "minimum": 1, "maximum": processes.LARGEST},
        "started": {"type": "string"},
    },
}
_EMPTY_SECONDS = 5.0  # the same for a claim that nobody has written


@dataclass(frozen=True)
class Unit:
    """What one process computes at a time.

    Attributes:
        case: name of the case.
        perturbation: name of the perturbation, "clean", or of a series.
        images: its conditions, each with the files that it starts from (a series has files of its own for each).
        in_series: whether the files are shown as they are.
    """

    case: str
    perturbation: str
    images: tuple[tuple[Condition, CaseFiles], ...]
    in_series: bool = False

    @property
    def as_it_is(self) -> bool:
        """Whether its images are as their files have them: clean, or of a series."""
        return self.in_series or self.perturbation == Condition.clean().perturbation


def shard(units: Sequence[Unit], text: str | None) -> list[Unit]:
    """Take the units of one of n processes that need not know of each other.

    Args:
        units: all units, in an order that is the same for every process.
        text: "i/n": of every n units the i-th, i from 1; None: all.

    Raises:
        UserError: not such a text.
    """
    if text is None:
        return list(units)
    match = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", text)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(f"--shard {text}: give which of how many, from 1/n to n/n, e.g. 2/8")
    return list(units[int(match[1]) - 1 :: int(match[2])])


def folder_lock(output: Path) -> FileLock:
    """Make the lock of an output folder's files that belong to no unit; the system frees it when a process dies."""
    return FileLock(str(output / ".lock"))


class ClaimLostError(Exception):
    """A unit that this process worked on was taken over by another: it had not been heard of for too long."""


class Claims:
    """The claims of one process. A context manager: while it is open a thread keeps the heartbeats going.

    Args:
        output: the output folder.
        beat_seconds: between heartbeats.
        stale_seconds: see `STALE_SECONDS`.
    """

    def __init__(self, output: Path, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS) -> None:
        self._folder = output / "claims"
        self._lock = folder_lock(output)
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        pid = os.getpid()
        self._text = json.dumps({"host": processes.host(), "pid": pid, "started": processes.started(pid)})
        self._held: set[Path] = set()
        self._watched: dict[Path, tuple[float, float]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        for path in list(self._held):
            self._remove(path)
        self._bury()
        for folder, *_entries in os.walk(self._folder, topdown=False):
            with contextlib.suppress(OSError):  # other processes still work, or have just cleared up too
                Path(folder).rmdir()

    def take(self, unit: Unit) -> bool:
        """Claim a unit; False where another process that lives has it."""
        path = self._path(unit)
        if self._create(path):
            self._held.add(path)
            return True
        before = self._read(path)
        if before is None or not self._is_dead(path, before):
            return False
        with self._lock:  # two that saw the same dead claim must not both have it
            if self._read(path) != before:
                return False
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text(self._text)
            temporary.replace(path)
        self._held.add(path)
        return True

    def release(self, unit: Unit) -> None:
        """Give a unit back: finished, or failed."""
        self._remove(self._path(unit))

    def check(self, unit: Unit) -> None:
        """Make sure that a unit is still this process's own.

        Raises:
            ClaimLostError: it was taken over.
        """
        path = self._path(unit)
        if path not in self._held or self._read(path) != self._text:
            self._held.discard(path)
            raise ClaimLostError(f"{unit.case}, {unit.perturbation}: another process has taken over")

    def _bury(self) -> None:
        """Remove the claims of the dead: of units that were finished when their process was killed."""
        for path in self._all():
            text = self._read(path)
            if text and self._is_dead(path, text):
                with self._lock:
                    if self._read(path) == text:
                        path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        """List the claims of all processes; unlike `glob`, `walk` takes it that folders vanish meanwhile."""
        return [Path(folder, name) for folder, _folders, names in os.walk(self._folder) for name in names]

    def _path(self, unit: Unit) -> Path:
        return self._folder / unit.perturbation / unit.case

    def _create(self, path: Path) -> bool:
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x") as file:
                    file.write(self._text)
            except FileExistsError:
                return False
            except FileNotFoundError:
                continue  # another process has just cleared up the empty folder
            except OSError as error:
                if is_disk_full(error, path.parent):
                    path.unlink(missing_ok=True)  # created, but empty
                raise
            return True

    def _remove(self, path: Path) -> None:
        self._held.discard(path)
        if self._read(path) == self._text:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _is_dead(self, path: Path, text: str) -> bool:
        claim = _parsed(text)
        if os.name == "posix" and claim.get("host") == processes.host() and "pid" in claim:
            return not processes.lives(claim["pid"], claim.get("started", ""))
        # By the watcher's own clock: those of two machines may differ.
        try:
            heartbeat = path.stat().st_mtime
        except FileNotFoundError:
            return False
        now = time.monotonic()
        seen, since = self._watched.get(path, (None, now))
        if seen != heartbeat:
            since = now
            self._watched[path] = (heartbeat, now)
        return now - since > (self._stale_seconds if claim else min(self._stale_seconds, _EMPTY_SECONDS))

    def _beat(self) -> None:
        while not self._closing.wait(self._beat_seconds):
            for path in list(self._held):
                with contextlib.suppress(OSError):  # lost claims are noticed by `check`
                    os.utime(path)


def _parsed(text: str) -> dict[str, Any]:
    """A claim; empty where it is not written yet, or never will be, as its process was killed."""
    return parse_state(text, _CLAIM)
