"""What converters need of a source's folder: where its files begin, what is in it, images read or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_robust.common.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

_SHOWN = 5  # entries of a folder that a message names
_DEEPEST = 4  # folders that may lie around a source, as archives and unpacking add them
_IMAGES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".gif")


def is_junk(path: Path) -> bool:
    """Return whether a file or folder is what operating systems leave behind, such as `__MACOSX` and `._name`."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def unwrap(folder: Path, is_source: Callable[[Path], bool]) -> Path:
    """Return the source in `folder`: the folder itself, or the one within folders that hold nothing else.

    Args:
        folder: what the user names.
        is_source: whether a folder is the source.

    Returns:
        The source's folder; `folder` where there is none, for the caller to say so.
    """
    inner = folder
    for _ in range(_DEEPEST):
        if is_source(inner) or not inner.is_dir():
            break
        inside = [path for path in inner.iterdir() if path.is_dir() and not is_junk(path)]
        if len(inside) != 1:
            break
        inner = inside[0]
    return inner if is_source(inner) else folder


def image_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as images, whatever the case of their ending, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES and not is_junk(path))


def contents(folder: Path) -> str:
    """Return what a folder holds in a few words, for a message."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def read_image(path: Path, modes: Collection[str]) -> Image.Image:
    """Read an image file.

    Args:
        path: the file.
        modes: Pillow's names of the pixel formats that are expected.

    Raises:
        UserError: there is no such file, it cannot be decoded, or its pixels have another format.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise all kinds: a broken PNG is a SyntaxError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read {path} as an image ({reason}): get this file again from its owner") from error
    if image.mode not in modes:
        raise UserError(f"{path} has pixels of mode {image.mode}: expected one of {', '.join(sorted(modes))}")
    return image
