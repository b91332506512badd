"""Hashes of files: they tell two versions apart, wherever they lie."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path


def require_regular(path: Path) -> None:
    """Refuse a pipe or a device, which would be waited for without end.

    Raises:
        OSError: it is neither a file nor a folder; or it is not there.
    """
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), str(path))


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    digest = hashlib.sha256()
    require_regular(path)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_files(paths: Iterable[Path]) -> str:
    """Compute the SHA-256 of each file in order, joined by dashes."""
    return "-".join(map(sha256, paths))


def digest_of_case(images: Sequence[Path], channels: int, labels: Iterable[Path] = ()) -> str:
    """Compute the digest of a case that sweeps and calibrations keep.

    It is the first 16 digits of the SHA-256 of each file, joined by dashes: first its images, then its labels. An image
    file that holds several channels counts once for each.
    """
    of_images = [sha256(path)[:16] for path in images]
    of_images += of_images[-1:] * (channels - len(of_images))
    return "-".join([*of_images, *(sha256(path)[:16] for path in labels)])


def digest_of_images(digest: str, channels: int) -> str:
    """Cut the digest of a case to the part that is its images', whatever its labels.

    >>> digest_of_images("4e07408562bedb8b-d4735e3a265e16ee", channels=1)
    '4e07408562bedb8b'
    """
    return "-".join(digest.split("-")[:channels])


def source_digest(folder: Path, files: Iterable[Path]) -> str:
    """Compute one SHA-256 of the names, relative to `folder`, and the contents of files, whatever their order.

    Args:
        folder: the source.
        files: files below it that the dataset depends on.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in set(files)):
        digest.update(f"{name}\0{sha256(path)}\n".encode())
    return digest.hexdigest()
