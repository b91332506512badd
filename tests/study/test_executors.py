"""What is asked of clusters, and of a Slurm's queue after a driver was killed; none is needed here."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.study import slurm
from nnunet_robust.study.config import DEFAULT_RESOURCES, load_study
from nnunet_robust.study.engine import Options, check_engine, write_dag
from nnunet_robust.study.folder import StudyFolder
from nnunet_robust.study.run import plan_of

TRAINING = "train/901-2d-nnUNetTrainer-f0"
TEXT = """\
study: small
datasets: [{ id: 901, existing: true }]
trainers: [nnUNetTrainer]
resources:
  partition: gpu
  plan: { partition: cpu }
  train: { gpus: 2 }
"""


def resources_of(folder: Path, options: Options, running: dict[str, str] | None = None) -> dict[str, dict[str, object]]:
    (folder / "study.yaml").write_text(TEXT)
    study, at = load_study(folder / "study.yaml"), StudyFolder(folder / "small")
    write_dag(folder / "dag.json", at.root, plan_of(study, at, options), study.cluster, options, running or {})
    return {job["id"]: job["resources"] for job in json.loads((folder / "dag.json").read_text())["jobs"]}


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (Options("slurm", gpus=4), "gres", "gpu:2"),
        (Options("slurm", gpus=4, gres="gpu:a100"), "gres", "gpu:a100:2"),
        (Options("slurm", gpus=4, gres="gpu:a100:1"), "gres", "gpu:a100:1"),
        (Options("lsf", gpus=4), "lsf_extra", "-gpu num=2"),
    ],
)
def test_gpus(tmp_path: Path, options: Options, name: str, value: str) -> None:
    resources = resources_of(tmp_path, options)
    assert resources[TRAINING][name] == value
    assert name not in resources["plan/901"] and name not in resources_of(tmp_path, Options("slurm"))[TRAINING]


def test_a_stage_has_its_own_partition(tmp_path: Path) -> None:
    for options, train in ((Options("slurm"), "gpu"), (Options("slurm", partition="big"), "big")):
        resources = resources_of(tmp_path, options)
        assert [resources[job]["slurm_partition"] for job in ("plan/901", TRAINING)] == ["cpu", train]
    assert resources_of(tmp_path, Options("lsf"))["plan/901"]["lsf_queue"] == "cpu"


def test_executors_without_a_common_folder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ModuleType("snakemake_executor_plugin_kubernetes")
    plugin.__spec__ = SimpleNamespace(name=plugin.__name__)  # type: ignore[assignment]
    plugin.common_settings = SimpleNamespace(implies_no_shared_fs=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    monkeypatch.setitem(sys.modules, "snakemake", SimpleNamespace(__spec__=SimpleNamespace()))
    with pytest.raises(UserError, match=r"--executor kubernetes .* share no folder"):
        check_engine("kubernetes")


def test_the_page_on_clusters_has_the_defaults() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "cluster.md").read_text()
    assert " / ".join(DEFAULT_RESOURCES) in page
    for name in ("hours", "memory_gb", "gpus", "cpus"):
        values = " / ".join(f"{getattr(limits, name):g}" for limits in DEFAULT_RESOURCES.values())
        assert re.search(rf"^\| `{name}` \|.*\| {values} \|$", page, re.MULTILINE), name


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's commands: `squeue` lists the file `queue`, `scancel` is noted in `cancelled`."""
    (tmp_path / "queue").write_text("")
    scripts = {
        "squeue": f"cat {tmp_path}/queue",
        "scancel": f'echo "$@" > {tmp_path}/cancelled; sed -i "/PENDING/d" {tmp_path}/queue',
        "scontrol": f"cat {tmp_path}/config",
    }
    (tmp_path / "bin").mkdir()
    for name, line in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_what_a_killed_driver_has_left(queue: Path) -> None:
    root = queue / "my.study"
    ours, others = f"{slurm.job_prefix(root)}_1a2b", f"{slurm.job_prefix(queue / 'other')}_1a2b"
    (queue / "queue").write_text(
        f"11|RUNNING|{ours}|rule_train_wildcards_901-2d-nnUNetTrainer-f0\n"
        f"12|PENDING|{ours}|rule_train_wildcards_901-2d-nnUNetTrainerNoSkip-f0\n"
        f"13|RUNNING|{others}|rule_train_wildcards_901-2d-nnUNetTrainerUNETR-f0\n"
        f"14|PENDING|{others}|rule_train_wildcards_901-2d-nnUNetTrainerUNETR-f0\n"
        "15|RUNNING|an interactive job|(null)\n"
    )
    assert slurm.jobs_left(root) == {TRAINING: "11"}
    assert (queue / "cancelled").read_text().split() == ["--state=PENDING", "12"]
    resources = resources_of(queue, Options("slurm"), {TRAINING: "11"})
    assert resources[TRAINING]["slurm_extra"] == "--dependency=afterany:11"
    assert not resources["plan/901"]["slurm_extra"]


def test_nothing_is_left(queue: Path) -> None:
    assert slurm.jobs_left(queue / "study") == {}
    assert not (queue / "cancelled").exists()
    assert "slurm_extra" not in resources_of(queue, Options("slurm"))[TRAINING]


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no squeue here"):
        slurm.jobs_left(tmp_path)
    assert slurm.arguments(tmp_path)[0] == "--slurm-jobname-prefix"  # for a dry run


def test_why_slurm_refuses_jobs(tmp_path: Path) -> None:
    log = tmp_path / "snakemake.log"
    said = "    message: SLURM sbatch failed. The error message was 'sbatch: error: {}'.\n    sbatch call:\n"
    log.write_text(f"SLURM run ID: 1\n{said.format('an old one')}SLURM run ID: 2\n{said.format('too much')}")
    assert slurm.refusal(log) == "sbatch: error: too much"
    log.write_text(f"{log.read_text()}SLURM run ID: 3\nall is well\n")
    assert slurm.refusal(log) == ""


@pytest.mark.parametrize(
    ("accounting", "command"), [("slurmdbd", None), ("accounting_storage/none", "squeue"), ("(null)", "squeue")]
)
def test_a_slurm_without_accounting_is_asked_by_squeue(queue: Path, accounting: str, command: str | None) -> None:
    (queue / "config").write_text(f"AccountingStorageUser   = N/A\nAccountingStorageType   = {accounting}\n")
    arguments = slurm.arguments(queue)
    assert ("--slurm-status-command" in arguments) == (command is not None)
    if command:
        assert arguments[arguments.index("--slurm-status-command") + 1] == command
