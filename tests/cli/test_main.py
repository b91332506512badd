"""The command line: one clear line for every fault, and what the commands print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.eval.attacks.rows import PERTURBATIONS, PRESETS
from nnunet_robust.trainers import TRAINERS
from nnunet_robust.trainers.names import RULE
from tests.trainers.test_cost import DATASET, PLANS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("swep -o OUT", "No such command 'swep'"),
        ("sweep --perturb contrast", "Missing option '-o'"),
        ("sweep -o OUT --perturb contrast --levels high", "Invalid value for '--levels'"),
        ("sweep -o OUT", "no perturbations: name some with --perturb"),
        ("sweep -o OUT --perturb blurr", "no perturbation 'blurr'"),
        ("sweep -o OUT --perturb contrast --levels 99", "level of contrast"),
        ("sweep -o OUT --perturb contrast -d 5", "nnUNet_raw is not set"),
        ("sweep -o OUT --perturb contrast", "no models"),
        ("synthesize textures --id 5 --alpha 3", "--alpha 3: give a number from 0 to 1"),
        ("synthesize textures --id 5", "nnUNet_raw is not set"),
        ("report nowhere", "nowhere"),
        ("study run no.yaml", "cannot read the study no.yaml"),
        ("study run no.yaml --time soon --executor slurm", "--time soon: write minutes"),
        ("study status nowhere --once", "no study was run in nowhere"),
        ("study init contexts", "did you mean 'context'?"),
    ],
)
def test_faults_are_one_line_and_exit_2(arguments: str, says: str, capsys, monkeypatch, tmp_path: Path) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()
    error = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and says in error[0]
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_help_and_version(capsys) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "synthesize" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nnunet-robust 0.")


def test_doctor_says_what_is_missing_and_exits_1(capsys, monkeypatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["doctor"]) == 1
    assert "export nnUNet_raw" in capsys.readouterr().out


def test_textures_through_the_command_line(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    arguments = ["--id", "7", "--cases", "5", "--test-cases", "1", "--size", "32", "--shape", "hard"]
    assert main(["synthesize", "textures", *arguments]) == 0
    assert "Dataset007_TextureBrickGravelA10Hard" in capsys.readouterr().out
    assert len(list(tmp_path.glob("Dataset007*/imagesTr/*.png"))) == 5


def test_trainers_lists_the_table_and_the_grammar_without_torch() -> None:
    code = (
        "import sys; from nnunet_robust.cli.main import main; assert main(['trainers']) == 0; "
        "print('imported:', sorted({'torch', 'nnunetv2', 'numpy'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for name, trainer in TRAINERS.items():
        row = next(line for line in printed.splitlines() if f" {name} " in line)
        assert trainer.source in row
    assert f"names: {RULE}\n" in printed
    assert printed.endswith("imported: []\n")


def test_perturbations_lists_every_row_and_preset(capsys) -> None:
    assert main(["perturbations"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, row in PERTURBATIONS.items():
        line = next(line for line in lines if f" {name} " in line)
        assert " ".join(f"{level:g}" for level in row.levels) in line and row.modality in line
    for preset, conditions in PRESETS.items():
        line = next(line for line in lines if line.startswith(f"│ {preset} "))
        assert next(iter(conditions)) in line


@pytest.fixture
def planned_dataset(tmp_path: Path, monkeypatch) -> str:
    """A dataset of which only plans and dataset.json are there: nothing else is needed to tell the cost."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset903_Cost"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(PLANS))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder.name


def test_trainers_tells_what_a_name_changes_and_costs(planned_dataset: str, capsys) -> None:
    from nnunet_robust.trainers.cost import format_si, trainer_cost

    name = "nnUNetTrainerNoSkip_ps16_st3_seed1"
    assert main(["trainers", name, "nnUNetTrainerNoSkip", "-d", "903", "-c", "3d_fullres"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    start = lines.index(f"{name}: {TRAINERS['nnUNetTrainerNoSkip'].summary}")
    assert lines[start + 1 : start + 4] == ["  patch 8x32x32 -> 16x16x16", "  stages 4 -> 3", "  seed none -> 1"]
    standard = trainer_cost("nnUNetTrainer", PLANS, "3d_fullres", DATASET)
    for row in ("nnUNetTrainer", "nnUNetTrainerNoSkip", name):
        cost = trainer_cost(row, PLANS, "3d_fullres", DATASET)
        cells = [cell.strip() for cell in next(line for line in lines if f" {row} " in line).split("│")[1:-1]]
        assert cells == [
            row,
            f"{format_si(cost.parameters)} ({cost.parameters / standard.parameters:.2f}x)",
            f"{format_si(cost.flops)} ({cost.flops / standard.flops:.2f}x)",
            f"{format_si(cost.activation_bytes)}B ({cost.activation_bytes / standard.activation_bytes:.2f}x)",
        ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nnUNetTrainerNoSkip_st3_ps16 -d 903 -c 3d_fullres", "nearest valid name is 'nnUNetTrainerNoSkip_ps16_st3'"),
        ("nnUNetTrainerDA5 -d 903 -c 3d_fullres", "no trainer 'nnUNetTrainerDA5' in nnunet_robust"),
        ("nnUNetTrainerNoSkip -d 903 -c 2d", "no configuration '2d': there are 3d_fullres"),
        ("nnUNetTrainerNoSkip -d 903 -c 3d_fullres -p Other", "no Other.json"),
        ("nnUNetTrainerNoSkip -d 904", "no dataset '904'"),
        ("nnUNetTrainerNoSkip", "depends on the plans: name a dataset with -d"),
        ("-d 903", "no trainer named"),
    ],
)
def test_faults_of_trainers_are_one_line_and_exit_2(arguments: str, says: str, planned_dataset: str, capsys) -> None:
    assert main(["trainers", *arguments.split()]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and says in errors[0]
