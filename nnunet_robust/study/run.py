"""The driver of a study: writes down the jobs, hands them to Snakemake, tells what happens, and sums up."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_robust.common.environment import environment_for
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.interrupts import Stopped
from nnunet_robust.study import command_lines, slurm
from nnunet_robust.study.config import FOLDERS, STAGES, Study
from nnunet_robust.study.engine import Options, check_engine, command_line, limited, write_dag
from nnunet_robust.study.estimate import estimate
from nnunet_robust.study.failures import write_failures
from nnunet_robust.study.folder import BEAT_SECONDS, DONE, Plan, StudyFolder, myself, nnunet_folders
from nnunet_robust.study.locks import try_lock, visible_gpus
from nnunet_robust.study.matrix import jobs_of
from nnunet_robust.study.state import ENVIRONMENT, HOLDER, read_state

Tell = Callable[[str], None]
_POLL_SECONDS = 1.0
_DRIVER = "driver"  # no stage: Snakemake has what all stages have


@dataclass(frozen=True)
class StudyResult:
    """How a run of a study ended.

    Attributes:
        failures: a row for each job that failed, was blocked, or did only a part.
        unfinished: jobs that are not over, as Snakemake could not run them.
        reports: the reports' pages.
        log: Snakemake's.
    """

    failures: list[dict[str, Any]]
    unfinished: list[str]
    reports: list[Path]
    log: Path

    @property
    def succeeded(self) -> bool:
        """Whether all is done."""
        return not self.failures and not self.unfinished


def run_study(study: Study, root: Path, options: Options, tell: Tell) -> StudyResult:
    """Run a study, or go on with it.

    What is done stays; what failed is tried again; what has changed in the study, and what rests on it, is done anew.

    Args:
        study: what to run.
        root: the study's folder.
        options: how to run it.
        tell: is given a line for whatever happens.

    Raises:
        UserError: Snakemake or its executor is missing; another driver is at this study; there are fewer GPUs than
            asked for; or the folder's study was begun with other folders of nnU-Net's.
    """
    check_engine(options.executor)
    folder = StudyFolder(root.resolve())
    plan = plan_of(study, folder, options)
    _check_gpus(plan)
    with _driving(folder, options) as lock:
        _check_folders(folder, plan)
        folder.write_plan(plan)
        dag = folder.inside / "dag.json"
        running = slurm.jobs_left(folder.root) if options.executor == "slurm" else {}
        write_dag(dag, folder.root, plan, study.cluster, options, running)
        shutil.copyfile(study.path, folder.root / "study.yaml")
        left = _clear(folder, plan)
        for line in before(folder, plan, left):
            tell(line)
        log = folder.root / "logs" / "snakemake.log"
        log.parent.mkdir(exist_ok=True)
        _drive(command_line(dag, folder.root, options), folder, plan, left, log, lock, tell)
        failed = write_failures(folder, plan)
    unfinished = [job for job in plan.jobs if not folder.marker(job)]
    return StudyResult(failed, unfinished, _reports(folder, plan), log)


def dry_run(study: Study, root: Path, options: Options, tell: Tell) -> list[str]:
    """Tell what `run_study` would do; Snakemake decides, and nothing is written to the study's folder.

    Returns:
        The jobs that it would run.

    Raises:
        UserError: as `run_study`; or Snakemake refuses the jobs, and what it says.
    """
    check_engine(options.executor)
    folder = StudyFolder(root.resolve())
    plan = plan_of(study, folder, options)
    _check_gpus(plan)
    _check_folders(folder, plan)
    stale = _stale(folder, plan)
    with tempfile.TemporaryDirectory() as scratch:
        dag = Path(scratch, "dag.json")
        write_dag(dag, folder.root, plan, study.cluster, options)
        for job in plan.jobs:
            if (marker := folder.done(job)).is_file() and job not in stale:
                copy = StudyFolder(Path(scratch)).done(job)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(marker, copy)
        ran = subprocess.run(
            [*command_line(dag, Path(scratch), options), "--dry-run"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env=environment_for(_DRIVER, os.environ),
        )  # fmt: skip
    if ran.returncode:
        raise UserError(f"Snakemake refuses the study: {_last_line(ran.stdout)}")
    found = set(re.findall(r"^ +output: \.study/done/(\S+)\.json$", ran.stdout, re.MULTILINE))
    left = [job for job in plan.jobs if job in found]
    for line in before(folder, plan, left):
        tell(line)
    return left


def plan_of(study: Study, folder: StudyFolder, options: Options) -> Plan:
    """How a study would be run."""
    jobs = limited(jobs_of(study), options)
    return Plan(
        name=study.name,
        run=secrets.token_hex(4),
        executor=options.executor,
        gpus=options.gpus,
        device=study.device,
        environment={**study.environment, **nnunet_folders(study.environment, folder.root)},
        jobs={job.id: job for job in jobs},
    )


def _drive(
    command: Sequence[str], folder: StudyFolder, plan: Plan, left: Sequence[str], log: Path, lock: int, tell: Tell
) -> None:
    """Run Snakemake, and tell of every job that begins and ends."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, pass_fds=[lock],
            start_new_session=True, preexec_fn=_prepare_child, env=environment_for(_DRIVER, os.environ),
        )  # fmt: skip
        watch = _Watch(folder, left, tell)
        beat = time.monotonic()
        try:
            while process.poll() is None:
                watch.look()
                if time.monotonic() - beat > BEAT_SECONDS:
                    os.utime(folder.inside / "driver.json")
                    beat = time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        except BaseException as error:  # Ctrl-C: jobs end their commands, and Snakemake cancels those on a cluster
            alone = _ends_alone(error, plan)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL if alone else signal.SIGINT)
            process.wait()
            raise
        watch.look()


def _ends_alone(error: BaseException, plan: Plan) -> bool:
    """Whether the jobs go on without their driver: on a cluster, when it loses its terminal."""
    if not isinstance(error, Stopped) or error.number != signal.SIGHUP or plan.executor == "local":
        return False
    error.kept = "the jobs on the cluster go on, and the same command watches them again"
    return True


class _Watch:
    """Tells of jobs that begin and end, from the files that they leave."""

    def __init__(self, folder: StudyFolder, jobs: Sequence[str], tell: Tell) -> None:
        self._folder, self._tell = folder, tell
        self._open, self._running = list(jobs), set[str]()

    def look(self) -> None:
        for job in list(self._open):
            if marker := self._folder.marker(job):
                self._open.remove(job)
                reason = f": {marker['reason']}" if marker["reason"] else ""
                self._tell(f"{marker['outcome']:<8} {job} ({marker['seconds']:.0f} s){reason}")
            elif job not in self._running and self._folder.at_work(job):
                self._running.add(job)
                self._tell(f"begun    {job}")


def before(folder: StudyFolder, plan: Plan, left: Sequence[str]) -> Iterator[str]:
    """What is to be done, in lines."""
    counts = {stage: sum(plan.jobs[job].stage == stage for job in left) for stage in STAGES}
    told = ", ".join(f"{count} {stage}" for stage, count in counts.items() if count) or "nothing"
    yield f"study {plan.name} in {folder.root}: {len(plan.jobs)} jobs, to do: {told}"
    if counts["train"]:
        expected = estimate(folder, plan, [plan.jobs[job] for job in left])
        what = f"{expected.gpu_hours:.3g} GPU hours" if expected.gpu_hours else f"{expected.hours:.3g} hours on the CPU"
        yield f"trainings: {what} expected ({expected.source})"


@contextlib.contextmanager
def _driving(folder: StudyFolder, options: Options) -> Iterator[int]:
    """Be the one driver of a study; the lock goes on to Snakemake, and is freed when both are gone."""
    lock = try_lock(folder.inside / "driver.lock")
    known = folder.inside / "driver.json"
    if lock is None:
        holder = read_state(known, HOLDER)
        raise UserError(
            f"the study in {folder.root} is being run already, by process {holder.get('pid')} on "
            f"{str(holder.get('host')).split()[0]}: watch it with nnunet-robust study status {folder.root}"
        )
    write_atomically(known, json.dumps({**myself(), "executor": options.executor, "since": time.time()}) + "\n")
    try:
        yield lock.descriptor
    finally:
        known.unlink(missing_ok=True)
        os.close(lock.descriptor)


def _check_gpus(plan: Plan) -> None:
    visible = visible_gpus()
    if plan.executor == "local" and visible and plan.gpus > len(visible):
        raise UserError(
            f"--gpus {plan.gpus}: CUDA_VISIBLE_DEVICES={','.join(visible)} names {len(visible)}: take so many, or "
            f"unset it"
        )
    if large := [job for job in plan.jobs.values() if job.gpus > plan.gpus]:
        raise UserError(
            f"--gpus {plan.gpus}: a job of the stage {large[0].stage} wants {large[0].gpus} (resources): give at least "
            f"so many"
        )


_BEGUN = {"type": "object", "properties": {"environment": ENVIRONMENT}}


def _check_folders(folder: StudyFolder, plan: Plan) -> None:
    """A study stays in nnU-Net's folders in which it was begun."""
    begun = read_state(folder.inside / "jobs.json", _BEGUN).get("environment", {})
    for name in FOLDERS:
        if begun.get(name, plan.environment[name]) != plan.environment[name]:
            raise UserError(
                f"the study in {folder.root} was begun with {name}={begun[name]}, and it is {plan.environment[name]} "
                f"now: export the former, or take a new folder with -o"
            )


def _stale(folder: StudyFolder, plan: Plan) -> set[str]:
    """Jobs whose markers do not count: failed, of another job of this name, with results that are gone, or resting on
    such a job."""
    stale: set[str] = set()
    for job in plan.jobs.values():  # those that a job waits for come first
        marker = folder.marker(job.id)
        if (
            marker.get("outcome") != DONE
            or marker["digest"] != job.digest
            or (job.stage == "sweep" and not (folder.root / job.what["output"] / "results.csv").is_file())
            or stale.intersection(job.inputs)
        ):
            stale.add(job.id)
    return stale


def _clear(folder: StudyFolder, plan: Plan) -> list[str]:
    """Remove the markers that do not count; returns what is to be done."""
    stale = _stale(folder, plan)
    for job in stale:
        folder.done(job).unlink(missing_ok=True)
    return [job for job in plan.jobs if job in stale]


def _reports(folder: StudyFolder, plan: Plan) -> list[Path]:
    made = [job.what["sweeps"] for job in plan.jobs.values() if job.stage == "report"]
    found = [report for sweeps in made for report in command_lines.reports(sweeps, folder.root)]
    return [page for report in found if (page := report / "report.html").is_file()]


def _prepare_child() -> None:
    """In Snakemake's process: heed Ctrl-C, also where the driver was started in the background; die with the driver."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
