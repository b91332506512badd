"""Whether a process that left its name in a file still lives: for locks and claims that outlast a kill."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

LARGEST = 2**31 - 1
"""The largest number that a process can have."""


def host() -> str:
    """Name the place where process ids mean the same: a machine, and on Linux a container's own numbering."""
    with contextlib.suppress(OSError, AttributeError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def started(pid: int) -> str:
    """Return when a process began, where the system says so: ids are given out again."""
    return fields[19] if len(fields := _stat(pid)) > 19 else ""


def lives(pid: int, began: str) -> bool:
    """Tell whether a process of this machine is running.

    Args:
        pid: its id.
        began: what `started` returned for it; empty where that is not known.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if _stat(pid)[:1] == ["Z"]:  # dead, and nobody has asked how it ended: a container may have no init that does
        return False
    return not began or started(pid) in ("", began)


def _stat(pid: int) -> list[str]:
    """Linux's /proc/<pid>/stat from the state on; empty elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
