"""Hashes of files: they tell two versions apart, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def source_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names, relative to `folder`, and the contents of files, whatever their order.

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
