"""What would not fit into this machine's memory: refused before it is begun, with what it would take."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nnunet_robust.common.errors import UserError

_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container, or of a cluster's job, as the second and the first version of Linux's control groups tell it."""

_CGROUP_USED = (
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
)
"""For each: what is used, and the file and the name of the part of it that only keeps files at hand."""


def memory_of_machine() -> int | None:
    """Return the bytes of memory that processes here may take in all; None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _CGROUP:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(file).read_text()))
    return min(found, default=None)


def memory_available() -> int | None:
    """Return the bytes of memory that are free now, files at hand not counted; None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        found.append(1024 * _numbers("/proc/meminfo")["MemAvailable"])
    for limit, (used, statistics, kept) in zip(_CGROUP, _CGROUP_USED, strict=True):
        with contextlib.suppress(OSError, ValueError, KeyError):
            in_use = int(Path(used).read_text()) - _numbers(statistics)[kept]
            found.append(max(0, int(Path(limit).read_text()) - in_use))
    return min(found) if found else memory_of_machine()


def _numbers(file: str) -> dict[str, int]:
    """The lines of a file of the kernel's: "name number", "name: number kB"."""
    lines = (line.replace(":", " ").split() for line in Path(file).read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def require_memory(what: str, needed: int, advice: str) -> None:
    """Refuse what takes more memory than this machine has.

    Args:
        what: would take it, as "--size 4000".
        needed: bytes, no more than it surely takes.
        advice: what to do.

    Raises:
        UserError: says how much it would take, and how much there is.
    """
    there = memory_of_machine()
    if there is not None and needed > there:
        raise UserError(f"{what} takes {in_bytes(needed)} of memory, and this machine has {in_bytes(there)}: {advice}")


def in_bytes(number: float) -> str:
    """Write a number of bytes in three digits.

    >>> in_bytes(8e13), in_bytes(24_700_000_000)
    ('80 TB', '24.7 GB')
    """
    for factor, unit in ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 1000 * factor else f"{number / factor:.3e} {unit}"
    return f"{number:.0f} bytes"
