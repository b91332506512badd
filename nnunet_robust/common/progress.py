"""What is done of how much: a bar on a terminal, a line every minute elsewhere, and the same lines in a log file."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

FIRST_SECONDS = 5.0
"""The first line comes after so long; work that is shorter has its last line only."""
EVERY_SECONDS = 60.0

_Item = TypeVar("_Item")
_shown: list[Progress] = []


class Rate(NamedTuple):
    """How fast work goes.

    Attributes:
        done: items that are finished.
        total: items that there are; None: not known yet.
        passed: seconds since the beginning.
        each: seconds an item, on average; the first one is left out where there are others, as it loads what all use.
            None: none is finished.
    """

    done: int
    total: int | None
    passed: float
    each: float | None

    @property
    def left(self) -> float | None:
        """Seconds that are left at this rate; None: nobody knows."""
        return None if self.each is None or self.total is None else max(0, self.total - self.done) * self.each

    def __str__(self) -> str:
        """Say it in words.

        Example:
            >>> print(Rate(30, 120, 60.0, 2.0))
            30 of 120 (25 %), 30 a minute, 0:01:00 passed, 0:03:00 left
        """
        if self.total is None:
            return f"loading, {duration(self.passed)} passed"
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        speed = "" if self.each is None else f", {_speed(self.each)}"
        left = "not known how long" if self.left is None and self.total else duration(self.left or 0)
        return f"{self.done} of {self.total}{share}{speed}, {duration(self.passed)} passed, {left} left"


class Progress:
    """Shows how far a piece of work is, on the standard error stream. A context manager.

    On a terminal it is a bar. Into a file or a pipe it writes a line after a few seconds, one every minute and one at
    the end, without control characters.

    Args:
        what: is done with each item, for instance "measuring".
        log: a file that the same lines are appended to, each with the time and the process.
    """

    def __init__(self, what: str, log: Path | None = None) -> None:
        self._what, self._log = what, log
        self._detail = ""
        self._done, self._total = 0, None  # type: int, int | None
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = self._began
        self._bar = _bar(self) if _on_a_terminal() else None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        _shown.append(self)
        if self._bar is not None:
            self._bar.start()
        if self._bar is None or self._log is not None:
            self._thread = threading.Thread(target=self._beat, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def start(self, total: int) -> None:
        """Say how many items there are; again where that has changed."""
        self._total = total

    def step(self, detail: str = "") -> None:
        """Say that one more is finished, and which."""
        self._done += 1
        self._detail = "".join(letter if letter.isprintable() else "?" for letter in detail)
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is None:
            self._print(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._note(text)

    def over(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Go through items, each of which is finished when the next is asked for."""
        with self:
            known = list(items)
            self.start(len(known))
            for item in known:
                yield item
                self.step()

    @property
    def rate(self) -> Rate:
        """How fast it goes."""
        each = None
        if self._first is not None:
            since, done = (self._first, self._done - 1) if self._done > 1 else (self._began, 1)
            each = (self._last - since) / done
        return Rate(self._done, self._total, time.monotonic() - self._began, each)

    @property
    def text(self) -> str:
        """The line, as it is now."""
        return f"{self._what}: {self.rate}" + (f", {self._detail}" if self._detail else "")

    def close(self, finished: bool = False) -> None:
        """End the display. Where the work was broken off the log alone says so: the command has its own last line."""
        if self not in _shown:
            return
        _shown.remove(self)
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()
        elif finished:
            self._print(self.text)
        if self._total is not None:
            self._note(self.text if finished else f"{self.text}, stopped")

    def _beat(self) -> None:
        seconds = FIRST_SECONDS
        while not self._closing.wait(seconds):
            seconds = EVERY_SECONDS
            if self._bar is None:
                self._print(self.text)
            if self._total is not None:  # before that a run has no right to write there
                self._note(self.text)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone: the work goes on
            print(text, file=sys.stderr, flush=True)

    def _note(self, text: str) -> None:
        if self._log is None or not self._log.parent.is_dir():
            return
        who = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {socket.gethostname()} {os.getpid()}"
        # On a full disk the work itself says so.
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{who} {text}\n")


@contextlib.contextmanager
def ended_progress() -> Iterator[None]:
    """End every display that an error leaves: what is printed then must not stand in the middle of a bar."""
    try:
        yield
    finally:
        for progress in list(_shown):
            progress.close()


def duration(seconds: float) -> str:
    """Write a time as hours, minutes and seconds.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _speed(each: float) -> str:
    for seconds, name in ((1.0, "second"), (60.0, "minute"), (3600.0, "hour")):
        if each <= seconds:
            return f"{seconds / max(each, 1e-3):.3g} a {name}"
    return f"{each / 3600:.3g} hours each"


def _on_a_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _bar(progress: Progress) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Words(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(progress.text, no_wrap=True, overflow="ellipsis")

    class Done(BarColumn):
        def render(self, task: Task):  # type: ignore[no-untyped-def]
            rate = progress.rate
            task.total, task.completed = rate.total, rate.done
            return super().render(task)

    shown = RichProgress(Done(bar_width=20), Words(), console=Console(stderr=True))
    shown.add_task("", total=None)
    return shown
