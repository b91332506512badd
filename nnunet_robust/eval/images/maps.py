"""Maps and masks as NIfTI files that lie where their image lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from nnunet_robust.common.files import atomic_path

ENDING = ".nii.gz"


def write_map(path: Path, array: NDArray[Any], properties: Mapping[str, Any]) -> None:
    """Write an array of an image's grid with that image's geometry, whole or not at all.

    Args:
        path: of a `.nii.gz`.
        array: (*spatial), as nnU-Net's reader orders the axes. Floating-point numbers are stored as float32, masks and
            label maps as unsigned integers of 8 bits, or of 16 where a label needs them.
        properties: what nnU-Net's reader gave beside the image: spacing, origin and direction are written as that
            reader's own `write_seg` would. Formats that have none (PNG, TIFF) get the identity, with the reader's
            spacing for volumes and a spacing of 1 for images.
    """
    kept = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(_label_type(array))
    with atomic_path(path) as temporary:
        if "nibabel_stuff" in properties:
            nibabel.save(_nibabel_image(kept, properties["nibabel_stuff"]), temporary)
        else:
            SimpleITK.WriteImage(_itk_image(kept, properties), str(temporary), True)


def _label_type(array: NDArray[Any]) -> type[np.unsignedinteger]:
    return np.uint8 if not array.size or array.max() < 256 else np.uint16


def _nibabel_image(array: NDArray[Any], geometry: Mapping[str, Any]) -> nibabel.Nifti1Image:
    # nnU-Net's readers through nibabel turn the axes round, to be as those through SimpleITK.
    data = np.transpose(array, (2, 1, 0))
    original = geometry["original_affine"]
    if "reoriented_affine" not in geometry:
        return nibabel.Nifti1Image(data, original)
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(original))
    return nibabel.Nifti1Image(data, geometry["reoriented_affine"]).as_reoriented(back)


def _itk_image(array: NDArray[Any], properties: Mapping[str, Any]) -> SimpleITK.Image:
    geometry = properties.get("sitk_stuff")
    flat = array.shape[0] == 1 and (geometry is None or len(geometry["spacing"]) == 2)
    image = SimpleITK.GetImageFromArray(array[0] if flat else array)
    if geometry is None:
        image.SetSpacing(_without_geometry(properties["spacing"], flat))
        return image
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    if "original_orientation" in geometry:
        image = SimpleITK.DICOMOrient(image, geometry["original_orientation"])
    return image


def _without_geometry(spacing: Sequence[float], flat: bool) -> list[float]:
    used = [float(size) for size in (spacing[1:] if flat else spacing)]
    return used[::-1]
