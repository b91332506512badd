"""A sweep by several processes of one command: one result, one progress, and nobody stays behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.manifest import MANIFEST, read_manifest
from nnunet_robust.eval.sweep import processes
from nnunet_robust.eval.sweep.estimate import LOG, Expected
from nnunet_robust.eval.sweep.processes import Worker, listen, run_on
from nnunet_robust.eval.sweep.progress import JointProgress, SweepProgress
from nnunet_robust.eval.sweep.run import SweepResult
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent

EXPECTED = Expected(cases=5, conditions=2, models=1, predictions=10, left=8, attacks=0)
RESULT = SweepResult(Path("results.csv"), ())


class Shown(SweepProgress):
    """Notes what a user would see."""

    def __init__(self, output: Path = Path("nowhere")) -> None:
        super().__init__(output)
        self.lines: list[str] = []
        self.totals: list[int] = []
        self.steps = 0

    def announce(self, expected: Expected) -> None:
        super().announce(expected)
        self.lines.append("begun")

    def say(self, line: str) -> None:
        self.lines.append(line)

    def start(self, predictions: int) -> None:
        super().start(predictions)
        self.totals.append(predictions)

    def step(self, case: int, cases: int, condition: str) -> None:
        super().step(case, cases, condition)
        self.steps += 1


def workers(*exit_codes: int) -> tuple[list[Worker], list[Any]]:
    """Processes that have ended with these codes, as soon as their channels are closed; and the channels."""
    pipes = [multiprocessing.Pipe(duplex=False) for _ in exit_codes]
    ends = [SimpleNamespace(join=lambda: None, exitcode=code) for code in exit_codes]
    made = [Worker(f"process {n}", end, pipe[0]) for n, (end, pipe) in enumerate(zip(ends, pipes, strict=True), 1)]
    return made, [pipe[1] for pipe in pipes]


def hear(ends: list[int], messages: list[tuple[int, Any]]) -> tuple[Any, Shown]:
    """What is made of processes that end with these codes, and tell this before."""
    shown = Shown()
    made, channels = workers(*ends)
    for process, message in messages:
        if message is None:
            channels[process].close()
        else:
            channels[process].send(message)
    for channel in channels:
        channel.close()
    return listen(made, JointProgress(shown), shown), shown


BEGUN = [("announce", EXPECTED), ("start", 8)]


def test_processes_share_one_progress() -> None:
    ended = ("ended", RESULT, "")
    step = ("step", 1, 5, "clean")
    first = [(0, message) for message in (*BEGUN, step, step, step, ("start", 5), step, step, ended)]
    # The second begins when one prediction is stored, and learns of the others one by one.
    second = [(1, message) for message in (BEGUN[0], ("start", 7), step, step, ("start", 3), step, ended)]
    result, shown = hear([0, 0], [*first, *second])
    assert result == RESULT
    assert shown.steps == 8 and shown.totals[0] == shown.totals[-1] == 8 and max(shown.totals) == 8
    assert shown.lines == ["begun"]


def test_what_is_made_again_counts() -> None:
    """Clean images of which the report shows pictures."""
    shown = Shown()
    joint = JointProgress(shown)
    joint.announce("one", EXPECTED)
    joint.start("one", 8)
    for _ in range(8):
        joint.step("one", 1, 5, "clean")
    joint.start("one", 11)
    assert shown.totals[-1] == 11


def test_what_others_elsewhere_have_made_does_not_count() -> None:
    shown = Shown()
    joint = JointProgress(shown)
    for process in ("one", "two"):
        joint.announce(process, EXPECTED)
        joint.start(process, 8)
    joint.step("one", 1, 5, "clean")
    joint.start("one", 3)  # it finds five that a process of another machine has made
    assert shown.totals[-1] == 3


def test_a_process_that_dies_is_told_in_a_line_and_its_predictions_are_due_again() -> None:
    step = ("step", 1, 5, "clean")
    result, shown = hear([-9, 0], [(0, m) for m in (*BEGUN, step, step)] + [(1, m) for m in (*BEGUN, *[step] * 8)] + [
        (1, ("ended", RESULT, "")),
    ])  # fmt: skip
    assert result == RESULT and shown.steps == 10 and shown.totals[-1] == 10
    (line,) = (line for line in shown.lines if line != "begun")
    assert line.startswith("process 1 does no more: a process of this command was ended from outside")
    assert line.endswith("; the others go on") and "\n" not in line


@pytest.mark.parametrize("begun", [True, False])
def test_the_others_go_on_where_one_fails(begun: bool) -> None:
    """Nothing is told before one has begun: all may fail of the same."""
    fault = ("ended", OSError(28, "No space left on device", "OUT"), "Traceback ...")
    before = [(0, message) for message in BEGUN] if begun else []
    after = [] if begun else [(0, message) for message in BEGUN]
    _, shown = hear([1, 0], [*before, (1, fault), *after, (0, ("ended", RESULT, ""))])
    assert shown.lines[0] == "begun"
    assert shown.lines[1:] == [
        "process 2 does no more: OUT: no space is left on the disk: free some, or name a path on another disk; then "
        "run it again; the others go on"
    ]


def test_bad_input_is_one_fault_not_one_of_each_process() -> None:
    fault = ("ended", UserError("-tr X: there is no such model"), "Traceback of the process")
    with pytest.raises(UserError, match="-tr X: there is no such model") as raised:
        hear([0, 0], [(0, fault), (1, fault)])
    assert "Traceback of the process" in str(raised.value.__cause__)


def test_where_all_die_that_is_the_fault() -> None:
    with pytest.raises(BrokenProcessPool):
        hear([-9, -9], [])
    with pytest.raises(RuntimeError, match="it ended with 3"):
        hear([3], [])


def test_an_error_that_cannot_be_sent_is_told_as_text() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.loads(pickle.dumps(Odd(1, 2)))
    assert repr(processes._portable(Odd(1, 2))) == "RuntimeError('Odd: 1 and 2')"
    error = UserError("bad")
    assert processes._portable(error) is error


def sweep_of(parameters: SweepParameters, output: Path, killed: bool = False) -> Shown:
    """Two processes; with `killed` one of them is, in the middle."""
    shown = Shown(output)

    def step(case: int, cases: int, condition: str) -> None:
        Shown.step(shown, case, cases, condition)
        if killed and shown.steps == 12:
            victim = next(child for child in multiprocessing.active_children() if child.pid)
            os.kill(victim.pid or 0, signal.SIGKILL)

    shown.step = step  # type: ignore[method-assign]
    with shown:
        run_on(["cpu", "cpu"], replace(parameters, output=output), shown)
    return shown


def same_results(one: Path, other: Path) -> None:
    for name in ("results.csv", "inputs.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    manifests = []
    for folder in (one, other):
        manifest = read_manifest(folder / MANIFEST)
        models = {key: replace(model, choices=None) for key, model in manifest.models.items()}  # what was faster
        settings = {name: value for name, value in manifest.parameters.items() if name != "workers"}
        manifests.append(replace(manifest, models=models, parameters=settings))
    assert manifests[0] == manifests[1]


@pytest.fixture
def parameters(textures: str, texture_models: tuple[str, str], tmp_path: Path) -> SweepParameters:
    return SweepParameters(
        output=tmp_path / "alone",
        conditions={"gaussian_noise": (0.1, 0.2, 0.3), "contrast": (0.3, 0.6, 0.9)},
        dataset="901",
        trainers=texture_models,
        folds=["0"],
        device="cpu",
        workers=2,  # one of each of two processes
    )


@pytest.mark.slow
def test_two_processes_give_what_one_gives_also_where_one_is_killed(
    parameters: SweepParameters, tmp_path: Path
) -> None:
    run_sweep(parameters, Silent())
    together = sweep_of(parameters, tmp_path / "together")
    same_results(parameters.output, tmp_path / "together")
    assert together.steps == together.totals[-1] and together.lines == ["begun"]
    assert (tmp_path / "together" / LOG).read_text().count("predictions (") == 1
    bereft = sweep_of(parameters, tmp_path / "bereft", killed=True)
    same_results(parameters.output, tmp_path / "bereft")
    assert [line for line in bereft.lines if "does no more" in line]
    assert not multiprocessing.active_children()


COMMAND = """
import sys
from nnunet_robust.cli.main import main
from nnunet_robust.eval.inference import devices
devices.gpus_of = lambda *_: ["cpu", "cpu"]
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def alive(mark: Path) -> list[int]:
    """The processes whose environment has a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marked = str(mark).encode() in (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marked and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_the_command_ends_all_processes(number: int, parameters: SweepParameters, tmp_path: Path) -> None:
    script, output, mark = tmp_path / "command.py", tmp_path / "ended", tmp_path / "mark"
    script.write_text(COMMAND)
    levels = ["gaussian_noise=0.1,0.2,0.3", "contrast=0.3,0.6,0.9"]
    command = [
        sys.executable, str(script), "sweep", "-d", "901", "-f", "0", "-tr", *parameters.trainers, "-device", "cpu",
        "--gpus", "2", "--workers", "2", "--perturb", *levels, "-o", str(output),
    ]  # fmt: skip
    environment = {**os.environ, "MARK": str(mark)}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )
    until = time.monotonic() + 120
    while len(list(output.glob("parts/**/contrast/*"))) < 2:
        assert time.monotonic() < until and process.poll() is None, "finished before it could be ended"
        time.sleep(0.005)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert "predictions are stored in" in printed.splitlines()[-1] and "Traceback" not in printed
    until = time.monotonic() + 30
    while alive(mark) and number == signal.SIGKILL:
        assert time.monotonic() < until, "processes stay behind"
        time.sleep(0.1)
    assert not alive(mark) and not (output / "claims").exists() and not (output / "results.csv").exists()

    if number == signal.SIGKILL:
        run_sweep(parameters, Silent())
        subprocess.run(command, check=True, capture_output=True, env=environment)
        same_results(parameters.output, output)
