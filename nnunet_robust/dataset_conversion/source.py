"""What converters need of a folder of images: what is in it, in words, and images that are read or refused by name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_robust.common.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

_SHOWN = 5  # entries of a folder that a message names


def contents(folder: Path) -> str:
    """What a folder holds, in a few words, for a message."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def read_image(path: Path, modes: Collection[str]) -> Image.Image:
    """An image file, decoded.

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
    except (OSError, SyntaxError, ValueError) as error:  # Pillow calls a broken PNG a SyntaxError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read {path} as an image ({reason}): get this file again from its owner") from error
    if image.mode not in modes:
        raise UserError(f"{path} has pixels of mode {image.mode}: expected one of {', '.join(sorted(modes))}")
    return image
