"""The command line: several values after a flag, and one clear line for every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_robust.cli import expand_variadic, main


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("sweep -tr A B -f 0 1 -o OUT", "sweep -tr A -tr B -f 0 -f 1 -o OUT"),
        ("sweep --levels -0.5 1e-3 2 --perturb x", "sweep --levels -0.5 --levels 1e-3 --levels 2 --perturb x"),
        ("sweep -m a b --disable-tta -o OUT", "sweep -m a -m b --disable-tta -o OUT"),
        ("report OUT", "report OUT"),
        ("sweep -tr A -tr B", "sweep -tr A -tr B"),
    ],
)
def test_several_values_after_a_flag(given: str, read: str) -> None:
    assert expand_variadic(given.split()) == read.split()


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
        ("synthesize textures --id 5 --alpha 3", "alpha must be in [0, 1], got 3.0"),
        ("synthesize textures --id 5", "nnUNet_raw is not set"),
        ("report nowhere", "nowhere"),
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
