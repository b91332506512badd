"""Masks and maps lie where their image lies: read back by SimpleITK and by nibabel, whatever reader nnU-Net had."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunet_robust.eval.images.maps import write_map

READERS = (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient)
SHAPE = (5, 6, 7)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Anisotropic, with a rotated direction and its second axis turned round; voxels tell where they are."""
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    image = SimpleITK.GetImageFromArray(values)
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    image.SetDirection((turn @ np.diag([1.0, -1.0, 1.0])).ravel().tolist())
    image.SetSpacing((0.7, 0.8, 3.5))
    image.SetOrigin((-12.5, 30.25, 7.0))
    path = tmp_path / "source_0000.nii.gz"
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [np.float32, np.float64, bool, np.int32])
def test_the_geometry_is_the_image_s(reader: type, kind: type, source: Path, tmp_path: Path) -> None:
    image, properties = reader().read_images([str(source)])
    array = image[0].astype(kind) if kind is not bool else image[0] > 100
    path = tmp_path / "deeper" / "map.nii.gz"
    write_map(path, array, properties)
    first, second = (SimpleITK.ReadImage(str(p)) for p in (source, path))
    for what in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(first, what)(), getattr(second, what)(), atol=2e-6)
    expected = SimpleITK.GetArrayFromImage(first)
    expected = (expected > 100) if kind is bool else expected
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(second), expected)
    one, other = nibabel.load(source), nibabel.load(path)
    np.testing.assert_allclose(one.affine, other.affine, atol=2e-6)
    assert other.get_data_dtype() == (np.float32 if np.dtype(kind).kind == "f" else np.uint8)
    assert list(path.parent.iterdir()) == [path]
    before = path.read_bytes()
    write_map(path, array, properties)
    assert path.read_bytes() == before


@pytest.mark.parametrize("reader", READERS)
def test_the_same_as_nnunet_s_own_segmentation(reader: type, source: Path, tmp_path: Path) -> None:
    image, properties = reader().read_images([str(source)])
    labels = (image[0] > 50).astype(np.uint8) + (image[0] > 150)
    reader().write_seg(labels, str(tmp_path / "stock.nii.gz"), properties)
    write_map(tmp_path / "ours.nii.gz", labels, properties)
    stock, ours = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("stock", "ours"))
    np.testing.assert_array_equal(stock.affine, ours.affine)
    np.testing.assert_array_equal(np.asanyarray(stock.dataobj), np.asanyarray(ours.dataobj))
    again, _ = reader().read_seg(str(tmp_path / "ours.nii.gz"))
    np.testing.assert_array_equal(again[0], labels)


def test_large_labels(source: Path, tmp_path: Path) -> None:
    image, properties = SimpleITKIO().read_images([str(source)])
    write_map(tmp_path / "labels.nii.gz", np.where(image[0] > 10, 300, 0), properties)
    assert np.asanyarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj).max() == 300


def test_formats_without_a_geometry(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(pixels).save(tmp_path / "a_0000.png")
    image, properties = NaturalImage2DIO().read_images([str(tmp_path / "a_0000.png")])
    write_map(tmp_path / "a.nii.gz", image[0] > 3, properties)
    found = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    assert found.GetSpacing() == (1.0, 1.0) and found.GetSize() == (5, 4)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), pixels > 3)
    write_map(tmp_path / "b.nii.gz", np.zeros(SHAPE, np.float32), {"spacing": (3.0, 2.0, 1.0)})
    assert SimpleITK.ReadImage(str(tmp_path / "b.nii.gz")).GetSpacing() == (1.0, 2.0, 3.0)
    assert Tiff3DIO.supported_file_endings  # the reader whose spacing that is


def test_two_dimensional_images_of_simpleitk(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((4, 5), np.float32))
    image.SetSpacing((0.5, 0.25))
    SimpleITK.WriteImage(image, str(tmp_path / "a_0000.nii.gz"))
    read, properties = SimpleITKIO().read_images([str(tmp_path / "a_0000.nii.gz")])
    assert read.shape == (1, 1, 4, 5)
    write_map(tmp_path / "a.nii.gz", read[0], properties)
    found = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    assert found.GetSpacing() == (0.5, 0.25) and found.GetSize() == (5, 4)


def test_nothing_half_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, properties = SimpleITKIO().read_images([str(source)])

    def full(array: object, path: str, *_: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(SimpleITK, "WriteImage", full)
    with pytest.raises(RuntimeError, match="disk full"):
        write_map(tmp_path / "out" / "a.nii.gz", image[0], properties)
    assert list((tmp_path / "out").iterdir()) == []
