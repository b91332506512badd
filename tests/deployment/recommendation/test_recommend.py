"""`recommend`: planted relations are found, identical models told, strangers declined; sentences, JSON, exit codes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage import data

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import model_folder
from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.deployment.recommendation import recommend as module
from nnunet_robust.deployment.recommendation.advice import as_json, expected_table, image_table, sentences
from nnunet_robust.deployment.recommendation.recommend import recommend
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.statistics import NO_DIFFERENCE
from nnunet_robust.eval.statistics.verdict import decide
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from nnunet_robust.perturbations import perturb
from tests.eval.sweep.test_sweep import Silent

STEEP, GENTLE = "nnUNetTrainer_2epochs_seed1", "nnUNetTrainerNoSkip_2epochs_seed1"
ARCHITECTURES = (STEEP.removesuffix("_seed1"), GENTLE.removesuffix("_seed1"))
LEVELS = {"gaussian_noise": (0.05, 0.1, 0.2, 0.4), "gaussian_blur": (1.0, 2.0, 3.0)}

Dice = Callable[[str, str, float], float]


def planted(model: str, name: str, level: float) -> float:
    """The one falls under noise and the other does not: they cross at 0.1. Blur leaves both alone."""
    if model == GENTLE:
        return 0.8
    return 0.9 - 1.0 * level * (name == "gaussian_noise")


def texture(number: int) -> np.ndarray:
    """One image of a homogeneous set, (1, 96, 96), 8-bit values."""
    row, column = numpy_generator("place", number).integers(0, 400, 2)
    return data.gravel()[row : row + 96, column : column + 96].astype(np.float32)[None]


def perturbed(image: np.ndarray, name: str, level: float, seed: int = 0) -> np.ndarray:
    if level == 0:
        return image
    return perturb(torch.from_numpy(image), name, level, torch_generator(seed, name)).numpy()


def write_sweep(out: Path, dice: Dice = planted, patients: int = 12, spread: float = 0.02) -> Path:
    """A sweep's folder: what was measured is that of real images, the scores are planted."""
    conditions = [("clean", 0.0), *((name, level) for name, levels in LEVELS.items() for level in levels)]
    results, inputs = [], []
    for number in range(patients):
        image, generator = texture(number), numpy_generator("scores", number)
        for name, level in conditions:
            quality = image_quality(perturbed(image, name, level, number), (1, 1))
            key = {"dataset": "Dataset501_T", "patient": f"p{number}", "case": f"c{number}", "perturbation": name}
            key |= {"level": level, "replicate": 0}
            inputs.append(
                key
                | {"psnr_db": 20, "snr_db": 14, "foreground_ratio": 0.2, "texture_divergence_bits": 0.3}
                | {"boundary_contrast": 2, "noise_sigma": quality.noise_sigma, "blur": quality.blur}
            )
            skill = spread * generator.normal()
            for model in (STEEP, GENTLE):
                score = min(1.0, dice(model, name, level) + skill + spread / 2 * generator.normal())
                arm = {"model": model, "plans": "nnUNetPlans", "configuration": "2d", "fold": "0"}
                sizes = {"patch_size": "96x96", "tile_size": "96x96", "label": "x", "dice": score, "iou": score}
                rest = {
                    "hd95_mm": 1,
                    "assd_mm": 1,
                    "nsd": 1,
                    "volume_ratio": 1,
                    "n_ref": 9,
                    "n_pred": 9,
                    "outcome": "ok",
                }
                results.append(key | arm | sizes | rest)
    out.mkdir(parents=True)
    pd.DataFrame(results).to_csv(out / "results.csv", index=False)
    pd.DataFrame(inputs).to_csv(out / "inputs.csv", index=False)
    images = {"file_ending": ".png", "channels": 1, "reader": "NaturalImage2DIO"}
    manifest = {
        "dataset": "Dataset501_T",
        "models": {model: {"images": images} for model in (STEEP, GENTLE)},
        "perturbations": {name: {"levels": levels, "unit": "some unit"} for name, levels in LEVELS.items()},
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def write_images(folder: Path, name: str, level: float, count: int = 4, form: str = "new_{}_0000.png") -> Path:
    """Images of other places of the same photograph, under a condition, as 8-bit files."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = perturbed(texture(100 + number), name, level, 100 + number)[0]
        Image.fromarray(np.rint(pixels).astype(np.uint8)).save(folder / form.format(number))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep") / "out")


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("clean", 0.0, ARCHITECTURES[0]),
        ("gaussian_noise", 0.05, ARCHITECTURES[0]),
        ("gaussian_noise", 0.15, ARCHITECTURES[1]),  # a level that the sweep has not
        ("gaussian_noise", 0.3, ARCHITECTURES[1]),
        ("gaussian_blur", 1.5, ARCHITECTURES[0]),
    ],
)
def test_a_planted_relation_is_found(name: str, level: float, expected: str, sweep: Path, tmp_path: Path) -> None:
    answer = recommend(write_images(tmp_path / "new", name, level), sweep)
    assert answer.verdict is not None and answer.verdict.answer == expected
    assert answer.verdict.confidence > 0.95 and answer.verdict.patients == 12
    assert [one.verdict.answer for one in answer.images if one.verdict] == [expected] * 4
    for model, trainer in zip(ARCHITECTURES, (STEEP, GENTLE), strict=True):
        assert answer.verdict.expected[model]["mean"] == pytest.approx(planted(trainer, name, level), abs=0.035)
    nearest = pd.DataFrame([one.place.levels.iloc[0] for one in answer.images if one.place])
    if level:
        assert set(nearest["perturbation"]) == {name} and nearest["level"].median() == pytest.approx(level, rel=0.25)
        assert f"{name.replace('_', ' ')} at " in sentences(answer)[1] and "some unit" in sentences(answer)[1]
    assert len(image_table(answer)) == 4
    assert expected_table(answer)["architecture"][0] == expected
    assert expected_table(answer).set_index("architecture")["Dice on clean images"][ARCHITECTURES[0]] > 0.85


def test_attacked_images_are_no_noise_to_learn_from(sweep: Path, tmp_path: Path) -> None:
    """Measured like images under noise, with scores that would turn the answer, and yet it is the same."""
    attacked = shutil.copytree(sweep, tmp_path / "out")

    def add(table: pd.DataFrame) -> pd.DataFrame:
        noisy = table[table["perturbation"] == "gaussian_noise"].assign(perturbation=f"pgd_linf_from_{GENTLE}")
        if "dice" in noisy:
            noisy["dice"] = np.where(noisy["model"] == GENTLE, 0.0, 1.0)
        return pd.concat([table, noisy])

    for name in ("results", "inputs"):
        rewrite(attacked / f"{name}.csv", add)
    manifest = json.loads((attacked / "manifest.json").read_text())
    attack = {"steps": 20, "source": {GENTLE: {"0": "checkpoint"}}}
    levels = manifest["perturbations"]["gaussian_noise"]["levels"]
    manifest["perturbations"][f"pgd_linf_from_{GENTLE}"] = {"levels": levels, "unit": "some unit", "attack": attack}
    (attacked / "manifest.json").write_text(json.dumps(manifest))
    new = write_images(tmp_path / "new", "gaussian_noise", 0.3)
    before, after = (recommend(new, folder) for folder in (sweep, attacked))
    assert after.verdict == before.verdict
    assert not any("PGD" in sentence for sentence in sentences(after))


def test_identical_models_make_no_difference(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out", lambda model, name, level: 0.8 - level / 5, spread=0.01)
    answer = recommend(write_images(tmp_path / "new", "gaussian_noise", 0.1), out)
    assert answer.verdict is not None and answer.verdict.answer == NO_DIFFERENCE
    assert answer.verdict.confidence > 0.95 and set(answer.verdict.equivalent) == set(ARCHITECTURES)
    assert sentences(answer)[0].startswith("Answer: no difference that matters; in ")
    without_margin = recommend(tmp_path / "new", out, margin=0.0)
    assert without_margin.verdict is not None and without_margin.verdict.answer in ARCHITECTURES


def test_no_confidence_where_patients_contradict_each_other(sweep: Path, tmp_path: Path) -> None:
    contradiction = decide(pd.DataFrame({"a": [0.9, 0.1] * 6, "b": [0.12, 0.92] * 6}), margin=0.01)
    assert contradiction.answer == "b" and 0.4 < contradiction.confidence < 0.7
    answer = recommend(write_images(tmp_path / "new", "clean", 0.0), sweep)
    assert answer.verdict is not None and not any("tendency" in sentence for sentence in sentences(answer))
    unsure = replace(answer, verdict=replace(answer.verdict, confidence=0.55))
    assert "in 55 % of 2000" in sentences(unsure)[0] and any("tendency" in sentence for sentence in sentences(unsure))


def strangers(folder: Path, kind: str) -> Path:
    """Images that no perturbation of the sweep's makes."""
    folder.mkdir()
    noise = numpy_generator("strangers").uniform(0, 255, (96, 96))
    y, x = np.mgrid[:96, :96] / 96
    image = {
        "white noise": noise,
        "smooth": 255 * np.hypot(x - 0.4, y - 0.5),
        "blurred, then noisy": perturbed(perturbed(texture(7), "gaussian_blur", 3.0), "gaussian_noise", 0.2)[0],
        "constant": np.full((96, 96), 80.0),
    }[kind]
    Image.fromarray(np.rint(image).astype(np.uint8)).save(folder / "strange.png")
    return folder


@pytest.mark.parametrize("kind", ["white noise", "smooth", "blurred, then noisy", "constant"])
def test_images_unlike_all_that_was_measured_are_declined(kind: str, sweep: Path, tmp_path: Path, capsys) -> None:
    folder = strangers(tmp_path / "new", kind)
    answer = recommend(folder, sweep)
    assert answer.verdict is None and answer.images[0].verdict is None
    what = "could be measured" if kind == "constant" else "lies outside of what the sweep measured"
    assert what in answer.declined
    assert main(["recommend", "-i", str(folder), "--from", str(sweep), "-device", "cpu"]) == 3
    assert "Declined: " in capsys.readouterr().out
    assert json.loads(as_json(answer))["verdict"] is None


def test_a_few_strangers_do_not_spoil_the_answer(sweep: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "new", "gaussian_noise", 0.2, count=3, form="new_{}.png")
    strangers(tmp_path / "other", "smooth").joinpath("strange.png").rename(folder / "strange.png")
    answer = recommend(folder, sweep)
    assert [bool(one.verdict) for one in answer.images] == [True, True, True, False]
    assert answer.verdict is not None and answer.verdict.answer == ARCHITECTURES[1]
    assert any("Not answered for: strange (1 of 4 images; strange: it lies" in said for said in sentences(answer))
    for number in (0, 1):
        (folder / f"new_{number}.png").unlink()
    assert recommend(folder, sweep).verdict is not None  # half of them
    (folder / "new_2.png").rename(tmp_path / "gone.png")
    assert recommend(folder, sweep).verdict is None


def test_too_few_patients_and_other_channels_are_declined(sweep: Path, tmp_path: Path) -> None:
    few = write_sweep(tmp_path / "few", patients=4)
    images = write_images(tmp_path / "new", "clean", 0.0, count=1)
    assert "the sweep has 4 patients, and 5 are the least" in recommend(images, few).declined
    colour = tmp_path / "colour"
    colour.mkdir()
    Image.fromarray(np.repeat(texture(1)[0][:, :, None], 3, 2).astype(np.uint8)).save(colour / "a.png")
    assert "it has 3 channels, the sweep's images have 1" in recommend(colour, sweep).declined
    assert len(image_table(recommend(colour, sweep))) == 1


def test_the_command_line_prints_a_table_and_writes_json(sweep: Path, tmp_path: Path, capsys) -> None:
    images = write_images(tmp_path / "new", "gaussian_noise", 0.2)
    arguments = [
        "recommend",
        "-i",
        str(images),
        "--from",
        str(sweep),
        "-device",
        "cpu",
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"Answer: {ARCHITECTURES[1]}; in 100 % of 2000 bootstraps over 12 patients" in printed
    assert "12 patients are few" in printed and all(f"new_{i}" in printed for i in range(4))
    written = (tmp_path / "a.json").read_bytes()
    found = json.loads(written)
    assert found["verdict"]["answer"] == ARCHITECTURES[1] and len(found["images"]) == 4
    assert found["images"][0]["most_like"][0]["perturbation"] == "gaussian_noise"
    main(arguments)
    assert (tmp_path / "a.json").read_bytes() == written


def test_what_is_to_be_known_of_the_sweep_is_said(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, out := tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    for epochs, (model, entry) in zip((1000, 100), manifest["models"].items(), strict=True):
        training = {"epochs": {"0": epochs}, "iterations_per_epoch": 250, "batch_size": 2}
        entry |= {"model": model, "fold": "0", "training": training}
    (out / "manifest.json").write_text(json.dumps(manifest))
    answer = recommend(write_images(tmp_path / "new", "clean", 0.0, count=1), out)
    said = (
        f"The trainings are of unequal length: {STEEP} on 500,000 patches (1,000 epochs of 250 iterations, batch size "
        f"2); {GENTLE} on 50,000 patches (100 epochs of 250 iterations, batch size 2)."
    )
    assert sentences(answer)[-1].startswith(f"Warning: {said}")
    (warning,) = json.loads(as_json(answer))["warnings"]
    assert warning.startswith(said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda out, new: (out / "inputs.csv").unlink(), "run the sweep into a new folder"),
        (lambda out, new: rewrite(out / "inputs.csv", lambda t: t.drop(columns="blur")), "run the sweep into a new"),
        (lambda out, new: rewrite(out / "results.csv", lambda t: t[t["model"] == STEEP]), "has one architecture"),
        (lambda out, new: (out / "results.csv").unlink(), "No results at"),
        (lambda out, new: (out / "manifest.json").write_text('{"models": {}}'), "does not say what images"),
        (lambda out, new: (new / "new_0_0000.png").unlink(), "no .png files in"),
        (lambda out, new: (new / "new_0_0000.png").write_bytes(b"no image"), "image 'new_0' cannot be read"),
        (
            lambda out, new: rewrite(out / "inputs.csv", lambda t: t.assign(case="x")),
            "no image that every architecture",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(change: Callable, says: str, tmp_path: Path) -> None:
    out, new = write_sweep(tmp_path / "out", patients=2), write_images(tmp_path / "new", "clean", 0.0, count=1)
    change(out, new)
    with pytest.raises(UserError) as error:
        recommend(new, out)
    assert says in str(error.value) and "\n" not in str(error.value)


def rewrite(file: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    edit(pd.read_csv(file)).to_csv(file, index=False)


def test_other_faults_of_the_command_line(sweep: Path, tmp_path: Path, capsys) -> None:
    for arguments, says in (
        (["-i", str(tmp_path / "no"), "--from", str(sweep)], "no folder"),
        (["-i", str(tmp_path), "--from", str(sweep), "--margin", "-1"], "--margin -1"),
        (["-i", str(tmp_path), "--from", str(sweep), "-m", "A", "B"], "-m names 2 models"),
    ):
        assert main(["recommend", *arguments, "-device", "cpu"]) == 2
        assert says in capsys.readouterr().err


def test_the_decision_by_hand() -> None:
    scores = pd.DataFrame({"a": [0.5, 0.7, 0.6], "b": [0.595, 0.6, 0.6], "c": [0.1, 0.2, 0.3]}, index=list("xyz"))
    verdict = decide(scores, margin=0.01, n_resamples=500)
    assert (verdict.answer, verdict.equivalent, verdict.patients) == ("a", ("b",), 3)
    # all 27 resamples: the share in which the mean of a is at least that of b, less the margin
    of_all = [
        np.mean([d[i], d[j], d[k]]) >= -0.01 - 1e-12
        for d in [scores["a"].to_numpy() - scores["b"].to_numpy()]
        for i in range(3)
        for j in range(3)
        for k in range(3)
    ]
    assert verdict.confidence == pytest.approx(np.mean(of_all), abs=0.07)
    assert verdict.expected["a"]["mean"] == pytest.approx(0.6) and verdict.expected["c"]["share"] == 0
    assert verdict.expected["a"]["low"] <= 0.6 <= verdict.expected["a"]["high"]
    # six patients this way, six that way: both are within the margin only where a resample has six of each
    level = decide(pd.DataFrame({"a": [0.9, 0.1] * 6, "b": [0.1, 0.9] * 6}), margin=0.01)
    assert level.answer == NO_DIFFERENCE and level.equivalent == ("a", "b")
    assert level.confidence == pytest.approx(math.comb(12, 6) / 2**12, abs=0.03)


@pytest.mark.slow
def test_masks_are_predicted_and_count_where_the_model_is_good(
    textures: str, texture_models: tuple[str, str], nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real sweep; its own clean test images, as if they were new, lie on their own points."""
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    monkeypatch.setattr(module, "FEWEST_PATIENTS", 3)
    out = tmp_path / "out"
    run_sweep(
        SweepParameters(
            output=out, conditions={"gaussian_noise": (0.1, 0.3)}, dataset="901", trainers=texture_models, folds=["0"],
            device="cpu", save_predictions=True,
        ),
        Silent(),
    )  # fmt: skip
    inputs = pd.read_csv(out / "inputs.csv").set_index(["case", "perturbation", "level"])
    images = nnunet / "nnUNet_raw" / textures / "imagesTs"
    folder = model_folder(textures, texture_models[0], "nnUNetPlans", "2d")
    for trusted, used in ((0.0, 4), (1.1, 2)):
        monkeypatch.setattr(module, "TRUSTED_DICE", trusted)
        answer = recommend(images, out, model_folder=folder)
        assert answer.verdict is not None
        assert sum("count for" in sentence for sentence in sentences(answer)) == 1
        for one in answer.images:
            row = inputs.loc[(one.image, "clean", 0.0)]
            assert one.measured["noise_sigma"] == row["noise_sigma"] and one.measured["blur"] == row["blur"]
            mask = np.asarray(Image.open(next(out.glob(f"predictions/{texture_models[0]}__*/clean/{one.image}.png"))))
            assert one.measured["foreground_ratio"] == np.mean(mask > 0)
            assert len(one.used) == used
            if used == 2:
                assert one.place.distance == pytest.approx(0, abs=1e-6)
