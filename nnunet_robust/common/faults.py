"""Faults of the machine in words: what the system says of a file or of memory, and what a user can do then."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool

_OF_NAMES = {
    "ENOENT": ("there is no such file or folder", "check the path, and whether a disk is mounted there"),
    "ENOTDIR": ("a part of the path is no folder", "name another path"),
    "EISDIR": ("it is a folder, no file", "name a file"),
    "EEXIST": ("something of that name is there", "name another path, or move it away"),
    "ENOTEMPTY": ("the folder is not empty", "name another one, or move its files away"),
    "ENAMETOOLONG": ("the name is too long", "take one of less than 200 letters"),
    "ELOOP": ("symbolic links lead round in a circle", "remove the link, or name another path"),
    "EINVAL": ("the system does not take that name or value", "name another path"),
    "ENODEV": ("it is no ordinary file", "name a file on a disk"),
    "ENXIO": ("it is no ordinary file", "name a file on a disk"),
}
_OF_RIGHTS = {
    "EACCES": ("you have no right to it", "ask its owner, or name a path of your own"),
    "EPERM": ("the system does not allow it", "ask its owner, or name a path of your own"),
    "EROFS": ("it is on a disk that can only be read", "name a path where you may write"),
    "EBUSY": ("another program is using it, or it is mounted by itself", "name another path"),
    "ETXTBSY": ("another program is using it", "wait until it ends, or name another path"),
    "ENOLCK": ("the disk has no locks left", "ask its administrator, or work on a local disk"),
}
_OF_SPACE = {
    "ENOSPC": ("no space is left on the disk", "free some, or name a path on another disk; then run it again"),
    "EDQUOT": ("your quota on this disk is used up", "free some, or name a path on another disk; then run it again"),
    "EFBIG": ("the file would be larger than this disk takes", "name a path on another disk"),
    "ENOMEM": ("no memory is left", "end other programs, or take smaller images, fewer workers or another machine"),
    "EMFILE": ("too many files are open", "raise the limit, as with ulimit -n 4096"),
    "ENFILE": ("too many files are open on this machine", "end other programs"),
    "EAGAIN": ("the system has no processes or locks left", "end other programs, or raise ulimit -u"),
}
_OF_DEVICES = {
    "EIO": ("the disk failed to read or write", "check the disk, or its network; then run it again"),
    "ESTALE": ("the network disk has lost it", "mount it again; then run it again"),
    "ETIMEDOUT": ("the network disk did not answer", "check the network; then run it again"),
    "ENOTCONN": ("the network disk is not connected", "mount it again; then run it again"),
    "EHOSTDOWN": ("the network disk does not answer", "check the network; then run it again"),
    "EPIPE": ("the program that reads this has ended", "run it again without it"),
}
_ADVICE = _OF_NAMES | _OF_RIGHTS | _OF_SPACE | _OF_DEVICES

_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "failed to map segment",
)
_LESS = "take smaller images or tiles, fewer workers or cases, or a machine with more memory"


def reason(error: OSError) -> str:
    """Return why the system refuses, and what to do: "no space is left on the disk: free some, ...".

    >>> reason(OSError(errno.EISDIR, "Is a directory", "OUT"))
    'it is a folder, no file: name a file'
    """
    return f"{why(error)}: {what_to_do(error)}"


def why(error: OSError) -> str:
    """Return why the system refuses, without what to do: "no space is left on the disk"."""
    return _advice(error)[0]


def what_to_do(error: OSError) -> str:
    """Return what to do where the system refuses, without why: "name a file"."""
    return _advice(error)[1]


def _advice(error: OSError) -> tuple[str, str]:
    name = errno.errorcode.get(error.errno or 0, "")
    return _ADVICE.get(name, (_lowered(error.strerror or str(error)), "check the path"))


def in_words(error: BaseException) -> str | None:
    """Return a fault of the machine, or of a file, as a line: where, why, and what to do; None for any other one."""
    if is_memory(error):
        said = _lowered(str(error)).partition("\n")[0]
        return f"not enough memory{f' ({said})' if said else ''}: {_LESS}"
    if isinstance(error, RuntimeError) and "ITK ERROR: " in str(error):
        said = " ".join(str(error).partition("ITK ERROR: ")[2].split())
        return f"an image cannot be read or written: {said}: check the file, and the space on its disk"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # pathlib, until Python 3.13
        return f"{_lowered(str(error))}: {_ADVICE['ELOOP'][1]}"
    if isinstance(error, BrokenProcessPool):
        return f"a process of this command was ended from outside, as the system does where memory runs out: {_LESS}"
    if isinstance(error, OSError):
        where = error.filename2 or error.filename
        return f"{_path(where)}: {reason(error)}" if where is not None else reason(error)
    if isinstance(error, UnicodeError):
        return f"a text is not in UTF-8, or not one that can be written here ({error}): save the file as UTF-8"
    if isinstance(error, ImportError):
        return f"the installation lacks a part ({error}): nnunet-robust doctor tells more"
    if isinstance(error, RecursionError):
        return "a file, or an option, is nested too deeply: give a flatter one"
    return None


def is_memory(error: BaseException) -> bool:
    """Tell whether no memory was left; torch, and libraries that are loaded, raise errors of their own then."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | ImportError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _path(name: object) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
