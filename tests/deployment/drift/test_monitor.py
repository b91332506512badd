"""`monitor fit` and `monitor check` on a real model: what they write, exit codes, kills, locks, patients, the page."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nnunetv2.utilities.utils
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from scipy.ndimage import gaussian_filter

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.textures import TextureParameters, synthesize_textures
from nnunet_robust.deployment.drift import measuring
from nnunet_robust.deployment.drift.features import image_features
from nnunet_robust.deployment.drift.measuring import new_images
from nnunet_robust.deployment.drift.reference import read_reference
from nnunet_robust.eval.images.image_files import ImageFiles
from tests.conftest import stock_predictor, train

FITTED, RATE = 14, "0.05"
NAMES = (
    "noise of grey", "blur of grey", "median of grey", "range of grey", "texture divergence", "share of foreground",
    "entropy of foreground", "predicted Dice of foreground", "bottleneck 1", "bottleneck 2", "bottleneck 3",
    "bottleneck rest",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def threads_for_lists_of_files() -> Iterator[None]:
    """nnU-Net starts twelve processes to list the files of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnunetv2.utilities.utils, "Pool", ThreadPool)
        yield


@pytest.fixture(scope="module")
def model(textures: str) -> Path:
    return train(textures, "2d", "nnUNetTrainer_st3_bs4_1epochs_12iters_seed1", validate=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """40 images as the model's, of other cases: the first are the reference's."""
    raw = tmp_path_factory.mktemp("raw")
    made = synthesize_textures(raw, 901, TextureParameters(cases=5, test_cases=40, size=64, seed=3), "Textures")
    return sorted((made / "imagesTs").iterdir())


def folder_of(folder: Path, files: list[Path], sigma: float = 0.0, name: str = "{}") -> Path:
    """A folder with these images, blurred."""
    folder.mkdir(exist_ok=True, parents=True)
    for path in files:
        array = np.asarray(Image.open(path)).astype(float)
        changed = gaussian_filter(array, sigma) if sigma else array
        Image.fromarray(changed.round().astype(np.uint8)).save(folder / name.format(path.name))
    return folder


def fitting(model: Path, images: Path, output: Path, *more: str) -> list[str]:
    given = ["-m", str(model), "-i", str(images), "-o", str(output), "-device", "cpu"]
    return ["monitor", "fit", *given, "--rate", RATE, "--disable-tta", *more]


def checking(reference: Path, images: Path, output: Path, *more: str) -> list[str]:
    return ["monitor", "check", str(reference), "-i", str(images), "-o", str(output), "-device", "cpu", *more]


@pytest.fixture(scope="module")
def reference(model: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference")
    images = folder_of(path / "images", pictures[:FITTED])
    assert main(fitting(model, images, path / "reference.json", "--condition", "clean textures")) == 0
    return path / "reference.json"


@pytest.fixture(scope="module")
def clean(reference: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream of six images of the same kind."""
    path = tmp_path_factory.mktemp("clean")
    images = folder_of(path / "images", pictures[FITTED : FITTED + 6])
    assert main(checking(reference, images, path / "out")) == 0
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def counted(output: Path) -> list[str]:
    return [image["case"] for image in json.loads((output / "stream.json").read_text())["images"]]


# --- fit


def test_what_the_reference_holds(reference: Path, model: Path, pictures: list[Path]) -> None:
    found = read_reference(reference)
    assert found.names == NAMES and len(found.images) == FITTED
    assert (found.condition, found.rate, found.n_left_out) == ("clean textures", 0.05, 0)
    assert found.model["mirroring"] is False and found.model["n_members"] == 1
    assert found.setup["training"].startswith("none of these cases is, by name or file, among the 6 that fold 0")
    assert Path(found.setup["folder"]) == model
    assert np.isfinite(
        found.rows[:, NAMES.index("predicted Dice of foreground")]
    ).all()  # of a single member, the soft Dice stands for the predicted one
    assert not any("unfinished" in path.name for path in reference.parent.iterdir())
    # independently: features of the file, and the share of nnU-Net's own prediction
    first = found.images[0]
    predictor = stock_predictor(model, mirroring=False)
    image = np.asarray(Image.open(pictures[0])).astype(np.float32)[None]
    assert {name: first.features[name] for name in NAMES[:4]} == image_features(image, (1.0, 1.0), ["grey"])
    labels = predictor.predict_single_npy_array(image[:, None], {"spacing": [999, 1, 1]})
    assert first.features["share of foreground"] == pytest.approx((labels == 1).mean(), rel=1e-5)
    encoder = predictor.network.encoder
    data = (image - image.mean()) / image.std()
    with torch.no_grad():
        expected = encoder(torch.from_numpy(data)[None])[-1].mean(dim=(0, 2, 3)).numpy()
    assert first.activations == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_fit_that_was_killed(reference: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = fitting(model, reference.parent / "images", tmp_path / "again.json", "--condition", "clean textures")
    measured = dying(monkeypatch, 5)
    assert main(command) == 130 and not (tmp_path / "again.json").exists()
    unfinished = tmp_path / ".again.json.unfinished"
    assert len(json.loads(unfinished.read_text())["images"]) == 5
    monkeypatch.undo()
    counting(monkeypatch, measured)
    assert main(command) == 0 and len(measured) == len(set(measured)) == FITTED
    assert (tmp_path / "again.json").read_bytes() == reference.read_bytes() and not unfinished.exists()
    with FileLock(tmp_path / ".again.json.lock"):
        assert main(command) == 2


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Measuring stops as by Ctrl-C after so many images."""
    measured: list[str] = []
    real = measuring.Meter.measure

    def measure(self: measuring.Meter, image: ImageFiles, digest: str) -> object:
        if len(measured) == after:
            raise KeyboardInterrupt
        measured.append(image.name)
        return real(self, image, digest)

    monkeypatch.setattr(measuring.Meter, "measure", measure)
    return measured


def counting(monkeypatch: pytest.MonkeyPatch, measured: list[str]) -> None:
    real = measuring.Meter.measure
    monkeypatch.setattr(measuring.Meter, "measure", lambda s, i, d: (measured.append(i.name), real(s, i, d))[1])


def test_what_fit_refuses(
    reference: Path, model: Path, nnunet: Path, textures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = reference.parent / "images", tmp_path / "r.json"
    for command, says in (
        (fitting(model, nnunet / "nnUNet_raw" / textures / "imagesTr", output), "every new image would be a stranger"),
        (fitting(model, nnunet / "nnUNet_raw" / textures / "imagesTs", output), "a reference of 3 patients: give"),
        (fitting(model, images, output, "--rate", "1.5"), "--rate 1.5: give a number from"),
        (fitting(model, images, tmp_path / "r"), "name the file that the reference goes into"),
        (fitting(model, images, output, "-m", "other"), "2 models are named"),
        (fitting(model, images, output, "--patient", "x(.*)"), "does not fit 14 of 14 names"),
        (fitting(model, images, output, "--patient", "texture_"), "has no group"),
        (fitting(model, images, output, "--patient", "("), "is no regular expression"),
        (fitting(model, tmp_path / "none", output), "no folder"),
    ):
        assert main(command) == 2
        assert says in capsys.readouterr().err
    broken = shutil.copytree(images, tmp_path / "images")
    first, second, *_ = sorted(broken.iterdir())
    first.write_bytes(b"no image")
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(second)
    assert main(fitting(model, broken, output)) == 2
    said = capsys.readouterr().err
    assert "2 of 14 images cannot be measured" in said and "same value in every voxel" in said
    assert not output.exists()


# --- check


def test_a_clean_stream(clean: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = clean / "out"
    assert {*files(out)} == {".lock", "stream.json", "images.csv", "monitor.html"}
    rows = list(csv.DictReader((out / "images.csv").open()))
    found = read_reference(reference)
    assert len(rows) == 6 and [row["case"] for row in rows] == counted(out) == sorted(counted(out))
    assert {row["alarm"] for row in rows} == {"no"} and {f"evidence: {name}" for name in found.names} < {*rows[0]}


def test_a_day_without_new_images_loads_no_model(
    clean: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(clean / "out")
    monkeypatch.setattr(
        "nnunet_robust.eval.inference.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded")
    )
    assert main(checking(reference, clean / "images", clean / "out")) == 0
    assert files(clean / "out") == before
    said = capsys.readouterr().out
    assert said.startswith("0 images new, 6 in all\nno alarm after 6 images")


def test_days_at_a_time_are_as_all_at_once(clean: Path, reference: Path, tmp_path: Path) -> None:
    images = sorted((clean / "images").iterdir())
    for number in (2, 5, 6):  # a folder that grows
        folder_of(tmp_path / "images", images[:number])
        assert main(checking(reference, tmp_path / "images", tmp_path / "out")) == 0
    assert files(tmp_path / "out") == files(clean / "out")


def test_a_check_that_was_killed(clean: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = checking(reference, clean / "images", tmp_path / "out")
    measured = dying(monkeypatch, 2)
    assert main(command) == 130 and len(counted(tmp_path / "out")) == 2
    monkeypatch.undo()
    counting(monkeypatch, measured)
    assert main(command) == 0 and len(measured) == len(set(measured)) == 6
    assert files(tmp_path / "out") == files(clean / "out")


def test_two_at_once(clean: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):  # another process's, which goes by the file
        assert main(checking(reference, clean / "images", tmp_path / "out")) == 2
    assert "another process is checking into" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_shift_is_caught_and_named(
    clean: Path, reference: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(clean / "out", tmp_path / "out")
    blurred = folder_of(tmp_path / "blurred", pictures[FITTED + 6 :], 1.5)
    assert main(checking(reference, blurred, out)) == 3
    said = capsys.readouterr().out
    assert "ALARM since image" in said and "does not say that segmentations have become worse" in said
    (line,) = [line for line in said.splitlines() if line.startswith("  blur of grey: ")]
    assert "higher than before" in line and "in the last 20 images" in line and "known since image" in line
    page = (out / "monitor.html").read_text()
    assert "ALARM since image" in page and '<span class="mark">moved</span>' in page
    assert main(checking(reference, clean / "images", out)) == 3  # it stays, whatever comes
    rows = list(csv.DictReader((out / "images.csv").open()))
    alarms = [row["alarm"] for row in rows]
    at = alarms.index("yes")
    assert at > 6 and set(alarms[at:]) == {"yes"}
    limit = np.log(len(NAMES) / float(RATE))
    evidence = np.array([[float(row[f"evidence: {name}"]) for name in NAMES] for row in rows])
    assert (evidence[:at] < limit).all() and (evidence[at] >= limit - 1e-3).any()


def test_images_that_cannot_be_measured(
    clean: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shutil.copytree(clean / "images", tmp_path / "images")
    third = sorted(images.iterdir())[2]
    good = third.read_bytes()
    third.write_bytes(good[:200])
    assert main(checking(reference, images, tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert (
        f"failed: {third.name.removesuffix('_0000.png')}: " in said.err
        and "5 images new, 5 in all; 1 FAILED" in said.out
    )
    assert "could not be measured" in (tmp_path / "out" / "monitor.html").read_text()
    third.write_bytes(good)
    assert main(checking(reference, images, tmp_path / "out")) == 0
    assert len(counted(tmp_path / "out")) == 6 and counted(tmp_path / "out")[-1] == third.name.removesuffix("_0000.png")


def test_one_image_for_each_patient(
    model: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = tmp_path / "fitted"
    for number, path in enumerate(pictures[:12]):
        folder_of(fitted, [path], name=f"p{number}_day1_0000.png")
    folder_of(fitted, [pictures[12]], name="p3_day2_0000.png")
    assert main(fitting(model, fitted, tmp_path / "r.json", "--patient", r"(p\d+)_")) == 0
    assert "12 images of as many patients (1 further images" in capsys.readouterr().err
    found = read_reference(tmp_path / "r.json")
    assert [i.case for i in found.images if i.patient == "p3"] == ["p3_day1"] and found.n_left_out == 1
    new = tmp_path / "new"
    for number, name in enumerate(("p5_day3", "p20_day3", "p20_day4", "p21_day3")):
        folder_of(new, [pictures[14 + number]], name=f"{name}_0000.png")
    folder_of(new, [pictures[3]], name="p99_day1_0000.png")  # the reference's, under another name
    assert main(checking(tmp_path / "r.json", new, tmp_path / "out")) == 0
    assert counted(tmp_path / "out") == ["p20_day3", "p21_day3"]
    page = (tmp_path / "out" / "monitor.html").read_text().replace("<wbr>", "")
    for case, why in (("p5_day3", "patient p5"), ("p20_day4", "patient p20"), ("p99_day1", "seen before")):
        assert f"<li>{case}: " in page and why in page


def test_what_check_refuses(
    clean: Path, reference: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / model.name
    shutil.copytree(model, other)
    trained = torch.load(other / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save({**trained, "another": 1}, other / "fold_0" / "checkpoint_final.pth")
    moved, text = tmp_path / "moved.json", json.loads(reference.read_text())
    moved.write_text(json.dumps({**text, "setup": {**text["setup"], "folder": str(tmp_path / "gone")}}))
    images, out = clean / "images", tmp_path / "out"
    for command, says in (
        (checking(reference, images, out, "-m", str(other)), "the reference is of another model (checkpoints is"),
        (checking(reference, images, out, "-m", "a", "-m", "b"), "2 models are named"),
        (checking(tmp_path / "none.json", images, out), "no reference"),
        (checking(moved, images, out), "say with -m where the model"),
        (checking(moved, images, clean / "out"), "was begun with another reference"),
        (checking(reference, tmp_path / "none", out), "no folder"),
        (checking(reference, images, out, "--order", "size"), "take name or time"),
    ):
        assert main(command) == 2
        assert says in capsys.readouterr().err
    assert main(checking(moved, images, out, "-m", str(model))) == 0  # the same model elsewhere


def test_the_order_of_new_images(clean: Path) -> None:
    by_name = new_images(clean / "images", ".png", 1)
    assert [image.name for image in by_name] == sorted(image.name for image in by_name)
    for age, image in enumerate(by_name):
        os.utime(image.images[0], (1e9 - age, 1e9 - age))
    assert new_images(clean / "images", ".png", 1, order="time") == by_name[::-1]
    with pytest.raises(UserError, match="take name or time"):
        new_images(clean / "images", ".png", 1, order="date")
