"""Whether a NIfTI file is whole: ITK writes what a full disk takes of it, and says nothing."""

from __future__ import annotations

import errno
import gzip
import math
import os
import struct
from pathlib import Path

_HEADER = 352
"""Bytes of a NIfTI-1 header, with the flag that follows it."""


def check_written(path: Path) -> None:
    """Make sure that a file that was just written is whole, where it is a NIfTI file.

    Args:
        path: of any file; those of other endings pass.

    Raises:
        OSError: ENOSPC, as it is shorter than its header says.
    """
    if path.name.endswith((".nii", ".nii.gz")) and not _is_whole(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _is_whole(path: Path) -> bool:
    zipped = path.name.endswith(".gz")
    with path.open("rb") as file:
        try:
            header = gzip.GzipFile(fileobj=file).read(_HEADER) if zipped else file.read(_HEADER)
        except (EOFError, gzip.BadGzipFile):
            return False
        size = file.seek(0, os.SEEK_END)
        if zipped:  # the last four bytes of such a file are the length of what it holds
            file.seek(max(size - 4, 0))
            size = struct.unpack("<I", file.read(4).rjust(4, b"\0"))[0]
    if len(header) < _HEADER:
        return False
    order = "<" if 1 <= struct.unpack("<h", header[40:42])[0] <= 7 else ">"
    axes, *sizes = struct.unpack(f"{order}8h", header[40:56])
    bits, (offset,) = struct.unpack(f"{order}h", header[72:74])[0], struct.unpack(f"{order}f", header[108:112])
    expected = int(offset) + math.prod(sizes[:axes]) * bits // 8
    return bool(size == expected % 2**32 if zipped else size >= expected)
