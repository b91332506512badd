"""The files of stored pictures, looked at before they are shown: one that is broken costs itself, not the report."""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from nnunet_robust.common.console import warn
from nnunet_robust.common.errors import one_line
from nnunet_robust.common.folders import is_inside

LARGEST = 100_000_000
"""The most pixels of a picture."""

Size = tuple[int, int]


class PictureFolder(NamedTuple):
    """The pictures of one case.

    Attributes:
        sweep: the sweep's folder, which no picture may lie outside of.
        case: name of the case.
    """

    sweep: Path
    case: str

    def image(self, *parts: str, like: Path | None = None) -> Path | None:
        """An image, by its place in the case's folder; None where there is none that can be shown.

        Args:
            parts: of its path.
            like: a picture that it must have the size of.
        """
        return self._usable(parts, like, labels=False)

    def labels(self, *parts: str, on: Path | None) -> Path | None:
        """A label map likewise, which must have the size of the image `on` which it is drawn."""
        return self._usable(parts, on, labels=True)

    def _usable(self, parts: tuple[str, ...], on: Path | None, labels: bool) -> Path | None:
        path = self.sweep.joinpath("pictures", self.case, *parts)
        try:
            if not path.is_file():
                return None
        except (OSError, ValueError):  # a name that no file can have
            return None
        if fault := self._fault(path, on, labels):
            _tell(f"{path} is left out: {fault}")
            return None
        return path

    def _fault(self, path: Path, on: Path | None, labels: bool) -> str:
        if not is_inside(path, self.sweep):
            return "it lies outside of the sweep's folder"
        looked = _look(path, path.stat().st_mtime_ns)
        if isinstance(looked, str):
            return looked
        size, bands = looked
        if labels and bands != 1:
            return f"a label map has one channel, and it has {bands}"
        wanted = None if on is None else _look(on, on.stat().st_mtime_ns)
        if isinstance(wanted, tuple) and size != wanted[0]:
            return f"it has {_pixels(size)}, and its image {_pixels(wanted[0])}"
        return ""


@lru_cache(maxsize=100_000)
def _look(path: Path, _changed_ns: int) -> tuple[Size, int] | str:
    """The size of a picture and the number of its channels; or what is wrong with it, a clause."""
    if path.stat().st_size == 0:
        return "the file is empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of too many pixels
            with Image.open(path, formats=["PNG"]) as picture:
                if picture.width * picture.height > LARGEST:
                    return f"it has {_pixels(picture.size)}, more than are read"
                picture.load()
                return picture.size, len(picture.getbands())
    except Image.UnidentifiedImageError:
        return "it is no PNG"
    except Exception as error:  # whatever the decoder raises
        return f"it cannot be read ({one_line(error)})"


def _pixels(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels"


@cache
def _tell(text: str) -> None:
    warn(text)
