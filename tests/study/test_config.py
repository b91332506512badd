"""study.yaml: what is wrong with it is told with its line, and what would be right."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest

from nnunet_robust.cli.datasets import convert, synthesize
from nnunet_robust.common.errors import UserError
from nnunet_robust.study.config import DEFAULT_RESOURCES, PLANNERS, load_study
from nnunet_robust.study.document import schema
from nnunet_robust.study.examples import EXAMPLES, example

HEAD = """\
study: name
datasets:
  - { id: 901, synthesize: textures }
"""


def study_file(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_names_are_composed_in_the_grammar_s_order(tmp_path: Path) -> None:
    text = """\
trainers:
  - nnUNetTrainer
  - nnUNetTrainerNoSkip_ps48_7epochs
  - nnUNetTrainerNoSkip_ps48_adv
  - { trainer: nnUNetTrainerUNETR, stages: null, seeds: null, batch_size: 4, adversarial: true }
  - trainer: nnUNetTrainerDA5
    patch_sizes: null
    stages: null
    batch_size: null
    epochs: null
    iterations: null
    augmentation: null
    seeds: null
patch_sizes: [32, 16x32x64]
stages: 4
batch_size: 2
epochs: 100
iterations: 50
augmentation: noDA
seeds: [0, 3]
folds: [0, all]
"""
    study = load_study(study_file(tmp_path, HEAD + text))
    assert study.trainers == (
        "nnUNetTrainer_ps32_st4_bs2_100epochs_50iters_noDA_seed0",
        "nnUNetTrainer_ps32_st4_bs2_100epochs_50iters_noDA_seed3",
        "nnUNetTrainer_ps16x32x64_st4_bs2_100epochs_50iters_noDA_seed0",
        "nnUNetTrainer_ps16x32x64_st4_bs2_100epochs_50iters_noDA_seed3",
        "nnUNetTrainerNoSkip_ps48_st4_bs2_7epochs_50iters_noDA_seed0",
        "nnUNetTrainerNoSkip_ps48_st4_bs2_7epochs_50iters_noDA_seed3",
        "nnUNetTrainerNoSkip_ps48_st4_bs2_100epochs_50iters_noDA_adv_seed0",
        "nnUNetTrainerNoSkip_ps48_st4_bs2_100epochs_50iters_noDA_adv_seed3",
        "nnUNetTrainerUNETR_ps32_bs4_100epochs_50iters_noDA_adv",
        "nnUNetTrainerUNETR_ps16x32x64_bs4_100epochs_50iters_noDA_adv",
        "nnUNetTrainerDA5",
    )
    assert study.folds == ("0", "all")
    assert study.planners == (("ExperimentPlanner", "nnUNetPlans"),)


def test_resources_and_environment(tmp_path: Path) -> None:
    text = """\
trainers: [nnUNetTrainer]
resources: { partition: gpu, train: { hours: 1.5, gpus: 2 } }
environment: { nnUNet_compile: false, nnUNet_def_n_proc: 2 }
device: cpu
"""
    study = load_study(study_file(tmp_path, HEAD + text))
    assert study.resources["train"] == replace(DEFAULT_RESOURCES["train"], hours=1.5, gpus=2)
    assert study.resources["sweep"] == DEFAULT_RESOURCES["sweep"]
    assert study.cluster == {"partition": "gpu"}
    assert study.environment == {"nnUNet_compile": "false", "nnUNet_def_n_proc": "2"}


TRAINERS = "trainers: [nnUNetTrainer]\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("study: a\n", 1, "'datasets' is missing"),
        (HEAD, 1, "'trainers' is missing"),
        (HEAD + "trainer: [nnUNetTrainer]\n", 4, "there is no 'trainer' at the top level: did you mean 'trainers'?"),
        (HEAD + "trainers: nnUNetTrainer\n", 4, "trainers must be a list, got nnUNetTrainer"),
        (HEAD + "trainers: []\n", 4, "trainers must be a list of at least 1, got an empty list"),
        (HEAD + "trainers:\n  - nnUNetTrainerNoSkipp\n", 5, "nearest valid name is 'nnUNetTrainerNoSkip'"),
        (HEAD + "trainers:\n  - nnUNetTrainer_seed1_ps64\n", 5, "nearest valid name is 'nnUNetTrainer_ps64_seed1'"),
        (HEAD + "trainers: [SwinTrainer]\n", 4, "there is no trainer 'SwinTrainer'"),
        (HEAD + "trainers: [nnUNetTrainerDA5]\nseeds: [1]\n", 4, "{trainer: nnUNetTrainerDA5, seeds: null}"),
        (HEAD + "trainers: [nnUNetTrainer, nnUNetTrainer]\n", 4, "nnUNetTrainer twice"),
        (HEAD + TRAINERS + "seeds: [1, one]\n", 5, "seeds[1] must be a whole number, got one"),
        (HEAD + TRAINERS + "seeds: [-1]\n", 5, "seeds[0] must be at least 0, got -1"),
        (HEAD + TRAINERS + "epochs: 0\n", 5, "epochs must be at least 1, got 0"),
        (HEAD + TRAINERS + "adversarial: fgsm\n", 5, "adversarial must be true or false or null, got fgsm"),
        (HEAD + TRAINERS + "folds: [0, 0]\n", 5, "folds: 0 is there twice"),
        (HEAD + TRAINERS + "folds: [some]\n", 5, "folds[0] must be of the form ^all$"),
        (HEAD + TRAINERS + "configurations: [3d]\n", 5, "configurations[0] is 3d: there are 2d, 3d_fullres, 3d_lowres"),
        (HEAD + TRAINERS + "planners: [ResEncM]\n", 5, "there is no planner 'ResEncM'"),
        (HEAD + TRAINERS + "epochs: 1\nepochs: 2\n", 6, "'epochs' is there twice"),
        (HEAD + TRAINERS + "resources:\n  training: {}\n", 6, "did you mean 'train'?"),
        (HEAD + TRAINERS + "resources:\n  train: { time: 3 }\n", 6, "no 'time' in resources.train: there are hours"),
        (HEAD + TRAINERS + "device: gpu\n", 5, "device is gpu: there are cpu, cuda, mps"),
        (HEAD + "  - { id: 901, existing: true }\n" + TRAINERS, 4, "datasets: 901 is there twice"),
        (HEAD + "  - { id: 902 }\n" + TRAINERS, 4, "dataset 902 comes from nowhere"),
        (HEAD + "  - { id: 902, synthesize: textures, existing: true }\n" + TRAINERS, 4, "synthesize and existing"),
        (HEAD + "  - { id: 1000, existing: true }\n" + TRAINERS, 4, "datasets[1].id must be at most 999, got 1000"),
        (HEAD + "  - { id: 2, convert: busi }\n" + TRAINERS, 4, "'source', the folder to convert, is missing"),
        (HEAD + "  - { id: 2, convert: busi, source: nowhere }\n" + TRAINERS, 4, "there is no folder"),
        (HEAD + "  - { id: 2, convert: bussi, source: . }\n" + TRAINERS, 4, "did you mean 'busi'?"),
        (HEAD + "  - { id: 2, synthesize: volumes, source: . }\n" + TRAINERS, 4, "'source' belongs to convert"),
        (
            "study: a\ndatasets:\n  - id: 1\n    synthesize: textures\n    parameters:\n      alfa: 0.1\n" + TRAINERS,
            6,
            "there is no 'alfa' in datasets[0].parameters: did you mean 'alpha'?",
        ),
        (
            "study: a\ndatasets:\n  - id: 1\n    synthesize: textures\n    parameters:\n      alpha: 1.5\n" + TRAINERS,
            6,
            "datasets[0].parameters.alpha must be at most 1, got 1.5",
        ),
        (
            HEAD + TRAINERS + "sweeps:\n  - { name: a, tile_sizes: [32], tolerance_mm: 1e-3 }\n",
            6,
            "sweeps[0].tolerance_mm must be a number, got 1e-3 (write 0.001)",
        ),
        (HEAD + TRAINERS + "sweeps:\n  - name: a\n", 6, "sweep 'a' has nothing to do"),
        (HEAD + TRAINERS + "sweeps:\n  - { name: a, series: true, datasets: [5] }\n", 6, "the study has no dataset 5"),
        (HEAD + TRAINERS + "sweeps:\n  - { name: a, series: my.csv }\n", 6, "there is no file"),
        ("study: [a\n", 2, "this is not YAML"),
    ],
)
def test_faults_are_told_with_their_line(text: str, line: int, says: str, tmp_path: Path) -> None:
    path = study_file(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_study(path)
    assert str(error.value).startswith(f"{path}, line {line}: ")
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "line", "says"),
    [
        ("name: a\n    perturbations:\n      contrast: [0.1]\n      gausian_blur: default", 9, "'gaussian_blur'"),
        ("name: a\n    perturbations:\n      - contrast\n      - blurr", 9, "no perturbation 'blurr'"),
        ("name: a\n    perturbations:\n      salt_and_pepper: [0.1, 1.5]", 8, "must be in [0, 1], got 1.5"),
        ("name: a\n    preset: kamath", 7, "did you mean 'kamath2025'"),
    ],
)
def test_faults_of_conditions_are_told_with_their_line(sweep: str, line: int, says: str, tmp_path: Path) -> None:
    path = study_file(tmp_path, HEAD + TRAINERS + f"sweeps:\n  - {sweep}\n")
    with pytest.raises(UserError) as error:
        load_study(path)
    assert str(error.value).startswith(f"{path}, line {line}: ")
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "says"), [("", "holds no study"), (None, "cannot read the study")])
def test_a_file_that_is_none(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_study(path)


@pytest.mark.parametrize("name", [*EXAMPLES, "demo"])
def test_examples_are_studies(name: str) -> None:
    study = load_study(example(name))
    assert study.name == name
    assert study.sweeps


def test_the_schema_knows_the_options_of_every_dataset_command() -> None:
    for app, origin in ((synthesize, "synthesize"), (convert, "convert")):
        names = []
        for command in app.registered_commands:
            names.append(command.callback.__name__)
            options = set(signature(command.callback).parameters) - {"dataset_id", "name", "source"}
            assert set(schema()["$defs"][names[-1]]["properties"]) == options
        assert sorted(schema()["$defs"]["dataset"]["properties"][origin]["enum"]) == sorted(names)


def test_the_names_of_nnunet_s_plans() -> None:
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner, resencUNet_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    modules = (default_experiment_planner, resencUNet_planner, residual_encoder_unet_planners)
    for planner, plans in PLANNERS.items():
        found = next(getattr(module, planner) for module in modules if hasattr(module, planner))
        assert signature(found).parameters["plans_name"].default == plans


@pytest.mark.parametrize("folder", ["/data", "../results", "a/../../b", "~/results"])
def test_a_study_does_not_lead_trainings_out_of_its_folder(folder: str, tmp_path: Path) -> None:
    """They go on from whatever checkpoint is there, which nnU-Net unpickles."""
    text = f'trainers: [nnUNetTrainer]\nenvironment: {{ nnUNet_results: "{folder}" }}\n'
    with pytest.raises(UserError, match=r"study\.yaml, line \d+: nnUNet_results is .*: export it in your shell"):
        load_study(study_file(tmp_path, HEAD + text))
