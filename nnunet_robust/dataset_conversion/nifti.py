"""Reading pairs of NIfTI image and label: values exactly as stored, geometry checked, labels to integers."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.writer import FORMATS, whole_labels

if TYPE_CHECKING:
    import SimpleITK as sitk

ENDINGS = (".nii.gz", ".nii")

_LARGEST_OFFSET = 0.1
"""Of the image's smallest voxel side: how far a label's corner may lie off the image's and still count as rounding."""


class Volume(NamedTuple):
    """An image with its label.

    Attributes:
        channels: one array (D, H, W) a channel.
        label: (D, H, W), an unsigned integer type.
        spacing_mm: along the array's axes: D, H, W.
        origin_mm: of the image, x, y, z, as SimpleITK gives it.
        direction: of the image, nine cosines, as SimpleITK gives them.
    """

    channels: list[np.ndarray]
    label: np.ndarray
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]


def is_nifti(path: Path) -> bool:
    """Return whether a file is named as NIfTI; what macOS leaves beside it (`._name`) is not."""
    return path.name.endswith(ENDINGS) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """Return a file's name without `.nii.gz` or `.nii`."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)


def read_volume(
    name: str, image: Path, label: Path, values: Mapping[int, int], orientation: str | None = None
) -> Volume:
    """Read a case.

    Args:
        name: the case's name, for messages.
        image: a 3d file, or a 4d one whose last axis holds the channels.
        label: a file of the image's size; its geometry may differ from the image's by rounding and is dropped.
        values: the label's values in the file, and what each becomes.
        orientation: where the axes x, y, z are to point, e.g. "LPS": the nearest axes are permuted and flipped, and no
            value is interpolated; None leaves them as they are.

    Returns:
        The volume; the image's values and type as stored (64-bit integers in a smaller type that holds them all).

    Raises:
        UserError: a file cannot be read, the two do not lie on one another, a value of the label is not in `values`.
    """
    import SimpleITK as sitk

    channels, references = _split(_read(name, image), name, image), _split(_read(name, label), name, label)
    if len(references) != 1:
        raise UserError(f"case {name}: the label {label.name} has {len(references)} channels, expected one")
    reference = references[0]
    _check_geometry(name, channels[0], reference)
    reference.CopyInformation(channels[0])
    if orientation is not None:
        channels = [sitk.DICOMOrient(channel, orientation) for channel in channels]
        reference = sitk.DICOMOrient(reference, orientation)
    return Volume(
        [_storable(name, sitk.GetArrayFromImage(channel)) for channel in channels],
        _relabel(name, sitk.GetArrayViewFromImage(reference), values),
        tuple(reversed(channels[0].GetSpacing())),
        channels[0].GetOrigin(),
        channels[0].GetDirection(),
    )


def _read(name: str, path: Path) -> sitk.Image:
    import SimpleITK as sitk

    values = _stored_values(name, path)
    # ITK writes a warning for each of ACDC's files: their sform has no voxel sizes, and it rightly takes the qform.
    warned = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(name, path, str(error).strip().splitlines()[-1]) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warned)
    if "float" in image.GetPixelIDTypeAsString() and not np.isfinite(values).all():
        raise UserError(f"case {name}: {path} holds NaN or infinity; replace them by a value that makes sense")
    return image


def _stored_values(name: str, path: Path) -> np.ndarray:
    """Return a file's values as nibabel reads them: ITK is silent about NaN and about the rest of a truncated file."""
    import nibabel

    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as file:  # to its end, where the checksum stands
                while file.read(1 << 24):
                    pass
        return np.asanyarray(nibabel.load(path).dataobj)
    except Exception as error:  # nibabel and zlib raise all kinds
        raise _unreadable(name, path, (str(error).splitlines() or [type(error).__name__])[0]) from error


def _unreadable(name: str, path: Path, reason: str) -> UserError:
    return UserError(f"case {name}: cannot read {path} ({reason}): fetch or repair that file")


def _split(image: sitk.Image, name: str, path: Path) -> list[sitk.Image]:
    """Return the 3d images along the fourth axis of a 4d one, or the one."""
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() not in (3, 4):
        components, size = image.GetNumberOfComponentsPerPixel(), image.GetSize()
        raise UserError(f"case {name}: {path.name} must be 3d or 4d with one value a voxel, got {components} in {size}")
    if image.GetDimension() == 3:
        return [image]
    return [image[:, :, :, channel] for channel in range(image.GetSize()[3])]


def _check_geometry(name: str, image: sitk.Image, label: sitk.Image) -> None:
    """Refuse a label that does not lie on its image: another size, or a corner elsewhere in space."""
    if image.GetSize() != label.GetSize():
        raise UserError(f"case {name}: the image's size is {image.GetSize()}, its label's {label.GetSize()}")
    corners = list(itertools.product(*((0, size - 1) for size in image.GetSize())))
    offset = max(
        np.linalg.norm(np.subtract(image.TransformIndexToPhysicalPoint(c), label.TransformIndexToPhysicalPoint(c)))
        for c in corners
    )
    if not offset <= _LARGEST_OFFSET * min(image.GetSpacing()):
        raise UserError(
            f"case {name}: the label lies up to {offset:.3g} mm off its image, by origin, spacing or direction: if "
            "their voxels do belong together, copy the image's geometry into the label's file"
        )


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """Return the same values in a type that the writer can store."""
    if array.dtype.name in FORMATS[".nii.gz"].dtypes:
        return array
    for dtype in ("int32", "uint32"):
        limits = np.iinfo(dtype)
        if array.dtype.kind in "iu" and limits.min <= array.min() and array.max() <= limits.max:
            return array.astype(dtype)
    raise UserError(f"case {name}: the image's values, {array.dtype.name} up to {array.max()}, fit no 32-bit integer")


def _relabel(name: str, array: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """Return each value of `array` as what it becomes; refuse the first that is not in `values`."""
    array = whole_labels(array)
    label: np.ndarray = np.zeros(array.shape, dtype=np.min_scalar_type(max(values.values())))
    known: np.ndarray = np.zeros(array.shape, dtype=bool)
    for value, becomes in values.items():
        here = array == value
        label[here] = becomes
        known |= here
    if not known.all():
        declared = ", ".join(map(str, sorted(values)))
        raise UserError(f"case {name}: label value {array[~known][0]!s} is not among the declared: {declared}")
    return label
