"""What is printed must not cost the work: a reader that ends early, as `head` does, a full disk, closed streams."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any


class _Raw(io.RawIOBase):
    """The end of a stream that goes on as if nothing was there to write to, once that is so."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.fault: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a pipe that does not wait for its reader
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.fault = self.fault or error
                _to_nowhere(self._descriptor)  # for everything else that prints: threads, libraries, other processes
                return len(data)


@contextlib.contextmanager
def lasting_streams() -> Iterator[Callable[[], OSError | None]]:
    """Replace the standard streams by such that take what is printed even where nobody can read it any more.

    They are replaced where they are those that Python was started with, and for as long as this is entered. Letters
    that the terminal's encoding lacks are printed as escapes.

    Yields:
        A function that tells what keeps the standard output from being written; None where nothing does.
    """
    before = sys.stdout, sys.stderr
    if sys.stdin is None:
        _to_nowhere(0)
    made = {name: _lasting(name, descriptor) for name, descriptor in (("stdout", 1), ("stderr", 2))}

    def fault() -> OSError | None:
        sys.stdout.flush()
        return None if made["stdout"] is None else made["stdout"].fault

    try:
        yield fault
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(name: str, descriptor: int) -> _Raw | None:
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__"):
        return None  # somebody else's, as in tests
    if stream is None:  # closed by the shell: the next file that is opened would get its number
        _to_nowhere(descriptor)
    else:
        stream.flush()
    raw = _Raw(descriptor)
    setattr(sys, name, _text(raw, stream))
    return raw


def _text(raw: _Raw, like: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=raw.fileno() == 2 or raw.isatty(),
    )


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
