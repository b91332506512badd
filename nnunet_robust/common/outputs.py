"""Where a command will write: found to be possible before the work, so that no hour of it is lost at its end."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.faults import what_to_do, why
from nnunet_robust.common.files import temporary_name

_PROBE = b"\0" * 4096  # a full disk still takes an empty file


def require_folder(option: str, folder: Path, advice: str | None = None) -> None:
    """Make sure that files can be written into a folder. It is not made, and nothing is left behind.

    Args:
        option: of the command line that names it, such as "-o", or what it is.
        folder: need not be there, nor the folders above it.
        advice: what to do where it cannot be written; None: what goes for the reason.

    Raises:
        UserError: it is a file, a broken link, on a full or read-only disk, or its name is too long.
    """
    with _refusing(option, folder, advice):
        if (kind := _kind(folder)) not in (None, "folder"):
            raise UserError(f"{option} {folder} is a {kind}: name a folder")
        _try(folder, "")


def require_file(option: str, file: Path, advice: str | None = None) -> None:
    """Make sure that a file can be written, and replaced where it is there, see `require_folder`."""
    with _refusing(option, file, advice):
        kind = "folder" if file.name in ("", "..") else _kind(file)
        if kind not in (None, "file"):
            raise UserError(f"{option} {file} is a {kind}: {advice or 'name a file'}")
        _check_replaceable(file)
        _try(file.parent, file.name)


@contextlib.contextmanager
def _refusing(option: str, path: Path, advice: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {why(error)}: {advice or what_to_do(error)}") from error


def _kind(path: Path) -> str | None:
    """What is there, where links lead to it: folder, file, or something else in words; None: nothing."""
    above = Path(os.path.realpath(path.parent))
    special = above == Path("/dev") or Path("/proc") in (above, *above.parents)  # /proc: what /dev/stdout stands for
    if special and not path.is_dir():
        return "device or pipe"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return f"link to {path.readlink()}, which is not there"
        return None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "device or pipe"


def _check_replaceable(file: Path) -> None:
    """Refuse a file that another one cannot be renamed to, though its folder takes files."""
    temporary = temporary_name(file)
    if temporary.is_dir() and not temporary.is_symlink():
        raise IsADirectoryError(errno.EISDIR, "", str(temporary))
    if not file.exists():
        return
    if os.path.realpath(file) in _mounted():
        raise OSError(errno.EBUSY, "", str(file))
    above, mine = file.parent.stat(), os.geteuid() if hasattr(os, "geteuid") else 0
    if above.st_mode & stat.S_ISVTX and mine not in (0, above.st_uid, file.stat().st_uid):  # as in /tmp
        raise PermissionError(errno.EPERM, "", str(file))


def _mounted() -> set[str]:
    """What is mounted, where Linux says so: single files, too, as containers do."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in lines}


def _try(folder: Path, name: str) -> None:
    """Write a file of that name, with a temporary one's start, into the folder, or into one made like it beside it.

    The folder itself is not made: to remove it again would be a race with processes that begin at the same time.
    """
    there = next(path for path in (folder, *folder.parents) if path.is_symlink() or path.exists())
    if _kind(there) != "folder":
        raise NotADirectoryError(errno.ENOTDIR, "", str(there))
    own = there / f".tmp_{secrets.token_hex(7)}_"
    if there == folder:
        probe = own.with_name(own.name + name)
        try:
            probe.write_bytes(_PROBE)
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return
    own.mkdir()
    try:
        inside = own / folder.relative_to(there)
        inside.mkdir(parents=True)
        (inside / (own.name + name)).write_bytes(_PROBE)
    finally:
        shutil.rmtree(own, ignore_errors=True)
