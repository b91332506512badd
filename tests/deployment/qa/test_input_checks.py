"""Images that a model was trained on, and those that it was not; nnU-Net's own files say which."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.deployment.qa.input_checks import (
    Check,
    check_content,
    check_file,
    check_form,
    check_segmented,
    worst,
)
from nnunet_robust.deployment.qa.training import Training, read_training
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.images.image_statistics import ImageStatistics
from nnunet_robust.eval.images.normalisation import CT, NetworkView, Normalisation, NormalisedImage
from nnunet_robust.perturbations import perturb

SPACING = (3.0, 1.0, 1.0)


def volume(seed: int, shape: tuple[int, ...] = (12, 30, 32), scale: float = 1.0) -> np.ndarray:
    """CT-like: air, tissue, and an object of 100 HU in the middle."""
    rng = np.random.default_rng(seed)
    image = rng.normal(-1000, 10, shape)
    image[2:10, 4:26, 4:28] = rng.normal(0, 20, (8, 22, 24))
    image[4:8, 10:18, 10:20] = rng.normal(100, 10, (4, 8, 10))
    return (image * scale)[None].astype(np.float32)


def normalisation(scheme: str = CT) -> Normalisation:
    objects = {"mean": 100.0, "std": 10.0, "percentile_00_5": 70.0, "percentile_99_5": 130.0}
    return Normalisation((scheme,), (False,), (objects,))


def measured(image: np.ndarray, spacing: tuple[float, ...], scheme: str = CT) -> ImageStatistics:
    """As `calibrate` does, with the object in the middle for a segmentation."""
    normalised = NormalisedImage.of(image, normalisation(scheme))
    view = NetworkView.of(normalised, spacing).with_segmentation(normalised, middle(image))
    return dataclasses.replace(ImageStatistics.of(image, spacing), network=view)


def middle(image: np.ndarray) -> np.ndarray:
    inside = np.zeros(image.shape[1:], bool)
    inside[4:8, 10:18, 10:20] = True
    return inside


def training(scheme: str = CT, calibrated: bool = True) -> Training:
    """What 20 such images would leave behind."""
    seen = [volume(seed) for seed in range(20)]
    return Training(
        ("CT",),
        normalisation(scheme),
        np.array([SPACING] * 19 + [(4.0, 1.0, 1.0)]),
        np.array([(36.0, 30.0, 32.0)] * 20),
        tuple(measured(image, SPACING, scheme) for image in seen) if calibrated else (),
    )


def check_image(image: np.ndarray, spacing: tuple[float, ...], known: Training) -> tuple[Check, ...]:
    """As `check_file` does with what it has read."""
    form = check_form(image, known)
    if any(check.verdict == "reject" for check in form):
        return form
    return (*form, *check_content(measured(image, spacing, known.normalisation.schemes[0]), known))


def segmented(image: np.ndarray, mask: np.ndarray, known: Training) -> tuple[Check, ...]:
    normalised = NormalisedImage.of(image, known.normalisation)
    return check_segmented(NetworkView.of(normalised, SPACING).with_segmentation(normalised, mask), known)


def verdicts(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks if check.verdict != "accept"}


def test_an_image_as_in_training_is_accepted() -> None:
    image = volume(99)
    checks = (*check_image(image, SPACING, training()), *segmented(image, middle(image), training()))
    assert [check.name for check in checks] == [
        "channels",
        "finite",
        "not empty",
        "dimensions",
        "spacing",
        "extent",
        "object's intensities",
        "intensity range",
        "contrast",
        "noise",
        "blur",
        "segmented intensities",
    ]
    assert verdicts(checks) == {} and worst(check.verdict for check in checks) == "accept"


@pytest.mark.parametrize(
    ("spacing", "verdict"),
    [
        ((4.0, 1.0, 1.0), None),
        ((4.3, 1.0, 1.0), None),
        ((4.5, 1.0, 1.0), "review"),
        ((7.9, 1.0, 1.0), "review"),
        ((8.1, 1.0, 1.0), "reject"),
        ((3.0, 0.93, 1.0), None),
        ((3.0, 0.8, 1.0), "review"),
        ((3.0, 1.0, 0.45), "reject"),
    ],
)
def test_spacing(spacing: tuple[float, ...], verdict: str | None) -> None:
    found = {check.name: check for check in check_image(volume(1), spacing, training())}["spacing"]
    assert found.verdict == (verdict or "accept")
    if verdict and spacing[0] > 4:
        assert found.reason == (
            f"a voxel measures {spacing[0]:.3g} mm from slice to slice, usually 3 to 4 mm (in 20 images of the "
            "training): check slice thickness and protocol, and whether it is the original series"
        )


def test_extent_is_of_what_is_not_zero() -> None:
    image = volume(1)
    image[:, :, 20:] = 0
    assert verdicts(check_image(image, SPACING, training(calibrated=False))) == {"extent": "review"}
    image[:, :, 7:] = 0
    assert verdicts(check_image(image, SPACING, training(calibrated=False)))["extent"] == "reject"
    large = np.tile(volume(1), (1, 1, 2, 1))
    assert verdicts(check_image(large, SPACING, training(calibrated=False))) == {"extent": "review"}


def test_what_leaves_nothing_to_measure() -> None:
    image = volume(1)
    assert check_image(np.concatenate([image, image]), SPACING, training()) == (
        Check(
            "channels",
            "reject",
            "the image has 2 channels, the model needs 1 (CT): give all images of the examination that it needs, and "
            "no colour picture of one",
        ),
    )
    broken = image.copy()
    broken[0, 0, 0, :2] = np.nan, np.inf
    assert check_image(broken, SPACING, training())[-1] == Check(
        "finite",
        "reject",
        f"2 of {image.size} voxels hold no number: the file is damaged or was badly exported; export it again",
    )
    assert check_image(np.zeros_like(image), SPACING, training())[-1] == Check(
        "not empty",
        "reject",
        "CT has the same value in every voxel: the file is damaged or was badly exported; export it again",
    )
    assert check_image(image[:, :1], (3.0, 1.0, 1.0), training())[-1].name == "dimensions"
    flat = Training(("CT",), normalisation(), np.array([[999.0, 1, 1]]), np.array([[999.0, 30, 32]]))
    assert check_image(image, SPACING, flat)[-1] == Check(
        "dimensions", "reject", "the image has 12 x 30 x 32 voxels, the model needs 2d images: give the whole series"
    )
    assert verdicts(check_image(image[:, 5:6], (999.0, 1.0, 1.0), flat)) == {}


def test_another_modality() -> None:
    """An MR image of the same body: no air at -1000, and units of its own."""
    rng = np.random.default_rng(0)
    mr = np.abs(rng.normal(0, 8, (1, 12, 30, 32))).astype(np.float32)
    mr[:, 2:10, 4:26, 4:28] = rng.normal(400, 150, (8, 22, 24))
    assert verdicts(check_image(mr, SPACING, training()))["intensity range"] == "reject"
    assert verdicts(check_image(mr, SPACING, training("NoNormalization")))["intensity range"] == "review"
    assert verdicts(check_image(mr, SPACING, training(calibrated=False))) == {}  # the object's own say nothing of air
    assert verdicts(check_image(volume(1) + 100, SPACING, training())) == {"intensity range": "reject"}
    assert verdicts(check_image(volume(1) - 5000, SPACING, training(calibrated=False))) == {
        "object's intensities": "reject"
    }
    assert verdicts(check_image(volume(1) - 5000, SPACING, training("NoNormalization", False))) == {
        "object's intensities": "review"
    }


def test_padding_that_ct_normalisation_clips_is_no_reason() -> None:
    """Air at -3000 is the same as air at -1000 for the network."""
    image = volume(1)
    image[:, :, :2] = -3024
    assert "intensity range" not in verdicts(check_image(image, SPACING, training()))


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.1, 0.0), (1700.0, 0.0), (3.0, 4000.0)])
@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization"])
def test_a_grey_scale_that_the_normalisation_removes_is_no_reason(scheme: str, gain: float, offset: float) -> None:
    image = (volume(50) + 1100) * gain + offset
    known = training(scheme)
    checks = (*check_image(image, SPACING, known), *segmented(image, middle(image), known))
    assert verdicts(checks) == {}
    assert {"intensity range", "segmented intensities"} <= {check.name for check in checks}


def test_what_a_z_score_leaves_is_a_reason() -> None:
    """A bright half, as of a coil or a contrast agent: the distribution is another, whatever its scale."""
    image, known = volume(50), training("ZScoreNormalization")
    image[:, :, :, 16:] *= 0.1
    found = {check.name: check for check in check_image(image, SPACING, known)}["intensity range"]
    assert found.verdict == "review"
    assert found.reason.startswith("with brightness and contrast evened out, the ") and found.reason.endswith(
        " in 20 calibration images): check sequence or kernel, contrast agent, and look for artefacts and blank borders"
    )
    air = np.zeros(image.shape[1:], bool)
    air[:, :2, :2] = True
    (outlined,) = segmented(volume(50), air, known)
    assert outlined.verdict == "review" and "what is outlined in CT is darker than usual" in outlined.reason


def test_a_calibration_of_an_earlier_version_has_no_normalised_images() -> None:
    known = training("ZScoreNormalization")
    earlier = tuple(dataclasses.replace(image, network=None) for image in known.calibration)
    known = dataclasses.replace(known, calibration=earlier)
    checks = (*check_image(volume(50), SPACING, known), *segmented(volume(50), middle(volume(50)), known))
    assert verdicts(checks) == {} and "intensity range" not in {check.name for check in checks}


def test_the_segmentation_is_of_what_looks_like_the_object() -> None:
    image = volume(1)
    air = np.zeros(image.shape[1:], bool)
    air[:, :2, :2] = True
    assert verdicts(segmented(image, air, training())) == {"segmented intensities": "review"}
    assert segmented(image, ~air & False, training()) == ()


def quality(noise: float | None, blur: float | None, polarity: float | None = None) -> ImageStatistics:
    return ImageStatistics(((-1000.0, 0.0, 100.0),), noise, blur, (polarity,))


@pytest.mark.parametrize(
    ("noise", "blur", "found"),
    [
        (0.03, 0.7, {}),
        (0.047, 0.75, {}),
        (0.049, 0.7, {"noise": "review"}),
        (4.0, 0.7, {"noise": "review"}),  # rejects nothing
        (0.0155, 0.7, {}),
        (0.015, 0.7, {"noise": "review"}),  # smoother than any
        (0.03, 0.83, {}),
        (0.03, 0.84, {"blur": "review"}),
        (0.03, 0.1, {}),  # sharper
        (None, None, {}),
    ],
)
def test_noise_and_blur_beyond_those_of_the_calibration(
    noise: float | None, blur: float | None, found: dict[str, str]
) -> None:
    known = dataclasses.replace(training(), calibration=(quality(0.02, 0.6), quality(0.04, 0.8), quality(None, None)))
    checks = check_content(quality(noise, blur), known)
    assert {name: verdict for name, verdict in verdicts(checks).items() if name in ("noise", "blur")} == found
    if noise:
        (said,) = [check.reason for check in checks if check.name == "noise"]
        usual = f"(noise {noise:.3g} of its range of grey values, usually 0.02 to 0.04 in 2 calibration images)"
        what = "noisier than" if noise > 0.048 else "smoother than" if noise < 0.0154 else "as noisy as"
        what = f"{what} usual"
        assert said.startswith(f"the image is {what} {usual}") and said.endswith(usual) == ("noise" not in found)


@pytest.mark.parametrize(
    ("seen", "now", "found"),
    [
        ((0.2, 0.6), 0.4, {}),
        ((0.2, 0.6), 0.69, {}),
        ((0.2, 0.6), 0.71, {"contrast": "review"}),  # a quarter of the width beyond
        ((0.2, 0.6), 0.11, {}),
        ((0.2, 0.6), 0.09, {"contrast": "review"}),
        ((0.2, 0.6), -9.0, {"contrast": "review"}),  # rejects nothing
        ((0.02, 0.6), -0.01, {"contrast": "review"}),  # near, but the other sign than all
        ((-0.6, -0.02), 0.01, {"contrast": "review"}),
        ((-0.1, 0.3), -0.19, {}),
        ((-0.1, 0.3), -0.21, {"contrast": "review"}),
        ((0.4, 0.4), 0.42, {}),  # images that are alike
        ((0.4, 0.4), 0.43, {"contrast": "review"}),
        ((0.2, 0.6), None, {}),
        ((None, None), 0.4, {}),
    ],
)
def test_contrast_beyond_that_of_the_calibration(
    seen: tuple[float | None, ...], now: float | None, found: dict[str, str]
) -> None:
    known = dataclasses.replace(training(), calibration=tuple(quality(None, None, value) for value in seen))
    checks = check_content(quality(None, None, now), known)
    assert {name: verdict for name, verdict in verdicts(checks).items() if name == "contrast"} == found
    (*_, last) = (check.reason for check in checks if check.name == "contrast") if now and seen[0] else ("",)
    assert (", as if black and white were exchanged" in last) == (now in (-9.0, -0.01, 0.01))
    if now == 0.71:
        assert last == (
            "bright details prevail over dark ones in CT more than usual (skewness 0.71, usually 0.2 to 0.6 in 2 "
            "calibration images): check the sequence, and whether the grey scale is inverted"
        )


def test_inverted_contrast_is_seen() -> None:
    image = volume(50)
    assert (
        verdicts(check_image(image.max() + image.min() - image, SPACING, training("NoNormalization")))["contrast"]
        == "review"
    )


def test_real_noise_and_blur_are_seen() -> None:
    """The calibration's images have no noise to speak of in their borders: perturbed ones are told by the measures."""
    clean = torch.from_numpy(volume(50))
    known = training("NoNormalization")
    assert verdicts(check_image(volume(50), SPACING, known)) == {}
    for name, level, which in (("gaussian_noise", 0.1, "noise"), ("gaussian_blur", 1.5, "blur")):
        image = perturb(clean, name, level, torch_generator(0, name), None, SPACING).numpy()
        assert verdicts(check_image(image, SPACING, known))[which] == "review"


def test_the_strictest_verdict() -> None:
    assert worst([]) == "accept"
    assert worst(["accept", "review"]) == "review"
    assert worst(["review", "reject", "accept"]) == "reject"


# --- nnU-Net's own files


@pytest.fixture(scope="module")
def model_folder(nnunet: Path, volumes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nnU-Net's training leaves in a model's folder, of a dataset that it has planned itself."""
    source = nnunet / "nnUNet_preprocessed" / volumes
    folder = tmp_path_factory.mktemp("model") / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    folder.mkdir()
    for name in ("dataset_fingerprint.json", "dataset.json"):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "nnUNetPlans.json", folder / "plans.json")
    return folder


def test_what_nnunet_wrote_down(model_folder: Path) -> None:
    found = read_training(model_folder, "3d_fullres")
    assert found.channels == ("T1", "CT")
    assert found.normalisation.schemes == ("ZScoreNormalization", CT)
    np.testing.assert_array_equal(found.spacings_mm, [SPACING] * 6)
    np.testing.assert_array_equal(found.extents_mm, [(42.0, 40.0, 44.0)] * 6)
    low, high = found.normalisation.object_range(1)
    assert -930 < low < -880 and -500 < high < -450


def test_a_mixed_folder(model_folder: Path, nnunet: Path, volumes: str, tmp_path: Path) -> None:
    source = nnunet / "nnUNet_raw" / volumes
    reader = SimpleITKIO()
    known = read_training(model_folder, "3d_fullres")
    images = [
        reader.read_images([str(source / "imagesTr" / f"train_{i}_000{c}.nii.gz") for c in (0, 1)])[0] for i in range(6)
    ]
    views = [NetworkView.of(NormalisedImage.of(image, known.normalisation), SPACING) for image in images]
    seen = [
        dataclasses.replace(ImageStatistics.of(image, SPACING), network=view)
        for image, view in zip(images, views, strict=True)
    ]
    known = dataclasses.replace(known, calibration=tuple(seen))

    def checked(name: str) -> dict[str, str]:
        images = tuple(tmp_path / f"{name}_000{channel}.nii.gz" for channel in (0, 1))
        found = check_file(ImageFiles(name, name, images), reader, known)
        fatal = {"readable", "channels", "finite", "not empty", "dimensions"}
        assert found.predictable == (not fatal & set(verdicts(found.checks)))
        assert (found.statistics is not None) == found.predictable
        return verdicts(found.checks)

    def copied(name: str) -> list[Path]:
        paths = [tmp_path / f"{name}_000{channel}.nii.gz" for channel in (0, 1)]
        for channel, path in enumerate(paths):
            shutil.copy(source / "imagesTs" / f"test_0_000{channel}.nii.gz", path)
        return paths

    def changed(name: str, change: object) -> None:
        for path in copied(name):
            image = nibabel.load(path)
            data = np.asanyarray(image.dataobj).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(change(data), image.affine), path)  # type: ignore[operator]

    copied("clean")
    assert checked("clean") == {}
    assert checked("missing") == {"readable": "reject"}
    first, second = copied("swapped")
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert checked("swapped")["object's intensities"] == "reject"
    whole = gzip.decompress(copied("truncated")[0].read_bytes())
    (tmp_path / "truncated_0000.nii.gz").write_bytes(gzip.compress(whole[: len(whole) // 2]))
    assert checked("truncated") == {"readable": "reject"}
    (copied("garbage")[1]).write_bytes(b"no image")
    assert checked("garbage") == {"readable": "reject"}
    changed("empty", lambda data: data * 0)
    assert checked("empty") == {"not empty": "reject"}
    changed("nan", lambda data: np.where(data > 150, np.nan, data).astype(np.float32))
    assert checked("nan") == {"readable": "reject"}
    changed("noisy", lambda data: data + np.random.default_rng(0).normal(0, 300, data.shape).astype(np.float32))
    assert checked("noisy") == {"intensity range": "review", "contrast": "review", "noise": "review"}


def test_files_that_do_not_fit(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    with pytest.raises(UserError, match="has no nnU-Net fingerprint or plans of 3d_lowres"):
        read_training(folder, "3d_lowres")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["inherits"] = {"inherits_from": "3d_fullres"}
    (folder / "plans.json").write_text(json.dumps(plans))
    assert read_training(folder, "inherits").normalisation.schemes == ("ZScoreNormalization", CT)
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["channel_names"] = {"0": "T1"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UserError, match=r"1 channels in dataset.json, 2 in plans.json, 2 in"):
        read_training(folder, "3d_fullres")
    (folder / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json, line 1: "):
        read_training(folder, "3d_fullres")
    (folder / "dataset_fingerprint.json").unlink()
    with pytest.raises(UserError, match=r"no .*dataset_fingerprint\.json: give a trained model's folder"):
        read_training(folder, "3d_fullres")
