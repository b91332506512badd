"""`recommend`: planted relations are found, identical models are not told apart, strangers declined; words, JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import data

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import model_folder
from nnunet_robust.common.seeding import numpy_generator, torch_generator
from nnunet_robust.deployment.recommendation import recommend as module
from nnunet_robust.deployment.recommendation.advice import as_json, expected_table, image_table, sentences
from nnunet_robust.deployment.recommendation.placement import Place
from nnunet_robust.deployment.recommendation.recommend import Recommendation, recommend
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.report.shared.read import Sweep, read_sweeps
from nnunet_robust.eval.statistics.recipe import Recipe
from nnunet_robust.eval.statistics.verdict import Verdict
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


def write_sweep(
    out: Path,
    dice: Dice = planted,
    patients: int = 12,
    spread: float = 0.02,
    models: Sequence[str] = (STEEP, GENTLE),
) -> Path:
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
            for model in models:
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
        "models": {model: {"images": images} for model in models},
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
    verdict, recipe = the_answer(answer)
    assert (verdict.best, verdict.settled, verdict.matters) == ((expected,), True, True)
    assert (recipe.baseline, recipe.take) == (ARCHITECTURES[0], expected) and recipe.evidence == "moderate"
    assert (verdict.n_patients, verdict.n_trained) == (12, 1)
    assert [next(iter(one.means)) for one in answer.images] == [expected] * 4
    for model, trainer in zip(ARCHITECTURES, (STEEP, GENTLE), strict=True):
        assert verdict.means[model] == pytest.approx(planted(trainer, name, level), abs=0.035)
    said = sentences(answer)
    start = "take" if expected == ARCHITECTURES[1] else "stay with"
    assert said[0].startswith(f"Answer: of these trained models, {start} {expected}: on images like these it is better")
    assert said[1].startswith(f"The best on images like these, or not told from the best: {expected} ({expected} leads")
    assert said[2].startswith("Evidence: moderate (12 images; one training of each architecture, so that all of this")
    nearest = pd.DataFrame([one.place.levels.iloc[0] for one in answer.images if one.place])
    if level:
        assert set(nearest["perturbation"]) == {name} and nearest["level"].median() == pytest.approx(level, rel=0.25)
        assert f"{name.replace('_', ' ')} at " in said[3] and "some unit" in said[3]
    assert len(image_table(answer)) == 4
    assert expected_table(answer)["architecture"].tolist() == [*ARCHITECTURES]  # the baseline first
    assert expected_table(answer)["told from the best"].tolist() == [
        "no" if model == expected else "yes" for model in ARCHITECTURES
    ]
    assert expected_table(answer).set_index("architecture")["Dice on clean images"][ARCHITECTURES[0]] > 0.85


def the_answer(answer: Recommendation) -> tuple[Verdict, Recipe]:
    assert answer.verdict is not None and answer.recipe is not None
    return answer.verdict, answer.recipe


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


def test_equal_models_are_shown_to_be_equal_or_not_told_apart(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out", lambda model, name, level: 0.8 - level / 5, spread=0.01)
    answer = recommend(write_images(tmp_path / "new", "gaussian_noise", 0.1), out, margin=0.02)
    verdict, recipe = the_answer(answer)
    assert set(verdict.best) == set(ARCHITECTURES) and not verdict.settled
    assert recipe.equivalent and recipe.take == ARCHITECTURES[0] and recipe.evidence == "moderate"
    assert sentences(answer)[0] == (
        f"Answer: of these trained models, stay with {ARCHITECTURES[0]}: no other one is better by more than 0.02 Dice "
        f"on images like these, and the data show that."
    )
    answer = recommend(tmp_path / "new", out, margin=0.0)  # nothing is ever shown to be equal
    verdict, recipe = the_answer(answer)
    assert set(verdict.best) == set(ARCHITECTURES) and (recipe.take, recipe.evidence) == (ARCHITECTURES[0], "weak")
    assert sentences(answer)[0].endswith("no other one is shown to be better on images like these.")


def test_a_higher_mean_that_is_not_shown_is_no_answer(tmp_path: Path) -> None:
    """Six patients this way, six that way: no answer, however large the difference; the higher mean is said."""
    patients = iter(range(10**6))

    def contradicting(model: str, name: str, level: float) -> float:
        better = (next(patients) // 2 // 8) % 2 == 0  # eight conditions of two models: then the next patient
        return 0.5 + (0.3 if better == (model == STEEP) else -0.3) + 0.05 * (model == GENTLE)

    out = write_sweep(tmp_path / "out", contradicting)
    answer = recommend(write_images(tmp_path / "new", "clean", 0.0), out)
    verdict, recipe = the_answer(answer)
    assert verdict.best == ARCHITECTURES[::-1] and not verdict.settled and verdict.lead.low < -0.2
    assert (recipe.take, recipe.over_baseline, recipe.evidence) == (ARCHITECTURES[0], None, "weak")
    said = sentences(answer)
    assert f"stay with {ARCHITECTURES[0]}: no other one is shown to be better" in said[0]
    assert said[3].startswith(f"Not shown, but higher in these data than {ARCHITECTURES[0]}: {ARCHITECTURES[1]}, by 0.")


def test_better_by_less_than_the_margin_is_no_reason_to_leave_the_baseline(tmp_path: Path) -> None:
    out = write_sweep(tmp_path / "out", lambda model, name, level: 0.8 + 0.004 * (model == GENTLE), spread=0.001)
    answer = recommend(write_images(tmp_path / "new", "clean", 0.0), out)
    verdict, recipe = the_answer(answer)
    assert verdict.settled and verdict.best == (ARCHITECTURES[1],) and not verdict.matters
    assert recipe.take == ARCHITECTURES[0] and recipe.equivalent
    table = expected_table(answer)
    assert table["told from the best"].tolist() == ["yes", "no"]
    assert table["over the baseline"][0] == "baseline" and table["over the baseline"][1].startswith("0.004 [0.00")


def test_a_third_architecture_in_between_is_told_from_the_best_or_belongs_to_them(tmp_path: Path) -> None:
    third = "nnUNetTrainerAttentionGated_2epochs_seed1"
    models = (STEEP, GENTLE, third)
    dice = dict(zip(models, (0.7, 0.9, 0.9), strict=True))
    out = write_sweep(tmp_path / "out", lambda model, name, level: dice[model], models=models)
    answer = recommend(write_images(tmp_path / "new", "clean", 0.0), out)
    verdict, recipe = the_answer(answer)
    two = {ARCHITECTURES[1], third.removesuffix("_seed1")}
    assert set(verdict.best) == two and not verdict.settled and recipe.take in two
    first, second = verdict.best
    assert f"told from the best: {first} and {second} ({first} leads {ARCHITECTURES[0]} by 0." in sentences(answer)[1]
    assert expected_table(answer)["architecture"][0] == ARCHITECTURES[0]


def test_trainings_count(tmp_path: Path) -> None:
    """Three trainings each, which differ by more than the architectures do: they are not told apart any more."""
    models = [f"{name}_seed{seed}" for name in ARCHITECTURES for seed in (1, 2, 3)]
    of_training = dict(zip(models, (-0.06, 0.0, 0.06, -0.02, 0.04, 0.1), strict=True))
    alike = write_sweep(tmp_path / "one", lambda model, *_: 0.7 + 0.04 * (model == GENTLE), spread=0.01)
    out = write_sweep(tmp_path / "out", lambda model, *_: 0.7 + of_training[model], spread=0.01, models=models)
    images = write_images(tmp_path / "new", "clean", 0.0)
    (one, _), (three, recipe) = the_answer(recommend(images, alike)), the_answer(answer := recommend(images, out))
    assert one.settled and one.n_trained == 1
    assert three.n_trained == 3 and set(three.best) == set(ARCHITECTURES) and recipe.take == ARCHITECTURES[0]
    for first, second in ((one, three), (three, one)):
        assert first.means == pytest.approx(second.means, abs=0.01)
    said = sentences(answer)
    assert "trained models" not in said[0] and "12 images; 3 trainings of each architecture" in said[2]


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
    assert answer.verdict is None and answer.recipe is None and not answer.images[0].means
    assert expected_table(answer).empty
    what = "could be measured" if kind == "constant" else "lies outside of what the sweep measured"
    assert what in answer.declined
    assert main(["recommend", "-i", str(folder), "--from", str(sweep), "-device", "cpu"]) == 3
    assert "Declined: " in capsys.readouterr().out
    assert json.loads(as_json(answer))["verdict"] is None


def test_a_few_strangers_do_not_spoil_the_answer(sweep: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "new", "gaussian_noise", 0.2, count=3, form="new_{}.png")
    strangers(tmp_path / "other", "smooth").joinpath("strange.png").rename(folder / "strange.png")
    answer = recommend(folder, sweep)
    assert [bool(one.means) for one in answer.images] == [True, True, True, False]
    assert the_answer(answer)[0].best == (ARCHITECTURES[1],)
    assert any("Not answered for: strange (1 of 4 images; strange: it lies" in said for said in sentences(answer))
    for number in (0, 1):
        (folder / f"new_{number}.png").unlink()
    assert recommend(folder, sweep).verdict is not None  # half of them
    (folder / "new_2.png").rename(tmp_path / "gone.png")
    assert recommend(folder, sweep).verdict is None


def test_too_few_patients_and_other_channels_are_declined(sweep: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "new", "clean", 0.0, count=1)
    few, enough = (recommend(images, write_sweep(tmp_path / str(n), patients=n)) for n in (5, 6))
    assert "the sweep has 5 patients, and 6 are the least" in few.declined and few.verdict is None
    assert not few.images[0].means and image_table(few)["highest mean"].tolist() == ["declined"]
    assert the_answer(enough)[0].n_patients == 6
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
    assert f"Answer: of these trained models, take {ARCHITECTURES[1]}: on images like these it is better" in printed
    assert "highest mean of a single image is no answer" in printed and all(f"new_{i}" in printed for i in range(4))
    assert "bootstrap" not in printed and "confidence" not in printed
    written = (tmp_path / "a.json").read_bytes()
    found = json.loads(written)
    verdict = found["verdict"]
    assert (verdict["baseline"], verdict["take"], verdict["best"]) == (*ARCHITECTURES, [ARCHITECTURES[1]])
    assert verdict["settled"] and verdict["matters"] and verdict["evidence"] == "moderate"
    assert (verdict["n_patients"], verdict["n_trained"]) == (12, 1) and [*verdict["means"]] == [*ARCHITECTURES[::-1]]
    lead = verdict["lead"]
    assert 0 < lead["low"] < lead["value"] < lead["high"] and verdict["over_baseline"] == lead
    assert lead["value"] == pytest.approx(verdict["means"][ARCHITECTURES[1]] - verdict["means"][ARCHITECTURES[0]])
    assert len(found["images"]) == 4 and set(found["images"][0]["means"]) == set(ARCHITECTURES)
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
            "no image that every trained model",
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


def advisor_of(sweep: Sweep | Path, dice: np.ndarray | None = None) -> module._Advisor:
    """What decides, with other scores than those of the sweep's files where some are given."""
    read = read_sweeps([sweep])[0] if isinstance(sweep, Path) else sweep
    return module._Advisor(
        read if dice is None else read._replace(rows=read.rows.assign(dice=dice)), None, 0.01, 2000, 0
    )


def test_the_decision_by_hand(tmp_path: Path) -> None:
    """Means over images, then patients, then trainings; of one training each, the interval of all 64 signs."""
    names = [f"{STEEP.removesuffix('1')}{seed}" for seed in (1, 2)]
    advisor = advisor_of(write_sweep(tmp_path / "two", patients=6, models=[*names, GENTLE]))
    patients = [f"p{i}" for i in range(6)]
    near, far = (
        pd.DataFrame({names[0]: first, names[1]: second, GENTLE: 0.5}, index=patients[:n])
        for n, first, second in ((6, 0.6, 0.8), (3, 0.2, 0.4))
    )
    verdict, _ = advisor.together([module.ImageAnswer("x", {}, (), Place(0, 1, table, table)) for table in (near, far)])
    assert verdict is not None and (verdict.n_patients, verdict.n_trained) == (6, 1)
    of_both_images = (0.7 + 0.3) / 2
    assert verdict.means == pytest.approx({ARCHITECTURES[0]: (0.7 + of_both_images) / 2, ARCHITECTURES[1]: 0.5})

    gains = np.array([0.05, 0.11, 0.08, 0.02, 0.15, 0.06])
    advisor = advisor_of(write_sweep(tmp_path / "one", patients=6))
    scores = pd.DataFrame({STEEP: 0.5 + gains, GENTLE: np.full(6, 0.5)}, index=patients)
    verdict, _ = advisor.together([module.ImageAnswer("a", {}, (), Place(0, 1, scores, scores))])
    flipped = np.array([*product((-1, 1), repeat=6)]) * (gains - gains.mean())
    t = np.abs(stats.ttest_1samp(flipped, 0, axis=1).statistic)
    half = np.quantile(t, 0.95, method="higher") * gains.std(ddof=1) / 6**0.5
    assert verdict is not None and verdict.settled and verdict.best == (ARCHITECTURES[0],)
    assert verdict.lead == pytest.approx((gains.mean(), gains.mean() - half, gains.mean() + half), abs=0.003)


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "seeds", "of_training"), [(6, 1, 0.0), (20, 3, 0.02)])
def test_identical_architectures_are_told_apart_in_few_studies(
    patients: int, seeds: int, of_training: float, tmp_path: Path
) -> None:
    """300 studies by the whole chain from the rows; 5 % is the nominal rate of three architectures at once."""
    names = [f"{name}_seed{seed}" for name in ("nnUNetTrainer", "A", "B") for seed in range(seeds)]
    (read,) = read_sweeps([write_sweep(tmp_path / "out", patients=patients, models=names)])
    measured = read.inputs[read.inputs["perturbation"] == "gaussian_noise"].iloc[0][["noise_sigma", "blur"]].to_dict()
    lines, of_line = np.unique(read.rows["line"].to_numpy(str), return_inverse=True)
    _, of_patient = np.unique(read.rows["patient"].to_numpy(str), return_inverse=True)
    owner = np.unique([name.partition("_")[0] for name in lines], return_inverse=True)[1]
    told = 0
    for study in range(300):
        generator = numpy_generator("identical", patients, seeds, study)
        skill = 0.05 * generator.standard_t(4, patients)  # of patients, whom every model shares
        liking = 0.05 * generator.standard_t(4, (3, patients))  # of a patient by an architecture
        training = of_training * generator.normal(size=len(lines))
        rest = 0.01 * generator.normal(size=len(read.rows))
        dice = 0.7 + skill[of_patient] + liking[owner[of_line], of_patient] + training[of_line] + rest
        advisor = advisor_of(read, dice)
        verdict, declined = advisor.together([advisor.answer("new", measured)])
        assert verdict is not None, declined
        told += any(pair.low > 0 or pair.high < 0 for pair in verdict.pairs.values())
    assert told <= 0.08 * 300  # 5 % and 2.4 standard errors of 300 studies; docs/recommend.md has the figures


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
