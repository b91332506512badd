"""Ctrl-C, SIGTERM and a closed terminal: one way to end, by an exception in the main thread."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

PATIENCE_SECONDS = 10.0
"""So long further signals are ignored, as the command is clearing up; after that the next one ends it at once."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_heeded: list[int] = []


def _forget() -> None:
    """In a process that was forked: end at a signal as if nothing here were.

    Python runs its handlers between two steps of its own; a worker of a pool that is told to end while it waits for a
    lock would wait for ever, and whoever ends the pool with it.
    """
    for number in _heeded:
        signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Stopped(BaseException):
    """The command was told to end. Not a `KeyboardInterrupt`, at which click prints an empty line.

    Attributes:
        number: of the signal.
        kept: what is kept and how to go on, in a sentence; None where only the command's name decides.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept: str | None = None

    @property
    def exit_code(self) -> int:
        """What shells expect of a command that a signal has ended: 128 and its number."""
        return 128 + self.number


@contextlib.contextmanager
def stoppable(until_the_end: bool = False) -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first signal to end, and let nothing disturb the clearing up.

    What was ignored before stays so: `nohup` ignores SIGHUP, and a shell SIGINT of what it starts in the background.
    In another thread than the main one, this does nothing.

    Args:
        until_the_end: after a signal, ignore further ones for good, as Python is about to end, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    began: list[float] = []
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # in a forked process, before `_forget`
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not began:
            began.append(time.monotonic())
            raise Stopped(number)
        elif time.monotonic() - began[0] > PATIENCE_SECONDS:
            os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heeded:
        signal.signal(number, stop)
    _heeded.extend(heeded)
    try:
        yield
    finally:
        del _heeded[len(_heeded) - len(heeded) :]
        for number in heeded:
            signal.signal(number, signal.SIG_IGN if began and until_the_end else before[number])


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started meanwhile ignore Ctrl-C: whoever started them ends them, and they print nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
