"""The folder for `nnUNetv2_predict`: what that command makes of it is what the sweep's denoised arm predicts."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from skimage import io

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.denoising.denoiser import Denoiser
from nnunet_robust.eval.denoising.folder import RECORD, denoise_folder
from nnunet_robust.eval.denoising.noise_tolerance import Borne
from nnunet_robust.eval.denoising.writers import write_image
from nnunet_robust.eval.images.image_files import find_images
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.devices import device_of
from nnunet_robust.eval.inference.selection import models_of
from nnunet_robust.eval.sweep.denoised_arms import with_denoising
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.conftest import here
from tests.eval.sweep.test_sweep import Silent, read

THRESHOLD = Borne(0.12, "within", 0.01, 0.02, 0.3, 8, 80, ("gaussian_noise",))


@pytest.fixture
def noisy(volumes: str, nnunet: Path, tmp_path: Path) -> Path:
    """The two test cases as they are, with their two channels, and again, with more noise."""
    raw = nnunet / "nnUNet_raw" / volumes
    for part in ("imagesTs", "labelsTs"):
        shutil.copytree(raw / part, tmp_path / part)
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "imagesTs").glob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        values = sitk.GetArrayFromImage(image)
        worse = sitk.GetImageFromArray((values + rng.normal(0, 0.2 * np.ptp(values), values.shape)).astype(np.float32))
        worse.CopyInformation(image)
        sitk.WriteImage(worse, str(path.with_name("noisy_" + path.name)))
    for path in sorted((tmp_path / "labelsTs").glob("*.nii.gz")):
        shutil.copy(path, path.with_name("noisy_" + path.name))
    return tmp_path


def test_the_stock_prediction_of_the_folder_is_that_of_the_sweeps_denoised_arm(
    noisy: Path, volumes: str, volume_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    parameters = SweepParameters(
        output=noisy / "out", conditions={}, dataset=volumes, configuration="3d_fullres", trainers=[volume_model],
        folds=["0"], device="cpu", mirroring=False, images=noisy / "imagesTs", labels=[noisy / "labelsTs"],
        save_predictions=True,
    )  # fmt: skip
    (model,) = models_of(parameters, volumes, device_of("cpu"))
    denoiser = Denoiser(THRESHOLD)
    monkeypatch.setattr("nnunet_robust.eval.sweep.plan.denoised_models", lambda m, *_: [with_denoising(m[0], denoiser)])
    run_sweep(parameters, Silent())
    done, failed = denoise_folder(find_images(noisy / "imagesTs", ".nii.gz"), noisy / "for_prediction", model, denoiser)
    assert not failed and set(done) == {"test_0", "test_1", "noisy_test_0", "noisy_test_1"}
    assert done["noisy_test_0"].denoised and not done["test_0"].denoised
    record = json.loads((noisy / "for_prediction" / RECORD).read_text())
    assert record["cases"] == json.loads(json.dumps({name: asdict(one) for name, one in done.items()}))
    assert record["denoise"]["threshold"] == 0.12
    for path in (noisy / "imagesTs").iterdir():
        same = path.read_bytes() == (noisy / "for_prediction" / path.name).read_bytes()
        assert same == (not done[path.name[: -len("_0000.nii.gz")]].denoised)
    stock = noisy / "stock"
    here(
        predict_entry_point, "-i", noisy / "for_prediction", "-o", stock, "-d", volumes, "-c", "3d_fullres",
        "-tr", volume_model, "-f", "0", "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta",
    )  # fmt: skip
    plain, ours = (
        noisy / "out" / "predictions" / arm.key / "clean" for arm in (model, with_denoising(model, denoiser))
    )
    for name in done:
        assert np.array_equal(read(ours / f"{name}.nii.gz"), read(stock / f"{name}.nii.gz"))
        assert sitk.ReadImage(str(stock / f"{name}.nii.gz")).GetSpacing() == (1.0, 1.0, 3.0)
    file = "noisy_test_0.nii.gz"
    assert read(ours / file).any() and not np.array_equal(read(ours / file), read(plain / file))


@pytest.fixture
def oriented(tmp_path: Path) -> Path:
    """A volume with a direction, an origin and a spacing of its own, stored as 16-bit integers."""
    values = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-11.0, 3.0, 40.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a_0000.nii.gz"))
    return tmp_path / "a_0000.nii.gz"


@pytest.mark.parametrize("reader", [SimpleITKIO(), SimpleITKIOWithReorient(), NibabelIO(), NibabelIOWithReorient()])
def test_written_volumes_are_read_as_they_were_with_the_files_own_geometry(reader, oriented: Path) -> None:
    image, properties = reader.read_images([str(oriented)])
    image = image + np.float32(0.123)
    target = oriented.with_name("b_0000.nii.gz")
    write_image(reader, image, [oriented], [target])
    again, found = reader.read_images([str(target)])
    assert np.array_equal(again, image) and again.dtype == np.float32
    assert np.allclose(found["spacing"], properties["spacing"], rtol=1e-6)
    first, second = (sitk.ReadImage(str(path)) for path in (oriented, target))
    for geometry in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(first, geometry)(), getattr(second, geometry)(), atol=1e-5)
    np.testing.assert_allclose(nibabel.load(oriented).affine, nibabel.load(target).affine, atol=1e-5)
    assert np.allclose(sitk.GetArrayFromImage(second) - sitk.GetArrayFromImage(first), 0.123, atol=1e-3)
    bytes_before = target.read_bytes()
    write_image(reader, image, [oriented], [target])
    assert target.read_bytes() == bytes_before
    assert sorted(path.name for path in oriented.parent.iterdir()) == ["a_0000.nii.gz", "b_0000.nii.gz"]


def test_a_flat_nifti_and_pictures_keep_their_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat = sitk.GetImageFromArray(rng.normal(0, 1, (8, 9)).astype(np.float32))
    flat.SetSpacing((0.5, 0.25))
    sitk.WriteImage(flat, str(tmp_path / "f.nii.gz"))
    image, _ = SimpleITKIO().read_images([str(tmp_path / "f.nii.gz")])
    write_image(SimpleITKIO(), 2 * image, [tmp_path / "f.nii.gz"], [tmp_path / "g.nii.gz"])
    assert sitk.ReadImage(str(tmp_path / "g.nii.gz")).GetSpacing() == (0.5, 0.25)
    assert np.array_equal(SimpleITKIO().read_images([str(tmp_path / "g.nii.gz")])[0], 2 * image)

    for name, dtype, shape in (("grey", np.uint8, (8, 9)), ("rgb", np.uint8, (8, 9, 3)), ("deep", np.uint16, (8, 9))):
        original, target = tmp_path / f"{name}.png", tmp_path / f"{name}_new.png"
        io.imsave(original, rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype), check_contrast=False)
        image, _ = NaturalImage2DIO().read_images([str(original)])
        write_image(NaturalImage2DIO(), image * np.float32(1.1) + 0.4, [original], [target])
        again, _ = NaturalImage2DIO().read_images([str(target)])
        assert io.imread(target).dtype == dtype and io.imread(target).shape == shape
        assert np.array_equal(again, np.clip(np.rint(image * np.float32(1.1) + 0.4), 0, np.iinfo(dtype).max))

    class Unknown(NaturalImage2DIO):
        pass

    with pytest.raises(UserError, match="through Unknown cannot be written"):
        write_image(Unknown(), image, [original], [target])


def test_the_record_is_there_before_the_first_image(
    noisy: Path, volumes: str, volume_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a folder that a kill left behind could not be told from a stranger's."""
    parameters = SweepParameters(
        output=noisy / "out", conditions={}, dataset=volumes, configuration="3d_fullres", trainers=[volume_model]
    )
    (model,) = models_of(parameters, volumes, device_of("cpu"))
    images, target = find_images(noisy / "imagesTs", ".nii.gz"), noisy / "for_prediction"
    copy = shutil.copyfile

    def killed(source: Path, to: Path) -> None:
        copy(source, to)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        denoise_folder(images, target, model, Denoiser(THRESHOLD))
    monkeypatch.undo()
    done, failed = denoise_folder(images, target, model, Denoiser(THRESHOLD))
    assert len(done) == 4 and not failed


def test_the_command_learns_from_a_sweep_and_goes_on_where_it_stood(
    calibration: SweepParameters, textures: str, nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(nnunet / "nnUNet_raw" / textures / "imagesTs", images)
    first, second, _ = sorted(images.iterdir())
    rng = np.random.default_rng(0)
    for path in (first, second):
        pixels = io.imread(path)
        io.imsave(
            path, np.clip(pixels + rng.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8), check_contrast=False
        )
    (images / "notes.txt").write_text("not an image")
    (model,) = models_of(replace(calibration, trainers=calibration.trainers[:1]), textures, device_of("cpu"))
    command = ["denoise", "-i", str(images), "-m", str(model.folder), "-o", str(tmp_path / "out")]
    learned = [*command, "--from", str(calibration.output)]
    assert main(learned) == 0
    said = capsys.readouterr()
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    threshold = record["denoise"]["threshold"]
    assert f"{threshold:.3g}" in said.err and record["checkpoints"] == model.checkpoints
    for path in sorted(images.glob("*.png")):
        image, properties = model.reader.read_images([str(path)])
        entry = record["cases"][path.name.removesuffix("_0000.png")]
        assert entry["noise_sigma"] == image_quality(image, properties["spacing"]).noise_sigma
        assert entry["denoised"] == (entry["noise_sigma"] > threshold) == (path in (first, second))
        written = tmp_path / "out" / path.name
        if entry["denoised"]:
            assert np.array_equal(io.imread(written), np.rint(Denoiser()(image, properties["spacing"])[0, 0]))
        else:
            assert written.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [RECORD, *(p.name for p in images.glob("*.png"))]
    )

    # again: only what is missing, or has changed
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    (tmp_path / "out" / first.name).unlink()
    assert main(learned) == 0
    assert (tmp_path / "out" / first.name).is_file()
    assert all(path.stat().st_mtime_ns == then for path, then in before.items() if path.name != first.name)
    # killed, while it wrote a copy, before it had noted anything
    (tmp_path / "out" / f".tmp_{first.name}").write_bytes(b"half")
    (tmp_path / "out" / RECORD).write_text(json.dumps({**record, "cases": {}}))
    assert main(learned) == 0
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == record
    assert not list((tmp_path / "out").glob(".tmp_*"))
    second.write_bytes(first.read_bytes())
    assert main(learned) == 0
    assert (tmp_path / "out" / second.name).read_bytes() == (tmp_path / "out" / first.name).read_bytes()
    capsys.readouterr()

    def refused(arguments: list[str], message: str) -> None:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err

    refused([*command, "--always"], "was made for another model or by another threshold")
    refused(command, "give --from OUT")
    refused([*learned, "--always"], "and not both")
    refused(
        ["denoise", "-i", str(images), "-m", str(model.folder), "-o", str(images), "--always"], "folder of the images"
    )
    (tmp_path / "out" / "other_0000.png").write_bytes(first.read_bytes())
    refused(learned, "holds other_0000.png, which is none of the images")
    second.write_bytes(b"broken")
    assert main(["denoise", "-i", str(images), "-m", str(model.folder), "-o", str(tmp_path / "all"), "--always"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert len(list((tmp_path / "all").glob("*.png"))) == 2
