"""A study on a real Slurm with two GPUs, where everything goes wrong that can: one run, looked at from all sides."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.study.slurm import GPUS, Slurm, slurm  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

STANDARD, NO_SKIP = (f"{name}_st3_bs2_1epochs_4iters_seed1" for name in ("nnUNetTrainer", "nnUNetTrainerNoSkip"))
TRAINERS = [STANDARD, NO_SKIP, "StallingTrainer"]
STALLING = "train/901-2d-StallingTrainer-f0"
TEXT = f"""\
study: cluster
datasets: [{{ id: 901, existing: true }}]
trainers: [StallingTrainer, FailingTrainer, {STANDARD}, {NO_SKIP}]
sweeps:
  - name: noise
    perturbations: {{ speckle_noise: [0.3] }}
    mirroring: false
device: cpu
retries: 1
resources:
  dataset: {{ hours: 0.2, memory_gb: 1, cpus: 1 }}
  plan: {{ hours: 0.2, memory_gb: 1, cpus: 1 }}
  train: {{ hours: 0.2, memory_gb: 1, gpus: 1, cpus: 1 }}
  sweep: {{ hours: 0.2, memory_gb: 1, gpus: 0, cpus: 1 }}
  report: {{ hours: 0.2, memory_gb: 1, cpus: 1 }}
environment:
  nnUNet_results: results # below the study's folder; the other two are the session's
  nnUNet_def_n_proc: 1
  nnUNet_n_proc_DA: 0
  nnUNet_compile: false
"""
_IS_TRAINING = re.compile(r"(.*/)?nnUNetv2_train").fullmatch


@dataclass
class Story:
    """What happened.

    Attributes:
        folder: of the study that Slurm ran.
        local: of the same study, run on this machine without any fault.
        code: exit code of the driver that finished.
        output: what it printed.
        jobs: Slurm's, as in `Slurm.jobs`.
        seen: the trainings that were running, each with its GPU, as often as that was looked at.
        waiting: Slurm's reason for which the second job of a running training had to wait.
    """

    folder: Path
    local: Path
    code: int
    output: str
    jobs: list[dict[str, str]]
    seen: list[list[tuple[str, str]]]
    waiting: str

    def jobs_of(self, job: str) -> list[dict[str, str]]:
        """Slurm's jobs for one of the study's, in order."""
        ours = [one for one in self.jobs if one["comment"] == f"rule_{job.replace('/', '_wildcards_')}"]
        return sorted(ours, key=lambda one: int(one["id"]))


@pytest.fixture(scope="module")
def story(slurm: Slurm, textures: str, tmp_path_factory: pytest.TempPathFactory) -> Story:  # noqa: F811
    for module in ("snakemake", "snakemake_executor_plugin_slurm"):
        pytest.importorskip(module, reason=f"{module} is not installed: it needs Python 3.11")
    root = tmp_path_factory.mktemp("cluster")
    for name in ("gates", "trainers"):
        (root / name).mkdir()
    shutil.copy(Path(__file__).with_name("faulty_trainers.py"), root / "trainers" / "faulty_trainers.py")
    (root / "study.yaml").write_text(TEXT)
    common = {"nnUNet_extTrainer": str(root / "trainers"), "OMP_NUM_THREADS": "1"}
    environment = {**slurm.environment, **common, "STUDY_TEST_GATES": str(root / "gates")}

    def drive(log: str, folder: str, variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "nnunet_robust.cli.main", "study", "run", str(root / "study.yaml")]
        with (root / log).open("wb") as file:
            return subprocess.Popen(
                [*command, "-o", str(root / folder), *arguments],
                env=dict(variables),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    # More GPUs than Slurm has: it is Slurm that counts them, not Snakemake.
    asked = ("--executor", "slurm", "--gpus", str(2 * GPUS))
    asked += ("--snakemake", "--slurm-init-seconds-before-status-checks 1")

    def stalling() -> list[dict[str, str]]:
        return [job for job in slurm.jobs() if "StallingTrainer" in job["comment"]]

    processes: list[subprocess.Popen[bytes]] = []
    with _watching(root / "slurm") as seen:
        try:
            first = drive("first.log", "slurm", environment, *asked)
            processes.append(first)
            _wait(root, first, (root / "gates" / "stalled").exists)
            # It meets its limit now; Slurm looks every half minute.
            slurm("scontrol", "update", f"JobId={stalling()[0]['id']}", "EndTime=now+1")
            # Meanwhile there is nothing to do.
            undisturbed = drive("local.log", "local", {**os.environ, **common})
            processes.append(undisturbed)
            _wait(root, first, (root / "gates" / "resumed").exists)
            first.send_signal(signal.SIGKILL)
            first.wait()
            second = drive("second.log", "slurm", environment, *asked)
            processes.append(second)
            _wait(root, second, lambda: len(stalling()) == 3)
            time.sleep(3)  # the time to begin, if it were to
            waiting = stalling()
            waiting.sort(key=lambda job: int(job["id"]))
            (root / "gates" / "go").touch()
            code = second.wait(300)
            assert undisturbed.wait(300) == 1, (root / "local.log").read_text()
        finally:
            for process in processes:
                process.terminate()
                process.wait()
    return Story(
        folder=root / "slurm",
        local=root / "local",
        code=code,
        output=(root / "second.log").read_text(),
        jobs=slurm.jobs(),
        seen=seen,
        waiting=waiting[-1]["reason"],
    )


def test_slurm_counts_the_gpus(story: Story) -> None:
    """All four trainings were ready at once: two ran, each with a GPU of its own."""
    assert max(map(len, story.seen)) == GPUS
    for running in story.seen:
        gpus = [gpu for _, gpu in running]
        assert len(set(gpus)) == len(gpus) and set(gpus) <= {str(number) for number in range(GPUS)}


def test_a_training_that_meets_its_time_limit_goes_on(story: Story) -> None:
    killed, resumed, _ = story.jobs_of(STALLING)
    assert (killed["state"], resumed["state"]) == ("TIMEOUT", "COMPLETED")
    assert _marker(story, STALLING)["outcome"] == "done"
    assert _epochs(story.folder, "StallingTrainer") == [0, 1]


def test_a_killed_driver_s_trainings_are_not_begun_again(story: Story) -> None:
    for running in story.seen:
        trainers = [trainer for trainer, _ in running]
        assert len(set(trainers)) == len(trainers)
    for trainer in TRAINERS:
        assert _epochs(story.folder, trainer) == _epochs(story.local, trainer)
    # The next driver's job for what still runs holds no GPU until that has ended.
    assert story.waiting == "Dependency"
    assert [job["state"] for job in story.jobs_of(STALLING)] == ["TIMEOUT", "COMPLETED", "COMPLETED"]


def test_what_fails_for_good_is_reported(story: Story) -> None:
    assert story.code == 1
    assert "1 jobs failed" in story.output
    (row,) = pd.read_csv(story.folder / "study_failures.csv").to_dict("records")
    assert (row["trainer"], row["outcome"]) == ("FailingTrainer", "failed")
    assert row["reason"].endswith("RuntimeError: this trainer always fails")
    assert (story.folder / row["log"]).read_text().count("RuntimeError: this trainer always fails") >= 2  # tried again
    assert list(story.folder.rglob("report.html"))


def test_results_are_those_of_one_machine(story: Story) -> None:
    (here,), (there,) = ((folder / "sweeps").rglob("results.csv") for folder in (story.local, story.folder))
    assert set(pd.read_csv(here)["model"]) == set(TRAINERS)
    assert here.read_bytes() == there.read_bytes()


def _marker(story: Story, job: str) -> dict[str, str]:
    return dict(json.loads((story.folder / ".study" / "done" / f"{job}.json").read_text()))


def _epochs(folder: Path, trainer: str) -> list[int]:
    """The epochs that nnU-Net says it has begun, in all of a training's logs."""
    (fold,) = (folder / "results").glob(f"*/{trainer}__*/fold_0")
    logs = sorted(fold.glob("training_log_*.txt"))
    return [int(number) for log in logs for number in re.findall(r": Epoch (\d+)\s*$", log.read_text(), re.MULTILINE)]


def _wait(root: Path, driver: subprocess.Popen[bytes], happened: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        told = "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(root.glob("*.log")))
        assert driver.poll() is None, f"the driver ended\n{told}"
        assert time.monotonic() < deadline, f"nothing for {seconds} s\n{told}"
        time.sleep(0.5)


class _watching:
    """Look twice a second which trainings of a study run, and on which GPU."""

    def __init__(self, folder: Path) -> None:
        self._results, self._ended = str(folder / "results"), threading.Event()
        self._seen: list[list[tuple[str, str]]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> list[list[tuple[str, str]]]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self._seen.append(sorted(_trainings(self._results)))


def _trainings(results: str) -> Iterator[tuple[str, str]]:
    """Trainer and GPU of every `nnUNetv2_train` that runs."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
            variables = dict(
                entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry
            )
            leads = os.getsid(int(process.name)) == int(process.name)  # not one of its workers
        except (OSError, UnicodeDecodeError):
            continue
        if leads and variables.get("nnUNet_results") == results and any(map(_IS_TRAINING, command)):
            yield command[command.index("-tr") + 1], variables.get("CUDA_VISIBLE_DEVICES", "none")
