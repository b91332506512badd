"""`calibrate`, `apply` and `qa` on real models: what they write, what they refuse, and what they go on with."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nibabel
import nnunetv2.utilities.utils
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.deployment.qa.applying import file_names
from nnunet_robust.deployment.qa.assess import unit_of
from nnunet_robust.deployment.qa.limits import usual_dice
from nnunet_robust.eval.conformal import calibrating
from nnunet_robust.eval.conformal.calibration_file import read_calibration
from nnunet_robust.eval.conformal.loss_curves import bound_mask
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.predictor import model_identity
from tests.conftest import run, stock_predictor, train

FEW = ("--alpha", "0.3", "--interval-alpha", "0.3")  # three patients are enough


@pytest.fixture(autouse=True, scope="module")
def threads_for_lists_of_files() -> Iterator[None]:
    """nnU-Net starts twelve processes to list the files of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnunetv2.utilities.utils, "Pool", ThreadPool)
        yield


@pytest.fixture(scope="module")
def folder(textures: str) -> Path:
    return train(textures, "2d", "nnUNetTrainer_st3_bs4_1epochs_12iters_seed1", validate=False)


@pytest.fixture(scope="module")
def calibration(folder: Path, textures: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command, on the three test cases."""
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    done = run("nnunet-robust", "calibrate", "-m", folder, "-d", textures, "-o", path, *FEW, "-device", "cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(path)
    promises = [
        line for line in done.stderr.splitlines() if "calibrated on 3 cases of 3 patients, clean images" in line
    ]
    assert len(promises) == 5 and "it is not known" not in done.stderr
    return path


def raw(nnunet: Path, dataset: str) -> Path:
    return nnunet / "nnUNet_raw" / dataset


def asked(folder: Path, images: Path, labels: Path, output: Path, *more: str) -> list[str]:
    named = ["-m", str(folder), "-i", str(images), "-l", str(labels), "-o", str(output)]
    return ["calibrate", *named, *FEW, "-device", "cpu", *more]


# --- calibrate


def test_what_the_calibration_holds(calibration: Path, folder: Path) -> None:
    found = read_calibration(calibration)
    assert found.model["members"] == ["folds", "mirroring"] and found.model["n_members"] == 4
    assert (found.model["predicted_dice"], found.model["uncertainty"]) == ("predicted_dice", "entropy_bits")
    assert found.delta is None and len(found.cases) == 3
    assert found.training.startswith("none of these cases is, by name or file, among the 6 that fold 0 was trained on")
    assert all(case.image.noise_sigma and case.image.blur for case in found.cases)
    assert sorted(path.name for path in calibration.parent.iterdir()) == [f".{calibration.name}.lock", calibration.name]
    single = model_identity(
        load_model(folder, None, "checkpoint_final.pth", torch.device("cpu"), False, None), ["folds"], "exact"
    )
    assert (single["n_members"], single["predicted_dice"]) == (1, "soft_dice")


def test_killed_and_run_again(
    calibration: Path, folder: Path, nnunet: Path, textures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, measured = tmp_path / "again.json", []
    source = raw(nnunet, textures)
    command = asked(folder, source / "imagesTs", source / "labelsTs", output)
    real = calibrating.measure_case

    def dying(predictor: object, files: object, digest: str) -> object:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(digest)
        return real(predictor, files, digest)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrating, "measure_case", dying)
    assert main(command) == 130 and not output.exists()
    lock, unfinished = sorted(tmp_path.iterdir())
    text = unfinished.read_text()
    # zeros, as a power cut leaves them, and a line that was being written
    unfinished.write_text(text + "\0" * 60 + "\n" + text.splitlines()[-1][:100])
    monkeypatch.setattr(calibrating, "measure_case", lambda *a: (measured.append(a[2]), real(*a))[1])
    assert main(command) == 0
    assert len(measured) == len(set(measured)) == 3  # none of them twice
    assert output.read_bytes() == calibration.read_bytes()
    assert sorted(tmp_path.iterdir()) == [lock, output]  # a lock that is removed can be held twice
    unfinished.write_text(text.replace('"exact"', '"fast"'))  # of other settings: not used
    measured.clear()
    assert main(command) == 0 and len(measured) == 3


def test_two_that_write_one_calibration(
    folder: Path, nnunet: Path, textures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "c.json"
    source = raw(nnunet, textures)
    with FileLock(tmp_path / ".c.json.lock"):  # another process's, which goes by the file
        assert main(asked(folder, source / "imagesTs", source / "labelsTs", output)) == 2
    assert f"another process is calibrating into {output}: wait for it, or give another -o" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".c.json.lock"]


def test_cases_that_the_model_was_trained_on(
    folder: Path, nnunet: Path, textures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw(nnunet, textures)
    splits = json.loads((nnunet / "nnUNet_preprocessed" / textures / "splits_final.json").read_text())
    assert main(asked(folder, source / "imagesTr", source / "labelsTr", tmp_path / "c.json")) == 2
    said = capsys.readouterr().err
    assert "6 of 8 cases are among the 6 that fold 0 of the model was trained on" in said
    assert all(name in said for name in splits[0]["train"]) and not any(f" {n}," in said for n in splits[0]["val"])
    for part, ending in (("images", "_0000.png"), ("labels", ".png")):
        shutil.copytree(source / f"{part}Ts", tmp_path / part)
        shutil.copy(source / f"{part}Tr" / f"{splits[0]['train'][0]}{ending}", tmp_path / part / f"renamed{ending}")
    assert main(asked(folder, tmp_path / "images", tmp_path / "labels", tmp_path / "c.json")) == 2
    assert (
        f"1 of 4 cases are among the 6 that fold 0 of the model was trained on: renamed (there {splits[0]['train'][0]})"
        in (capsys.readouterr().err)
    )
    assert not list(tmp_path.glob("*.json*"))


def test_where_it_cannot_be_known(
    folder: Path,
    nnunet: Path,
    textures: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    source = raw(nnunet, textures)
    assert (
        main(asked(folder, source / "imagesTs", source / "labelsTs", tmp_path / "c.json", "--condition", "mine")) == 0
    )
    said = capsys.readouterr().err
    assert "warning: it is not known which cases the model was trained on" in said and "3 patients, mine" in said
    assert read_calibration(tmp_path / "c.json").training.startswith("it is not known")


def test_cases_that_cannot_be_used_are_all_named(
    folder: Path, nnunet: Path, textures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw(nnunet, textures)
    for part in ("images", "labels"):
        shutil.copytree(source / f"{part}Ts", tmp_path / part)
    first, second, _ = sorted((tmp_path / "labels").iterdir())
    first.unlink()
    second.write_bytes(b"no image")
    assert main(asked(folder, tmp_path / "images", tmp_path / "labels", tmp_path / "c.json")) == 2
    said = capsys.readouterr().err
    assert "2 of 3 calibration cases cannot be used" in said and first.stem in said and second.stem in said
    assert not list(tmp_path.glob("*.json*"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--alpha", "0.1"], "3 calibration patients are too few for alpha 0.1: at least 9 are needed"),
        (["--delta", "0.1"], "are too few for alpha 0.3 with confidence 90 %"),
        (["--interval-alpha", "0.1"], "3 calibration patients are too few"),
        (["--members", "models"], "members by 'models': take folds or mirroring, or both"),
        (["-m", "another"], "2 models are named"),
        (["-o", "calibration"], "-o calibration: name the file"),
    ],
)
def test_what_calibrate_refuses(
    more: list[str],
    says: str,
    folder: Path,
    nnunet: Path,
    textures: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = raw(nnunet, textures)
    assert main([*asked(folder, source / "imagesTs", source / "labelsTs", tmp_path / "c.json"), *more]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- apply


@pytest.fixture(scope="module")
def new(nnunet: Path, textures: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images that are of no calibration."""
    folder = tmp_path_factory.mktemp("new")
    for path in sorted((raw(nnunet, textures) / "imagesTr").iterdir())[:2]:
        shutil.copy(path, folder / path.name)
    return folder


def stock(folder: Path, images: list[Path]) -> np.ndarray:
    """nnU-Net's own predictor's segmentation."""
    predictor = stock_predictor(folder, mirroring=True)
    reader = predictor.plans_manager.image_reader_writer_class()
    data, properties = reader.read_images([str(path) for path in images])
    found: np.ndarray = predictor.predict_single_npy_array(data, properties, None, None, False)
    return found


@pytest.mark.parametrize("kind", ["threshold", "margin"])
def test_apply(kind: str, calibration: Path, folder: Path, new: Path, tmp_path: Path) -> None:
    command = ["apply", "-i", str(new), "-m", str(folder), "--calibration", str(calibration), "-o", str(tmp_path)]
    command += ["-device", "cpu", "--kind", kind]
    first = min(path.name.removesuffix("_0000.png") for path in new.iterdir())
    (tmp_path / f"{first}_entropy.nii.gz").write_bytes(b"of an earlier run with --maps")
    assert main(command) == 0
    promised = read_calibration(calibration)
    (structure,) = promised.bounds
    ratings = pd.read_csv(tmp_path / "ratings.csv")
    manifest = json.loads((tmp_path / "ratings.json").read_text())
    cases = sorted(path.name.removesuffix("_0000.png") for path in new.iterdir())
    assert list(ratings["case"]) == cases == list(manifest["images"])
    assert len(manifest["calibration"]["sha256"]) == 64 and manifest["kind"] == kind
    rule = usual_dice(promised, structure)
    assert manifest["limits"] == {structure: {rule.name: {"amber": rule.amber, "red": rule.red}}}
    assert manifest["model"] == promised.model and len(manifest["calibration"]["sentences"]) == 5
    for case, row in zip(cases, ratings.to_dict("records"), strict=True):
        masks = {
            which: np.asanyarray(nibabel.load(tmp_path / f"{case}_{which}.nii.gz").dataobj).T[None] > 0
            for which in ("segmentation", f"inner_{structure}", f"outer_{structure}")
        }
        segmentation, inner, outer = masks.values()
        np.testing.assert_array_equal(segmentation, stock(folder, [new / f"{case}_0000.png"]) > 0)
        assert not (inner & ~segmentation).any() and not (segmentation & ~outer).any()
        sizes = [int(mask.sum()) for mask in (inner, segmentation, outer)]
        assert [row["inner"], row["segmentation"], row["outer"]] == sizes and row["unit"] == "mm²"
        assert row["outer_not_inner"] == pytest.approx(1 - sizes[0] / sizes[2])
        if kind == "margin":
            bounds = promised.bounds[structure]
            for mask, name in ((inner, "inner_margin_mm"), (outer, "outer_margin_mm")):
                again = bound_mask(name, bounds[name].setting, segmentation, (999, 1, 1))  # type: ignore[arg-type]
                np.testing.assert_array_equal(mask, again)
        interval = promised.intervals[structure]
        low, high = interval.around(row["predicted_dice"], row["entropy_bits"])
        assert (row["dice_low"], row["dice_high"]) == (pytest.approx(low), pytest.approx(high))
    assert len(list(tmp_path.iterdir())) == 2 * 3 + 2
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("verb", ["apply", "qa"])
def test_another_model_is_refused(
    verb: str, calibration: Path, folder: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same network with one other weight, in a folder of the same name."""
    other = shutil.copytree(folder, tmp_path / folder.name)
    file = other / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    next(iter(checkpoint["network_weights"].values())).view(-1)[0] += 1
    torch.save(checkpoint, file)
    named = ["-m", str(other), "--calibration", str(calibration), "-o", str(tmp_path / "o")]
    assert main([verb, "-i", str(new), *named, "-device", "cpu"]) == 2
    assert "the calibration is of another model (checkpoints is" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("apply --calibration A.json B.json", "2 calibrations are named (A.json, B.json): name the model's alone"),
        ("qa --calibration A.json --calibration B.json", "2 calibrations are named (A.json, B.json)"),
        ("apply", "no calibration: give --calibration FILE"),
        ("apply --calibration A.json --dice-limits 0.5 0.8", "--dice-limits 0.5 0.8: give two in [0, 1], to review"),
        ("qa --dice-limits 0.8 0.5", "--dice-limits and --share-limits need a --calibration"),
        ("qa --share-limits 0.5 0.8", "--dice-limits and --share-limits need a --calibration"),
        ("qa --calibration A.json -m X Y", "no calibration A.json: make one with nnunet-robust calibrate"),
    ],
)
def test_what_apply_and_qa_refuse(
    command: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "-i", "images", "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_volumes_and_their_maps(nnunet: Path, volumes: str, tmp_path: Path) -> None:
    """Two structures, two channels; one test case has neither structure."""
    folder = train(volumes, "3d_fullres", "nnUNetTrainerNoSkip_ps12x32x32_st3_bs2_1epochs_6iters_seed1", validate=False)
    file = tmp_path / "c.json"
    asked_for = ["-m", str(folder), "-d", volumes, "-o", str(file), "-device", "cpu"]
    assert main(["calibrate", *asked_for, "--alpha", "0.4", "--interval-alpha", "0.4", "--disable-tta"]) == 0
    assert read_calibration(file).model["predicted_dice"] == "soft_dice"
    images = tmp_path / "new"
    images.mkdir()
    for channel in (0, 1):
        name = f"train_0_000{channel}.nii.gz"
        shutil.copy(raw(nnunet, volumes) / "imagesTr" / name, images / name)
    out = tmp_path / "out"
    command = ["apply", "-i", str(images), "-m", str(folder), "--calibration", str(file), "-o", str(out), "--maps"]
    assert main([*command, "-device", "cpu"]) == 0
    source = nibabel.load(images / "train_0_0000.nii.gz")
    for path in out.glob("*.nii.gz"):
        np.testing.assert_allclose(nibabel.load(path).affine, source.affine, atol=1e-6)
        assert nibabel.load(path).shape == source.shape
    read = {
        name: np.asanyarray(nibabel.load(out / f"train_0_{name}.nii.gz").dataobj)
        for name in ("segmentation", "entropy", "mutual_information", "probability_shell", "probability_core")
    }
    assert (
        read["entropy"].dtype == np.float32 and 0 <= read["entropy"].min() < read["entropy"].max() <= np.log2(3) + 1e-5
    )
    assert not read["mutual_information"].any()  # a single member
    shell, core = read["probability_shell"], read["probability_core"]
    mean = np.stack([1 - shell - core, shell, core])
    entropy = -(mean * np.log2(np.maximum(mean, 1e-12))).sum(axis=0)
    np.testing.assert_allclose(read["entropy"], entropy, atol=1e-3)
    taken = np.take_along_axis(mean, read["segmentation"].astype(int)[None], axis=0)[0]
    assert (mean.max(axis=0) - taken).max() < 1e-5  # logits of half precision may be equal
    ratings = pd.read_csv(out / "ratings.csv")
    assert list(ratings["structure"]) == ["shell", "core"] and set(ratings["unit"]) == {"ml"}
    assert ratings["segmentation"][1] == pytest.approx((read["segmentation"] == 2).sum() * 0.003)


# --- qa


@pytest.fixture(scope="module")
def mixed(nnunet: Path, textures: str, new: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    first, second = sorted(new.iterdir())
    pixels = np.asarray(Image.open(first))
    rng = np.random.default_rng(0)
    made = {
        "clean": pixels,
        "noisy": np.clip(pixels + rng.normal(0, 80, pixels.shape), 0, 255).astype(np.uint8),
        "empty": np.zeros_like(pixels),
        "colours": np.stack([pixels] * 3, axis=-1),
    }
    for name, data in made.items():
        Image.fromarray(data).save(folder / f"{name}_0000.png")
    (folder / "truncated_0000.png").write_bytes(second.read_bytes()[:200])
    known = sorted((raw(nnunet, textures) / "imagesTs").iterdir())[0]
    shutil.copy(known, folder / "known_0000.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_qa_of_a_mixed_folder(
    calibration: Path, folder: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["-i", mixed, "-m", folder, "--calibration", calibration, "-o", tmp_path, "-device", "cpu"]
    assert main(["qa", *map(str, named)]) == 3
    assert "notes.txt" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "qa.csv").set_index("case")
    assert set(table.index[:3]) == {"colours", "empty", "truncated"} or table["verdict"].iloc[0] == "reject"
    order = ["reject", "review", "accept"]
    assert list(table["verdict"]) == sorted(table["verdict"], key=order.index)
    assert {case: table.loc[case, "verdict"] for case in ("colours", "empty", "truncated")} == dict.fromkeys(
        ("colours", "empty", "truncated"), "reject"
    )
    assert table.loc["noisy", "verdict"] != "accept" and table.loc["noisy", "check: noise"] == "review"
    assert table.loc["clean", "check: noise"] == "accept"
    assert (
        table.loc["known", "check: new image"] == "review" and "proves nothing on it" in table.loc["known", "reasons"]
    )
    page = (tmp_path / "qa.html").read_text()
    assert page.count('<svg class="thumb"') == 5  # the truncated one cannot be shown
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page) and "<script" not in page
    for symbol, verdict in (("✗", "reject"), ("?", "review")):
        assert f"{symbol} {verdict}</span>" in page
    assert "notes.txt" in page and "calibrated on 3 cases of 3 patients, clean images" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qa.csv", "qa.html"]


def test_qa_without_a_calibration(
    folder: Path, mixed: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["qa", "-i", str(new), "-m", str(folder), "-o", str(tmp_path), "-device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "No calibration was given: verdicts rest on checks of the images alone" in printed
    assert "of 2 images: 2 accept, 0 review, 0 reject" in printed
    table = pd.read_csv(tmp_path / "qa.csv")
    assert all("without a calibration" in reasons for reasons in table["reasons"])
    before = [(tmp_path / name).read_bytes() for name in ("qa.csv", "qa.html")]
    assert main(["qa", "-i", str(new), "-m", str(folder), "-o", str(tmp_path), "-device", "cpu"]) == 0
    assert [(tmp_path / name).read_bytes() for name in ("qa.csv", "qa.html")] == before
    assert main(["qa", "-i", str(tmp_path / "nowhere"), "-m", str(folder), "-o", str(tmp_path)]) == 2


# --- small parts


def test_units() -> None:
    assert unit_of((999.0, 1.0, 1.0), (1, 9, 9)) == ("mm²", 1.0)
    assert unit_of((499.5, 0.25, 0.5), (1, 9, 9)) == ("mm²", 0.125)
    assert unit_of((3.0, 1.0, 0.5), (5, 9, 9)) == ("ml", 0.0015)
    assert unit_of((3.0, 1.0, 1.0), (1, 9, 9))[0] == "ml"


def test_names_of_files() -> None:
    assert file_names(["whole tumour", "left/right", "core"]) == {
        "whole tumour": "whole_tumour",
        "left/right": "left_right",
        "core": "core",
    }
    assert file_names(["a b", "a_b"]) == {"a b": "a_b", "a_b": "a_b_2"}
