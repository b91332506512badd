"""Images on disk: found in a folder, read as nnU-Net reads them, and checked, with or without labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from nnunet_robust.common.console import warn
from nnunet_robust.common.digest import digest_of_files
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.names import check_name
from nnunet_robust.common.schemas import shown
from nnunet_robust.eval.images.grids import Grid, compare_grids

_NAMED = 20  # files that are none of the images


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
        notes: what is doubtful about its files without being a fault, a clause each.
    """

    image: NDArray[np.float32]
    properties: dict[str, Any]
    notes: tuple[str, ...]

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
        missing = _missing_channels(files.images, channels) if found < channels else []
        where = f" ({', '.join(path.name for path in files.images)}; no {', no '.join(missing)})" if missing else ""
        super().__init__(f"{files.title}: {found} channels, but the model takes {channels}{where}")
        self.found = found


def _missing_channels(images: Sequence[Path], channels: int) -> list[str]:
    """The files in nnU-Net's naming that would go with these, for as many channels."""
    if not (match := re.fullmatch(r"(.+)_\d{4}(\..+)", images[0].name)):
        return []
    names = [f"{match[1]}_{channel:04d}{match[2]}" for channel in range(channels)]
    return [name for name in names if name not in {path.name for path in images}]


def channel_count(dataset_json: Mapping[str, Any]) -> int:
    """Count the channels that `dataset.json` declares."""
    return len(dataset_json.get("channel_names") or dataset_json["modality"])


def files_of_cases(folder: Path, file_ending: str, channels: int) -> dict[str, tuple[Path, ...]]:
    """Group the images of a folder in nnU-Net's naming, `<case>_0000<ending>` to `_000(C-1)`; a file may hold several.

    Args:
        folder: of images.
        file_ending: what counts as an image.
        channels: how many channels an image has, C.

    Returns:
        Case -> its files, by channel; sorted by case. Empty where no file is named `<case>_0000<ending>`. Hidden files
        are none of them: macOS leaves a `._x.png` beside every x.png on a foreign disk.

    Raises:
        UserError: a case has a name that cannot stand in a table or be a file's, see `check_name`.
    """
    pattern = re.compile(r"(.+)_([0-9]{4})" + re.escape(file_ending), re.DOTALL)
    by_case: dict[str, tuple[Path, ...]] = {}
    for path in _seen(folder):
        if (match := pattern.fullmatch(path.name)) and int(match[2]) < channels:
            check_name(match[1], "case")
            by_case[match[1]] = (*by_case.get(match[1], ()), path)
    named = any(path.name == f"{case}_0000{file_ending}" for case, (path, *_) in by_case.items())
    return dict(sorted(by_case.items())) if named else {}


def _seen(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def find_images(folder: Path, file_ending: str, channels: int) -> list[ImageFiles]:
    """Find the images of a folder, or take a single file for one; each counts as of a patient of its own.

    Whatever else is in the folder is named on the standard error stream.

    Args:
        folder: images in nnU-Net's naming, see `files_of_cases`; or, where no file is named so, any files of the
            ending, each an image of its own.
        file_ending: what counts as an image.
        channels: how many channels an image has.

    Returns:
        The images, their files sorted.

    Raises:
        UserError: there is no such folder, no file of the ending in it, or a name that cannot be one.
    """
    if folder.is_file() and folder.name.endswith(file_ending):
        name = check_name(folder.name.removesuffix(file_ending), "image")
        return [ImageFiles(name, name, (folder,))]
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of the new images ({file_ending} files) with -i")
    files = [path for path in _seen(folder) if path.name.endswith(file_ending) and path.is_file()]
    if not files:
        raise UserError(f"no {file_ending} files in {folder}: the models take such files, convert the new images")
    by_case = files_of_cases(folder, file_ending, channels)
    by_case = by_case or {path.name.removesuffix(file_ending): (path,) for path in files}
    images = [ImageFiles(check_name(name, "image"), name, of_case) for name, of_case in by_case.items()]
    warn_of_others(folder, images, file_ending, channels)
    return images


def other_files(folder: Path, images: Iterable[ImageFiles]) -> list[str]:
    """The names of what is in a folder and is none of these images, sorted."""
    used = {path for files in images for path in files.images}
    return sorted(path.name for path in folder.iterdir() if path not in used) if folder.is_dir() else []


def warn_of_others(folder: Path, images: Sequence[ImageFiles], file_ending: str, channels: int) -> None:
    """Name what is in a folder and is none of its images; the spacings of TIFF images (`<case>.json`) go with these."""
    spacings = {f"{files.name}.json" for files in images}
    if others := [name for name in other_files(folder, images) if name not in spacings]:
        named = f"<case>_0000{file_ending}" + (f" to _{channels - 1:04d}{file_ending}" if channels > 1 else "")
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        warn(f"not looked at, as they are no images {named}: {', '.join(map(shown, others[:_NAMED]))}{more}")


def read_image(files: ImageFiles, reader: BaseReaderWriter) -> LoadedImage:
    """Read an image, whatever is in it.

    Args:
        files: of the image; where it is a case, its labels are not read.
        reader: nnU-Net's reader for the dataset's format.

    Raises:
        UnreadableError: a file is missing or unreadable, or its files are on different grids, see `compare_grids`.
    """
    for path in files.images:
        if not path.is_file():
            raise UnreadableError(files, f"{path.name} is missing")
    try:
        read = [reader.read_images([str(path)]) for path in files.images]
        grids = [Grid.of(image.shape[1:], properties) for image, properties in read]
    except Exception as error:  # whatever a reader raises
        raise UnreadableError(files, one_line(error)) from error
    first, notes = files.images[0].name, []
    for path, grid in zip(files.images[1:], grids[1:], strict=True):
        compared = compare_grids(grids[0], grid)
        if compared.fault:
            raise UnreadableError(
                files,
                f"{first} has {grids[0]} and {path.name} {grid}, {compared.fault}: channels must be on one grid",
            )
        if compared.note:
            notes.append(f"{first} and {path.name} are {compared.note}")
    image = read[0][0] if len(read) == 1 else np.vstack([image for image, _ in read])
    return LoadedImage(image.astype(np.float32, copy=False), read[0][1], tuple(notes))


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
