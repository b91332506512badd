"""Attacks as conditions of a sweep, on real trained models: whose image, within which budget, beside which noise."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.attack import ATTACKS, Attack
from nnunet_robust.eval.attacks.budget import Ball
from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.attacks.losses import plain
from nnunet_robust.eval.attacks.model_victim import ModelVictim
from nnunet_robust.eval.attacks.rows import PERTURBATIONS, against, attack_row, perturbation
from nnunet_robust.eval.attacks.victim import Victim
from nnunet_robust.eval.images.cases import cases_of_dataset
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.selection import models_of
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.report import analyse, write_report
from nnunet_robust.eval.report.sections.attacks import NOISE, attack_effects, transfer
from nnunet_robust.eval.results.manifest import Manifest, PerturbationEntry
from nnunet_robust.eval.results.tables import ARM, Condition, arm_key
from nnunet_robust.eval.sweep.attack_settings import attack_settings, refuse_other_attacks
from nnunet_robust.eval.sweep.attacker import Attacker
from nnunet_robust.eval.sweep.conditions import with_attacks
from nnunet_robust.eval.sweep.parameters import sources_of
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from nnunet_robust.perturbations import perturb
from tests.eval.attacks.test_chain import CPU, load
from tests.eval.report.pages import section
from tests.eval.sweep.test_sweep import Silent, read, rows

STEPS = 3
POINT = ["case", "perturbation", "level", "label"]


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return SweepParameters(
        output=tmp_path / "out", conditions={"pgd_linf": (0.02, 0.05)}, dataset="901", trainers=texture_models,
        folds=["0"], device="cpu", mirroring=False, attack_steps=STEPS, save_predictions=True,
    )  # fmt: skip


def table(output: Path) -> pd.DataFrame:
    frame = pd.read_csv(output / "results.csv", dtype={"fold": str})
    return frame.assign(key=[arm_key(**row) for row in frame[list(ARM)].to_dict("records")])


def of(frame: pd.DataFrame, model: str, perturbation: str) -> pd.DataFrame:
    found = frame[(frame["model"] == model) & (frame["perturbation"] == perturbation)]
    return found.set_index(["case", "level", "label"])[["dice", "n_pred"]].sort_index()


def test_every_model_gets_an_attack_on_itself(
    parameters: SweepParameters, textures: str, texture_models: tuple[str, str]
) -> None:
    """Against the same done by hand: the victim, the perturbation, the prediction."""
    progress = Silent()
    result = run_sweep(parameters, progress)
    assert not result.failures
    frame, output = table(parameters.output), parameters.output
    cases = sorted(frame["case"].unique())
    assert progress.total == progress.steps
    assert len(frame) == len(texture_models) * len(cases) * 5  # clean, two attacks, and noise of the same budgets
    assert set(frame["perturbation"]) == {"clean", "pgd_linf", "random_linf"}
    for trainer in texture_models:
        model = load(textures, trainer, "2d", mirroring=False)
        loaded = model.read(cases_of_dataset(textures, "0", ".png", model.channels)[0])
        image = torch.from_numpy(loaded.image)
        window = SlidingWindow.from_predictor(model.predictor)
        victim = ModelVictim(model, WindowGradient(window), loaded.label, loaded.properties)
        torch.set_num_threads(os.cpu_count() or 1)  # as the sweep does
        drawn = torch_generator(0, cases[0], "random_linf", 0)
        attacked = perturb(image, perturbation("pgd_linf"), 0.05, drawn, extra=against(victim, STEPS))
        data, properties = model.preprocess(attacked.numpy(), loaded.properties)
        labels = model.export(SlidingWindow.from_predictor(model.predictor).logits(data), properties)
        kept = output / "predictions" / f"{trainer}__nnUNetPlans__2d__fold0" / "pgd_linf_0.05" / f"{cases[0]}.png"
        assert np.array_equal(read(kept), labels[0])
        noise, attack = of(frame, trainer, "random_linf"), of(frame, trainer, "pgd_linf")
        assert (attack["dice"] <= noise["dice"]).all() and attack["dice"].mean() < noise["dice"].mean() - 0.05


def test_what_is_stored_of_attacked_images(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    run_sweep(replace(parameters, conditions={"pgd_linf": (0.02,), "fgsm_l2": (0.01,)}), Silent())
    attacks = pd.read_csv(parameters.output / "attacks.csv")
    inputs = pd.read_csv(parameters.output / "inputs.csv")
    assert set(inputs["perturbation"]) == {"clean", "random_linf", "random_l2"}  # of images that all models share
    n_cases = inputs["case"].nunique()
    assert len(attacks) == len(texture_models) * n_cases * 2
    by_norm = {norm: attacks[attacks["perturbation"].str.endswith(norm)] for norm in ("linf", "l2")}
    assert by_norm["linf"]["linf"].to_numpy() == pytest.approx(0.02, rel=1e-3)
    assert (by_norm["l2"]["l2"] <= 0.01 * (1 + 1e-4)).all() and (by_norm["l2"]["l2"] > 0.008).all()
    # the root mean square again, as the signal-to-noise ratio has it
    assert attacks["psnr_db"].to_numpy() == pytest.approx(-20 * np.log10(attacks["l2"]), abs=0.05)
    assert attacks.groupby(["case", "perturbation"])["psnr_db"].nunique().gt(1).any()  # images differ
    manifest = json.loads((parameters.output / "manifest.json").read_text())
    name = {"name": "pgd_linf", "display_name": "PGD, l∞"}
    assert manifest["perturbations"]["pgd_linf"]["attack"] == {**name, "steps": STEPS, "source": None}
    assert "attack" not in manifest["perturbations"]["random_linf"]
    assert any(sentence.startswith("Attacks know the reference") for sentence in manifest["assumptions"])
    for case in manifest["pictures"]["cases"].values():
        folder = parameters.output / "pictures" / case
        for trainer in texture_models:
            assert (folder / f"{trainer}__nnUNetPlans__2d__fold0" / "pgd_linf_0.02_image.png").is_file()
        assert (folder / "random_linf_0.02.png").is_file() and not (folder / "pgd_linf_0.02.png").exists()


def test_from_a_source_all_get_the_same_image(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    victim, other = texture_models
    asked = replace(parameters, conditions={"pgd_linf": (0.05,)}, attack_sources=["self", victim])
    run_sweep(asked, Silent())
    frame, transferred = table(parameters.output), f"pgd_linf_from_{victim}"
    assert set(frame["perturbation"]) == {"clean", "pgd_linf", "random_linf", transferred}
    pd.testing.assert_frame_equal(of(frame, victim, transferred), of(frame, victim, "pgd_linf"))
    assert not of(frame, other, transferred).equals(of(frame, other, "pgd_linf"))
    assert of(frame, other, transferred)["dice"].mean() > of(frame, other, "pgd_linf")["dice"].mean()
    inputs = pd.read_csv(parameters.output / "inputs.csv")
    assert transferred in set(inputs["perturbation"])
    manifest = json.loads((parameters.output / "manifest.json").read_text())
    source = manifest["perturbations"][transferred]["attack"]["source"]
    key = f"{victim}__nnUNetPlans__2d__fold0"
    assert source == {key: manifest["models"][key]["checkpoints"]}


def test_a_source_need_not_be_swept(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    victim, other = texture_models
    both = replace(parameters, conditions={"fgsm_linf": (0.05,)}, attack_sources=[victim])
    run_sweep(both, Silent())
    apart = replace(both, output=parameters.output.with_name("apart"), trainers=[other])
    run_sweep(apart, Silent())
    name = f"fgsm_linf_from_{victim}"
    first, second = (table(one.output) for one in (both, apart))
    assert set(second["perturbation"]) == {"clean", "random_linf", name}  # no attack of its own was asked for
    pd.testing.assert_frame_equal(of(first, other, name), of(second, other, name))
    # typed out, it is the same; by its folder, too
    folder = Path(os.environ["nnUNet_results"]) / "Dataset901_Textures" / f"{victim}__nnUNetPlans__2d"
    again = replace(apart, attack_sources=[str(folder)], output=parameters.output.with_name("again"))
    run_sweep(again, Silent())
    assert rows(again.output / "results.csv") == rows(apart.output / "results.csv")
    named = replace(both, conditions={name: (0.05,)}, attack_sources=[], output=parameters.output.with_name("named"))
    run_sweep(named, Silent())
    pd.testing.assert_frame_equal(of(table(named.output), other, name), of(second, other, name))


def test_it_goes_on_and_adds(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    """An attack into a plain sweep's folder, a model into an attacked one's, parts lost: the same tables in the end."""
    asked = replace(parameters, conditions={"pgd_linf": (0.05,)}, save_predictions=False)
    run_sweep(asked, Silent())
    wanted = {name: rows(parameters.output / f"{name}.csv") for name in ("results", "inputs", "attacks")}
    again = Silent()
    run_sweep(asked, again)
    assert again.total == 0

    steps = replace(asked, output=parameters.output.with_name("steps"), trainers=texture_models[:1])
    run_sweep(replace(steps, conditions={"random_linf": (0.05,)}, attack_steps=20), Silent())
    more = Silent()
    run_sweep(steps, more)
    assert more.total == len({row["case"] for row in wanted["inputs"]})  # the attack alone
    run_sweep(replace(asked, output=steps.output), Silent())
    lost = next((steps.output / "parts" / "attacks").rglob("*.csv"))
    lost.write_bytes(lost.read_bytes()[:-20])
    back = Silent()
    run_sweep(replace(asked, output=steps.output, workers=3), back)
    assert back.total == 1
    for name, expected in wanted.items():
        assert rows(steps.output / f"{name}.csv") == expected


def test_controls_and_sources_come_by_themselves() -> None:
    given = {"worst_case_l2": (0.02, 0.01), "random_l2": (0.5,), "contrast": (0.3,), "pgd_linf_from_B": (0.1,)}
    assert with_attacks(given, ["", "A"]) == {
        "worst_case_l2": (0.01, 0.02),
        "worst_case_l2_from_A": (0.01, 0.02),
        "random_l2": (0.01, 0.02, 0.5),
        "contrast": (0.3,),
        "pgd_linf_from_B": (0.1,),
        "random_linf": (0.1,),
    }
    row = perturbation("pgd_linf_from_nnUNetTrainer@Dataset901_Textures")
    assert row.source == "nnUNetTrainer@Dataset901_Textures" and not row.white_box
    assert PERTURBATIONS["pgd_linf"].white_box and not PERTURBATIONS["random_linf"].white_box
    for name in ("pgd_linf+contrast", "contrast+pgd_linf@0.1"):
        with pytest.raises(UserError, match="is an attack, which cannot be a part of a combination"):
            perturbation(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack_steps": 0}, "--attack-steps 0: at least 1 step"),
        ({"conditions": {"contrast": (0.3,)}, "attack_sources": ["self"]}, "--attack-source is of attacks: name some"),
        ({"ensemble": ["all"]}, "an ensemble is not attacked as one: sweep attacks without --ensemble"),
        ({"conditions": {"pgd_linf_from_x": (0.1,)}, "attack_sources": ["y"]}, "pgd_linf_from_x names its source"),
        ({"denoise": ["always"]}, "attacks do not see a denoiser, and .*denoise_always has one: sweep attacks without"),
        ({"attack_sources": ["nnUNetTrainerNone"]}, "no trained model nnUNetTrainerNone__nnUNetPlans__2d"),
        ({"conditions": {"pgd_linf_from_x@y": (0.1,)}}, "no trained model x@y__nnUNetPlans__2d"),
    ],
)
def test_bad_input_is_one_line(parameters: SweepParameters, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run_sweep(replace(parameters, **changes), Silent())
    assert "\n" not in str(caught.value)
    assert not parameters.output.exists()


def test_a_folder_holds_attacks_of_one_kind(parameters: SweepParameters) -> None:
    trainer = parameters.trainers[0]
    asked = replace(parameters, conditions={"pgd_linf": (0.05,)}, trainers=[trainer], attack_steps=1)
    manifest = Manifest()
    models = models_of(asked, "Dataset901_Textures", CPU)
    sources = sources_of(replace(asked, attack_sources=[trainer]), models, "Dataset901_Textures", CPU)
    names = ["fgsm_l2", "pgd_linf", f"pgd_linf_from_{trainer}"]
    for name, attack in attack_settings(names, 3, sources).items():
        refuse_other_attacks(asked.output, manifest, {name: attack})
        manifest = Manifest(perturbations={**manifest.perturbations, name: PerturbationEntry(attack=attack)})
    refuse_other_attacks(asked.output, manifest, attack_settings(["fgsm_linf"], 4, sources))  # it has one step anyway
    for name in ("pgd_linf", "cospgd_l2", f"segpgd_l2_from_{trainer}"):
        with pytest.raises(UserError, match=r"holds pgd_linf of 3 steps, not 4: take a new folder.*--attack-steps 3"):
            refuse_other_attacks(asked.output, manifest, attack_settings([name], 4, sources))
    tiles = {trainer: models[0].with_tile_size("32")}  # another window, another image
    with pytest.raises(UserError, match=f"holds pgd_linf_from_{trainer} of another model of that name"):
        refuse_other_attacks(asked.output, manifest, attack_settings(names, 3, tiles))


def test_models_of_one_name_are_told_apart_or_refused(parameters: SweepParameters, tmp_path: Path) -> None:
    """The weights of a source must not be those that a swept model of its name is attacked with."""
    trainer, other = parameters.trainers
    results = Path(os.environ["nnUNet_results"]) / "Dataset901_Textures"
    folder = results / f"{trainer}__nnUNetPlans__2d"
    copied, trained = (shutil.copytree(folder, tmp_path / name / folder.name) for name in ("copied", "trained"))
    checkpoint = trained / "fold_0" / "checkpoint_final.pth"
    stored = torch.load(checkpoint, weights_only=False)
    stored["network_weights"] = {name: value * 1.01 for name, value in stored["network_weights"].items()}
    torch.save(stored, checkpoint)

    def sources(*names: object, trainers: list[str]) -> dict[str, Model]:
        asked = replace(parameters, trainers=trainers, attack_sources=list(map(str, names)))
        models = models_of(asked, "Dataset901_Textures", CPU)
        found = sources_of(asked, models, "Dataset901_Textures", CPU)
        assert all(model not in models or found[model.trainer] is model for model in found.values())
        return found

    assert list(sources(os.path.relpath(folder), trainers=[trainer])) == [trainer]
    assert sources(copied, trainers=[trainer])[trainer].folder == copied  # the same weights
    with pytest.raises(UserError, match=f"a swept model is called {trainer}__.*, too, with other weights"):
        sources(trained, trainers=[trainer])
    assert sources(trained, trainers=[other])[trainer].folder == trained
    with pytest.raises(UserError, match=f"two models are called {trainer}: sweep them apart"):
        sources(copied, trained, trainers=[other])


def test_an_ensemble_gets_images_from_a_source(parameters: SweepParameters, texture_models: tuple[str, str]) -> None:
    asked = replace(parameters, conditions={"fgsm_linf": (0.05,)}, ensemble=["all"], attack_sources=texture_models[:1])
    assert not run_sweep(asked, Silent()).failures
    frame = table(parameters.output)
    assert frame[frame["perturbation"] == f"fgsm_linf_from_{texture_models[0]}"]["model"].nunique() == 3


def test_a_failure_is_that_of_the_model(parameters: SweepParameters, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = parameters.trainers
    image = Attacker.image

    def fails(self: Attacker, scene: Scene, condition: Condition, model: Model) -> torch.Tensor:
        if model.trainer == first:
            raise UserError("no memory")
        return image(self, scene, condition, model)

    monkeypatch.setattr(Attacker, "image", fails)
    asked = replace(parameters, conditions={"fgsm_linf": (0.05,)})
    failures = run_sweep(asked, Silent()).failures
    assert {failure.model for failure in failures} == {f"{first}__nnUNetPlans__2d__fold0"}
    assert not run_sweep(replace(asked, trainers=[second]), Silent()).failures
    monkeypatch.undo()
    assert not run_sweep(asked, Silent()).failures


def test_an_attack_of_the_recipe_has_its_noise_and_its_name_in_the_report(
    parameters: SweepParameters, texture_models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function with a row, as "A new attack" in CONTRIBUTING.md says, and nothing else."""

    def halfway(victim: Victim, ball: Ball, steps: int, generator: torch.Generator) -> torch.Tensor:
        gradient = victim.gradient(ball.image(ball.nothing()), plain, 0.0).gradient
        return ball.project(ball.radius / 2 * ball.direction(gradient))

    monkeypatch.setitem(ATTACKS, "halfway", Attack(halfway, "Halfway", "nobody", single_step=True))
    monkeypatch.setitem(PERTURBATIONS, "halfway_linf", attack_row("halfway", "linf"))
    asked = replace(parameters, conditions={"halfway_linf": (0.05,)}, attack_sources=["self", texture_models[0]])
    assert not run_sweep(asked, Silent()).failures

    described = json.loads((asked.output / "manifest.json").read_text())["perturbations"]
    on_one = f"halfway_linf_from_{texture_models[0]}"
    assert {*described} == {"halfway_linf", on_one, "random_linf"}
    assert described["halfway_linf"]["display_name"] == described[on_one]["attack"]["display_name"] == "Halfway, l∞"
    assert described[on_one]["display_name"] == f"Halfway, l∞, from {texture_models[0]}"
    assert (described[on_one]["control"], described[on_one]["source"]) == ("random_linf", texture_models[0])
    assert "source" not in described["halfway_linf"] and "control" not in described["random_linf"]
    assert [described[name]["attack"]["steps"] for name in ("halfway_linf", on_one)] == [1, 1]

    analysis = analyse([asked.output])
    effects, others = attack_effects(analysis), transfer(analysis)
    assert set(effects["perturbation"]) == set(others["perturbation"]) == {"halfway_linf"}
    at_budget = effects[effects["level"] == 0.05]
    assert len(at_budget) == 2 and at_budget["noise"].notna().all()
    assert NOISE in set(others["attacked"])
    words = section(write_report(asked.output).read_text(), "attacks").words
    assert "Halfway, l∞ on Standard" in words and "1 step)" in words
    assert words.count("(random noise: 0.") == 2


def test_an_attack_is_stored_before_the_next_begins(
    parameters: SweepParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take long: a kill must not lose several."""
    image, made = Attacker.image, []

    def killed(self: Attacker, scene: Scene, condition: Condition, model: Model) -> torch.Tensor:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(condition)
        return image(self, scene, condition, model)

    monkeypatch.setattr(Attacker, "image", killed)
    asked = replace(parameters, conditions={"fgsm_linf": (0.02, 0.05)}, workers=0)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(asked, Silent())
    stored = [row for path in (asked.output / "parts").glob("nnUNet*/fgsm_linf/*.csv") for row in rows(path)]
    assert len(stored) == 2


@pytest.mark.parametrize("workers", [0, 3])
def test_no_network_predicts_while_an_attack_is_made(
    parameters: SweepParameters, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Both change settings that hold for all threads."""
    busy, seen = threading.Lock(), []

    def alone(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def run(*arguments: Any, **keywords: Any) -> Any:
            assert busy.acquire(blocking=False), f"{name} while another one runs"
            assert owner is SlidingWindow or not warming
            seen.append((name, threading.current_thread()))
            time.sleep(0.01)
            try:
                return function(*arguments, **keywords)
            finally:
                busy.release()

        monkeypatch.setattr(owner, name, run)

    def warm_up(self: SlidingWindow, channels: int) -> None:
        warming.add(self)
        time.sleep(0.2)
        warming.remove(self)

    warming: set[SlidingWindow] = set()
    monkeypatch.setattr(SlidingWindow, "warm_up", warm_up)
    alone(SlidingWindow, "members_many")
    alone(WindowGradient, "gradient")
    alone(WindowGradient, "logits")
    source = parameters.trainers[0]
    conditions = {"gaussian_noise": (0.1, 0.2), "pgd_linf": (0.02, 0.05)}
    asked = replace(parameters, conditions=conditions, attack_sources=["self", source], workers=workers, attack_steps=1)
    assert not run_sweep(asked, Silent()).failures
    assert {thread for _, thread in seen} == {threading.current_thread()}
    names = [name for name, _ in seen]
    assert {"members_many", "gradient", "logits"} == set(names)
    # an image is predicted before the next one is begun
    last_of_each = [at for at, name in enumerate(names) if name == "logits"]
    assert all(names[at + 1] == "members_many" for at in last_of_each)


def test_workers_change_nothing_of_attacks(parameters: SweepParameters) -> None:
    asked = replace(parameters, conditions={"gaussian_noise": (0.1,), "pgd_linf": (0.02, 0.05)}, attack_steps=1)
    made = []
    for workers in (0, 3):
        output = parameters.output.with_name(f"workers{workers}")
        assert not run_sweep(replace(asked, output=output, workers=workers), Silent()).failures
        names = ("results.csv", "inputs.csv", "attacks.csv")
        made.append({name: (output / name).read_bytes() for name in names})
    assert made[0] == made[1]


def test_what_is_spent_does_not_depend_on_threads() -> None:
    scene, drawn = object.__new__(Scene), torch_generator(0)
    scene._region = None
    scene._region = None
    scene._clean, scene.bounds = torch.rand(2, 40, 64, 64, generator=drawn), (torch.zeros(2), torch.ones(2))
    images = [scene._clean + 0.01 * torch.randn(scene._clean.shape, generator=drawn) for _ in range(20)]
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append([scene.spent(image) for image in images])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_an_attack_without_a_victim_is_refused() -> None:
    with pytest.raises(UserError, match="pgd_linf is an attack and needs a model"):
        perturb(torch.rand(1, 1, 8, 8), perturbation("pgd_linf"), 0.1, torch_generator(0))
