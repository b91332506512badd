"""Images on disk: found in a folder, read as nnU-Net reads them, and checked, with or without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from nnunet_robust.common.digest import digest_of_files
from nnunet_robust.common.errors import UserError, one_line


@dataclass(frozen=True)
class ImageFiles:
    """Where an image lies on disk.

    Attributes:
        name: nnU-Net's case identifier.
        patient: the patient it is of; images of one patient are not independent.
        images: a file per channel, in order, or one that holds all channels.
    """

    name: str
    patient: str
    images: tuple[Path, ...]

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"image {self.name!r}"

    @property
    def image_title(self) -> str:
        """What messages call its image."""
        return self.title

    @property
    def files(self) -> tuple[Path, ...]:
        """All of its files."""
        return self.images

    def digest(self) -> str:
        """Compute the SHA-256 of each of its images, joined by dashes."""
        return digest_of_files(self.images)


@dataclass(frozen=True)
class LoadedImage:
    """An image in memory.

    Attributes:
        image: float32 (C, *spatial), raw intensities.
        properties: what nnU-Net's reader gave beside the image.
    """

    image: NDArray[np.float32]
    properties: dict[str, Any]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """The voxel's size per spatial axis; 1 where the format has no spacing (PNG), so that mm then are pixels."""
        return tuple(float(s) for s in self.properties["spacing"])


class UnreadableError(UserError):
    """A file is missing, or nnU-Net's reader fails on it.

    Attributes:
        reason: what went wrong, without the name of the image.
    """

    def __init__(self, files: ImageFiles, reason: str) -> None:
        super().__init__(f"{files.title} cannot be read: {reason}")
        self.reason = reason


class OtherChannelsError(UserError):
    """An image has other channels than the model takes.

    Attributes:
        found: the number of its channels.
    """

    def __init__(self, files: ImageFiles, found: int, channels: int) -> None:
        super().__init__(f"{files.title}: {found} channels, but the model takes {channels}")
        self.found = found


def channel_count(dataset_json: Mapping[str, Any]) -> int:
    """Count the channels that `dataset.json` declares."""
    return len(dataset_json.get("channel_names") or dataset_json["modality"])


def find_images(folder: Path, file_ending: str) -> list[ImageFiles]:
    """Find the images of a folder, or take a single file for one; each counts as of a patient of its own.

    Args:
        folder: images named `<case>_0000<ending>`, a file per channel; or, where no file is named so, any files of the
            ending, each an image of its own.
        file_ending: what counts as an image.

    Returns:
        The images, their files sorted.

    Raises:
        UserError: there is no such folder, or no file of the ending in it.
    """
    if folder.is_file() and folder.name.endswith(file_ending):
        name = folder.name.removesuffix(file_ending)
        return [ImageFiles(name, name, (folder,))]
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of the new images ({file_ending} files) with -i")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(file_ending) and path.is_file())
    if not files:
        raise UserError(f"no {file_ending} files in {folder}: the models take such files, convert the new images")
    pattern = re.compile(r"(.+)_\d{4}" + re.escape(file_ending))
    by_case: dict[str, tuple[Path, ...]] = {}
    for path in files:
        if match := pattern.fullmatch(path.name):
            by_case[match[1]] = (*by_case.get(match[1], ()), path)
    by_case = by_case or {path.name.removesuffix(file_ending): (path,) for path in files}
    return [ImageFiles(name, name, of_case) for name, of_case in by_case.items()]


def read_image(files: ImageFiles, reader: BaseReaderWriter) -> LoadedImage:
    """Read an image, whatever is in it.

    Args:
        files: of the image; where it is a case, its labels are not read.
        reader: nnU-Net's reader for the dataset's format.

    Raises:
        UnreadableError: a file is missing or unreadable.
    """
    for path in files.images:
        if not path.is_file():
            raise UnreadableError(files, f"{path.name} is missing")
    try:
        image, properties = reader.read_images([str(path) for path in files.images])
    except Exception as error:  # whatever a reader raises
        raise UnreadableError(files, one_line(error)) from error
    return LoadedImage(image.astype(np.float32, copy=False), properties)


def check_image(files: ImageFiles, image: NDArray[np.float32], channels: int) -> None:
    """Make sure that an image is one that a model takes.

    Args:
        files: of the image, for messages.
        image: (C, *spatial).
        channels: how many channels the model takes.

    Raises:
        OtherChannelsError: it has another number of channels.
        UserError: it has voxels that are NaN or infinite.
    """
    if len(image) != channels:
        raise OtherChannelsError(files, len(image), channels)
    if not np.isfinite(image).all():
        raise UserError(f"{files.image_title} has voxels that are NaN or infinite: mend or remove it")


def load_image(files: ImageFiles, reader: BaseReaderWriter, channels: int) -> LoadedImage:
    """Read an image and check it: see `read_image` and `check_image`."""
    loaded = read_image(files, reader)
    check_image(files, loaded.image, channels)
    return loaded


def check_stored(files: ImageFiles) -> None:
    """Look at NIfTI files as they are stored, for what ITK, through which nnU-Net reads them, is silent about.

    It reads NaN and infinity as 0, and the missing rest of a truncated file as well: `read_image` sees neither.

    Args:
        files: of an image, or of a case, whose labels are looked at, too.

    Raises:
        UserError: a file is truncated, or an image has such voxels; says how many and in which file.
    """
    for path in files.files:
        if path.name.endswith((".nii", ".nii.gz")):
            try:
                stored = np.asanyarray(nibabel.load(path).dataobj)
            except Exception as error:
                raise UserError(f"case {files.name!r} cannot be read: {path.name}: {one_line(error)}") from error
            broken = stored.size - int(np.count_nonzero(np.isfinite(stored)))
            if broken:
                raise UserError(
                    f"case {files.name!r}: {broken} voxels of {path.name} are NaN or infinite: mend or remove the image"
                )
