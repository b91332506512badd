"""One job: locks, attempts, what is tried again, and what is left behind when it has failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from nnunet_robust.common import processes
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.eval.results.failures import MISSING
from nnunet_robust.study import stages
from nnunet_robust.study.attempts import Attempts, epochs_begun
from nnunet_robust.study.command_lines import report_command, reports, sweep_command
from nnunet_robust.study.failures import write_failures
from nnunet_robust.study.folder import BLOCKED, DONE, FAILED, PARTIAL, Plan, StudyFolder
from nnunet_robust.study.job import run_job
from nnunet_robust.study.locks import gpu_slots, hold, try_lock
from nnunet_robust.study.matrix import Job
from nnunet_robust.study.stages import STAGES
from nnunet_robust.study.status import read_status
from nnunet_robust.study.work import Work

MODEL = {"dataset": 901, "configuration": "2d", "plans": "nnUNetPlans", "trainer": "nnUNetTrainer_2epochs", "fold": "0"}


def a_job(job_id: str, *inputs: str, **what: object) -> Job:
    return Job(job_id, job_id.partition("/")[0], inputs, what, 0, 1, 1.0, 1.0, retries=1)


def write_plan(root: Path, *jobs: Job, gpus: int = 0, run: str = "first") -> StudyFolder:
    folder = StudyFolder(root)
    environment = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    folder.write_plan(Plan("fake", run, "local", gpus, "cpu", environment, {job.id: job for job in jobs}))
    return folder


@pytest.fixture(autouse=True)
def kept_apart() -> Iterator[None]:
    """A job changes its process's environment and its answer to signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with mock.patch.dict(os.environ):
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stage(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[[Work], tuple[str, str]]) -> None:
    monkeypatch.setitem(STAGES, name, function)


def test_a_job_is_done_once_and_leaves_a_marker(tmp_path: Path, monkeypatch) -> None:
    folder = write_plan(tmp_path, a_job("sweep/a", output="a"))
    seen: list[str] = []

    def work(at: Work) -> tuple[str, str]:
        seen.append(at.job.id)
        assert read_status(tmp_path).running[0][1]["pid"] == os.getpid()
        return DONE, ""

    stage(monkeypatch, "sweep", work)
    assert run_job(tmp_path, "sweep/a") == 0 and run_job(tmp_path, "sweep/a") == 0
    assert seen == ["sweep/a"]
    marker = folder.marker("sweep/a")
    assert marker["outcome"] == DONE and marker["digest"] == a_job("sweep/a", output="a").digest
    status = read_status(tmp_path)
    assert status.finished and not status.running and not status.failed


def test_what_fails_is_tried_again_then_recorded_with_the_log(tmp_path: Path, monkeypatch) -> None:
    folder = write_plan(tmp_path, a_job("sweep/a", output="a"), a_job("report/report", "sweep/a", sweeps={"a": "b"}))

    def work(at: Work) -> tuple[str, str]:
        command = tmp_path / "bin" / "fails"
        command.parent.mkdir(exist_ok=True)
        command.write_text("#!/bin/sh\necho begun\necho 'RuntimeError: out of luck' >&2\nexit 3\n")
        command.chmod(0o755)
        os.environ["PATH"] = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        at.run(["fails"])
        return DONE, ""

    stage(monkeypatch, "sweep", work)
    assert run_job(tmp_path, "sweep/a") == 1  # to be tried again
    assert not folder.marker("sweep/a")
    assert run_job(tmp_path, "sweep/a") == 0
    marker = folder.marker("sweep/a")
    assert marker["outcome"] == FAILED
    assert marker["reason"] == "fails ended with exit code 3: RuntimeError: out of luck"
    assert "begun" in marker["log_tail"]
    rows = write_failures(folder, folder.read_plan())
    assert [row["job"] for row in rows] == ["sweep/a"] and rows[0]["log"] == "logs/sweep/a.log"
    assert "out of luck" in (tmp_path / "study_failures.csv").read_text()
    # The report has nothing to show, and is over all the same.
    assert run_job(tmp_path, "report/report") == 0
    assert folder.marker("report/report")["outcome"] == BLOCKED


def test_bad_input_is_not_tried_again_and_blocks_what_needs_it(tmp_path: Path, monkeypatch) -> None:
    jobs = (a_job("dataset/901", dataset=901), a_job("plan/901", "dataset/901", dataset=901))
    train = a_job("train/a", "plan/901", **MODEL)
    sweep = a_job("sweep/a", "train/a", trainers=["nnUNetTrainer_2epochs"], folds=["0"], output="a", dataset=901)
    folder = write_plan(tmp_path, *jobs, train, sweep)

    def work(at: Work) -> tuple[str, str]:
        raise UserError("alpha must be in [0, 1], got 3")

    stage(monkeypatch, "dataset", work)
    for job in folder.read_plan().jobs:
        assert run_job(tmp_path, job) == 0
    outcomes = {job: folder.marker(job)["outcome"] for job in folder.read_plan().jobs}
    assert outcomes == {"dataset/901": FAILED, "plan/901": BLOCKED, "train/a": BLOCKED, "sweep/a": BLOCKED}
    assert folder.marker("dataset/901")["reason"] == "alpha must be in [0, 1], got 3"
    assert folder.marker("plan/901")["reason"] == "dataset/901 has failed"


def test_kills_count_only_when_nothing_was_gained(tmp_path: Path) -> None:
    job = a_job("train/a", **MODEL)
    folder = write_plan(tmp_path, job)
    plan = folder.read_plan()
    log = folder.log(job.id)
    log.parent.mkdir(parents=True)

    def killed(epoch: int) -> int:
        with pytest.raises(KeyboardInterrupt), Attempts(folder, plan, job).one_more():
            with log.open("a") as file:
                file.write(f"2026-01-01 00:00:00: Epoch {epoch}\nEpoch time: 1 s\n")
            raise KeyboardInterrupt
        return Attempts(folder, plan, job).fruitless()

    assert [killed(0), killed(1), killed(1), killed(1), killed(2), killed(2)] == [0, 0, 1, 2, 0, 1]
    assert epochs_begun(log) == 3
    write_plan(tmp_path, job, run="second")
    assert Attempts(folder, folder.read_plan(), job).fruitless() == 0  # a new driver tries anew


def test_an_attempt_that_was_killed_lasted_until_its_last_sign_of_life(tmp_path: Path) -> None:
    job = a_job("train/a", **MODEL)
    folder = write_plan(tmp_path, job)
    attempts, running = folder.attempts(job.id), folder.running(job.id)
    attempts.parent.mkdir(parents=True)
    running.parent.mkdir(parents=True)
    attempts.write_text(json.dumps({"began": 1000.0, "run": "first", "progress": 0}) + "\n" + '{"cut o')
    running.write_text("{}")
    os.utime(running, (1060.0, 1060.0))
    assert Attempts(folder, folder.read_plan(), job).seconds() == 60.0


def test_killed_again_and_again_is_failed(tmp_path: Path, monkeypatch) -> None:
    job = a_job("sweep/a", output="a")
    folder = write_plan(tmp_path, job)
    path = folder.attempts(job.id)
    path.parent.mkdir(parents=True)
    path.write_text('{"began": 1, "run": "first", "progress": 0}\n' * 2)
    stage(monkeypatch, "sweep", lambda _: pytest.fail("it was begun again"))
    assert run_job(tmp_path, job.id) == 0
    assert folder.marker(job.id)["reason"] == "killed 2 times without getting any further"


def test_a_lock_is_held_by_the_command_when_its_job_is_killed(tmp_path: Path) -> None:
    """And freed when both are dead, even where the command has left workers that do not notice."""
    code = (
        "import sys, subprocess, time; from pathlib import Path\n"
        "from nnunet_robust.common import processes\n"
        "from nnunet_robust.study.folder import myself\n"
        "from nnunet_robust.study.locks import hold\n"
        "worker = 'import os, sys, time\\nif os.fork() == 0: open(sys.argv[1], \"w\").close()\\ntime.sleep(600)'\n"
        "with hold(Path(sys.argv[1])) as lock:\n"
        "    child = subprocess.Popen([sys.executable, '-c', worker, sys.argv[2]], start_new_session=True,"
        " pass_fds=[lock.descriptor])\n"
        "    lock.note(**myself(), group=child.pid, group_started=processes.started(child.pid))\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    path, forked = tmp_path / "lock", tmp_path / "forked"
    job = subprocess.Popen([sys.executable, "-c", code, str(path), str(forked)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    command = int(job.stdout.readline())
    while not forked.exists():
        time.sleep(0.05)
    job.kill()
    job.wait()
    try:
        assert try_lock(path) is None
        os.kill(command, signal.SIGKILL)
        began = time.monotonic()
        with hold(path):
            assert 3 < time.monotonic() - began < 60
    finally:
        with pytest.raises(ProcessLookupError):
            os.killpg(command, 0)
            time.sleep(1)
            os.killpg(command, 0)


def test_gpus_are_numbered_and_given_to_one_job_at_a_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with gpu_slots(1, 3) as (first, held), gpu_slots(2, 3) as (second, _):
        assert (first, second) == ("0", "1,2") and len(held) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with gpu_slots(1, 2) as (first, _), gpu_slots(1, 2) as (second, _):
        assert (first, second) == ("5", "7")
    with gpu_slots(0, 2) as (none, held):
        assert none is None and held == []


def test_cut_off_checkpoints_are_set_aside(tmp_path: Path) -> None:
    job = a_job("train/a", **MODEL)
    folder = write_plan(tmp_path, job)
    fold = tmp_path / "fold_0"
    fold.mkdir()
    for name in ("best", "latest"):
        with zipfile.ZipFile(fold / f"checkpoint_{name}.pth", "w") as archive:
            archive.writestr("data", b"x" * 1000)
    latest = fold / "checkpoint_latest.pth"
    latest.write_bytes(latest.read_bytes()[:-50])
    log = tmp_path / "log"
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    with log.open("w") as file:
        stages._set_corrupt_aside(Work(folder, folder.read_plan(), job, lock, file), fold)
    assert sorted(path.name for path in fold.iterdir()) == ["checkpoint_best.pth", "checkpoint_latest.pth.corrupt"]
    assert "checkpoint_latest.pth is cut off and was set aside; going on from checkpoint_best.pth" in log.read_text()


def test_a_sweep_s_command(tmp_path: Path) -> None:
    options = {
        "perturbations": {"speckle_noise": [0.1, 0.3], "gaussian_blur": "default"},
        "preset": "noise",
        "series": "/a/series.csv",
        "tile_sizes": [32, "16x32"],
        "mirroring": False,
        "precision": "fast",
        "tolerance_mm": 1.5,
        "save_predictions": True,
        "allow_training_cases": True,
        "background": "keep",
    }
    what = {**MODEL, "folds": ["0", "1"], "options": options, "output": "sweeps/a"}
    command = " ".join(sweep_command(a_job("sweep/a", **what), "cpu", ["A", "B"], Path("/study")))
    assert command == (
        "nnunet-robust sweep -d 901 -c 2d -p nnUNetPlans -f 0 1 -tr A B -o /study/sweeps/a -device cpu "
        "--perturb speckle_noise=0.1,0.3 gaussian_blur --series /a/series.csv --tile-size 32 16x32 --disable-tta "
        "--preset noise --precision fast --tolerance-mm 1.5 --save-predictions --allow-training-cases --background keep"
    )
    several = replace(a_job("sweep/a", **what), gpus=2)
    assert "-device cuda --gpus 2 " in " ".join(sweep_command(several, "cuda", ["A"], Path("/study")))


def test_a_sweep_s_holes_are_told_in_its_folder(tmp_path: Path) -> None:
    sweeps = [a_job(f"sweep/{name}", f"train/{name}", output=f"sweeps/{name}") for name in "ab"]
    folder = write_plan(tmp_path, a_job("train/a", **MODEL), a_job("train/b", **MODEL), *sweeps)
    for name in "ab":
        (tmp_path / "sweeps" / name).mkdir(parents=True)
    for job, outcome in (("train/a", FAILED), ("train/b", DONE)):
        write_atomically(folder.done(job), json.dumps({"job": job, "outcome": outcome, "reason": "out of luck"}))
    write_failures(folder, folder.read_plan())
    assert (tmp_path / "sweeps" / "a" / MISSING).read_text() == "train/a failed: out of luck\n"
    assert not (tmp_path / "sweeps" / "b" / MISSING).exists()
    write_atomically(folder.done("train/a"), json.dumps({"outcome": DONE, "reason": ""}))
    write_failures(folder, folder.read_plan())
    assert not (tmp_path / "sweeps" / "a" / MISSING).exists()


def test_reports_are_of_a_sweep_and_of_datasets_side_by_side(tmp_path: Path) -> None:
    sweeps = {"sweeps/n-501-2d": "reports/n-2d", "sweeps/n-502-2d": "reports/n-2d", "sweeps/n-503-2d": "reports/n-2d",
              "sweeps/n-503-3d": "reports/n-3d"}  # fmt: skip
    for sweep in ("n-501-2d", "n-503-2d", "n-503-3d"):
        (tmp_path / "sweeps" / sweep).mkdir(parents=True)
        (tmp_path / "sweeps" / sweep / "results.csv").touch()
    a, b, c = (tmp_path / "sweeps" / name for name in ("n-501-2d", "n-503-2d", "n-503-3d"))
    assert reports(sweeps, tmp_path) == {a: [a], b: [b], c: [c], tmp_path / "reports" / "n-2d": [a, b]}
    assert report_command(c, [a, b]) == ["nnunet-robust", "report", str(a), str(b), "-o", str(c)]


def test_no_such_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study was run in"):
        run_job(tmp_path, "train/a")
    write_plan(tmp_path, a_job("train/a", **MODEL))
    with pytest.raises(UserError, match="has no job 'train/b'"):
        run_job(tmp_path, "train/b")


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(1)
    assert not processes.lives(child.pid, "")
    child.wait()
    assert processes.lives(os.getpid(), processes.started(os.getpid()))


def test_a_dataset_without_a_source_file_is_used_and_said(tmp_path: Path) -> None:
    from PIL import Image

    for kind in ("benign", "malignant"):
        (tmp_path / "busi" / kind).mkdir(parents=True)
        for number in range(1, 6):
            mask = Image.new("L", (40, 40))
            mask.paste(255, (10, 10, 30, 30))
            mask.save(tmp_path / "busi" / kind / f"{kind} ({number}).png")
            mask.save(tmp_path / "busi" / kind / f"{kind} ({number})_mask.png")
    (tmp_path / "busi" / "benign" / "benign (2).png").write_bytes(b"cut off")
    what = {"dataset": 901, "command": ["convert", "busi"], "source": str(tmp_path / "busi"), "name": ""}
    jobs = [
        a_job("dataset/901", **what, parameters={"cases": 8}),
        a_job("dataset/902", **what | {"dataset": 902}, parameters={"strict": True}),
    ]
    folder = write_plan(tmp_path / "study", *jobs)
    assert run_job(tmp_path / "study", "dataset/901") == 0 and run_job(tmp_path / "study", "dataset/902") == 0
    marker = folder.marker("dataset/901")
    assert marker["outcome"] == PARTIAL and marker["reason"] == "left out of the source: benign_0002"
    assert len(list((tmp_path / "study" / "nnUNet_raw" / "Dataset901_BUSI").glob("labels*/*"))) == 7
    refused = folder.marker("dataset/902")
    assert refused["outcome"] == FAILED and "cannot read" in refused["reason"]
    rows = write_failures(folder, folder.read_plan())
    assert [(row["job"], row["outcome"]) for row in rows] == [("dataset/901", PARTIAL), ("dataset/902", FAILED)]
