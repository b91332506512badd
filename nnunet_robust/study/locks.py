"""Locks that last as long as the work: held by a process and, with its file descriptor, by the commands it starts.

The system frees them when the last of these is gone, however it went. A job whose driver was killed goes on, and the
one that the next driver starts for the same thing waits here until it is finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_robust.common import processes
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import make_folder
from nnunet_robust.common.json_files import parse_state

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0  # so long the holder's record must say the same before its leftovers are ended


# 1 is the system's, and a group of 0 or 1 is not that of a command
_PROCESS = {
    "type": "integer",
    "minimum": 2,
    "maximum": processes.LARGEST,
}
_HOLDER = {
    "type": "object",
    "properties": {"host": {"type": "string"}, "pid": _PROCESS, "started": {"type": "string"}, "group": _PROCESS,
                   "group_started": {"type": "string"}},
    "required": ["host", "pid", "started", "group", "group_started"],
}  # fmt: skip


class Lock:
    """A locked file. Its content says who holds it.

    Attributes:
        path: the file.
        descriptor: what a child must inherit to hold it, too (`pass_fds`).
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def note(self, **holder: Any) -> None:
        """Say who holds it."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(holder).encode(), 0)


def try_lock(path: Path) -> Lock | None:
    """Lock a file, which is made if need be; None where it is locked already."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return Lock(path, descriptor)


@contextlib.contextmanager
def hold(path: Path) -> Iterator[Lock]:
    """Wait for a lock, and hold it.

    What a killed command leaves behind may hold it for ever: nnU-Net's loading workers do not notice that their parent
    is gone. Where both the holder and its command are dead, on this machine, their group is ended.
    """
    seen: tuple[dict[str, Any], float] = ({}, time.monotonic())
    while (lock := try_lock(path)) is None:
        holder = _holder(path)
        if holder != seen[0]:
            seen = (holder, time.monotonic())
        elif _is_orphaned(holder) and time.monotonic() - seen[1] > _PATIENCE_SECONDS:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(holder["group"], signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    try:
        yield lock
    finally:
        os.ftruncate(lock.descriptor, 0)
        os.close(lock.descriptor)


@contextlib.contextmanager
def gpu_slots(wanted: int, available: int) -> Iterator[tuple[str | None, list[int]]]:
    """Hold some of this machine's GPUs, which all studies of a user share.

    Args:
        wanted: how many; 0 for none.
        available: how many there are to choose from: of those in `CUDA_VISIBLE_DEVICES`, else 0, 1, ...

    Yields:
        What `CUDA_VISIBLE_DEVICES` must be (None: leave it), and the file descriptors for children to inherit.
    """
    if not wanted:
        yield None, []
        return
    folder = own_folder(Path(tempfile.gettempdir()), f"nnunet_robust_gpus_{os.getuid()}")
    names = visible_gpus() or [str(number) for number in range(available)]
    while True:
        held: dict[str, Lock] = {}
        for name in names[:available]:
            if len(held) < wanted and (lock := try_lock(folder / name)):
                held[name] = lock
        if len(held) == wanted:
            break
        for lock in held.values():
            os.close(lock.descriptor)
        time.sleep(_POLL_SECONDS)
    try:
        yield ",".join(held), [lock.descriptor for lock in held.values()]
    finally:
        for lock in held.values():
            os.close(lock.descriptor)


def own_folder(shared: Path, name: str) -> Path:
    """Make a folder of this user's in one that all users write to, or make sure that it is one.

    Args:
        shared: such as /tmp.
        name: of the folder.

    Raises:
        UserError: there is something else of that name, for instance another user's folder or a link.
    """
    folder = shared / name
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        fault = "is no folder"
    elif found.st_uid != os.getuid():
        fault = f"belongs to another user (id {found.st_uid})"
    elif found.st_mode & 0o022:
        fault = "can be written to by other users"
    else:
        return folder
    raise UserError(
        f"{folder} {fault}, so that others could hold up this user's jobs: have it removed, or set TMPDIR to a folder "
        f"of yours, the same for all studies on this machine"
    )


def visible_gpus() -> list[str]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` names."""
    return [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]


def _holder(path: Path) -> dict[str, Any]:
    try:
        return parse_state(path.read_text(encoding="utf-8", errors="replace"), _HOLDER)
    except OSError:
        return {}


def _is_orphaned(holder: dict[str, Any]) -> bool:
    """Whether the holder and the command that it had started are dead, on this machine."""
    return (
        holder.get("host") == processes.host()
        and "group" in holder
        and not processes.lives(holder["pid"], holder["started"])
        and not processes.lives(holder["group"], holder["group_started"])
    )
