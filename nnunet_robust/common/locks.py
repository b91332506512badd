"""A lock on a file that one process holds while it writes; the system frees it when the process dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import make_folder


@contextlib.contextmanager
def exclusive_lock(path: Path, held: str) -> Iterator[None]:
    """Keep other processes from the same work meanwhile. The lock file stays: one that is removed can be held twice.

    Args:
        path: of the lock file, made if need be.
        held: what to say where another process holds it, and what to do then.

    Raises:
        UserError: another process holds it.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        acquired = lock.acquire(blocking=False)
    except Timeout:
        raise UserError(held) from None
    with acquired:
        yield
