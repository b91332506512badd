"""Studies as a whole: real trainings, under faults; and what is told before anything runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.study.config import load_study
from nnunet_robust.study.engine import Options, command_line, gigabytes_of, hours_of, write_dag
from nnunet_robust.study.estimate import estimate
from nnunet_robust.study.examples import EXAMPLES
from nnunet_robust.study.folder import DONE, StudyFolder
from nnunet_robust.study.locks import try_lock
from nnunet_robust.study.run import dry_run, plan_of, run_study
from nnunet_robust.study.status import read_status

EPOCHS = 3
SYNTHESIZED = "{ id: 901, synthesize: textures, parameters: { cases: 8, test_cases: 3, size: 64 } }"
TEXT = f"""\
study: faults
datasets:
  - {SYNTHESIZED}
trainers:
  - nnUNetTrainer
  - nnUNetTrainerNoSkip
  - {{ trainer: nnUNetTrainer, patch_sizes: [34] }} # does not fit the strides
  - trainer: nnUNetTrainerThatBreaks
    batch_size: null
    stages: null
    epochs: null
    iterations: null
    seeds: null
batch_size: 2
stages: 3
epochs: {EPOCHS}
iterations: 10
seeds: [1]
sweeps:
  - name: noise
    perturbations: {{ speckle_noise: [0.3] }}
    mirroring: false
device: cpu
retries: 0
environment:
  nnUNet_raw: raw
  nnUNet_preprocessed: preprocessed
  nnUNet_results: results
  nnUNet_def_n_proc: 1
  nnUNet_n_proc_DA: 0
  nnUNet_compile: false
"""
BREAKS = """\
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerThatBreaks(nnUNetTrainer):
    def on_train_start(self):
        raise RuntimeError("this one always breaks")
"""
STANDARD, NO_SKIP = (
    f"train/901-2d-{name}_st3_bs2_{EPOCHS}epochs_10iters_seed1-f0" for name in ("nnUNetTrainer", "nnUNetTrainerNoSkip")
)
MISFIT = f"train/901-2d-nnUNetTrainer_ps34_st3_bs2_{EPOCHS}epochs_10iters_seed1-f0"
BROKEN = "train/901-2d-nnUNetTrainerThatBreaks-f0"


@pytest.fixture
def breaking(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """A trainer of the user's that fails whenever it is tried."""
    folder = tmp_path_factory.mktemp("trainers")
    (folder / "breaking_trainer.py").write_text(BREAKS)
    known = os.environ.get("nnUNet_extTrainer", "")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(filter(None, (str(folder), known))))
    from nnunet_robust.study.names import _foreign_trainers

    _foreign_trainers.cache_clear()


def start(root: Path) -> subprocess.Popen[str]:
    """A driver, as a user starts it."""
    command = [
        sys.executable,
        "-m",
        "nnunet_robust.cli.main",
        "study",
        "run",
        str(root.parent / "study.yaml"),
        "-o",
        str(root),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def epochs_of(folder: StudyFolder, job: str) -> list[int]:
    """The epochs that a training finished, over all attempts."""
    text = folder.log(job).read_text()
    return [int(number) for number in re.findall(r"Epoch (\d+) *\n(?:(?!Epoch \d).*\n)*?.*Epoch time", text)]


def begun(folder: StudyFolder, job: str, epoch: int) -> bool:
    return folder.log(job).is_file() and f"Epoch {epoch}" in folder.log(job).read_text()


def results(root: Path) -> str:
    return (root / "sweeps" / "noise-901-2d" / "results.csv").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_under_faults_ends_as_an_undisturbed_one(
    tmp_path: Path, breaking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").write_text(TEXT)
    calm, root = tmp_path / "calm", tmp_path / "disturbed"
    undisturbed = start(calm)
    out, _ = undisturbed.communicate()
    assert undisturbed.returncode == 1, out  # two trainings are missing
    folder = StudyFolder(calm)
    for job in (STANDARD, NO_SKIP):
        assert epochs_of(folder, job) == list(range(EPOCHS))
    assert {job: folder.marker(job)["outcome"] for job in folder.read_plan().jobs} == {
        "dataset/901": "done", "plan/901": "done", STANDARD: "done", NO_SKIP: "done", MISFIT: "failed",
        BROKEN: "failed", "sweep/noise-901-2d": "done", "report/report": "done",
    }  # fmt: skip
    assert "nearest that work are" in folder.marker(MISFIT)["reason"] and not folder.marker(MISFIT)["commands"]
    assert "this one always breaks" in folder.marker(BROKEN)["reason"]
    rows = json.loads((calm / "study_failures.json").read_text())
    assert [row["job"] for row in rows] == [MISFIT, BROKEN]
    assert (calm / "sweeps" / "noise-901-2d" / "report.html").is_file()
    assert f"failed   {BROKEN}" in out and "2 jobs failed" in out

    # Faults are for trainings and the sweep: the dataset is there already, planned and preprocessed.
    text = TEXT.replace(SYNTHESIZED, "{ id: 901, existing: true }")
    for name in ("raw", "preprocessed"):
        text = text.replace(f"  nnUNet_{name}: {name}\n", "")
        monkeypatch.setenv(f"nnUNet_{name}", str(calm / name))
    (tmp_path / "study.yaml").write_text(text)
    folder = StudyFolder(root)
    driver = start(root)
    wait_for(lambda: begun(folder, STANDARD, 1))
    second = start(root)  # it leaves
    out, _ = second.communicate()
    assert second.returncode == 2 and "is being run already, by process" in out
    driver.kill()
    driver.wait()
    # The training goes on; the next driver's waits for it.
    driver = start(root)
    wait_for(lambda: begun(folder, NO_SKIP, EPOCHS - 1))
    holder = json.loads(next(root.glob("results/*/*NoSkip*/fold_0/.study.lock")).read_text())
    os.kill(holder["group"], signal.SIGKILL)
    out, _ = driver.communicate()
    assert driver.returncode == 1, out
    assert epochs_of(folder, STANDARD) == list(range(EPOCHS))  # never twice
    epochs = epochs_of(folder, NO_SKIP)
    assert sorted(set(epochs)) == list(range(EPOCHS)) and epochs.count(0) == 1  # it went on from a checkpoint
    assert results(root) == results(calm)

    again = start(root)  # tries what has failed again, and nothing else
    out, _ = again.communicate()
    assert again.returncode == 1 and "to do: 2 train, 1 sweep, 1 report" in out
    assert epochs_of(folder, STANDARD) == list(range(EPOCHS))
    assert main(["study", "status", str(root), "--once"]) == 1


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.yaml"
    text = "study: large\ndatasets:\n"
    text += "".join(f"  - {{ id: {number}, synthesize: textures }}\n" for number in range(1, 11))
    text += "trainers: [nnUNetTrainer, nnUNetTrainerNoSkip, nnUNetTrainerDenseSkip, nnUNetTrainerAttentionGated]\n"
    path.write_text(
        text + "seeds: [1, 2, 3, 4, 5]\nfolds: [0, 1, 2, 3, 4]\nsweeps:\n  - { name: a, tile_sizes: [64] }\n"
    )
    return path


def test_a_dry_run_of_a_thousand_jobs_touches_nothing(large: Path) -> None:
    study, told = load_study(large), list[str]()
    root = large.parent / "large"
    began = time.monotonic()
    left = dry_run(study, root, Options(executor="local", gpus=8), told.append)
    assert time.monotonic() - began < 60
    assert len(left) == 10 * (1 + 1 + 4 * 25 + 1) + 1
    assert not root.exists()
    assert "1031 jobs, to do: 10 dataset, 10 plan, 1000 train, 10 sweep, 1 report" in told[0]
    # 1000 epochs of 250 iterations of 0.16 s, each
    assert "1.11e+04 GPU hours expected (1000 assumed: an iteration takes 0.16 s in 2d on cuda" in told[1]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_written_and_run_dry(name: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "my.yaml"
    assert main(["study", "init", name, "-o", str(path)]) == 0
    assert main(["study", "run", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "  sweep/" in printed and "  report/report" in printed
    assert list(tmp_path.iterdir()) == [path]
    assert main(["study", "init", name, "-o", str(path)]) == 2
    assert "exists: give another name" in capsys.readouterr().err


SMALL = """\
study: small
datasets:
  - { id: 901, synthesize: textures }
trainers: [nnUNetTrainer]
epochs: 10
iterations: 100
seeds: [1, 2]
resources: { partition: gpu, account: lab, train: { hours: 1.5, memory_gb: 20, cpus: 6 } }
environment: { nnUNet_raw: raw, nnUNet_preprocessed: preprocessed, nnUNet_results: results }
sweeps:
  - { name: a, tile_sizes: [64] }
"""
TRAINING = "train/901-2d-nnUNetTrainer_10epochs_100iters_seed1-f0"


def small(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(SMALL)
    return path


def dag_of(folder: Path, options: Options) -> dict[str, dict[str, object]]:
    study, at = load_study(small(folder)), StudyFolder(folder / "small")
    path = folder / "dag.json"
    write_dag(path, at.root, plan_of(study, at, options), study.cluster, options)
    return {job["id"]: job for job in json.loads(path.read_text())["jobs"]}


def test_what_is_asked_of_slurm_and_others(tmp_path: Path) -> None:
    job = dag_of(tmp_path, Options(executor="slurm", gpus=4))[TRAINING]
    queue = {"slurm_partition": "gpu", "slurm_account": "lab"}
    assert job["resources"] == {"slots": 1, "runtime": 90, "mem_mb": 20000, "gres": "gpu:1", **queue}
    assert job["threads"] == 6
    options = Options("slurm", gpus=1, partition="big", time=48.0, memory_gb=64.0, gres="gpu:a100:1")
    jobs = dag_of(tmp_path, options)
    assert jobs[TRAINING]["resources"] == {
        "slots": 1, "runtime": 2880, "mem_mb": 64000, "gres": "gpu:a100:1", **queue, "slurm_partition": "big",
    }  # fmt: skip
    assert jobs["plan/901"]["resources"]["runtime"] == 480
    cpu = dag_of(tmp_path, Options(executor="slurm"))[TRAINING]["resources"]
    assert cpu["slots"] == 0 and "gres" not in cpu
    assert dag_of(tmp_path, Options(executor="lsf", gpus=1))[TRAINING]["resources"]["lsf_queue"] == "gpu"
    local = dag_of(tmp_path, Options(gpus=1))[TRAINING]
    assert local["threads"] == 1 and "slurm_partition" not in local["resources"]
    with pytest.raises(UserError, match="account lab: not known for executor kubernetes"):
        dag_of(tmp_path, Options(executor="kubernetes"))


def test_snakemake_s_command_line(tmp_path: Path) -> None:
    local = command_line(
        tmp_path / "dag", tmp_path, Options(jobs=3, gpus=2, snakemake="--set-resources 'train:mem_mb=1'")
    )
    assert local[local.index("--cores") + 1] == "3" and "slots=2" in local and "train:mem_mb=1" in local
    slurm = command_line(tmp_path / "dag", tmp_path, Options(executor="slurm"))
    assert slurm[slurm.index("--jobs") + 1] == "100"


@pytest.mark.parametrize(
    ("text", "hours"), [("30", 0.5), ("12:30:00", 12.5), ("90:00", 1.5), ("2-00", 48), ("1-12:00:00", 36)]
)
def test_times_as_slurm_writes_them(text: str, hours: float) -> None:
    assert hours_of(text) == hours


def test_amounts_of_memory() -> None:
    assert [gigabytes_of(text) for text in ("32G", "500M", "1T", "2000")] == [32, 0.5, 1000, 2]
    for function, text in ((hours_of, "a day"), (gigabytes_of, "much")):
        with pytest.raises(UserError, match=text):
            function(text)


def test_estimates_go_by_what_was_measured(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "small")
    plan = plan_of(load_study(small(tmp_path)), folder, Options(gpus=1))
    jobs = list(plan.jobs.values())
    assumed = estimate(folder, plan, jobs)
    assert assumed.gpu_hours == pytest.approx(2 * 1000 * 0.16 / 3600) and "2 assumed" in assumed.source
    path = folder.done(TRAINING)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"outcome": DONE, "seconds": 7200, "commands": [["nnUNetv2_train"]]}))
    measured = estimate(folder, plan, [job for job in jobs if job.id != TRAINING])
    assert measured == (pytest.approx(2.0), pytest.approx(2.0), "1 from trainings measured here")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(executor="moon"), "pip install snakemake-executor-plugin-moon"),
        (Options(gpus=3), "--gpus 3: CUDA_VISIBLE_DEVICES=0,1 names 2"),
    ],
)
def test_what_cannot_run_is_refused(options: Options, says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=re.escape(says)):
        run_study(load_study(small(tmp_path)), tmp_path / "small", options, print)


def test_one_driver_and_one_set_of_folders(tmp_path: Path) -> None:
    study, root = load_study(small(tmp_path)), tmp_path / "small"
    lock = try_lock(root / ".study" / "driver.lock")
    assert lock is not None
    with pytest.raises(UserError, match="is being run already"):
        run_study(study, root, Options(), print)
    os.close(lock.descriptor)
    folder = StudyFolder(root)
    folder.write_plan(plan_of(study, folder, Options()))
    small(tmp_path).write_text(SMALL.replace("raw: raw", "raw: elsewhere"))
    with pytest.raises(UserError, match="was begun with nnUNet_raw="):
        run_study(load_study(tmp_path / "small.yaml"), root, Options(), print)
    small(tmp_path).write_text(SMALL.replace("hours: 1.5", "gpus: 2"))
    with pytest.raises(UserError, match="--gpus 1: a job of the stage train wants 2"):
        run_study(load_study(tmp_path / "small.yaml"), root, Options(gpus=1), print)
    status = read_status(root)
    assert not status.driver and not status.finished and status.rows[0].counts == {"waiting": 1}
