"""NIfTI files that a full disk has cut, which ITK does not tell."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from nnunet_robust.common.files import atomic_path
from nnunet_robust.common.nifti_files import check_written
from tests.disks import small_disk

SHAPES = [(5, 7), (40, 50, 60), (3, 9, 8, 7)]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("library", ["ITK", "nibabel"])
def test_whole_files_pass_and_cut_ones_do_not(ending: str, shape: tuple, kind: type, library: str, tmp_path) -> None:
    file = tmp_path / f"image{ending}"
    array = np.random.default_rng(0).integers(0, 99, shape).astype(kind)
    if library == "ITK":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file), True)
    else:
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)
    check_written(file)
    whole = file.read_bytes()
    for length in {0, 3, 20, min(351, len(whole) - 2), len(whole) // 2, len(whole) - 4, len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(OSError, match="No space left"):
            check_written(file)


def test_a_big_endian_file(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4), header), tmp_path / "image.nii")
    check_written(tmp_path / "image.nii")


def test_other_files_pass(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"no picture")
    check_written(tmp_path / "image.png")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_full_disk_leaves_the_old_file(ending: str, tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (64, 64, 64)).astype(np.uint8))
    with small_disk(tmp_path, "100k"):
        (tmp_path / f"mask{ending}").write_text("old")
        with pytest.raises(OSError, match="No space left"), atomic_path(tmp_path / f"mask{ending}") as temporary:
            SimpleITK.WriteImage(image, str(temporary), True)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(f"mask{ending}", "old")]
