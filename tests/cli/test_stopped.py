"""Every command that is told to end says in one line what is kept and how to go on, and that is true."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_robust.cli import main as main_module
from nnunet_robust.cli.main import app, main
from nnunet_robust.cli.stopped import what_is_kept
from nnunet_robust.common.interrupts import Stopped
from nnunet_robust.common.progress import Progress

GOES_ON = ["sweep", "study run", "demo", "calibrate", "monitor fit", "monitor check", "denoise"]
STARTS_AGAIN = [
    "report", "qa", "apply", "complexity", "recommend", "synthesize textures", "synthesize volumes", "convert busi",
    "trainers", "doctor",
]  # fmt: skip


@pytest.mark.parametrize("command", GOES_ON + STARTS_AGAIN)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_one_line_that_holds_for_the_command(command: str, number: int, code: int, monkeypatch, capsys) -> None:
    def told_to_end(arguments: list[str], **_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(main_module, "app", told_to_end)
    assert main([*command.split(), "-o", "OUT"]) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("stopped: ") and printed.err.count("\n") == 1
    assert ("goes on" in printed.err) is (command in GOES_ON)
    assert ("starts again" in printed.err) is (command in STARTS_AGAIN)


def test_every_command_is_in_one_of_the_lists() -> None:
    import typer

    group = typer.main.get_command(app)
    names = set()
    for name, command in group.commands.items():
        below = getattr(command, "commands", None)
        names |= {f"{name} {sub}" for sub in below} if below else {name}
    told = {name for name in names if "nothing is written" not in what_is_kept(name.split())}
    assert set(GOES_ON) <= told and not (names - told) & set(GOES_ON)
    assert {name for name in names if name.startswith(("synthesize", "convert"))} <= told


def test_a_loop_that_is_told_to_end_leaves_what_it_says(textures: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """`complexity` says that nothing is written."""
    step = Progress.step

    def tell_to_end(self: Progress, detail: str = "") -> None:
        step(self, detail)
        if self.rate.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    monkeypatch.setattr(Progress, "step", tell_to_end)
    assert main(["complexity", "-d", "901", "-o", str(tmp_path / "table.csv")]) == 143
    assert capsys.readouterr().err == "stopped: nothing is written, and the same command starts again\n"
    assert not list(tmp_path.iterdir())


def test_what_a_command_says_itself_comes_first(monkeypatch, capsys) -> None:
    def ended(arguments: list[str], **_: object) -> None:
        error = Stopped(signal.SIGINT)
        error.kept = "3 of 4 are kept"
        raise error

    monkeypatch.setattr(main_module, "app", ended)
    assert main(["sweep"]) == 130 and capsys.readouterr().err == "stopped: 3 of 4 are kept\n"


_STUDY = """\
study: s
datasets: [{ id: 901, existing: true }]
trainers: [nnUNetTrainer_bs2_50epochs_20iters_seed1]
device: cpu
environment: { nnUNet_compile: false, nnUNet_results: results, nnUNet_def_n_proc: 1 }
"""


def _processes(of: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(of).encode() in environment:
                found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_study_with_a_training_ends_with_all_its_processes(
    number: int, textures: str, nnunet: Path, tmp_path
) -> None:
    """Planned under `nnUNet_n_proc_DA=0`, with which nnU-Net's planner fails by itself."""
    pytest.importorskip("snakemake")
    (tmp_path / "s.yaml").write_text(_STUDY)
    environment = {**os.environ, "nnUNet_n_proc_DA": "0", "MARK": str(tmp_path)}
    environment["nnUNet_preprocessed"] = str(tmp_path / "preprocessed")
    command = [sys.executable, "-m", "nnunet_robust.cli.main", "study", "run", "s.yaml"]
    with (tmp_path / "err").open("w") as err:
        study = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=err, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not any("Epoch 0" in log.read_text() for log in (tmp_path / "s" / "logs").glob("train/*.log")):
        assert study.poll() is None and time.monotonic() < until, (tmp_path / "err").read_text()
        time.sleep(0.5)
    study.send_signal(number)
    time.sleep(0.2)
    study.send_signal(number)  # impatient
    assert study.wait(60) == 128 + number
    assert _processes(tmp_path) == []
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert line.startswith("stopped: finished jobs, and the last checkpoint of each training, are kept")
    assert (tmp_path / "s" / ".study" / "done" / "plan" / "901.json").is_file()
