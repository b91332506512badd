"""When a job was begun and how it ended, and whether it has failed for good.

A training that is killed at its time limit goes on in the next attempt, as often as it takes. What counts are attempts
in a row that did not get any further than the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_robust.common.files import flush_to_disk, make_folder, write_atomically
from nnunet_robust.common.json_files import parse_state
from nnunet_robust.study.folder import BEAT_SECONDS, Plan, StudyFolder, myself
from nnunet_robust.study.matrix import Job

_BEGUN = {
    "type": "object",
    "properties": {"began": {"type": "number"}, "run": {"type": "string"}, "progress": {"type": "integer"}},
    "required": ["began", "run", "progress"],
}
_OVER = {"type": "object", "properties": {"seconds": {"type": "number"}}, "required": ["seconds"]}


class Attempts:
    """The attempts at one job. Whoever uses it holds the job's lock.

    Args:
        folder: the study's.
        plan: how it is run.
        job: the job.
    """

    def __init__(self, folder: StudyFolder, plan: Plan, job: Job) -> None:
        self._folder, self._plan, self._job = folder, plan, job
        self._path = folder.attempts(job.id)
        self._close_killed()

    def fruitless(self) -> int:
        """How many attempts of this driver in a row, up to the last one, did not get any further."""
        now, count = progress(self._folder, self._job), 0
        for attempt in reversed(list_attempts(self._path)):
            if attempt["run"] != self._plan.run or attempt["progress"] < now:
                break
            count += 1
        return count

    def seconds(self) -> float:
        """What all attempts took together."""
        return sum(attempt.get("seconds", 0.0) for attempt in list_attempts(self._path))

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Note that an attempt has begun, that it goes on, and when it ends."""
        began = time.time()
        self._note(began=began, run=self._plan.run, progress=progress(self._folder, self._job))
        running = self._folder.running(self._job.id)
        write_atomically(running, json.dumps({**myself(), "since": began, "gpus": self._job.gpus}) + "\n")
        closing = threading.Event()
        heart = threading.Thread(target=_beat, args=(running, closing), daemon=True)
        heart.start()
        try:
            yield
        finally:
            closing.set()
            heart.join()
            self._note(seconds=round(time.time() - began, 1))
            running.unlink(missing_ok=True)

    def _close_killed(self) -> None:
        """Close an attempt whose process had no time to: it lasted until its last sign of life."""
        attempts = list_attempts(self._path)
        if attempts and "seconds" not in attempts[-1]:
            try:
                last = self._folder.running(self._job.id).stat().st_mtime
            except OSError:
                last = attempts[-1]["began"]
            self._note(seconds=round(max(0.0, last - attempts[-1]["began"]), 1))

    def _note(self, **entry: Any) -> None:
        make_folder(self._path.parent)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry))  # the line before may have been cut off
        flush_to_disk(self._path)
        flush_to_disk(self._path.parent)


def list_attempts(path: Path) -> list[dict[str, Any]]:
    """The attempts at a job: `began` (seconds since 1970), `run`, `progress` before it, and `seconds` if it is over."""
    attempts: list[dict[str, Any]] = []
    if not path.is_file():
        return attempts
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    for line in filter(None, lines):
        if begun := parse_state(line, _BEGUN):
            attempts.append(begun)
        elif attempts:
            attempts[-1].update(parse_state(line, _OVER))
    return attempts


def progress(folder: StudyFolder, job: Job) -> int:
    """How far a job has got: the epoch of a training, the bytes of a sweep's results; 0 for the others."""
    if job.stage == "train":
        return epochs_begun(folder.log(job.id))
    if job.stage == "sweep":
        return sum(map(_size, (folder.root / job.what["output"] / "parts").rglob("*.csv")))
    return 0


def _size(file: Path) -> int:
    """Bytes of a file; 0 where the sweep has just removed it."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def epochs_begun(log: Path) -> int:
    """How many epochs nnU-Net says it has begun, over all attempts."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    except OSError:
        return 0
    return max((int(number) + 1 for number in re.findall(r"Epoch (\d+)\s*$", text, re.MULTILINE)), default=0)


def _beat(path: Path, closing: threading.Event) -> None:
    while not closing.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
