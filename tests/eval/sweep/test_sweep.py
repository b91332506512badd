"""The sweep on real trained models: what `nnUNetv2_predict` gives, paired noise, resumption, and bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, predict_entry_point
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.complexity import ComplexityMeter
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.inference import loading, precision
from nnunet_robust.eval.inference import models as models_module
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.sweep.estimate import Expected
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from nnunet_robust.perturbations import PRESETS
from tests.conftest import here, run, run_ok, train


class Silent:
    """Counts what a sweep tells."""

    total = steps = 0

    def announce(self, expected: Expected) -> None:
        self.expected = expected

    def start(self, predictions: int) -> None:
        self.total = predictions

    def step(self, case: int, cases: int, condition: str) -> None:
        self.steps += 1


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return SweepParameters(
        output=tmp_path / "out",
        conditions={"gaussian_noise": (0.1, 0.3), "background_blur": (3.0,)},
        dataset="901",
        trainers=texture_models,
        folds=["0"],
        device="cpu",
    )


@pytest.mark.slow
@pytest.mark.parametrize("mirroring", [True, False])
def test_2d_level_zero_is_what_the_stock_command_predicts(
    mirroring: bool, parameters: SweepParameters, textures: str, texture_models: tuple[str, str], nnunet: Path
) -> None:
    sweep = replace(parameters, conditions={"contrast": (0.5,)}, mirroring=mirroring, save_predictions=True)
    run_sweep(sweep, Silent())
    images = nnunet / "nnUNet_raw" / textures / "imagesTs"
    for trainer in texture_models:
        stock = sweep.output.parent / trainer
        arguments = ["-d", "901", "-i", images, "-o", stock, "-c", "2d", "-f", "0", "-tr", trainer, "-device", "cpu"]
        if mirroring and trainer == texture_models[0]:  # once as a user would
            run_ok("nnUNetv2_predict", *arguments, "-npp", "1", "-nps", "1")
        else:
            flags = [] if mirroring else ["--disable_tta"]
            here(predict_entry_point, *arguments, "-npp", "0", "-nps", "0", *flags)
        ours = sweep.output / "predictions" / f"{trainer}__nnUNetPlans__2d__fold0" / "clean"
        files = sorted(path.name for path in ours.iterdir())
        assert files == sorted(path.name for path in stock.glob("*.png")) and len(files) == 3
        for name in files:
            assert np.array_equal(read(ours / name), read(stock / name))
        assert any(read(ours / name).any() for name in files)  # not trivially equal


@pytest.mark.slow
@pytest.mark.parametrize("source", ["dataset", "folder"])
def test_3d_level_zero_is_what_the_stock_command_predicts(
    source: str, volumes: str, volume_model: str, nnunet: Path, tmp_path: Path
) -> None:
    """Anisotropic, two channels, several tiles, two labels; geometry of the saved files included."""
    folder = train(volumes, "3d_fullres", volume_model)
    images = nnunet / "nnUNet_raw" / volumes / "imagesTs"
    out = tmp_path / "out"
    by_name = source == "dataset"  # without mirroring, to save time
    chosen = {"dataset": volumes, "trainers": [volume_model]} if by_name else {"model_folders": [folder]}
    run_sweep(
        SweepParameters(
            output=out, conditions={"gaussian_blur": (1.0,)}, configuration="3d_fullres", folds=["0"], device="cpu",
            images=images, labels=[images.parent / "labelsTs"], save_predictions=True, mirroring=not by_name, **chosen,
        ),
        Silent(),
    )  # fmt: skip
    stock = tmp_path / "stock"
    arguments = ["-i", images, "-o", stock, "-f", "0", "-device", "cpu"]
    if by_name:
        here(predict_entry_point, "-d", "902", "-c", "3d_fullres", "-tr", volume_model, *arguments, "-npp", "0", "-nps",
             "0", "--disable_tta")  # fmt: skip
    else:
        run_ok("nnUNetv2_predict_from_modelfolder", "-m", folder, *arguments, "-npp", "1", "-nps", "1")
    ours = out / "predictions" / f"{volume_model}__nnUNetPlans__3d_fullres__fold0"
    for case in ("test_0", "test_1"):
        mine, theirs = (sitk.ReadImage(str(f / f"{case}.nii.gz")) for f in (ours / "clean", stock))
        assert np.array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(theirs))
        for geometry in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            assert getattr(mine, geometry)() == getattr(theirs, geometry)()
    table = rows(out / "results.csv")
    assert {row["label"] for row in table} == {"shell", "core"}
    assert {row["outcome"] for row in table if row["case"] == "test_1"} <= {"both_empty", "hallucinated"}
    assert len(table) == 2 * 2 * 2  # cases, conditions, labels


def test_results_are_tidy_and_complete(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    progress = Silent()
    run_sweep(replace(parameters, replicates=2), progress)
    assert progress.steps == progress.total
    table = rows(parameters.output / "results.csv")
    conditions = [("clean", "0.0", "0"), ("background_blur", "3.0", "0")]
    conditions += [("gaussian_noise", level, draw) for level in ("0.1", "0.3") for draw in "01"]
    keys = [(row["model"], row["case"], row["perturbation"], row["level"], row["replicate"]) for row in table]
    cases = [f"texture_test_{i:04d}" for i in range(3)]
    assert sorted(keys) == sorted((m, c, *condition) for m in texture_models for c in cases for condition in conditions)
    for row in table:
        assert (row["dataset"], row["plans"], row["configuration"], row["fold"]) == (
            "Dataset901_Textures", "nnUNetPlans", "2d", "0",
        )  # fmt: skip
        assert row["patient"] == row["case"] and 0 <= float(row["dice"]) <= 1
    inputs = rows(parameters.output / "inputs.csv")
    assert len(inputs) == 3 * len(conditions)
    assert {row["psnr_db"] for row in inputs if row["perturbation"] == "clean"} == {"inf"}
    assert all(0 < float(row["foreground_ratio"]) < 1 for row in inputs)
    assert all(0 <= float(row["texture_divergence_bits"]) <= 1 for row in inputs)
    raw = Path(os.environ["nnUNet_raw"]) / "Dataset901_Textures"
    for row in inputs:
        if row["perturbation"] == "clean":
            image = read(raw / "imagesTs" / f"{row['case']}_0000.png")[None]
            meter = ComplexityMeter(image, read(raw / "labelsTs" / f"{row['case']}.png"), {"x": [1]}, (1, 1))
            complexity = meter.measure(image)["x"]
            assert float(row["texture_divergence_bits"]) == complexity.texture_divergence_bits
            assert float(row["boundary_contrast"]) == pytest.approx(complexity.boundary_contrast)
            quality = image_quality(image, (1, 1))
            assert (float(row["noise_sigma"]), float(row["blur"])) == (quality.noise_sigma, quality.blur)
    contrast = {(row["case"], row["perturbation"], row["level"]): float(row["boundary_contrast"]) for row in inputs}
    for case in cases:
        assert contrast[case, "clean", "0.0"] > contrast[case, "gaussian_noise", "0.3"] > 0

    manifest = json.loads((parameters.output / "manifest.json").read_text())
    assert manifest["identity"]["precision"] == "exact"
    presets = {"ct": len(PRESETS["ct"]), "noise": len(PRESETS["noise"]), "all": len(PRESETS["all"])}
    assert manifest["perturbations"]["gaussian_noise"]["presets"] == presets
    images = {"file_ending": ".png", "channels": 1, "reader": "NaturalImage2DIO", "channel_names": ["grey"]}
    assert [m["images"] for m in manifest["models"].values()] == [images] * 2
    assert {m["choices"]["backend"] for m in manifest["models"].values()} == {"torch"}
    assert manifest["seed"] == 0 and manifest["versions"]["nnunetv2"].startswith("2.")
    assert {len(m["checkpoints"]["0"]) for m in manifest["models"].values()} == {64}
    assert set(manifest["pictures"]["cases"]) == {"good", "median", "bad"}
    for case in manifest["pictures"]["cases"].values():
        assert (parameters.output / "pictures" / case / "gaussian_noise_0.3.png").is_file()


def test_the_same_command_gives_the_same_bytes_and_another_seed_other_noise(parameters: SweepParameters) -> None:
    outputs = [parameters.output.with_name(name) for name in ("a", "b", "c")]
    for output, seed in zip(outputs, (0, 0, 1), strict=True):
        run_sweep(replace(parameters, output=output, seed=seed), Silent())
    first, again, other = ([(o / name).read_bytes() for name in ("results.csv", "inputs.csv")] for o in outputs)
    assert first == again
    assert first[1] != other[1]


def test_every_model_sees_the_same_image_preprocessed_once(parameters: SweepParameters, monkeypatch) -> None:
    seen: dict[int, list[bytes]] = {}
    preprocessed: list[bytes] = []
    members_many, preprocess = SlidingWindow.members_many, models_module.Model.preprocess

    def spy(self, images, by):
        seen.setdefault(id(self), []).extend(image.numpy().tobytes() for image in images)
        return members_many(self, images, by)

    def counted(self, image, properties):
        preprocessed.append(image.numpy().tobytes())
        return preprocess(self, image, properties)

    monkeypatch.setattr(SlidingWindow, "members_many", spy)
    monkeypatch.setattr(models_module.Model, "preprocess", counted)
    run_sweep(parameters, Silent())
    first, second = seen.values()
    assert first == second and len(set(first)) == 12
    assert len(preprocessed) == 12 + 3  # three clean ones once more, for their pictures

    # A sweep of one model, alone and later, draws the same noise too.
    seen.clear()
    run_sweep(
        replace(parameters, output=parameters.output.with_name("alone"), trainers=parameters.trainers[:1]), Silent()
    )
    assert next(iter(seen.values())) == first


def test_a_level_only_scales_the_noise(parameters: SweepParameters, monkeypatch) -> None:
    seen: list[np.ndarray] = []
    preprocess = models_module.Model.preprocess

    def spy(self, image, properties):
        seen.append(image.numpy().copy())
        return preprocess(self, image, properties)

    monkeypatch.setattr(models_module.Model, "preprocess", spy)
    conditions = {"gaussian_noise": (0.01, 0.02)}
    one = replace(parameters, conditions=conditions, trainers=parameters.trainers[:1], workers=0)
    run_sweep(one, Silent())
    # three clean ones, then clean (for the picture), low and high of the first case
    clean, low, high = seen[3:6]
    unclipped = (high > high.min()) & (high < high.max())
    assert np.allclose((high - clean)[unclipped], 2 * (low - clean)[unclipped], atol=2e-3)


def test_only_what_is_new_is_computed(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    one = replace(parameters, trainers=texture_models[:1], conditions={"gaussian_noise": (0.1, 0.3)})
    run_sweep(one, Silent())
    again = Silent()
    run_sweep(one, again)
    assert again.steps == again.total == 0

    more = Silent()
    run_sweep(parameters, more)  # a model and a perturbation more
    cases, conditions, new = 3, 4, 1
    assert more.steps == more.total == cases * (conditions + new)

    whole = parameters.output.with_name("whole")
    run_sweep(replace(parameters, output=whole), Silent())
    for name in ("results.csv", "inputs.csv"):
        assert (parameters.output / name).read_bytes() == (whole / name).read_bytes()

    run_sweep(one, Silent())  # naming fewer models drops nobody's results
    assert (parameters.output / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_results(
    parameters: SweepParameters, texture_models: tuple[str, str]
) -> None:
    def command(output: Path) -> list[str]:
        return [
            str(Path(sys.executable).with_name("nnunet-robust")), "sweep", "-d", "901", "-c", "2d", "-f", "0",
            "-tr", *texture_models, "--perturb", "gaussian_noise", "background_blur", "-o", str(output),
            "--save-predictions", "-device", "cpu",
        ]  # fmt: skip

    whole, killed = parameters.output.with_name("whole"), parameters.output.with_name("killed")
    assert main(command(whole)[1:]) == 0
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("predictions/*/gaussian_noise*/*.png"))) < 5:
        assert time.monotonic() < deadline and process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "results.csv").exists()

    subprocess.run(command(killed), check=True, capture_output=True)
    for name in ("results.csv", "inputs.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    saved = sorted(path.relative_to(whole) for path in whole.rglob("predictions/**/*.png"))
    assert saved and all((killed / path).read_bytes() == (whole / path).read_bytes() for path in saved)


@pytest.mark.slow
def test_several_folds_are_averaged_as_nnunet_does(parameters: SweepParameters, textures: str, nnunet: Path) -> None:
    trainer = parameters.trainers[1]
    train(textures, "2d", trainer, fold="1")
    sweep = replace(parameters, trainers=[trainer], folds=None, conditions={"contrast": (0.5,)}, save_predictions=True)
    run_sweep(sweep, Silent())
    assert {row["fold"] for row in rows(sweep.output / "results.csv")} == {"0+1"}
    stock = sweep.output.parent / "stock"
    images = nnunet / "nnUNet_raw" / textures / "imagesTs"
    here(predict_entry_point, "-d", "901", "-i", images, "-o", stock, "-c", "2d", "-f", "0", "1", "-tr", trainer,
         "-device", "cpu", "-npp", "0", "-nps", "0")  # fmt: skip
    ours = sweep.output / "predictions" / f"{trainer}__nnUNetPlans__2d__fold0+1" / "clean"
    for path in ours.iterdir():
        assert np.array_equal(read(path), read(stock / path.name))


def test_without_test_labels_the_validation_cases_are_taken(
    parameters: SweepParameters, textures: str, nnunet: Path
) -> None:
    raw = nnunet / "nnUNet_raw" / textures
    hidden = raw.parent / "hidden_labels"
    (raw / "labelsTs").rename(hidden)
    try:
        run_sweep(parameters, Silent())
    finally:
        hidden.rename(raw / "labelsTs")
    splits = json.loads((nnunet / "nnUNet_preprocessed" / textures / "splits_final.json").read_text())
    assert {row["case"] for row in rows(parameters.output / "results.csv")} == set(splits[0]["val"])


def test_a_model_of_another_dataset_says_so(parameters: SweepParameters, textures: str, tmp_path: Path) -> None:
    foreign = tmp_path / "results" / f"{parameters.trainers[0]}__nnUNetPlans__2d"
    shutil.copytree(train(textures, "2d", parameters.trainers[0]), foreign)
    plans = json.loads((foreign / "plans.json").read_text())
    (foreign / "plans.json").write_text(json.dumps({**plans, "dataset_name": "Dataset777_Other"}))
    run_sweep(replace(parameters, trainers=parameters.trainers[:1], model_folders=[foreign]), Silent())
    names = {row["model"] for row in rows(parameters.output / "results.csv")}
    assert names == {parameters.trainers[0], f"{parameters.trainers[0]}@Dataset777_Other"}


# Bad input: one clear line each, exit 2, and nothing written.


def copied(parameters: SweepParameters, nnunet: Path, textures: str, tmp_path: Path) -> tuple[Path, Path]:
    raw = nnunet / "nnUNet_raw" / textures
    for name in ("imagesTs", "labelsTs"):
        shutil.copytree(raw / name, tmp_path / name)
    return tmp_path / "imagesTs", tmp_path / "labelsTs"


def spoil_label_missing(images: Path, labels: Path) -> None:
    (labels / "texture_test_0001.png").unlink()


def spoil_size(images: Path, labels: Path) -> None:
    Image.fromarray(np.zeros((64, 60), np.uint8)).save(labels / "texture_test_0002.png")


def spoil_label_value(images: Path, labels: Path) -> None:
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(labels / "texture_test_0002.png")


def spoil_unreadable(images: Path, labels: Path) -> None:
    (images / "texture_test_0000_0000.png").write_bytes(b"no picture")


def spoil_no_images(images: Path, labels: Path) -> None:
    for path in images.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_label_missing, r"texture_test_0001.*label file .*texture_test_0001.png is missing"),
        (spoil_size, r"texture_test_0002.*\(64, 64\) pixels.*\(64, 60\) pixels.*one grid"),
        (spoil_label_value, r"texture_test_0002.*label value 7.*not in dataset.json.*1 \(foreground\)"),
        (spoil_unreadable, r"texture_test_0000.*cannot be read"),
        (spoil_no_images, r"no images named <case>_0000.png"),
    ],
)
def test_a_bad_case_is_recorded_and_the_rest_computed(
    spoil, says: str, parameters: SweepParameters, nnunet: Path, textures: str, tmp_path: Path
) -> None:
    images, labels = copied(parameters, nnunet, textures, tmp_path)
    good = [(path, path.read_bytes()) for folder in (images, labels) for path in folder.iterdir()]
    spoil(images, labels)
    sweep = replace(
        parameters, images=images, labels=[labels], trainers=parameters.trainers[:1], conditions={"contrast": (0.5,)}
    )
    if spoil is spoil_no_images:
        with pytest.raises(UserError, match=says):
            run_sweep(sweep, Silent())
        assert not parameters.output.exists()
        return
    progress = Silent()
    (failure,) = run_sweep(sweep, progress).failures
    assert progress.steps == progress.total
    assert re.search(says, str(failure)) and "\n" not in str(failure)
    (row,) = rows(parameters.output / "failures.csv")
    assert (row["case"], row["perturbation"], row["level"], row["model"]) == (failure.case, "", "", "")
    assert {r["case"] for r in rows(parameters.output / "results.csv")} == {
        f"texture_test_{i:04d}" for i in range(3)
    } - {failure.case}  # fmt: skip

    for path, content in good:  # mended: computed, and no longer listed
        path.write_bytes(content)
    assert run_sweep(sweep, Silent()).failures == ()
    assert not (parameters.output / "failures.csv").exists()
    whole = parameters.output.with_name("whole")
    run_sweep(replace(sweep, output=whole), Silent())
    assert (parameters.output / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_if_every_case_is_bad_nothing_is_written(
    parameters: SweepParameters, nnunet: Path, textures: str, tmp_path: Path
) -> None:
    images, labels = copied(parameters, nnunet, textures, tmp_path)
    for path in images.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"texture_test_0000.*cannot be read") as error:
        run_sweep(replace(parameters, images=images, labels=[labels]), Silent())
    assert "\n" not in str(error.value) and not parameters.output.exists()


@pytest.mark.parametrize("fault", ["nan", "truncated", "truncated label", "moved label", "sheared"])
def test_a_bad_nifti(
    fault: str, volumes: str, volume_model: str, nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = nnunet / "nnUNet_raw" / volumes
    for name in ("imagesTs", "labelsTs"):
        shutil.copytree(raw / name, tmp_path / name)
    file = tmp_path / "imagesTs" / "test_1_0001.nii.gz"
    if fault.endswith("label"):
        file = tmp_path / "labelsTs" / "test_1.nii.gz"
    if "truncated" in fault:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif fault == "moved label":
        for path, origin in ((file, (90.0, 0.0, 0.0)), (file.with_name("test_0.nii.gz"), (0.4, 0.0, 0.0))):
            moved = sitk.ReadImage(str(path))
            moved.SetOrigin(origin)
            sitk.WriteImage(moved, str(path))
    elif fault == "sheared":
        stored = nibabel.load(file)
        affine = stored.affine + np.outer([1, 0, 0, 0], [0, 0.4, 0, 0])
        sheared = nibabel.Nifti1Image(stored.get_fdata(dtype=np.float32), affine)
        sheared.set_qform(None, 0)
        nibabel.save(sheared, file)
    else:
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        image[0, 0, :3] = np.nan
        spoiled = sitk.GetImageFromArray(image)
        spoiled.CopyInformation(sitk.ReadImage(str(tmp_path / "labelsTs" / "test_1.nii.gz")))
        sitk.WriteImage(spoiled, str(file))
    sweep = SweepParameters(
        output=tmp_path / "out", conditions={"contrast": (0.5,)}, dataset=volumes, configuration="3d_fullres",
        trainers=[volume_model], images=tmp_path / "imagesTs", labels=[tmp_path / "labelsTs"], device="cpu",
        mirroring=False,
    )  # fmt: skip
    (failure,) = run_sweep(sweep, Silent()).failures
    says = {
        "nan": f"'test_1': 3 voxels of {file.name} are NaN",
        "moved label": r"image has \(14, 40, 44\) voxels of \(3, 1, 1\) mm, origin \(0, 0, 0\), direction .* "
        r"test_1.nii.gz \(14, 40, 44\) .* origin \(90, 0, 0\), direction .*, up to 90 voxels apart",
        "sheared": "'test_1' cannot be read: .*orthonormal",
    }.get(fault, f"'test_1' cannot be read: .*{file.name}")
    assert failure.case == "test_1" and re.search(says, failure.reason) and "\n" not in failure.reason
    assert {row["case"] for row in rows(sweep.output / "results.csv")} == {"test_0"}
    notes = json.loads((sweep.output / "manifest.json").read_text()).get("case_notes", {})
    off = "the image and its label test_0.nii.gz are up to 0.4 voxels apart, and taken as one grid"
    assert notes == ({"test_0": [off]} if fault == "moved label" else {})
    assert capsys.readouterr().err.count(f"warning: case 'test_0': {off}\n") == len(notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": "555"}, r"no dataset '555'.*Dataset901_Textures"),
        (
            {"trainers": ["nnUNetTrainerNoSkip_7epochs"]},
            r"no trained model nnUNetTrainerNoSkip_7epochs__nnUNetPlans__2d",
        ),
        ({"folds": ["4"]}, r"no checkpoint checkpoint_final.pth of fold 4.*folds that have it: 0"),
        ({"folds": ["0", "0"]}, r"-f 0 0: fold 0 is named twice"),
        ({"configuration": "3d_fullres"}, r"-c 2d\? Or train it with"),
        ({"checkpoint": "checkpoint_x.pth"}, r"no checkpoint checkpoint_x.pth"),
        ({"trainers": []}, r"no models: name trainers with -tr"),
        ({"device": "cuda"}, r"-device cuda: this machine has none"),
        ({"device": "gpu"}, r"-device gpu: take one of cpu, cuda, mps"),
        ({"replicates": 0}, r"--replicates 0"),
        ({"workers": -1}, r"--workers -1"),
        ({"shard": "3/2"}, r"--shard 3/2: give which of how many"),
        ({"precision": "half"}, r"precision 'half': take one of exact, fast"),
        ({"images": Path("nowhere")}, r"go together"),
        ({"model_folders": [Path("nowhere")]}, r"nowhere is not a trained nnU-Net model"),
    ],
)
def test_bad_parameters(changes: dict, says: str, parameters: SweepParameters) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=says):
        run_sweep(replace(parameters, **changes), Silent())
    assert not parameters.output.exists()


def test_an_output_folder_of_another_sweep_is_refused(parameters: SweepParameters, textures: str, nnunet: Path) -> None:
    small = replace(parameters, conditions={"contrast": (0.5,)}, trainers=parameters.trainers[:1])
    run_sweep(small, Silent())
    before = (parameters.output / "results.csv").read_bytes()
    for changes, says in (
        ({"seed": 3}, "seed is 0 there, 3 now"),
        ({"precision": "fast"}, "precision is 'exact'"),
        ({"mirroring": False}, "mirroring is True there"),
    ):
        with pytest.raises(UserError, match=says):
            run_sweep(replace(small, **changes), Silent())

    image = nnunet / "nnUNet_raw" / textures / "imagesTs" / "texture_test_0001_0000.png"
    original = image.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    try:
        with pytest.raises(UserError, match=r"another sweep \(cases 'texture_test_0001'"):
            run_sweep(small, Silent())
    finally:
        image.write_bytes(original)
    assert (parameters.output / "results.csv").read_bytes() == before

    stranger = parameters.output.with_name("stranger")
    stranger.mkdir()
    (stranger / "thesis.docx").touch()
    with pytest.raises(UserError, match=r"is not empty \(thesis.docx\)"):
        run_sweep(replace(small, output=stranger), Silent())


def test_a_retrained_model_is_not_mixed_in(parameters: SweepParameters) -> None:
    small = replace(parameters, conditions={"contrast": (0.5,)}, trainers=parameters.trainers[:1])
    run_sweep(small, Silent())
    manifest = parameters.output / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"0": "', '"0": "00'))
    with pytest.raises(UserError, match="another checkpoint of nnUNetTrainer_bs4"):
        run_sweep(small, Silent())


@pytest.mark.slow
def test_the_command_line_answers_bad_input_with_one_line_and_exit_2(
    textures: str, texture_models: tuple[str, str], tmp_path: Path
) -> None:
    base = ["sweep", "-d", "901", "-tr", texture_models[0], "-o", tmp_path / "out", "-device", "cpu"]
    unset = run("nnunet-robust", *base, "--perturb", "contrast", nnUNet_raw="")
    assert (unset.returncode, unset.stdout) == (2, "")
    assert unset.stderr.strip().splitlines()[-1].startswith("error: the environment variable nnUNet_raw is not set")
    broken = run("nnunet-robust", "--debug", *base, "--perturb", "contrast", nnUNet_raw="")
    assert "Traceback" in broken.stderr
    assert not (tmp_path / "out").exists()


# Tile sizes


@pytest.mark.slow
def test_tile_sizes_are_what_a_stock_predictor_with_that_patch_gives(
    volumes: str, volume_model: str, nnunet: Path, tmp_path: Path
) -> None:
    folder = train(volumes, "3d_fullres", volume_model)
    sweep = SweepParameters(
        output=tmp_path / "tiles", conditions={}, dataset=volumes, configuration="3d_fullres", trainers=[volume_model],
        folds=["0"], tile_sizes=["12x32x32", "8x16x32"], mirroring=False, save_predictions=True, device="cpu",
    )  # fmt: skip
    run_sweep(sweep, Silent())
    own, other = (f"{volume_model}__nnUNetPlans__3d_fullres__fold0{tile}" for tile in ("", "__tile8x16x32"))
    table = rows(sweep.output / "results.csv")
    assert {(row["patch_size"], row["tile_size"]) for row in table} == {
        ("12x32x32", "12x32x32"), ("12x32x32", "8x16x32"),
    }  # fmt: skip

    default = replace(sweep, output=tmp_path / "default", tile_sizes=[], conditions={"contrast": (0.5,)})
    run_sweep(default, Silent())
    same = [row for row in table if row["tile_size"] == "12x32x32"]
    assert same == [row for row in rows(default.output / "results.csv") if row["perturbation"] == "clean"]

    stock = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(folder), ("0",), "checkpoint_final.pth")
    stock.configuration_manager.configuration["patch_size"] = [8, 16, 32]
    images = nnunet / "nnUNet_raw" / volumes / "imagesTs"
    stock.predict_from_files(str(images), str(tmp_path / "stock"), num_processes_preprocessing=1,
                             num_processes_segmentation_export=1)  # fmt: skip
    different = False
    for path in (tmp_path / "stock").glob("*.nii.gz"):
        tiled, trained = (read(sweep.output / "predictions" / key / "clean" / path.name) for key in (other, own))
        assert np.array_equal(read(path), tiled)
        different |= not np.array_equal(trained, tiled)
    assert different


@pytest.mark.parametrize(
    ("tile_size", "says"),
    [
        ("50", r"--tile-size 50x50 does not fit .*multiple of (\d+)x\1, .*nearest that work are (\d+)x\2 or (\d+)x\3"),
        ("0", r"--tile-size 0: give voxels"),
        ("64,64", r"--tile-size 64,64: give voxels"),
        ("32x32x32", r"--tile-size 32x32x32 has 3 axes, .* has 2"),
    ],
)
def test_tile_sizes_that_do_not_fit(tile_size: str, says: str, parameters: SweepParameters) -> None:
    with pytest.raises(UserError, match=says) as caught:
        run_sweep(replace(parameters, tile_sizes=[tile_size]), Silent())
    assert "\n" not in str(caught.value) and not parameters.output.exists()


def test_a_tile_size_named_twice_is_one_arm(parameters: SweepParameters) -> None:
    one = replace(parameters, conditions={}, trainers=parameters.trainers[:1], tile_sizes=["32", "32x32"])
    run_sweep(one, Silent())
    assert {row["tile_size"] for row in rows(parameters.output / "results.csv")} == {"32x32"}


def test_a_network_that_takes_one_size_says_so(parameters: SweepParameters, monkeypatch) -> None:
    load = loading.load_model
    monkeypatch.setattr(
        "nnunet_robust.eval.inference.selection.load_model",
        lambda *given, **more: with_foreign_network(load(*given, **more)),
    )
    with pytest.raises(UserError, match=r"network of its own \(Identity\) .*than those of its training, 64x64"):
        run_sweep(replace(parameters, tile_sizes=["32"]), Silent())


def with_foreign_network(model: models_module.Model) -> models_module.Model:
    model.predictor.network = torch.nn.Identity()
    return model
