"""Images into files, as nnU-Net's own readers would read them: those can write segmentations only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import atomic_path

# The channels (n, *spatial) of one file, as the reader gives them; that file; the new one.
_Write = Callable[[np.ndarray, Path, Path], None]


def write_image(
    reader: BaseReaderWriter, image: np.ndarray, originals: Sequence[Path], targets: Sequence[Path]
) -> None:
    """Write an image, a file for each of those that it was read from, on their own grids.

    Args:
        reader: nnU-Net's, that has read it.
        image: float32 (C, *spatial), as the reader gives it. Volumes are written as float32, bit for bit; where the
            original of a `.png` (`.bmp`, `.tif`) has integers, values are rounded and cut off at the type's ends.
        originals: the files that it was read from.
        targets: the files to write, in the same order; each is there whole or not at all.

    Raises:
        UserError: no image of this reader can be written, or the files do not hold as many channels.
    """
    name = type(reader).__name__
    if name not in _WRITERS:
        raise UserError(f"images that nnU-Net reads through {name} cannot be written: {', '.join(_WRITERS)} can")
    done = 0
    for original, target in zip(originals, targets, strict=True):
        channels = len(reader.read_images([str(original)])[0]) if len(originals) > 1 else len(image)
        with atomic_path(target) as temporary:
            _WRITERS[name](image[done : done + channels], original, temporary)
        done += channels
    if done != len(image):
        raise UserError(f"{originals[0]}: {done} channels in its files, {len(image)} to be written")


def _write_sitk(channels: np.ndarray, original: Path, target: Path, orientation: str | None = None) -> None:
    import SimpleITK as sitk

    as_stored = sitk.ReadImage(str(original))
    read = as_stored if orientation is None else sitk.DICOMOrient(as_stored, orientation)
    shape = sitk.GetArrayViewFromImage(read).shape  # without the axes that nnU-Net adds
    written = sitk.GetImageFromArray(np.ascontiguousarray(channels.reshape(shape)), isVector=False)
    written.CopyInformation(read)
    if orientation is not None:
        cosines = as_stored.GetDirection()
        written = sitk.DICOMOrient(written, sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(cosines))
    sitk.WriteImage(written, str(target), True)


def _write_sitk_reoriented(channels: np.ndarray, original: Path, target: Path) -> None:
    _write_sitk(channels, original, target, "RAS")


def _write_nibabel(channels: np.ndarray, original: Path, target: Path, *, reoriented: bool = False) -> None:
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    as_stored: Any = nibabel.load(original)
    orientation = io_orientation(as_stored.affine)
    read = as_stored.as_reoriented(orientation) if reoriented else as_stored
    header = read.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    written = nibabel.Nifti1Image(channels[0].transpose(2, 1, 0), read.affine, header)
    if reoriented:
        written = written.as_reoriented(ornt_transform(axcodes2ornt("RAS"), orientation))
    nibabel.save(written, target)


def _write_nibabel_reoriented(channels: np.ndarray, original: Path, target: Path) -> None:
    _write_nibabel(channels, original, target, reoriented=True)


def _write_natural(channels: np.ndarray, original: Path, target: Path) -> None:
    import skimage.io as io

    dtype = io.imread(original).dtype
    pixels = channels[:, 0] if len(channels) > 1 else channels[0, 0]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        pixels = np.clip(np.rint(pixels), limits.min, limits.max)
    pixels = pixels.astype(dtype)
    io.imsave(target, np.moveaxis(pixels, 0, -1) if len(channels) > 1 else pixels, check_contrast=False)


_WRITERS: dict[str, _Write] = {
    "SimpleITKIO": _write_sitk,
    "SimpleITKIOWithReorient": _write_sitk_reoriented,
    "NibabelIO": _write_nibabel,
    "NibabelIOWithReorient": _write_nibabel_reoriented,
    "NaturalImage2DIO": _write_natural,
}
