"""What a sweep says before it begins, and what it says when it is told to end."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.common import progress as progress_module
from nnunet_robust.eval.inference import devices, precision
from nnunet_robust.eval.sweep.engine import Engine
from nnunet_robust.eval.sweep.estimate import LOG
from nnunet_robust.eval.sweep.progress import SweepProgress
from nnunet_robust.eval.sweep.sweep import SweepParameters, foresee_sweep, run_sweep
from tests.eval.sweep.test_sweep import Silent

CONDITIONS = {"gaussian_noise": (0.1, 0.2, 0.3), "contrast": (0.5,)}


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return SweepParameters(
        output=tmp_path / "out", conditions=CONDITIONS, dataset="901", trainers=texture_models, folds=["0"],
        device="cpu", mirroring=False,
    )  # fmt: skip


def arguments(parameters: SweepParameters) -> list[str]:
    return [
        *("sweep", "-d", "901", "-tr", *parameters.trainers, "-f", "0", "-device", "cpu", "--disable-tta"),
        *("-o", str(parameters.output), "--perturb", "gaussian_noise=0.1,0.2,0.3", "contrast=0.5"),
    ]


def test_a_dry_run_counts_and_times_and_writes_nothing(parameters: SweepParameters, capsys) -> None:
    assert main([*arguments(parameters), "--dry-run"]) == 0
    counts, duration = capsys.readouterr().out.splitlines()
    assert counts == "30 predictions (3 cases, 5 conditions, 2 models): 0 are there, 30 to make"
    assert re.fullmatch(r"about \d:\d\d:\d\d \(\S+ s a prediction, tried out on texture_test_\S+ under .*\)", duration)
    assert not list(parameters.output.parent.iterdir())


def test_a_dry_run_for_several_gpus_tries_one(parameters: SweepParameters, capsys, monkeypatch) -> None:
    monkeypatch.setattr(devices, "gpus_of", lambda *_: ["cpu"] * 100)
    assert main([*arguments(parameters), "--gpus", "100", "--dry-run"]) == 0
    _, duration = capsys.readouterr().out.splitlines()
    assert duration.endswith(", shared by 100 GPUs)")
    assert re.match("about 0:00:0[0-2] ", duration)  # 30 predictions, a hundredth of their time


def test_a_dry_run_knows_what_is_there_and_the_folder_stays_as_it_is(parameters: SweepParameters) -> None:
    run_sweep(replace(parameters, conditions={"contrast": (0.5,)}), Silent())
    before = {path: path.stat().st_mtime_ns for path in parameters.output.rglob("*")}
    expected, tried = foresee_sweep(parameters)
    assert (expected.predictions, expected.there, expected.to_make) == (30, 12, 18)
    assert tried is not None and tried.attack_seconds is None and tried.seconds > 0.001
    assert {path: path.stat().st_mtime_ns for path in parameters.output.rglob("*")} == before


def test_attacks_are_timed_apart(parameters: SweepParameters) -> None:
    expected, tried = foresee_sweep(
        replace(parameters, conditions={"contrast": (0.5,), "pgd_linf": (0.01, 0.02)}, attack_steps=10)
    )
    assert expected.attacks == 3 * 2 * 2 and expected.left == 3 * 2 * (1 + 1 + 2)  # with the noise of its budget
    assert tried is not None and tried.attack_seconds is not None and tried.attack_seconds > tried.seconds


def test_a_sweep_says_what_it_does_and_the_next_run_knows_how_long_it_takes(
    parameters: SweepParameters, capsys, monkeypatch
) -> None:
    assert main(arguments(parameters)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    assert lines[0].startswith("30 predictions (3 cases, 5 conditions, 2 models): 0 are there, 30 to make; the first")
    last = next(line for line in reversed(lines) if line.startswith("predicting: "))
    assert re.fullmatch(
        r"predicting: (\d+) of \1 \(100 %\), \S+ a (second|minute), \S+ passed, 0:00:00 left, case 3/3 \S+", last
    )
    log = (parameters.output / LOG).read_text().splitlines()
    assert log[0].endswith(lines[0]) and log[-1].endswith(last)
    more = [*arguments(parameters)[:-1], "contrast=0.5,0.7"]
    assert main(more) == 0
    first = next(line for line in capsys.readouterr().err.splitlines() if "to make" in line)
    assert "36 predictions" in first and "30 are there, 6 to make; about 0:0" in first and "last worked on" in first


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_told_to_end_it_says_how_far_it_is_and_goes_on(
    number: int, code: int, parameters: SweepParameters, capsys, monkeypatch
) -> None:
    step = SweepProgress.step

    def tell_to_end(self: SweepProgress, case: int, cases: int, condition: str) -> None:
        step(self, case, cases, condition)
        if self._progress.rate.done == 7:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # impatient
            time.sleep(0.1)

    with monkeypatch.context() as patch:
        patch.setattr(SweepProgress, "step", tell_to_end)
        assert main(arguments(parameters)) == code
    printed = capsys.readouterr()
    stored = f"stopped: 7 of 30 predictions are stored in {parameters.output}, and the same command goes on from there"
    assert printed.err.splitlines()[-1] == stored and "Traceback" not in printed.err and printed.out == ""
    # What it does, and how it ended; on a slow machine a line of its progress between them.
    assert len([line for line in printed.err.splitlines() if not line.startswith("predicting: ")]) == 2
    assert not (parameters.output / "claims").exists()
    progress = Silent()
    run_sweep(parameters, progress)
    assert progress.expected.there >= 7 and len(list(parameters.output.rglob("results.csv"))) == 1


def test_a_second_signal_while_it_clears_up_is_no_traceback(parameters: SweepParameters, capsys, monkeypatch) -> None:
    leave = Engine.__exit__

    def impatient(self: Engine, *error: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        leave(self, *error)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Engine, "__exit__", impatient)
    assert main(arguments(parameters)) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped: ")


def test_the_log_has_a_line_a_minute(parameters: SweepParameters, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress_module, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(progress_module, "EVERY_SECONDS", 0.1)
    assert main(arguments(parameters)) == 0
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("predicting: ")]
    assert len(printed) > 3 and all(line.isprintable() for line in printed)
