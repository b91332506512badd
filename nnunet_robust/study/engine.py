"""Snakemake's command line for a study, and the file that its `Snakefile` reads."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.study import slurm
from nnunet_robust.study.config import STAGES
from nnunet_robust.study.folder import Plan
from nnunet_robust.study.matrix import Job

# What an executor calls the queue and the account.
_CLUSTER = {
    "slurm": {"partition": "slurm_partition", "account": "slurm_account"},
    "lsf": {"partition": "lsf_queue", "account": "lsf_project"},
}
# What it calls GPUs, as many as `{}`; others call them `gpu`.
_GPUS = {"slurm": ("gres", "gpu:{}"), "lsf": ("lsf_extra", "-gpu num={}")}
# Snakemake must try again as often as a job that gets on may be killed; the job itself says when it has failed.
_RESUMED = {"train": 50, "sweep": 50}


@dataclass(frozen=True)
class Options:
    """How to run a study.

    Attributes:
        executor: `local`, `slurm` or another of Snakemake's executor plugins.
        jobs: how many jobs at once.
        gpus: how many GPUs at once; 0: everything on the CPU.
        partition: queue of a cluster, before the study's own, but not before a stage's own.
        account: account to charge, likewise.
        time: limit of trainings and sweeps, in hours.
        memory_gb: memory of trainings and sweeps.
        gres: what a job with a GPU asks Slurm for, as in `gpu:a100`, how many of them being added, or `gpu:a100:1`.
        snakemake: further arguments for Snakemake.
    """

    executor: str = "local"
    jobs: int | None = None
    gpus: int = 0
    partition: str | None = None
    account: str | None = None
    time: float | None = None
    memory_gb: float | None = None
    gres: str | None = None
    snakemake: str = ""


def check_engine(executor: str) -> None:
    """Whether Snakemake and the executor are there.

    Raises:
        UserError: they are not, and how to install them; or the executor is one whose jobs see no common folder.
    """
    if importlib.util.find_spec("snakemake") is None:
        needs = "" if sys.version_info >= (3, 11) else f" (it needs Python 3.11, this is {sys.version.split()[0]})"
        raise UserError(f"studies are run by Snakemake, which is not installed{needs}: pip install 'snakemake>=9,<10'")
    plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    if executor != "local" and importlib.util.find_spec(plugin) is None:
        raise UserError(
            f"Snakemake has no executor {executor!r} here: pip install snakemake-executor-plugin-{executor}, or take "
            f"--executor local"
        )
    if executor != "local" and importlib.import_module(plugin).common_settings.implies_no_shared_fs:
        raise UserError(
            f"--executor {executor} starts jobs that share no folder with this machine, and a study needs one: run it "
            f"with --executor local on a machine of that kind (docs/cluster.md has an example for Kubernetes)"
        )


def limited(jobs: Sequence[Job], options: Options) -> list[Job]:
    """The jobs with what the command line says of their resources."""
    limits: dict[str, Any] = {"hours": options.time, "memory_gb": options.memory_gb}
    changes = {name: value for name, value in limits.items() if value is not None}
    return [
        replace(job, gpus=job.gpus if options.gpus else 0, **(changes if job.stage in ("train", "sweep") else {}))
        for job in jobs
    ]


def write_dag(
    path: Path,
    root: Path,
    plan: Plan,
    cluster: Mapping[str, str],
    options: Options,
    running: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write what the `Snakefile` reads.

    Args:
        path: the file.
        root: the study's folder.
        plan: how it is run.
        cluster: the study's partition and account.
        options: how to run it.
        running: `slurm.jobs_left`.

    Raises:
        UserError: the executor knows no partition or account.
    """
    told = {"partition": options.partition, "account": options.account}
    cluster = {**cluster, **{name: value for name, value in told.items() if value}}
    names = _CLUSTER.get(options.executor, {})
    if options.executor != "local" and (unknown := sorted(set(cluster) - set(names))):
        raise UserError(
            f"{unknown[0]} {cluster[unknown[0]]}: not known for executor {options.executor}: leave it out, and say it "
            f"in that executor's way with --snakemake '--default-resources NAME=VALUE'"
        )
    queue = {names[name]: value for name, value in cluster.items() if name in names}
    stages: dict[str, dict[str, Any]] = {
        stage: {"retries": _RESUMED.get(stage, max(job.retries for job in of_stage)), "resources": []}
        for stage in STAGES
        if (of_stage := [job for job in plan.jobs.values() if job.stage == stage])
    }
    jobs = []
    for job in plan.jobs.values():
        resources = {**_resources(job, options), **queue}
        if job.partition and "partition" in names:
            resources[names["partition"]] = job.partition
        if running:
            resources["slurm_extra"] = f"--dependency=afterany:{running[job.id]}" if job.id in running else ""
        known = stages[job.stage]["resources"]
        known += [name for name in resources if name not in known]
        command = [sys.executable, "-m", "nnunet_robust.cli.main", "study", "stage", str(root), job.id]
        threads = 1 if options.executor == "local" else job.cpus  # on one machine --cores counts jobs
        step = {"id": job.id, "inputs": job.inputs, "threads": threads, "resources": resources}
        jobs.append({**step, "command": shlex.join(command)})
    write_atomically(path, json.dumps({"stages": stages, "jobs": jobs}, indent=1) + "\n")


def command_line(dag: Path, root: Path, options: Options) -> list[str]:
    """Snakemake's command line.

    Args:
        dag: what `write_dag` wrote.
        root: the folder in which it works.
        options: how to run.
    """
    local = options.executor == "local"
    jobs = str(options.jobs or (1 if local else 100))
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("Snakefile"))),
        *("--directory", str(root), "--executor", options.executor, "--cores" if local else "--jobs", jobs),
        *("--resources", f"slots={options.gpus}", "--scheduler", "greedy"),
        *("--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime", "input"),
        # The driver's own lock is freed when it dies, and Snakemake's is not.
        "--nolock",
        *("--latency-wait", "5" if local else "60"),
        *(slurm.arguments(root) if options.executor == "slurm" else []),
        *shlex.split(options.snakemake),
        # Last: it takes all that follows.
        *("--config", f"dag={dag}"),
    ]


def hours_of(text: str) -> float:
    """Slurm's way to write a time, in hours: `30` (minutes), `12:00:00`, `2-00`, `2-12:00:00`.

    Raises:
        UserError: not such a text.
    """
    match = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6})(?::(\d{1,6}))?(?::(\d{1,6}))?", text)
    if not match:
        raise UserError(f"--time {text}: write minutes, hours:minutes:seconds or days-hours, e.g. 24:00:00")
    days, *rest = match.groups()
    first, second, third = (int(part or 0) for part in rest)
    if days is not None:
        return int(days) * 24 + first + second / 60 + third / 3600
    if rest[2] is not None:
        return first + second / 60 + third / 3600
    return first / 60 + second / 3600


def gigabytes_of(text: str) -> float:
    """Slurm's way to write an amount of memory, in GB: `32G`, `500M`, or a number of MB.

    Raises:
        UserError: not such a text.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([MGT]?)B?", text, re.IGNORECASE)
    if not match:
        raise UserError(f"--mem {text}: write an amount with its unit, e.g. 32G")
    return float(match[1]) * {"": 0.001, "M": 0.001, "G": 1.0, "T": 1000.0}[match[2].upper()]


def _resources(job: Job, options: Options) -> dict[str, Any]:
    """Snakemake's names for what a job may take; `slots` are counted on every executor."""
    resources: dict[str, Any] = {
        "slots": job.gpus,
        "runtime": max(1, round(job.hours * 60)),
        "mem_mb": round(job.memory_gb * 1000),
    }
    if job.gpus and options.executor in _GPUS:
        name, form = _GPUS[options.executor]
        resources[name] = form.format(job.gpus)
        if name == "gres" and options.gres:
            resources[name] = options.gres if re.search(r":\d+$", options.gres) else f"{options.gres}:{job.gpus}"
    elif job.gpus and options.executor != "local":
        resources["gpu"] = job.gpus
    return resources
